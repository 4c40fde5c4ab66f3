"""A set of byte ranges: which parts of a large file are in its spool.

Owns the arithmetic only; knows no file.  Not thread-safe.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

BLOCK = 4096
"""bytes"""


class RangeSet:
    """Sorted, disjoint, non-adjacent half-open ranges ``[start, end)`` of bytes."""

    __slots__ = ("_ends", "_starts", "blocks", "total")

    total: int
    """number of bytes in the set; this and the next are kept up to date, because every write asks for them"""
    blocks: int
    """number of blocks of `BLOCK` bytes that the ranges take up, each for itself"""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = self.blocks = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def add(self, start: int, end: int) -> None:
        """Add the bytes from *start* up to *end*; joins what touches."""
        if start >= end:
            return
        starts, ends = self._starts, self._ends
        if ends and start <= ends[-1] and start >= starts[-1]:
            if end > ends[-1]:  # the sequential writer: extend the last range without searching
                self._count(starts[-1:], ends[-1:], -1)
                ends[-1] = end
                self._count(starts[-1:], ends[-1:])
            return
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start = min(start, starts[first])
            end = max(end, ends[last - 1])
            self._count(starts[first:last], ends[first:last], -1)
        self._count([start], [end])
        starts[first:last] = [start]
        ends[first:last] = [end]

    def clip(self, end: int) -> None:
        """Drop every byte at *end* and beyond."""
        keep = bisect_left(self._starts, end)
        self._count(self._starts[keep:], self._ends[keep:], -1)
        del self._starts[keep:]
        del self._ends[keep:]
        if self._ends and self._ends[-1] > end:
            self._count(self._starts[-1:], self._ends[-1:], -1)
            self._ends[-1] = end
            self._count(self._starts[-1:], self._ends[-1:])

    def _count(self, starts: list[int], ends: list[int], sign: int = 1) -> None:
        for start, end in zip(starts, ends, strict=True):
            self.total += sign * (end - start)
            self.blocks += sign * -((start - end) // BLOCK)

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte from *start* up to *end* is in the set."""
        if start >= end:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._ends[at] >= end

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut ``[start, end)`` into ``(from, to, inside)`` pieces, in order, without a gap."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        while start < end:
            while at < len(self._starts) and self._ends[at] <= start:
                at += 1
            if at == len(self._starts) or self._starts[at] >= end:
                yield start, end, False
                return
            if start < self._starts[at]:
                yield start, self._starts[at], False
                start = self._starts[at]
            stop = min(self._ends[at], end)
            yield start, stop, True
            start = stop
