"""Which files are one object: a large one need not be copied to get into the base, small ones are read together.

Owns these rules.  Pure; any thread.
"""

import stat
from typing import Protocol

from snapshots.entries import Entry

LARGE = 8 << 20
"""Bytes from which on it is worth the trouble."""


def whole_object(entry: Entry) -> bytes | None:
    """The one object that is all of a large file."""
    content = entry.content
    if content is None or not stat.S_ISREG(entry.mode) or content.size < LARGE or len(content.extents) != 1:
        return None
    extent = content.extents[0]
    return extent.object if (extent.offset, extent.start, extent.length) == (0, 0, content.size) else None


SMALL = 16 << 10
"""Bytes up to which a content is read together with others'."""


def small_object(entry: Entry) -> bytes | None:
    """The one object that is all of a small file, and of which nothing else is known to be there."""
    content = entry.content
    if content is None or len(content.extents) != 1 or not 0 < content.size <= SMALL:
        return None
    extent = content.extents[0]
    return extent.object if (extent.offset, extent.start, extent.length) == (0, 0, content.size) else None


class Giving(Protocol):
    """Where the files of such objects can be had (see ``snapshots.merging.handover``)."""

    def path_of(self, entry: Entry) -> bytes | None:
        """The file of the object, if it may be given."""

    def is_free(self, entry: Entry) -> bool:
        """Whether it still may, now that it is none of the store's any more."""
