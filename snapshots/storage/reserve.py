"""Room on the disk that is kept so that a full store can be emptied.

To free anything, SQLite has to write first (its log), and a run's state has to be recorded on a full disk too.  So
every store has a file of ``RESERVE_BYTES`` that holds nothing; what must not fail for want of room gives some of it
back to the disk and tries again.

Owns the ``reserve`` file.  Knows nothing of what the room is for.  No state: any thread, any process.
"""

import os

from snapshots.storage import durable
from snapshots.storage.layout import Layout

RESERVE_BYTES = 4 << 20

_SLICE_BYTES = 128 << 10
_KEPT_FOR_DISCARD_BYTES = 1 << 20


class Reserve:
    """The reserve of one store."""

    def __init__(self, layout: Layout) -> None:
        self._path = str(layout.reserve)

    def spend_slice(self) -> bool:
        """Give back enough for one small transaction; False when what is left is kept for a discard."""
        size = self._size()
        return size > _KEPT_FOR_DISCARD_BYTES and self._cut(size - _SLICE_BYTES)

    def spend_all(self) -> bool:
        """Give everything back; False when there is nothing left."""
        return self._size() > 0 and self._cut(0)

    def restore(self) -> None:
        """Fill the reserve again as far as it is not full, if the disk has the room now."""
        size = self._size()
        if size >= RESERVE_BYTES:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                durable.step("reserve", self._path)
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            except OSError:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
        except OSError:
            pass  # there is no room even for this; the next discard or opening tries again

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def _cut(self, size: int) -> bool:
        try:
            os.truncate(self._path, max(0, size))
        except OSError:
            return False
        return True
