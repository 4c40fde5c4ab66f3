"""Telling the kernel what it must forget.

Owns one thread and the queue in front of it.  An invalidation can wait inside the kernel for a lock that a program
holds while it waits for our reply, so it must never be made on the event loop's thread.  Knows no overlay: it is
given directory, name and inode numbers.
"""

import errno
import logging
import queue
import threading
from collections.abc import Iterable

import pyfuse3

from goexfs.overlay import Invalidation

STOP_SECONDS = 5.0
_GONE = (errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.ENOTDIR, errno.EBADF)
"""the kernel knew nothing of it any more, or the filesystem is being unmounted"""

log = logging.getLogger(__name__)


class Notifier:
    """Executes invalidations, one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Invalidation | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="goexfs-notify", daemon=True)
        self._thread.start()

    def invalidate(self, stale: Iterable[Invalidation]) -> None:
        """Queue invalidations.  Any thread.

        With a name goes the listing of its directory, if the kernel keeps one: it forgets that by itself only when it
        knew the name.
        """
        listed: dict[int, None] = {}
        for one in stale:
            self._queue.put(one)
            if one.name is not None:
                listed[one.ino] = None
        for directory in listed:
            self._queue.put(Invalidation(directory, None))

    def stop(self) -> bool:
        """Finish what is queued and end.  False when the kernel keeps the thread (then it ends with the process)."""
        self._queue.put(None)
        self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            if isinstance(one, threading.Event):
                one.set()
            else:
                _invalidate(one)

    def idle(self) -> threading.Event:
        """An event that is set when everything queued so far was done."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached


def _invalidate(one: Invalidation) -> None:
    try:
        if one.name is None:
            pyfuse3.invalidate_inode(one.ino)
        else:
            pyfuse3.invalidate_entry(one.ino, one.name)
    except OSError as e:
        if e.errno not in _GONE:
            log.warning("the kernel would not forget %r: %s; it may show an old state of the base", one, e)
