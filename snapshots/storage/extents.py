"""Putting the ranges of a working file over what lies below it.

Owns the arithmetic of extents; pure functions of records.
"""

from snapshots.entries import Content, Extent
from snapshots.ranges import RangeSet


def layered(size: int, limit: int, ranges: RangeSet, stored: list[Extent], below: Content | None) -> Content:
    """The content of *size* bytes whose *ranges* are in the extents *stored*, and whose other bytes come from below.

    Up to *limit* these are the ones of *below*, or of the base file when that is None; beyond it they are zeros.
    """
    limit = min(limit, size)
    if not limit:
        return Content(size, 0, tuple(stored))
    base_limit, extents = limit, stored
    if below is not None:
        base_limit = min(below.base_limit, limit)
        extents = [*stored]
        for extent in below.extents:
            stop = min(extent.offset + extent.length, limit)
            for start, end, inside in ranges.pieces(extent.offset, max(stop, extent.offset)):
                if not inside:
                    extents.append(Extent(start, end - start, extent.object, extent.start + start - extent.offset))
        extents.sort(key=lambda extent: extent.offset)
    return Content(size, base_limit if _has_gap(extents, base_limit) else 0, tuple(extents))


def _has_gap(extents: list[Extent], limit: int) -> bool:
    """Whether a byte below *limit* is in no extent."""
    at = 0
    for extent in extents:
        if at >= limit or extent.offset > at:
            break
        at = extent.offset + extent.length
    return at < limit
