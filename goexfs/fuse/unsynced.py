"""What a power cut could still take of what the journal tells, and how an fsync in the mount saves it.

Owns which files have to be synced: the journal's current segment, those before it that no synced checkpoint has
replaced (a hole in the journal would hide all that follows), and the working files that records tell of, whose bytes
are in no record.  So one fsync saves everything that was acknowledged before it, not only its own file.

Threading: the event loop's thread notes, worker threads sync.  What is noted stays until a sync that began later has
ended well: an fsync must not rely on another one that is still under way.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from snapshots.history.journal import Change, Range, Spooled, segment_name
from snapshots.storage import durable


class Unsynced:
    """The files of one run; *journal* and *spool* are its directories."""

    def __init__(self, journal: Path, spool: Path) -> None:
        self._journal = journal
        self._spool = spool
        self._lock = threading.Lock()
        self._generation = 0
        self._files: dict[Path, int] = {}
        """what is to be synced, and when it was last noted"""
        self._working: dict[int, Path] = {}
        """the current working files, by inode number"""

    def note(self, change: Change) -> None:
        """A record is about to be written."""
        for data in change.data:
            if isinstance(data, Spooled):
                self._working[change.ino] = self._spool / data.file
            elif isinstance(data, Range) and (path := self._working.get(change.ino)) is not None:
                with self._lock:
                    self._generation += 1
                    self._files[path] = self._generation

    def ended(self, segment: int) -> None:
        """The segment that begins with this record will not be written again."""
        with self._lock:
            self._generation += 1
            self._files[self._journal / segment_name(segment)] = self._generation

    def sealed(self, position: int) -> None:
        """A synced checkpoint has all records before ``position``."""
        limit = self._journal / segment_name(position)
        with self._lock:
            for path in [path for path in self._files if path.parent == self._journal and path < limit]:
                del self._files[path]
            gone = [path for path in self._files if path.parent == self._spool and _is_gone(path)]
            for path in gone:
                del self._files[path]
        for ino in [ino for ino, path in self._working.items() if _is_gone(path)]:
            del self._working[ino]

    def syncer(self, current: Callable[[], None]) -> Callable[[], None]:
        """What syncs all that was noted so far, and then ``current`` (the segment being written); for one thread.

        OSError when it fails: then nothing counts as synced.
        """
        with self._lock:
            noted = dict(self._files)

        def sync() -> None:
            try:
                if [path for path in noted if _sync(path) and path.parent == self._spool]:
                    durable.sync_directory(self._spool)
            finally:
                current()  # last: a record that is on the disk finds there what it tells of
            with self._lock:
                for path, generation in noted.items():
                    if self._files.get(path) == generation:
                        del self._files[path]

        return sync


def _is_gone(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        pass  # who cannot say keeps it
    return False


def _sync(path: Path) -> bool:
    """Sync a file; False when it is gone: then the store has what was in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        durable.sync(fd)
    finally:
        os.close(fd)
    return True


def sync_and_close(fd: int) -> None:
    """fsync(2) of a descriptor that is not needed any more; for a worker thread."""
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
