"""Which words of a text differ.

Owns what counts as a word.  The comparison is git's own method: the words are written one to a line, and libgit2
compares the lines.  Pure functions, safe in any thread.
"""

import re
from collections.abc import Iterator

from snapshots.review.libgit2 import compared

MOST_BYTES = 64 << 10
"""Length of both texts together above which they are not compared word by word."""

_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+|\n|[ \t]+|.", re.DOTALL)


def words(old: bytes, new: bytes) -> Iterator[tuple[str, bytes]]:
    """``(" ", both)``, ``("-", only old)`` and ``("+", only new)`` pieces, in order.

    Texts above ``MOST_BYTES`` are one removed and one added piece.
    """
    if old == new:
        if old:
            yield " ", old
        return
    if len(old) + len(new) > MOST_BYTES or not old or not new:
        yield from (piece for piece in (("-", old), ("+", new)) if piece[1])
        return
    a, b = _WORD.findall(old), _WORD.findall(new)
    made = compared(_listed(a), _listed(b), context=len(a) + len(b))
    if made.delta.is_binary or not made.hunks:
        yield from (("-", old), ("+", new))
        return
    sign = ""
    parts: list[bytes] = []
    at = {"-": 0, "+": 0}
    for hunk in made.hunks:
        for line in hunk.lines:
            if line.origin not in " -+":
                continue
            if line.origin != sign and parts:
                yield sign, b"".join(parts)
                parts = []
            sign = line.origin
            parts.append(a[at["-"]] if sign != "+" else b[at["+"]])
            at["-"] += sign != "+"
            at["+"] += sign != "-"
    if parts:
        yield sign, b"".join(parts)


def _listed(found: list[bytes]) -> bytes:
    return b"".join((b"\\n" if word == b"\n" else word.replace(b"\0", b"\\0")) + b"\n" for word in found)
