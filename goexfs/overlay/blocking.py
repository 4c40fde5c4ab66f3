"""How an operation says that it would have to wait for a disk.

Owns the one exception for it, and the descriptors that go along.  The overlay never waits on the event loop's thread:
an operation that needs what memory and page cache do not have raises `WouldBlock` *before it has changed anything*; the
caller runs ``prepare`` in a worker thread and calls the operation again, which then finds what it needs.
"""

import os
from collections.abc import Callable


class WouldBlock(Exception):
    """The operation needs the disk: run ``prepare()`` in a worker thread, then call the operation again.

    Where the disk is at it already, ``arrived()`` says without waiting whether it is done: no thread is needed then.
    """

    def __init__(self, prepare: Callable[[], None], arrived: Callable[[], bool] | None = None) -> None:
        super().__init__("would block")
        self.prepare = prepare
        self.arrived = arrived


class Lent:
    """A duplicate of a descriptor for a worker thread; closed with its last reference.

    (Whoever catches a `WouldBlock` may have no use for it, and never call ``prepare``.)
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = -1
        self.fd = os.dup(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
