"""Sealed contents for the event loop: from memory and page cache, or not at once.

Owns a bounded memory of small objects, the descriptors of large ones, and a thread with a store of its own, in which
whatever is in neither is looked up; with a small object come those that were stored right after it.  Objects never
change, so nothing here goes stale but a name that was freed and given to another content with the same hash: what the
run itself seals is therefore told to `ObjectCache.sealed`.

Threading: the event loop's thread, except for what `WouldBlock.prepare` does.
"""

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from goexfs.overlay.blocking import Lent, WouldBlock
from goexfs.overlay.reading import LocalReads
from snapshots.storage.store import Store

MEMORY_LIMIT = 16 << 20
"""bytes of small objects that are kept"""
OPEN_LIMIT = 64
"""large objects that are kept open"""
AHEAD_BYTES = 256 << 10
"""bytes of small objects read along with one that was asked for"""
_FOUND_LIMIT = 64

log = logging.getLogger(__name__)


class _Large(Lent):
    """The open file of a large object."""

    __slots__ = ("reads",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.reads = LocalReads()


class ObjectCache:
    """Reads the objects of a store as `snapshots.storage.objects.Objects` does, but raises `WouldBlock` where that
    would wait, and OSError (EIO) where the store cannot be read.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        """*open_store* is called once, when the first object is needed, in the thread that reads."""
        self._open_store = open_store
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="goexfs-objects")
        self._small: OrderedDict[bytes, bytes] = OrderedDict()
        self._small_bytes = 0
        self._large: OrderedDict[bytes, _Large] = OrderedDict()
        self._found: dict[bytes, dict[bytes, bytes] | _Large | Exception] = {}
        """what the thread has looked up and no operation has taken yet"""

    def close(self) -> None:
        """End the thread."""

        def close_store() -> None:
            if self._store is not None:
                self._store.close()

        if self._store is not None:
            self._thread.submit(close_store)
        self._thread.shutdown()
        self._large.clear()

    def sealed(self, name: bytes, data: bytes | None) -> None:
        """The run itself has just stored an object; *data* is its content if that is small and at hand."""
        self._small_bytes -= len(self._small.pop(name, b""))
        self._large.pop(name, None)
        if data is not None:
            self._keep(name, data)

    def _keep(self, name: bytes, data: bytes) -> None:
        self._small_bytes += len(data) - len(self._small.pop(name, b""))
        self._small[name] = data
        while self._small_bytes > MEMORY_LIMIT:
            self._small_bytes -= len(self._small.popitem(last=False)[1])

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        """See `snapshots.storage.objects.Objects.read`; `WouldBlock` where that would wait for the disk."""
        if name in self._found:
            self._take(name)
        data = self._small.get(name)
        if data is not None:
            self._small.move_to_end(name)
            return data[offset:] if length is None else data[offset : offset + length]
        large = self._large.get(name)
        if large is None:
            raise WouldBlock(lambda: self._thread.submit(self._look_up, name).result())
        self._large.move_to_end(name)
        if length is None:
            length = os.fstat(large.fd).st_size - offset
        return large.reads.read(large.fd, offset, length)

    def _take(self, name: bytes) -> None:
        found = self._found.pop(name)
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror)
        if isinstance(found, Exception):
            log.error("a content in the store cannot be read: %s", found)
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from found
        if isinstance(found, _Large):
            self._large[name] = found
            while len(self._large) > OPEN_LIMIT:
                self._large.popitem(last=False)
        else:
            for other, data in reversed(found.items()):
                self._keep(other, data)

    # -- in worker threads

    def _look_up(self, name: bytes) -> None:
        try:
            if self._store is None:
                self._store = self._open_store()
            fd = self._store.objects.descriptor(name)
            found = self._store.objects.read_ahead(name, AHEAD_BYTES) if fd is None else _Large(fd)
        except Exception as e:
            self._found[name] = e
        else:
            self._found[name] = found
        while len(self._found) > _FOUND_LIMIT:  # of operations that were interrupted and never came back
            self._found.pop(next(iter(self._found)), None)
