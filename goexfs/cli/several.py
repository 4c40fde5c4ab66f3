"""``goexfs merge RUN1 RUN2 …``: several runs, one after the other.

Owns how their names are told from paths, and how the outcomes are printed.  Main thread only.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import summary
from goexfs.cli.interrupted import told_if_interrupted
from goexfs.cli.output import home_of, note, print_json, quoted
from goexfs.cli.progress import progress
from goexfs.cli.sides import merge_fields, say_settled, taken

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from goexfs.session.store import RunStore
    from snapshots.merging.mergelog import MergeRecord


def more_runs(
    store: "RunStore", run: "RunHandle", arguments: Sequence[bytes]
) -> "list[tuple[RunHandle, str | None]]":
    """The runs, or points of them, that the arguments after the first one name; none when they are paths."""
    from snapshots.errors import RunAmbiguous, RunUnknown

    found: list[tuple[RunHandle, str | None]] = []
    for argument in arguments:
        try:
            found.append(store.point(os.fsdecode(argument)))
        except (RunUnknown, RunAmbiguous):
            break
    if not found:
        return []
    name = quoted(arguments[0])
    if len(found) < len(arguments):
        other = quoted(arguments[len(found)])
        raise click.UsageError(f"{name} is a run and {other} is none: give runs or paths (./{name} is a path)")
    touched = {path for change in run.diff() for path in (change.path, change.old_path) if path is not None}
    for argument in arguments:
        if any(path == argument or path.startswith(argument + b"/") for path in touched):
            name = quoted(argument)
            raise click.UsageError(f"{name} is a run, and a path that {run.record.label} changed: ./{name} is the path")
    if len({run.id, *(each.id for each, _ in found)}) <= len(found):
        raise click.UsageError("a run is named twice")
    return found


def merge_several(
    store: "RunStore", runs: "Sequence[RunHandle]", options: "Callable[[RunHandle], dict[str, Any]]", *, as_json: bool
) -> None:
    """Merge each with its options; those in conflict are left, and then the status is that of a conflict."""
    from snapshots.errors import Conflict

    fields: list[dict[str, Any]] = []
    left: list[tuple[RunHandle, Conflict]] = []
    for run in runs:
        changes = run.diff()
        try:
            is_it = partial(_is_of, run.id)
            with told_if_interrupted(store, is_it), progress("merging") as tell:
                result = run.merge(**options(run), progress=tell)
        except Conflict as refused:
            left.append((run, refused))
            fields.append(merge_fields(run, changes, conflicts=refused.conflicts))
            continue
        changes = taken(changes, result.settled)
        fields.append(merge_fields(run, changes, result=result))
        if not as_json:
            click.echo(f"{run.record.label}: {summary.counts(changes)}; merged into {home_of(run)}")
            say_settled(result.settled)
            if result.number is not None:
                note(f"goexfs undo {result.number} takes it back")
    if as_json:
        print_json({"runs": fields})
    if left:
        names = ", ".join(run.record.label for run, _ in left)
        conflicts = tuple(conflict for _, refused in left for conflict in refused.conflicts)
        message = f"{len(left)} of {len(runs)} runs are in conflict and were left: {names}"
        raise Conflict(f"{message}; goexfs conflicts RUN lists where", conflicts)


def _is_of(run_id: str, record: "MergeRecord") -> bool:
    return record.run_id == run_id
