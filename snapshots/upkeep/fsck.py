"""The checker: does the store hold what its records say, and nothing else?

Owns the order of the checks, and those of the database, the objects and the files (``snapshots.upkeep.runcheck`` has
those of a run, ``snapshots.upkeep.findings`` the list of what must be true).  Knows all tables.
Findings are values; nothing is printed.  Safe while other processes use the store: what looks wrong is looked at again
before it is reported, and repairs are made under the locks that protect what they change.  Belongs to the thread of
its store.

Repair never destroys content that may be somebody's: damaged bytes and records go to ``quarantine/``.
"""

import os
import stat
from collections.abc import Callable, Iterator

from snapshots.errors import StoreDamaged, StoreError
from snapshots.storage import durable
from snapshots.storage.hashing import DIGEST_SIZE
from snapshots.storage.layout import DIRECTORY_MODE, OBJECT_MODE
from snapshots.storage.lease import NOBODY
from snapshots.storage.objects import Place
from snapshots.storage.store import Store
from snapshots.upkeep import gc
from snapshots.upkeep.findings import Finding, FsckReport, Kind
from snapshots.upkeep.ledgercheck import check_effects
from snapshots.upkeep.runcheck import RunCheck

_CHUNK = 1 << 20
_PAGE_ROWS = 200


def fsck(
    store: Store, *, repair: bool = False, progress: Callable[[int, int], None] | None = None
) -> FsckReport:
    """Check everything; with ``repair`` mend what can be.  Errors: those of the store when it cannot even be read.

    ``progress`` is called with how many objects and entries have been looked at, of how many.
    """
    return _Check(store, repair, progress).run()


