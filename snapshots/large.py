"""Which files are large, and all of them one object: those that need not be copied to get into the base.

Owns that rule.  Pure; any thread.
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


class Giving(Protocol):
    """Where the files of such objects can be had (see ``snapshots.handover``)."""

    def path_of(self, entry: Entry) -> bytes | None:
        """The file of the object, if it may be given."""

    def is_free(self, entry: Entry) -> bool:
        """Whether it still may, now that it is none of the store's any more."""
