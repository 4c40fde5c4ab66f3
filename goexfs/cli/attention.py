"""How a second look is shown: before everything else, bounded, with everything counted.

Owns the text and JSON forms of ``goexfs.secondlook``, and that each base of a run is looked at as one.  Main thread
only.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from goexfs.cli.output import count, quoted, styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goexfs.secondlook import Mark, SecondLook
    from goexfs.session import RunHandle
    from snapshots.review.changes import Change

MOST_SHOWN = 5
"""Paths of one kind that are listed; the others are counted."""


def look_at(run: "RunHandle", changes: "Sequence[Change]") -> "SecondLook":
    """A second look at changes of a run, in each of its bases."""
    from functools import partial

    from goexfs.secondlook import joined, second_look

    return joined(
        (second_look(within, run.parts[number].base), partial(run.place, number))
        for number, within in run.divide(changes)
    )


def lines(look: "SecondLook", *, color: bool) -> Iterator[str]:
    """Every marked path with all its reasons, one a line, the gravest first; nothing when there are none."""
    by_path: dict[bytes, list[Mark]] = {}
    for mark in look.marks:
        by_path.setdefault(mark.path, []).append(mark)
    if by_path:
        yield styled(f"deserves a second look ({count(len(by_path), 'path')}):", color, bold=True)
    for _, group in groupby(by_path.values(), key=lambda marks: marks[0].kind):
        listed = list(group)
        for marks in listed[:MOST_SHOWN]:
            sign = styled(f"! {marks[0].status}", color, fg="red", bold=True)
            yield f"  {sign}  {quoted(marks[0].path or b'.')}  ({'; '.join(mark.reason for mark in marks)})"
        if len(listed) > MOST_SHOWN:
            sign = styled("!", color, fg="red", bold=True)
            yield f"  {sign}    … {len(listed) - MOST_SHOWN} more: {listed[0][0].reason}"
    if look.unread:
        yield f"  not looked into for secrets and the like, or not to the end: {count(look.unread, 'file')}"


def fields(look: "SecondLook") -> dict[str, Any]:
    """The JSON fields of a document about changes."""
    from snapshots.names import text_fields

    marks = [
        {**text_fields("path", mark.path), "status": str(mark.status), "kind": mark.kind, "reason": mark.reason}
        for mark in look.marks
    ]
    return {"second_look": marks, "not_looked_into": look.unread}


def encoded(found: Iterable[str]) -> Iterator[bytes]:
    """Lines for the pager, with an empty one after them if there are any."""
    said = False
    for line in found:
        said = True
        yield line.encode() + b"\n"
    if said:
        yield b"\n"
