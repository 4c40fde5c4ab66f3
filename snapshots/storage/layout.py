"""Where everything of a store lies below its directory.

Owns the names, the modes and the making of the directory; nothing else spells a path of the store.  Knows no SQLite
and no record.  A ``Layout`` is immutable: threads may share it.

::

    store.db (-wal, -shm)     SQLite: runs, entries, links, small objects, what is where
    locks                     empty; its bytes are locked (see ``snapshots.storage.locks``)
    reserve                   room kept for emptying a full store (see ``snapshots.storage.reserve``)
    objects/ab/cdef…          large objects, 0444, named by their hash in hex
    limit                     most bytes that the store may take up, where a user has set it (see
    ``snapshots.storage.bound``) usage                     what it took up when somebody last looked
    incoming/                 large objects while they are being written, directories while they are being removed
    merges/<number>/          what is needed to undo a merge (see ``snapshots.merging.mergelog``)
    quarantine/               contents that fsck found damaged and set aside
    runs/<id>/lock            its first byte is locked while the run is mounted, merged or discarded
    runs/<id>/journal/        segments of the journal (see ``snapshots.history.journal``)
    runs/<id>/spool/          contents of large files being written
    runs/<id>/mnt             where ``goexfs run`` mounts
    runs/<id>/rejected        what a person said about changes that were not wanted (see
    ``snapshots.merging.rejections``) runs/<id>/control         Unix socket while mounted
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from snapshots.errors import StoreDamaged, StoreMissing, StoreUnusable
from snapshots.storage import durable

DIRECTORY_MODE = 0o700
OBJECT_MODE = 0o444

DATABASE = "store.db"
_OURS = frozenset(
    {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "locks", "reserve", "limit", "usage"}
    | {"objects", "incoming", "quarantine", "merges", "runs"}
)
_FOREIGN_BUT_FINE = frozenset({"lost+found"})  # a filesystem of its own for the store


class Layout:
    """The paths of the store at ``root`` (an absolute directory)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database = root / DATABASE
        self.locks = root / "locks"
        self.reserve = root / "reserve"
        self.limit = root / "limit"
        self.usage = root / "usage"
        self.objects = root / "objects"
        self.incoming = root / "incoming"
        self.quarantine = root / "quarantine"
        self.merges = root / "merges"
        self.runs = root / "runs"
        self._objects = str(self.objects)

    def object_path(self, name: bytes) -> str:
        """Path of the file of a large object.  A string: this is on the way of every large read."""
        digits = name.hex()
        return f"{self._objects}/{digits[:2]}/{digits[2:]}"

    def object_name(self, path: str) -> bytes | None:
        """The object whose file ``path`` is; None when no object can have this path."""
        directory, tail = os.path.split(path)
        try:
            name = bytes.fromhex(os.path.basename(directory) + tail)
        except ValueError:
            return None
        return name if self.object_path(name) == path else None

    def object_files(self) -> Iterator[str]:
        """Paths of all files below ``objects/``, whoever put them there."""
        for directory in sorted(durable.listdir(self._objects)):
            below = f"{self._objects}/{directory}"
            if not os.path.isdir(below):
                yield below
                continue
            for name in sorted(durable.listdir(below)):
                yield f"{below}/{name}"

    def quarantine_path(self, name: str) -> str:
        """A free path in ``quarantine/`` for something called ``name``."""
        path = f"{self.quarantine}/{name}"
        number = 0
        while os.path.lexists(path):
            number += 1
            path = f"{self.quarantine}/{name}.{number}"
        return path

    def run_directory(self, run_id: str) -> Path:
        """Directory of one run."""
        return self.runs / run_id

    def directories(self) -> tuple[Path, ...]:
        """The directories that every store has, parents first."""
        return (self.root, self.objects, self.incoming, self.quarantine, self.merges, self.runs)

    def prepare(self, *, create: bool) -> None:
        """Make sure that the directories are there, private and ours to write.

        Errors: StoreDamaged when only the database is gone; StoreMissing when there is nothing and ``create`` is
        false; StoreUnusable when there is something else, or the directory cannot be made or written; StoreFull.
        """
        try:
            present = set(os.listdir(self.root))
        except FileNotFoundError:
            present = set()
            if not create:
                raise StoreMissing(f"there is no store at {self.root}; the first run makes one") from None
        except NotADirectoryError:
            raise StoreUnusable(f"{self.root} is not a directory; name another place for the store") from None
        except OSError as exc:
            raise durable.failure(exc, f"cannot open the store {self.root}") from exc
        if DATABASE not in present:
            foreign = present - _OURS - _FOREIGN_BUT_FINE
            if foreign:
                raise StoreUnusable(
                    f"{self.root} holds other files ({sorted(foreign)[0]!r}, …) and no store; name an empty directory"
                )
            with durable.reporting(f"cannot use the store {self.root}"):
                orphans = os.listdir(self.runs) if "runs" in present else []
            # Another first run may have made both by now.  A new database would take what is theirs for strays.
            if orphans and not self.database.exists():
                raise StoreDamaged(
                    f"{self.database} is gone, and with it what {self.root} has of runs; put a copy of it back, or move"
                    f" {self.root} away to begin a new store"
                )
            if not create:
                raise StoreMissing(f"there is no store at {self.root}; the first run makes one")
        with durable.reporting(f"cannot use the store {self.root}"):
            if not present:
                self.root.parent.mkdir(parents=True, exist_ok=True)
            for directory in self.directories():
                durable.mkdir(directory, DIRECTORY_MODE)
            if DATABASE not in present and stat.S_IMODE(os.stat(self.root).st_mode) != DIRECTORY_MODE:
                os.chmod(self.root, DIRECTORY_MODE)  # it was there, empty: made ready for us with the usual umask