class _Check:
    """One pass over a store."""

    def __init__(self, store: Store, repair: bool, progress: Callable[[int, int], None] | None) -> None:
        self._store = store
        self._db = store.database
        self._repair = repair
        self._findings: list[Finding] = []
        self._objects = self._bytes = self._runs = self._entries = 0
        self._progress = progress
        self._total = 0
        """of objects and entries, for the progress"""

    def run(self) -> FsckReport:
        self._check_database()
        if self._progress is not None:
            row = self._db.one("SELECT (SELECT count(*) FROM objects) + (SELECT count(*) FROM entries)")
            self._total = row[0] if row is not None else 0
        for check in (
            self._check_directories,
            self._check_objects,
            self._check_runs,
            self._check_history,
            self._check_effects,
            self._check_unheld,
            self._check_files,
            self._check_modes,
            self._collect,
        ):
            try:
                check()
            except StoreDamaged as exc:  # a part of the database cannot even be read: say so, and go on with the rest
                self._found(Kind.DATABASE, str(self._db.path), f"{check.__name__.strip('_').replace('_', ' ')}: {exc}")
        return FsckReport(tuple(self._findings), self._objects, self._bytes, self._runs, self._entries)

    def _found(self, kind: Kind, what: str, detail: str, repaired: bool = False) -> None:
        self._findings.append(Finding(kind, what, detail, repaired))

    def _tell(self) -> None:
        if self._progress is not None:
            done = self._objects + self._entries
            self._progress(done, max(done, self._total))

    def _collect(self) -> None:
        """What repairs made garbage goes at once."""
        if self._repair:
            self._store.objects.collect()

    # the database

    def _check_database(self) -> None:
        problems = self._db.integrity()
        if not problems:
            return
        repaired = False
        if self._repair:
            try:
                self._db.rebuild_indexes()
                repaired = not self._db.integrity()
            except StoreError:
                pass
        for problem in problems:
            self._found(Kind.DATABASE, str(self._db.path), problem, repaired)

    # objects

    def _check_objects(self) -> None:
        for key, name, size, place in self._object_rows():
            self._objects += 1
            self._tell()
            self._bytes += size
            kind, problem = self._check_object(key, name, size, place)
            if kind is None or not self._still_there(key, name, place):
                continue
            if kind is Kind.OBJECT_MISSING and not self._is_used(key):
                continue  # a collection that died after deleting the file; the next one deletes the row
            self._found(kind, name.hex(), problem, self._repair and self._set_aside(key, name, place))

    def _object_rows(self) -> Iterator[tuple[int, bytes, int, int]]:
        last = 0
        while rows := self._db.all(
            "SELECT id, name, size, place FROM objects WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE_ROWS)
        ):
            yield from rows
            last = rows[-1][0]

    def _check_object(self, key: int, name: bytes, size: int, place: int) -> tuple[Kind | None, str]:
        if place == Place.QUARANTINE:
            return None, ""  # known; the entries that need it are reported
        if place == Place.ROW:
            row = self._db.one("SELECT data FROM objects WHERE id = ?", (key,))
            data = (row[0] if row else None) or b""
            return self._compare(name, size, len(data), self._store.objects.digest([data]))
        path = self._store.layout.object_path(name)
        try:
            with open(path, "rb", buffering=0) as file:
                actual = os.fstat(file.fileno()).st_size
                digest = self._store.objects.digest(iter(lambda: file.read(_CHUNK), b""))
        except FileNotFoundError:
            return Kind.OBJECT_MISSING, f"its file {path} is gone"
        except OSError as exc:
            return Kind.OBJECT_DAMAGED, f"its file {path} cannot be read: {exc.strerror}"
        return self._compare(name, size, actual, digest)

    @staticmethod
    def _compare(name: bytes, size: int, actual_size: int, digest: bytes) -> tuple[Kind | None, str]:
        if actual_size != size:
            return Kind.OBJECT_DAMAGED, f"it has {actual_size} bytes and not {size}"
        if digest != name[:DIGEST_SIZE]:
            return Kind.OBJECT_DAMAGED, f"its bytes have the hash {digest.hex()}"
        return None, ""

    def _still_there(self, key: int, name: bytes, place: int) -> bool:
        """Whether a row seen before is unchanged: a collection may have run since."""
        row = self._db.one("SELECT 1 FROM objects WHERE id = ? AND name = ? AND place = ?", (key, name, place))
        return row is not None

    def _is_used(self, key: int) -> bool:
        query = "SELECT 1 FROM uses JOIN runs ON runs.key = uses.run WHERE object = ? AND NOT over LIMIT 1"
        return self._db.one(query, (key,)) is not None

    def _set_aside(self, key: int, name: bytes, place: int) -> bool:
        """Put the bytes of a damaged object into quarantine.  Its name stays taken: other bytes must not get it."""
        target = self._store.layout.quarantine_path(name.hex())
        with self._db.transaction(), durable.reporting(f"cannot set aside object {name.hex()}"):
            if not self._still_there(key, name, place):
                return False
            if place == Place.ROW:
                row = self._db.one("SELECT data FROM objects WHERE id = ?", (key,))
                durable.write_file(target, (row[0] if row else None) or b"")
            elif os.path.lexists(path := self._store.layout.object_path(name)):
                durable.publish(path, target)
                self._store.files.remove(name)
            self._db.run("UPDATE objects SET place = ?, data = NULL WHERE id = ?", (Place.QUARANTINE, key))
        return True

    def _check_unheld(self) -> None:
        rows = self._db.all(
            "SELECT id, name FROM objects o WHERE NOT EXISTS (SELECT 1 FROM uses WHERE object = o.id)"
            " AND NOT EXISTS (SELECT 1 FROM loose WHERE object = o.id)"
        )
        for key, name in rows:
            if self._repair:
                with self._db.transaction():
                    self._db.run("INSERT OR IGNORE INTO loose (object, holder, run) VALUES (?, ?, 0)", (key, NOBODY))
            self._found(Kind.OBJECT_UNHELD, name.hex(), "nothing uses it and nothing would free it", self._repair)

    # runs

    def _check_runs(self) -> None:
        self._check_parts()
        for key, run_id, whole in self._db.all("SELECT key, id, whole FROM runs ORDER BY key"):
            self._runs += whole is None
            check = RunCheck(self._store, key, run_id)
            self._findings += check.repair() if self._repair else check.look()
            self._entries += check.entries
            self._tell()

    def _check_parts(self) -> None:
        """A part is over when its run is, and not before."""
        live = "IN ('active', 'kept')"
        for part, whole, state in self._db.all(
            "SELECT p.id, p.whole, w.state FROM runs p LEFT JOIN runs w ON w.id = p.whole WHERE p.whole IS NOT NULL"
            f" AND (p.state {live}) != coalesce(w.state {live}, 0)"
        ):
            repaired = self._repair and state not in ("active", "kept")
            if repaired:
                with self._db.transaction():
                    self._db.run("UPDATE runs SET whole = NULL WHERE id = ?", (part,))
            if state is None:
                problem = "it is not registered"
            elif state in ("active", "kept"):
                problem = f"it is {state}, and the part is over"
            else:
                problem = f"it has been {state}, and the part is not over"
            self._found(Kind.PART, f"run {part}", f"it is a part of run {whole}: {problem}", repaired)

    # the history

    def _check_history(self) -> None:
        """Snapshots and forks name positions that runs have come to."""
        for key, name, run_id, position, journal in self._db.all(
            "SELECT s.key, s.name, r.id, s.position, r.journal FROM snapshots s LEFT JOIN runs r ON r.key = s.run"
            " WHERE r.key IS NULL OR s.position > r.journal OR s.position < 1"
        ):
            if self._repair:
                with self._db.transaction():
                    self._db.run("DELETE FROM snapshots WHERE key = ?", (key,))
            problem = (
                "its run is not registered" if run_id is None else f"it names {position}, and the run is at {journal}"
            )
            self._found(Kind.HISTORY, f"run {run_id} snapshot {name}", problem, self._repair)
        for key, child, parent, position, journal in self._db.all(
            "SELECT f.run, c.id, p.id, f.position, p.journal FROM forks f LEFT JOIN runs c ON c.key = f.run"
            " LEFT JOIN runs p ON p.key = f.parent WHERE c.id IS NULL OR p.id IS NULL OR f.position > p.journal"
        ):
            repaired = self._repair and child is None
            if repaired:
                with self._db.transaction():
                    self._db.run("DELETE FROM forks WHERE run = ?", (key,))
            if child is None:
                problem = "the fork is not registered"
            elif parent is None:
                problem = "its parent is not registered: what it had from there is lost"
            else:
                problem = f"it was forked at {position}, and its parent is at {journal}"
            self._found(Kind.HISTORY, f"run {child}", problem, repaired)

    def _check_effects(self) -> None:
        self._findings += check_effects(self._store, repair=self._repair)

    # files

    def _check_files(self) -> None:
        for path in gc.unregistered_files(self._store):
            repaired = self._repair and gc.remove_unregistered(self._store, path) is not None
            self._found(Kind.ORPHAN_FILE, path, "no object has this file", repaired)
        for path in self._store.lease.abandoned():
            if self._repair:
                with durable.reporting(f"cannot remove {path}"):
                    durable.remove_tree(path)
            self._found(Kind.ORPHAN_FILE, path, "its maker died", self._repair)
        for path in self._store.layout.object_files():
            if self._store.layout.object_name(path) is None:
                if self._repair:
                    with durable.reporting(f"cannot set aside {path}"):
                        os.rename(path, self._store.layout.quarantine_path(os.path.basename(path)))
                self._found(Kind.ORPHAN_FILE, path, "no object can have this name", self._repair)

    def _check_directories(self) -> None:
        for run_id in gc.stray_directories(self._store):
            path = self._store.runs.directory(run_id)
            repaired = self._repair and gc.remove_stray_directory(self._store, run_id)
            self._found(Kind.RUN_DIRECTORY, str(path), "no live run has this directory", repaired)
        for run_id, state in self._db.all("SELECT id, state FROM runs WHERE state IN ('active', 'kept')"):
            missing = self._store.runs.missing_parts(run_id)
            if missing and self._db.one("SELECT 1 FROM runs WHERE id = ? AND state = ?", (run_id, state)) is not None:
                if self._repair:
                    self._store.runs.make_directory(run_id)
                self._found(Kind.RUN_DIRECTORY, f"run {run_id}", f"{missing[0]} is missing", self._repair)

    def _check_modes(self) -> None:
        layout = self._store.layout
        for directory in layout.directories():
            self._check_mode(str(directory), DIRECTORY_MODE)
        for path in layout.object_files():
            if layout.object_name(path) is not None:
                self._check_mode(path, OBJECT_MODE)
        self._check_mode(str(layout.database), 0o600)

    def _check_mode(self, path: str, mode: int) -> None:
        try:
            actual = stat.S_IMODE(os.lstat(path).st_mode)
        except FileNotFoundError:
            return
        if actual == mode:
            return
        repaired = False
        if self._repair:
            try:
                os.chmod(path, mode)
                repaired = True
            except OSError:
                pass
        self._found(Kind.MODE, path, f"its mode is {actual:04o} and not {mode:04o}", repaired)
