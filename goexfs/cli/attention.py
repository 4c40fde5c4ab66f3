"""How a second look is shown: before everything else, bounded, with everything counted.

Owns the text and JSON forms of ``goexfs.secondlook``.  Knows no run and no store; pure functions, any thread.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from goexfs.cli.output import count, quoted, styled

if TYPE_CHECKING:
    from goexfs.secondlook import SecondLook

MOST_SHOWN = 5
"""Marks of one kind that are listed; the others are counted."""


def lines(look: "SecondLook", *, color: bool) -> Iterator[str]:
    """The marks, one a line, the gravest first; nothing when there are none."""
    if look.marks:
        yield styled(f"deserves a second look ({count(len(look.marks), 'mark')}):", color, bold=True)
    for _, group in groupby(look.marks, key=lambda mark: mark.kind):
        marks = list(group)
        for mark in marks[:MOST_SHOWN]:
            letter = styled(f"! {mark.status}", color, fg="red", bold=True)
            yield f"  {letter}  {quoted(mark.path or b'.')}  ({mark.reason})"
        if len(marks) > MOST_SHOWN:
            sign = styled("!", color, fg="red", bold=True)
            yield f"  {sign}    … {len(marks) - MOST_SHOWN} more: {marks[0].reason}"
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
