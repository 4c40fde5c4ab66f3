"""How an operation says that it would have to wait for a disk.

Owns the one exception for it.  The overlay never waits on the event loop's thread: an operation that needs what
memory and page cache do not have raises `WouldBlock` *before it has changed anything*; the caller runs ``prepare`` in
a worker thread and calls the operation again, which then finds what it needs.
"""

from collections.abc import Callable


class WouldBlock(Exception):
    """The operation needs the disk: run ``prepare()`` in a worker thread, then call the operation again."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        super().__init__("would block")
        self.prepare = prepare
