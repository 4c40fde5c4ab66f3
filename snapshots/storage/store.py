"""A store: one directory with a database, large objects and the directories of runs.

Owns the opening and closing of the parts and the verbs that need several of them.  Knows no mount and no environment:
the path is passed in.

A ``Store`` belongs to the thread that uses it; a second thread, and a forked child, opens its own.  Any number of
processes may have one store open; writers wait for each other and never fail for it.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from snapshots.errors import RunState, RunUnknown, StoreDamaged, StoreFull
from snapshots.storage import durable
from snapshots.storage.database import Database
from snapshots.storage.hashing import Hasher, xxh3_128
from snapshots.storage.layout import Layout
from snapshots.storage.lease import Lease, Making
from snapshots.storage.objectfiles import ObjectFiles
from snapshots.storage.objects import Collected, Objects
from snapshots.storage.reserve import Reserve
from snapshots.storage.runs import Runs
from snapshots.storage.upper import Upper, Usage

_ROWS = 1000  # per transaction: others wait that long
_FRUGAL_ROWS = 50


class Store:
    """An open store.  Use ``Store.open``; a context manager that closes."""

    path: Path
    layout: Layout
    database: Database
    files: ObjectFiles
    objects: Objects
    runs: Runs
    reserve: Reserve

    def __init__(self, layout: Layout, hasher: Hasher) -> None:
        self.path = layout.root
        self.layout = layout
        self.reserve = Reserve(layout)
        self.lease = Lease(layout)
        try:
            self.database = self._opened(layout)
        except BaseException:
            self.lease.close()
            raise
        self.reserve.restore()
        self.files = ObjectFiles(layout)
        self.objects = Objects(self.database, self.files, self.lease, hasher)
        self.runs = Runs(self.database, layout, self.lease, self.reserve)

    def _opened(self, layout: Layout) -> Database:
        """The database; what SQLite needs beside it finds room on a full disk too, or nothing could be freed."""
        try:
            return Database(layout.database, Making(layout))
        except StoreFull:
            if not (self.reserve.spend_slice() or self.reserve.spend_all()):
                raise
            return Database(layout.database, Making(layout))

    @classmethod
    def open(cls, path: Path, *, create: bool = True, hasher: Hasher = xxh3_128) -> "Store":
        """Open the store at ``path``, making it if need be.

        Errors: StoreMissing (nothing there, ``create`` false), StoreTooNew, StoreDamaged, StoreFull, StoreUnusable.
        """
        layout = Layout(Path(os.path.abspath(path)))
        layout.prepare(create=create)
        return cls(layout, hasher)

    def close(self) -> None:
        """Close everything and give up what this store held; a second time is fine."""
        self.files.close()
        self.database.close()
        self.lease.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def upper(self, run_id: str) -> Upper:
        """The upper of a run (which is looked up when the upper is used)."""
        return Upper(self.database, self.objects, self.lease, run_id)

    def discard(self, *run_ids: str, state: Literal["discarded", "merged"] = "discarded") -> None:
        """Free everything that only these runs held: entries, links, objects, directories.  The records stay.

        It is decided for all of them at once: a run goes with its parts.

        ``state`` is what the record says afterwards: a merge ends with this too.  A second time it finishes what the
        first may have left.  Errors: RunUnknown; RunBusy if the run is locked by another, or something is mounted.

        The order: one small transaction says that the run is over and its upper given up; from there on whatever is
        left of it (directory, rows, objects) is garbage, dropped in steps, and by the next ``discard`` or ``gc`` if
        this one dies.  Works on a full disk too, as long as the reserve lasts.
        """
        for run_id in run_ids:
            self.runs.get(run_id)
        with ExitStack() as locks:
            for run_id in run_ids:
                if self.runs.held_lock(run_id) is None:
                    with suppress(RunState):  # it has no directory any more
                        locks.enter_context(self.runs.lock(run_id))
                self.runs.check_unmounted(run_id)
            try:
                self._discard(run_ids, state)
                self.free()
            except StoreFull:
                if not self.reserve.spend_all():
                    raise
                self._discard(run_ids, state)
                self.free(frugal=True)
            finally:
                self.reserve.restore()

    def _discard(self, run_ids: tuple[str, ...], state: Literal["discarded", "merged"]) -> None:
        for run_id in run_ids:
            self._keep_log_for_forks(run_id)
        with self.database.transaction():
            for run_id in run_ids:
                if self.runs.get(run_id).state != state:
                    self.runs.update(run_id, state=state, pid=None, mountpoint=None)
                self.upper(run_id).give_up()
        for run_id in run_ids:
            self.runs.remove_directory(run_id)

    def _keep_log_for_forks(self, run_id: str) -> None:
        """The journal goes with the directory; forks go on knowing who did what before them."""
        from snapshots.history.logbook import fold  # it reads a store

        query = "SELECT 1 FROM runs JOIN forks ON parent = runs.key WHERE id = ? AND NOT over LIMIT 1"
        if self.database.one(query, (run_id,)) is not None:
            with suppress(StoreFull, StoreDamaged):  # what is being discarded need not be whole, nor have room
                fold(self, run_id)

    def free(self, *, frugal: bool = False) -> Collected:
        """Drop what was given up, collect the objects that nothing holds, and give the room back to the disk.

        ``frugal`` is for a full disk: in small steps, each of which gives back what it freed before the next.
        """
        objects = freed = 0
        rows = _FRUGAL_ROWS if frugal else _ROWS
        for run_id in self.runs.given_up():
            try:
                for step in self.upper(run_id).purge(rows=rows):
                    objects += step.objects
                    freed += step.bytes
                    if frugal:
                        self.database.shrink(frugal=True)
            except RunUnknown:
                continue  # another process came first, and has forgotten the run
        collected = self.objects.collect(rows=rows)
        self.database.shrink(frugal=frugal)
        return Collected(objects + collected.objects, freed + collected.bytes)

    def has_interrupted_merges(self) -> bool:
        """Whether there may be one (or one that is under way): the cheap question before ``recover_merges``."""
        return any(name.startswith("pending-") for name in durable.listdir(self.layout.merges))

    def bytes_held(self, run_id: str) -> int:
        """Bytes in the objects that the run's entries use, shared ones too.  Errors: RunUnknown."""
        return self.upper(run_id).usage().bytes

    def usage(self, run_id: str) -> Usage:
        """What the run holds, for a listing.  Errors: RunUnknown."""
        return self.upper(run_id).usage()

    def sync(self) -> None:
        """Make everything stored and committed so far survive a power cut."""
        self.objects.sync()
        self.database.sync()
