"""``goexfs hunks``, and the choice of hunks for a merge: asked for, or given as JSON.

Owns the JSON form of parts and of their choice; the questions are ``asking``'s.  Main thread only.
"""

import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from goexfs.cli.output import home, note, print_json, printable, quoted, styled, use_color
from goexfs.cli.params import ANY_PATH, POINT, color_option, json_option, path_in

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.merging.choosing import Chosen
    from snapshots.merging.hunks import Parts
    from snapshots.review.changes import Change


@click.command("hunks", short_help="List the parts in which a run's changes can be merged.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@color_option
@json_option
def hunks_command(ref: str, paths: tuple[bytes, ...], color: str, as_json: bool) -> None:
    """List the parts in which the changes of RUN can be merged, below each PATH or everywhere.

    With --json, for programs: pass {"changes": {PATH: [ID, ...]}} to goexfs merge RUN --hunks FILE (of RUN@POINT to a
    merge of RUN@POINT).
    """
    import goexfs
    from goexfs.cli import pager

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        below = [path_in(run, path) for path in paths]
        listed = run.hunks(below, at=at)
        if as_json:
            print_json({"run": run.id, "changes": [_fields(change, found) for change, found in listed]})
        else:
            pager.page(_lines(listed, use_color(color)))
            if below and not listed:
                note(f"run {run.record.label} changed nothing at {', '.join(map(quoted, below))}")


def _fields(change: "Change", found: "Parts") -> dict[str, Any]:
    from snapshots.merging.hunks import split, unified
    from snapshots.review.changes import as_json

    fields = as_json(change)
    parts: list[dict[str, Any]] = [{"id": found.lead}] if found.lead is not None else []
    for hunk in found.hunks:
        assert found.text is not None
        lines = unified(found.text, hunk)
        small = [each.id for each in split(hunk)] if len(hunk.edits) > 1 else []
        parts.append({
            "id": hunk.id, "header": lines[0].decode(), "splits_into": small,
            "lines": [line.decode("utf-8", "backslashreplace") for line in lines[1:]],
        })  # fmt: skip
    return {**fields, "parts": parts}


def _lines(listed: "list[tuple[Change, Parts]]", color: bool) -> Iterator[bytes]:
    from goexfs.cli.dress import dressed
    from snapshots.merging.hunks import unified

    for change, found in listed:
        yield styled(f"{change.status} {quoted(change.path)}", color, bold=True).encode() + b"\n"
        if found.lead is not None:
            yield f"  {found.lead}\n".encode()
        for hunk in found.hunks:
            assert found.text is not None
            yield f"  {hunk.id}\n".encode()
            shown = b"".join(line + b"\n" for line in unified(found.text, hunk))
            yield from dressed([shown], color=color)


def hunks_chosen(
    run: "RunHandle", choose: "Callable[[Change], bool] | None", interactive: bool, listed: IO[bytes] | None
) -> "dict[bytes, Chosen] | None":
    """The parts that are wanted, asked for or read; None when it is not by hunks.  Rejections are recorded."""
    if listed is not None:
        if interactive:
            raise click.UsageError("--patch asks and --hunks tells; give one of them")
        return _read(listed)
    if not interactive:
        return None
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("--patch asks on a terminal, and this is none; --hunks FILE takes the choice as JSON")
    from goexfs.cli.asking import Questions
    from snapshots.errors import RunBusy

    if run.state == "active":  # said before anything is asked
        raise RunBusy(f"run {run.record.label} is mounted: unmount it before you merge it (goexfs umount {run.id})")
    groups, moved = run.groups()
    groups = [group for group in groups if choose is None or all(map(choose, group))]
    questions = Questions(groups, moved, color=use_color(), place=lambda path: home(run.find(path)[0].base))
    selection = questions.ask()
    for path, part, reason in questions.rejected:
        run.reject(path, part, reason)
    return selection


def _read(source: IO[bytes]) -> "dict[bytes, Chosen]":
    """The choice in a JSON document: ``{"changes": {PATH: [ID, ...]}}``, or a list as of ``goexfs hunks``."""
    import base64
    import json

    from snapshots.merging.choosing import Chosen

    name = getattr(source, "name", "-")
    try:
        document = json.loads(source.read())
        changes = document.get("changes", document) if isinstance(document, dict) else document
        chosen: dict[bytes, Chosen] = {}
        if isinstance(changes, dict):
            pairs = [(path.encode("utf-8", "surrogateescape"), ids) for path, ids in changes.items()]
        else:
            pairs = [
                (
                    base64.b64decode(each["path_base64"], validate=True) if "path_base64" in each
                    else each["path"].encode("utf-8", "surrogateescape"),
                    [part["id"] if isinstance(part, dict) else part for part in each["parts"]],
                )
                for each in changes
            ]  # fmt: skip
        for path, ids in pairs:
            if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
                raise TypeError("the names of the parts are a list of strings")
            if ids:
                chosen[path] = Chosen(frozenset(ids))
        return chosen
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise click.BadParameter(
            f"{printable(str(name))} is not a choice of hunks, {{\"changes\": {{PATH: [ID, ...]}}}}: "
            f"{printable(str(error))}", param_hint="--hunks",
        ) from None  # fmt: skip
