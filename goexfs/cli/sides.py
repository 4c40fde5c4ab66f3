"""How the two sides of a conflict are chosen on a command line, and how conflicts and outcomes are printed.

Owns the options ``--ours``, ``--theirs`` and ``--markers``: each alone means every conflict, with ``=PATTERN`` (as in
.gitignore) those at matching paths, and is repeatable.  Main thread only.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from goexfs.cli import summary
from goexfs.cli.choice import pattern_of
from goexfs.cli.output import note, quoted

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.merging.merge import MergeResult
    from snapshots.merging.settle import Resolve, Settled
    from snapshots.review.changes import Change

_ALL = "**"
_SIDES = {
    "ours": "In conflicts (at PATTERN) the base's version stays.",
    "theirs": "In conflicts (at PATTERN) the run's version is taken.",
    "markers": "Conflicting texts (at PATTERN) get conflict markers.",
}
_WORDS = {
    "merged": "changed on both sides, and merged",
    "combined": "directory made on both sides, and combined",
    "followed": "renamed in the base, and changed there",
    "ours": "in conflict, the base's version stays",
    "theirs": "in conflict, the run's version is taken",
    "markers": "in conflict, both are in it between markers",
}
_SHOWN = 50

F = TypeVar("F", bound=Callable[..., Any])


class SidesCommand(click.Command):
    """A command with options that may stand alone or be given a value with ``=``, which click has no word for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write ``--ours`` as ``--ours=**``."""
        end = args.index("--") if "--" in args else len(args)
        bare = {f"--{side}" for side in _SIDES}
        return super().parse_args(ctx, [*(f"{a}={_ALL}" if a in bare else a for a in args[:end]), *args[end:]])


def sides_options(command: F) -> F:
    """Adds the three options, as ``ours``, ``theirs`` and ``markers``."""
    for side, text in reversed(_SIDES.items()):
        command = click.option(f"--{side}", metavar="[=PATTERN]", multiple=True, help=text)(command)
    return command


def resolve_by(
    run: "RunHandle", ours: Sequence[str], theirs: Sequence[str], markers: Sequence[str]
) -> "Resolve | None":
    """What the three options say; None when none was given."""
    if not ours and not theirs and not markers:
        return None
    for_all = [f"--{side}" for side, given in zip(_SIDES, (ours, theirs, markers), strict=True) if _ALL in given]
    if len(for_all) > 1:
        raise click.UsageError(f"{' and '.join(for_all)} exclude each other; give one of them a =PATTERN")
    from snapshots.merging.settle import by_pattern

    def patterns(given: Sequence[str]) -> list[str]:
        return [each if each == _ALL else pattern_of(run, each) for each in given]

    return by_pattern(ours=patterns(ours), theirs=patterns(theirs), markers=patterns(markers))


def say_settled(settled: "Iterable[Settled]") -> None:
    """What became of paths that both sides changed, on stderr."""
    by_word: dict[str, list[bytes]] = {}
    for each in settled:
        by_word.setdefault(_WORDS[each.how], []).append(each.path)
    for word, paths in by_word.items():
        listed = ", ".join(quoted(path) for path in paths[:_SHOWN])
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        note(f"{word}: {listed}{more}")


def taken(changes: "Iterable[Change]", settled: "Iterable[Settled]") -> "list[Change]":
    """The changes without those that are dropped because the base's version stays."""
    dropped = [each.path for each in settled if each.how == "ours"]

    def stays(change: "Change") -> bool:
        holds = change.path + b"/"  # of a directory that was to go, too, when something in it stays
        return any(
            path == change.path or change.path.startswith(path + b"/")
            or (change.status == "D" and path.startswith(holds)) for path in dropped
        )  # fmt: skip

    return [change for change in changes if not stays(change)]


def settled_fields(settled: "Iterable[Settled]") -> list[dict[str, Any]]:
    """The same as JSON."""
    from snapshots.names import text_fields

    return [{**text_fields("path", each.path), "how": each.how} for each in settled]


def conflict_fields(conflicts: Iterable[object]) -> list[dict[str, Any]]:
    """Conflicts as JSON."""
    from snapshots.merging.plan import PathConflict
    from snapshots.names import text_fields

    return [
        {
            **text_fields("path", each.path), "kind": str(each.kind), "message": each.message,
            **(text_fields("base_path", each.base) if each.base is not None else {"base_path": None}),
        }
        for each in conflicts
        if isinstance(each, PathConflict)
    ]  # fmt: skip


def merge_fields(
    run: "RunHandle", changes: "Sequence[Change]", *, dry_run: bool = False, conflicts: Sequence[object] = (),
    result: "MergeResult | None" = None,
) -> dict[str, Any]:  # fmt: skip
    """The outcome of a merge as JSON; of a dry run with what would be done to the base, in order."""
    fields = {
        "run": run.id,
        "merged": not dry_run and not conflicts,
        "dry_run": dry_run,
        "changes": summary.fields(changes),
        "conflicts": conflict_fields(conflicts),
        "settled": settled_fields(result.settled) if result is not None else [],
        "merge": result.number if result is not None else None,
    }
    if dry_run and result is not None:
        from snapshots.names import text_fields

        plans = [(b"", result.plan), *((base.rstrip(b"/") + b"/", other.plan) for base, other in result.others)]
        fields["operations"] = [
            {"operation": type(op).__name__.lower(), **text_fields("path", above + op.path)}
            for above, plan in plans for op in (*plan.makes, *plan.operations)
        ]  # fmt: skip
    return fields
