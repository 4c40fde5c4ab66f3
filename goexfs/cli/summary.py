"""What changed, in few lines: name-status, counts, and a bounded summary that hides no deletion.

Owns the text forms of a list of changes; pure functions from changes to lines.  Knows no run
and no store.  Any thread.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from goexfs.cli.output import count, quoted, styled

if TYPE_CHECKING:
    from snapshots.review.changes import Change

WORDS = {
    "A": "added", "M": "modified", "D": "deleted", "R": "renamed", "C": "copied", "T": "type changed",
    "X": "attributes changed",
}  # fmt: skip
_COLORS = {"A": "green", "M": "yellow", "D": "red", "R": "cyan", "C": "cyan", "T": "magenta", "X": "blue"}
DELETIONS_SHOWN = 40
OTHERS_SHOWN = 25


@dataclass(frozen=True)
class Line:
    """One line of a summary: one change, or (``folded`` above 1) that many of one status below one directory."""

    status: str
    path: bytes
    old_path: bytes | None = None
    folded: int = 1


def counts(changes: Iterable["Change"]) -> str:
    """``12 changes: 2 deleted, 3 added, 7 modified``; deletions first."""
    tally = Counter(str(change.status) for change in changes)
    parts = [f"{tally[status]} {WORDS[status]}" for status in "DATMRCX" if tally[status]]
    total = sum(tally.values())
    return f"{count(total, 'change')}: {', '.join(parts)}" if total else "no changes"


def fold(changes: Sequence["Change"], limit: int) -> list[Line]:
    """At most ``limit`` lines in which every change is counted: whole directories are folded, the deepest first.

    Folding goes by depth, so equal trees fold equally; at depth 0 one line per status is left, whatever came before.
    """
    if len(changes) <= limit:
        return [Line(str(change.status), change.path, change.old_path) for change in changes]
    depth = max(change.path.count(b"/") for change in changes)
    groups = {(str(change.status), change.path): (1, change) for change in changes}
    while len(groups) > limit and depth >= 0:
        groups = _folded_to(groups, depth)
        depth -= 1
    return [
        Line(status, change.path, change.old_path) if many == 1 else Line(status, path, None, many)
        for (status, path), (many, change) in groups.items()
    ]


_Groups = dict[tuple[str, bytes], tuple[int, "Change"]]
"""Status and path -> how many changes stand there, and the first of them."""


def _folded_to(groups: _Groups, depth: int) -> _Groups:
    """What lies deeper than a depth joins its directory at that depth; what was folded deeper has one below already."""
    folded: _Groups = {}
    for (status, path), (many, change) in groups.items():
        # A path at this depth or above stands for itself, and what lies below it joins it.
        if path.count(b"/") >= depth:
            path = b"/".join(path.split(b"/", depth)[:depth])
        before = folded.get((status, path))
        folded[status, path] = (many, change) if before is None else (before[0] + many, before[1])
    return folded


def summary(changes: Sequence["Change"], *, color: bool) -> list[str]:
    """The bounded listing, deletions first and with lines of their own kept free for them."""
    deleted = [change for change in changes if change.status == "D"]
    others = [change for change in changes if change.status != "D"]
    lines = fold(deleted, DELETIONS_SHOWN) + fold(others, OTHERS_SHOWN)
    return [f"  {_shown(line, color)}" for line in lines]


def _shown(line: Line, color: bool) -> str:
    letter = styled(line.status, color, fg=_COLORS[line.status])
    if line.folded > 1:
        where = quoted(line.path) + "/" if line.path else "./"
        return f"{letter}  {where}  … {line.folded} {WORDS[line.status]}"
    if line.old_path is not None:
        return f"{letter}  {quoted(line.old_path)} -> {quoted(line.path)}"
    return f"{letter}  {quoted(line.path or b'.')}"


def name_status(changes: Iterable["Change"], *, zero: bool = False, color: bool = False) -> Iterator[bytes]:
    """``M<TAB>path`` per change, ``R<TAB>old<TAB>new`` for a rename; with ``zero`` NUL-separated raw bytes."""
    for change in changes:
        status = str(change.status)
        paths = [change.path] if change.old_path is None else [change.old_path, change.path]
        if zero:
            yield b"".join(part + b"\0" for part in (status.encode(), *paths))
        else:
            letter = styled(status, color, fg=_COLORS[status])
            yield "\t".join([letter, *map(quoted, paths)]).encode() + b"\n"


def fields(changes: Iterable["Change"]) -> list[dict[str, Any]]:
    """The changes as JSON values."""
    from snapshots.review.changes import as_json

    return [as_json(change) for change in changes]
