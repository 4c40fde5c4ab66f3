"""A bounded pool of open file descriptors, reopened on demand.

Owns every descriptor of a base or spool file that the overlay holds between requests, so that a run over a tree of
any size, or one that extracts ten thousand large files, stays below the process's limit.  Used by the event loop's
thread only: a worker thread gets a duplicate.
"""

import os
from collections import OrderedDict
from typing import Protocol


class Reopenable(Protocol):
    """Something the pool can open again after it was evicted."""

    def open_fd(self) -> int:
        """A new descriptor; raises OSError when the file is gone or is another one now."""


class DescriptorPool:
    """At most *limit* descriptors, the least recently used closed first."""

    def __init__(self, limit: int = 400) -> None:
        self._limit = limit
        self._open: OrderedDict[Reopenable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, owner: Reopenable) -> int:
        """The descriptor of *owner*, opened if need be; borrowed, valid until the next call of the pool."""
        fd = self._open.get(owner)
        if fd is None:
            fd = owner.open_fd()
            self.put(owner, fd)
        else:
            self._open.move_to_end(owner)
        return fd

    def put(self, owner: Reopenable, fd: int) -> None:
        """Hand over a descriptor that is open already."""
        while len(self._open) >= self._limit:
            os.close(self._open.popitem(last=False)[1])
        self._open[owner] = fd

    def drop(self, owner: Reopenable) -> None:
        """Close the descriptor of *owner* if there is one."""
        fd = self._open.pop(owner, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            os.close(self._open.popitem()[1])
