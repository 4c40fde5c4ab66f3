"""Reading open files without waiting for the disk.

Owns what is kept between the two attempts of an operation: the first finds that the page cache has not got it all and
raises `WouldBlock`, a worker thread reads it, the second attempt has it.  Two ways: a file that somebody may write
meanwhile is only brought into the page cache and then read again (`LocalReads`); of a file on a filesystem that may be
slow, or says nothing of its page cache, the bytes themselves are handed over (`EarlyReads`).

Threading: the event loop's thread, except for what ``prepare`` does.
"""

import os

from goexfs.overlay.blocking import Lent, WouldBlock
from goexfs.overlay.nowait import has_arrived, read_now

_LIMIT = 64
"""ranges that are remembered; operations that were interrupted never come back for theirs"""

Range = tuple[int, int]
"""offset and length, in bytes"""


class LocalReads:
    """Of one file on a local disk."""

    __slots__ = ("_warm",)

    def __init__(self) -> None:
        self._warm: dict[Range, None] = {}

    def read(self, fd: int, offset: int, length: int) -> bytes | memoryview:
        """pread(2); `WouldBlock`."""
        if self._warm and (offset, length) in self._warm:
            del self._warm[offset, length]
            return os.pread(fd, length, offset)
        got = read_now(fd, offset, length)
        if got is not None:
            return got
        own = Lent(fd)

        def prepare() -> None:
            os.pread(own.fd, length, offset)
            if len(self._warm) >= _LIMIT:
                self._warm.clear()
            self._warm[offset, length] = None

        raise WouldBlock(prepare, lambda: has_arrived(own.fd, offset + length - 1))


class EarlyReads:
    """Of one file that nobody writes through us."""

    __slots__ = ("_early",)

    def __init__(self) -> None:
        self._early: dict[Range, bytes] = {}

    def read(self, fd: int, offset: int, length: int) -> bytes | memoryview:
        """pread(2); `WouldBlock`."""
        got = read_now(fd, offset, length)
        if got is not None:
            return got
        own = Lent(fd)

        def prepare() -> None:
            data = os.pread(own.fd, length, offset)
            if len(self._early) >= _LIMIT:
                self._early.clear()
            self._early[offset, length] = data

        raise WouldBlock(prepare, lambda: has_arrived(own.fd, offset + length - 1))

    def take(self, offset: int, length: int) -> bytes | None:
        """What was read by a worker thread, once."""
        return self._early.pop((offset, length), None) if self._early else None
