"""Room that is kept for the journal, so that a change is refused before it is made and not after.

A change is made in memory and then recorded; when the record finds no room, what was refused would still have happened.
So some room is set aside in a file.  The record that finds the disk full gets it, and from then on changes are refused
before they begin, until there is as much again.  Removing is not refused: it is what makes room.

Threading: the event loop's thread, and so nothing here is done for a request unless the disk is full.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 1 << 20
"""more than any one record takes"""
FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """In the file at *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_held = False
        with suppress(OSError):
            self.check()

    def check(self) -> None:
        """OSError when there is no room for a change."""
        if self._is_held:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
            self._is_held = True
        except OSError as e:
            os.ftruncate(fd, 0)  # some of it may have been had
            if e.errno in FULL:
                raise
            self._is_held = True  # a filesystem that sets nothing aside: as well as it can be done
        finally:
            os.close(fd)

    def give(self) -> bool:
        """Make the room free, for a record that has none; False when there is nothing to give."""
        held, self._is_held = self._is_held, False
        if held:
            os.truncate(self._path, 0)
        return held

    def close(self) -> None:
        """It is not needed any more."""
        with suppress(OSError):
            self._path.unlink()
