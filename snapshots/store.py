"""A store: one directory with a database, large objects and the directories of runs.

Owns the opening and closing of the parts and the verbs that need several of them.  Knows no mount and no environment:
the path is passed in.

A ``Store`` belongs to the thread that uses it; a second thread, and a forked child, opens its own.  Any number of
processes may have one store open; writers wait for each other and never fail for it.
"""

import os
from pathlib import Path
from typing import Literal

from snapshots.database import Database
from snapshots.errors import RunState
from snapshots.hashing import Hasher, xxh3_128
from snapshots.layout import Layout
from snapshots.lease import Lease, Making
from snapshots.objectfiles import ObjectFiles
from snapshots.objects import Objects
from snapshots.runs import Runs
from snapshots.upper import Upper, Usage


class Store:
    """An open store.  Use ``Store.open``; a context manager that closes."""

    path: Path
    layout: Layout
    database: Database
    files: ObjectFiles
    objects: Objects
    runs: Runs

    def __init__(self, layout: Layout, hasher: Hasher) -> None:
        self.path = layout.root
        self.layout = layout
        self.lease = Lease(layout)
        try:
            self.database = Database(layout.database)
        except BaseException:
            self.lease.close()
            raise
        self.files = ObjectFiles(layout)
        self.objects = Objects(self.database, self.files, self.lease, hasher)
        self.runs = Runs(self.database, layout)

    @classmethod
    def open(cls, path: Path, *, create: bool = True, hasher: Hasher = xxh3_128) -> "Store":
        """Open the store at ``path``, making it if need be.

        Errors: StoreMissing (nothing there, ``create`` false), StoreTooNew, StoreDamaged, StoreFull, StoreUnusable.
        """
        layout = Layout(Path(os.path.abspath(path)))
        layout.prepare(create=create)
        with Making(layout):
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

    def discard(self, run_id: str, *, state: Literal["discarded", "merged"] = "discarded") -> None:
        """Free everything that only this run held: entries, links, objects, its directory.  The record stays.

        ``state`` is what the record says afterwards: a merge ends with this too.  A second time it finishes what the
        first may have left.  Errors: RunUnknown; RunBusy if the run is locked by another, or something is mounted.

        The order: what says that the run is over is committed together with the loss of its entries; from there on
        whatever is left over (directory, objects) is garbage, which the next ``discard`` or ``gc`` removes.
        """
        run = self.runs.get(run_id)
        lock = None
        if self.runs.held_lock(run_id) is None:
            try:
                lock = self.runs.lock(run_id)
            except RunState:
                pass  # it has no directory any more
        try:
            self.runs.check_unmounted(run_id)
            with self.database.transaction():
                self.upper(run_id).clear()
                if run.state != state:
                    self.runs.update(run_id, state=state, pid=None, mountpoint=None)
            self.runs.remove_directory(run_id)
        finally:
            if lock is not None:
                lock.release()
        self.objects.collect()
        self.database.shrink()

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
