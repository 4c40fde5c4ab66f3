"""The working files of one mount: files in the store's ``spool/`` that hold large dirty contents.

Owns how they are made, opened again and removed without the event loop waiting for the store's disk.  A file that is to
be made is made by a worker thread before the operation that needs it has changed anything; a name that is not in memory
is looked up by one; what is removed may be large, and goes in a thread that nobody waits for.  Knows no contents.

Threading: the event loop's thread, except for what ``prepare`` and the removing thread do.
"""

import errno
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.nowait import open_now

_READY_LIMIT = 16
"""files that were made for operations which then had no use for them; the next ones take them"""
_CANNOT_SAY = (errno.EAGAIN, errno.ENOSYS, errno.EPERM)
"""answers of openat2: not in memory; an old kernel; a filter in the way"""
_AT_FDCWD = -100

_Key = tuple[Path, int]


class WorkingFiles:
    """In one directory.  Waits for the disk until ``waiting`` is False."""

    def __init__(self, directory: Path) -> None:
        self.waiting = True
        """while there is no event loop"""
        self._directory = directory
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._made = 0
        self._ready: deque[tuple[Path, int]] = deque()
        self._opened: dict[_Key, int | OSError] = {}
        """what threads opened and no operation has taken yet"""
        self._remover: ThreadPoolExecutor | None = None

    def statvfs(self) -> os.statvfs_result:
        """Of the filesystem that they are on."""
        return os.statvfs(self._fd)

    def create(self) -> tuple[Path, int]:
        """A new empty file, open for reading and writing; both are the caller's.  OSError, `WouldBlock`."""
        if self._ready:
            return self._ready.popleft()
        if self.waiting:
            return self._make()
        failed = self._opened.pop((self._directory, 0), None)
        if isinstance(failed, OSError):
            raise OSError(failed.errno, failed.strerror)
        raise WouldBlock(self._prepare)

    def _prepare(self) -> None:
        try:
            made = self._make()
        except OSError as e:
            self._opened[self._directory, 0] = e
            return
        if len(self._ready) < _READY_LIMIT:
            self._ready.append(made)
        else:
            _drop(*made)

    def _make(self) -> tuple[Path, int]:
        while True:
            self._made += 1
            path = self._directory / f"{os.getpid():x}.{self._made:x}"
            try:
                return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue  # of an earlier mount, or made by another thread at this moment

    def open(self, path: Path, flags: int) -> int:
        """A new descriptor of one of them.  OSError, `WouldBlock`."""
        if self.waiting:
            return os.open(path, flags | os.O_CLOEXEC)
        found = self._opened.pop((path, flags), None)
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror)
        if found is not None:
            return found
        try:
            return open_now(os.fsencode(path), flags | os.O_CLOEXEC, _AT_FDCWD)
        except OSError as e:
            if e.errno not in _CANNOT_SAY:
                raise
        raise WouldBlock(lambda: self._open(path, flags))

    def _open(self, path: Path, flags: int) -> None:
        found: int | OSError
        try:
            found = os.open(path, flags | os.O_CLOEXEC)
        except OSError as e:
            found = e
        before = self._opened.pop((path, flags), None)
        if isinstance(before, int):
            os.close(before)
        self._opened[path, flags] = found

    def remove(self, path: Path) -> None:
        """Nothing needs it any more (what does not go now goes with the spool of a run that is not mounted)."""
        if self.waiting:
            path.unlink(missing_ok=True)
            return
        if self._remover is None:
            self._remover = ThreadPoolExecutor(max_workers=1, thread_name_prefix="goexfs-remove")
        self._remover.submit(_unlink, path)

    def close(self) -> None:
        """Everything that was to be removed is; nothing is open any more."""
        if self._remover is not None:
            self._remover.shutdown()
        while self._ready:
            _drop(*self._ready.popleft())
        for found in self._opened.values():
            if isinstance(found, int):
                os.close(found)
        self._opened.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _drop(path: Path, fd: int) -> None:
    os.close(fd)
    _unlink(path)
