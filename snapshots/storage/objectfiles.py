"""Large objects: read-only files named by their hash.

Owns the bytes below ``objects/`` and ``incoming/`` and the open descriptors for reading them.  Knows no SQLite: which
names exist is the database's to say, and whoever calls ``admit`` and ``remove`` holds the database's write lock, so
that no two processes do it to one name at once.  Belongs to one store, so to one thread.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Iterable

from snapshots.storage import durable
from snapshots.storage.hashing import Hasher
from snapshots.storage.layout import DIRECTORY_MODE, OBJECT_MODE, Layout

_CHUNK = 1 << 20
_OPEN_LIMIT = 32


class ObjectFiles:
    """The files of one store's large objects.  Methods raise ``OSError``; ``Objects`` says what it means."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._unsynced: set[str] = set()

    def close(self) -> None:
        """Close all descriptors; the files can be read again afterwards."""
        while self._open:
            os.close(self._open.popitem()[1])

    # reading

    def is_open(self, name: bytes) -> bool:
        """Whether ``read`` needs no system call but the read itself."""
        return name in self._open

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        fd = self.descriptor(name)
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (data := os.pread(fd, length - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def descriptor(self, name: bytes) -> int:
        """A descriptor for reading, borrowed until the next call."""
        fd = self._open.get(name)
        if fd is not None:
            if os.fstat(fd).st_nlink:
                self._open.move_to_end(name)
                return fd
            self._forget(name)  # collected; other bytes with the same digest may have got the name since
        fd = os.open(self._layout.object_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if len(self._open) >= _OPEN_LIMIT:
            os.close(self._open.popitem(last=False)[1])
        self._open[name] = fd
        return fd

    def equals(self, name: bytes, path: str) -> bool:
        """Whether an object has the same bytes as another file.

        False if its file is gone or damaged in size, and if it has not an object's mode: then it may be on its way
        into a base (``snapshots.merging.handover``), where it can change.
        """
        try:
            fd = self.descriptor(name)
        except OSError:
            return False
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(other).st_size
            st = os.fstat(fd)
            if st.st_size != size or stat.S_IMODE(st.st_mode) != OBJECT_MODE:
                return False
            return all(
                os.pread(fd, _CHUNK, offset) == os.pread(other, _CHUNK, offset) for offset in range(0, size, _CHUNK)
            )
        finally:
            os.close(other)

    # writing

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Make the temporary file ``path`` with this content."""
        fd = durable.create(path, 0o600)
        try:
            durable.write_all(fd, data)
        finally:
            os.close(fd)

    def gather(self, path: str, source: int, ranges: Iterable[tuple[int, int]]) -> None:
        """Make the temporary file ``path`` of these (offset, length) ranges of an open file, one after the other.

        ``ValueError`` if the source ends before a range does.  Extents are shared where the filesystem can.
        """
        fd = durable.create(path, 0o600)
        try:
            for offset, length in ranges:
                _copy_range(source, offset, fd, length)
        finally:
            os.close(fd)

    def finish(self, path: str, hasher: Hasher) -> tuple[bytes, int]:
        """Hash a file, make it read-only and durable under its present name; its digest and size in bytes."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            state = hasher()
            size = 0
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while got := os.preadv(fd, [buffer], size):
                state.update(view[:got])
                size += got
            os.fchmod(fd, OBJECT_MODE)
            durable.sync(fd)
        finally:
            os.close(fd)
        return state.digest(), size

    def admit(self, name: bytes, path: str) -> None:
        """Publish a finished file as an object.  The name is free as far as the database knows.

        ``path`` stays.  Should the transaction around this fail, the object's file stays too, as a stray that the next
        ``gc`` removes: taking it back here would race with another process that took the name meanwhile.
        """
        target = self._layout.object_path(name)
        directory = os.path.dirname(target)
        if not os.path.isdir(directory):
            durable.mkdir(directory, DIRECTORY_MODE)
            self._unsynced.add(str(self._layout.objects))
        durable.publish(path, target)
        self._unsynced.add(directory)
        self._forget(name)  # a descriptor of an earlier file that had the name

    def touched(self, name: bytes) -> None:
        """Note that an entry is going to name this object: its directory must be durable by then."""
        self._unsynced.add(os.path.dirname(self._layout.object_path(name)))

    def sync(self) -> None:
        """Make the names of all objects admitted or touched since the last time durable.

        (Their contents are already.  The parent is synced after the directories that it holds.)
        """
        while self._unsynced:
            directory = max(self._unsynced)  # deepest first
            durable.sync_directory(directory)
            self._unsynced.discard(directory)

    def remove(self, name: bytes) -> None:
        """Delete an object's file, and its directory if that is empty now."""
        path = self._layout.object_path(name)
        durable.unlink(path)
        self._forget(name)
        durable.rmdir(os.path.dirname(path))

    def _forget(self, name: bytes) -> None:
        fd = self._open.pop(name, None)
        if fd is not None:
            os.close(fd)


def _copy_range(source: int, offset: int, target: int, length: int) -> None:
    """Append a range of one file to another."""
    end = offset + length
    in_kernel = True
    while offset < end:
        count = min(end - offset, _CHUNK * 64)
        if in_kernel:
            durable.step("write", f"fd {target}")
            try:
                done = os.copy_file_range(source, target, count, offset_src=offset)
            except OSError as exc:
                if exc.errno not in durable.NOT_IN_KERNEL:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(count, _CHUNK), offset)
            durable.write_all(target, data)
            done = len(data)
        if not done:
            raise ValueError(f"the range ends at byte {end} and the file at {offset}")
        offset += done
