"""A set of byte ranges: which parts of a large file are in its spool.

Owns the arithmetic only; knows no file.  Not thread-safe.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Sorted, disjoint, non-adjacent half-open ranges ``[start, end)`` of bytes."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    @property
    def total(self) -> int:
        """Number of bytes in the set."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from *start* up to *end*; joins what touches."""
        if start >= end:
            return
        starts, ends = self._starts, self._ends
        if ends and start <= ends[-1] and start >= starts[-1]:
            if end > ends[-1]:  # the sequential writer: extend the last range without searching
                ends[-1] = end
            return
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start = min(start, starts[first])
            end = max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]

    def clip(self, end: int) -> None:
        """Drop every byte at *end* and beyond."""
        keep = bisect_left(self._starts, end)
        del self._starts[keep:]
        del self._ends[keep:]
        if self._ends and self._ends[-1] > end:
            self._ends[-1] = end

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
