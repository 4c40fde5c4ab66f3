"""Garbage collection: free what no run holds, and what the dead left behind.

Owns the decision of what is garbage apart from objects (see ``snapshots.storage.objects`` for those).  Safe while other
processes use the store: whatever could be in the making is either under the database's write lock when it is looked
at, or carries the number of a lease that shows whether its maker is alive, or belongs to a run whose lock is taken
first.  Belongs to the thread of its store.
"""

import os
import time
from collections.abc import Callable

import msgspec

from snapshots.errors import RunError, StoreFull
from snapshots.history.retention import thin
from snapshots.storage import durable
from snapshots.storage.lease import NOBODY
from snapshots.storage.objects import Place
from snapshots.storage.store import Store

TOMBSTONE_AGE_NS = 30 * 24 * 3600 * 10**9
"""How long the record of a run that is over stays, by default."""


IDLE_NS = 30 * 24 * 3600 * 10**9
"""After what time a kept run is named."""
_WEIGHT = 2
"""steps of a collection besides one per run: what is stray, and what nothing holds any more"""


class GcReport(msgspec.Struct, frozen=True):
    """What a collection freed."""

    objects: int
    object_bytes: int
    files: int
    """stray files: objects nobody registered, contents whose writer died, spools of runs that are not mounted"""
    file_bytes: int
    directories: int
    """directories of runs that are over or were never registered"""
    tombstones: int
    """records of runs that are over"""
    snapshots: int = 0
    """automatic ones that were too old or too close together"""
    segments: int = 0
    """files of journals, of a past that is beyond its run's history limit"""
    segment_bytes: int = 0
    held_bytes: int = 0
    """of content that stays, because runs need it"""
    runs: int = 0
    """that are active or kept"""
    used_bytes: int = 0
    """on the disk, afterwards"""
    limit: int = 0
    """of the store (see ``snapshots.storage.bound``); 0: none"""
    merges: int = 0
    """that cannot be undone any more, because the limit was reached"""
    idle: tuple[str, ...] = ()
    """names or ids of kept runs that nothing was done with for `IDLE_NS`: only a person can say that they may go"""

    @property
    def freed_bytes(self) -> int:
        """All bytes of content and journals that were freed."""
        return self.object_bytes + self.file_bytes + self.segment_bytes


def gc(
    store: Store, *, tombstone_age_ns: int = TOMBSTONE_AGE_NS, progress: Callable[[int, int], None] | None = None
) -> GcReport:
    """Free everything that no run holds and what is beyond the runs' history limits, and shrink the store.

    Leaves alone what a crashed run (active, not locked) may still need: its spool.  ``progress`` is called with how
    many steps are done of how many.  Errors: those of the store.
    """
    live = store.runs.list(parts=True)
    steps, done = len(live) + _WEIGHT, 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    directories = _directories_of_the_dead(store)
    strays = _dead_spools(store) + _abandoned(store) + _unregistered(store)
    _mark_unheld(store)
    tombstones = _tombstones(store, time.time_ns() - tombstone_age_ns)
    step()
    thinned = []
    for run in live:
        thinned.append(thin(store, run.id))
        step()
    try:
        collected = store.free()
    except StoreFull:
        if not store.reserve.spend_all():
            raise
        collected = store.free(frugal=True)
    finally:
        store.reserve.restore()
    step()
    return GcReport(
        objects=collected.objects + sum(each.objects for each in thinned),
        object_bytes=collected.bytes + sum(each.object_bytes for each in thinned),
        files=len(strays),
        file_bytes=sum(strays),
        directories=directories,
        tombstones=tombstones,
        snapshots=sum(each.snapshots for each in thinned),
        segments=sum(each.segments for each in thinned),
        segment_bytes=sum(each.segment_bytes for each in thinned),
        held_bytes=(store.database.one("SELECT coalesce(sum(size), 0) FROM objects") or (0,))[0],
        runs=sum(run.whole is None for run in live),
        idle=tuple(
            run.label
            for run in live
            if run.state == "kept" and run.whole is None and time.time_ns() - run.changed_ns > IDLE_NS
        ),
    )


def stray_directories(store: Store) -> list[str]:
    """Ids of runs that have a directory and are discarded or not registered."""
    strays = []
    for name in sorted(durable.listdir(store.layout.runs)):
        row = _registered(store, name)
        if row is None:
            # Perhaps it is being made: that is one transaction, and its record is there once we get the lock.  An id
            # is never given twice, so a directory that has no record then never will.
            with store.database.transaction():
                row = _registered(store, name)
        if row is not None and (row[0] != "discarded" or store.runs.is_locked(name)):
            continue
        # A discard removes the directory before it lets go of the lock: if it is still there, nobody is removing it.
        if store.runs.directory(name).exists():
            strays.append(name)
    return strays


def remove_stray_directory(store: Store, run_id: str) -> bool:
    """Remove one of them, unless something is mounted in it or it is being discarded right now."""
    try:
        if _registered(store, run_id) is not None and store.runs.is_locked(run_id):
            return False
        store.runs.remove_directory(run_id)
    except RunError:
        return False
    return True


def unregistered_files(store: Store) -> list[str]:
    """Paths of object files that the database does not know: what a writer left that died before its commit."""
    strays = []
    for path in store.layout.object_files():
        name = store.layout.object_name(path)
        if name is None or _is_registered_file(store, name):
            continue
        with store.database.transaction():  # a file in the making is registered by the time we get the lock
            if not _is_registered_file(store, name):
                strays.append(path)
    return strays


def remove_unregistered(store: Store, path: str) -> int | None:
    """Remove one of them; its size in bytes, or None if it is an object by now."""
    name = store.layout.object_name(path)
    with store.database.transaction(), durable.reporting(f"cannot remove {path}"):
        if name is None or _is_registered_file(store, name):
            return None
        size = _size(path)
        store.files.remove(name)
        return size


def _directories_of_the_dead(store: Store) -> int:
    return sum(remove_stray_directory(store, run_id) for run_id in stray_directories(store))


def _dead_spools(store: Store) -> list[int]:
    """Empty the spools of kept runs that nobody has mounted: everything of theirs has been sealed."""
    sizes: list[int] = []
    for run in store.runs.list(parts=True):
        if run.state != "kept":
            continue
        spool = store.runs.directory(run.id) / "spool"
        if not durable.listdir(spool):
            continue
        try:
            lock = store.runs.lock(run.id)
        except RunError:
            continue
        with lock, durable.reporting(f"cannot empty {spool}"):
            if store.runs.get(run.id).state == "kept":
                sizes += [durable.remove_tree(spool / name) for name in durable.listdir(spool)]
    return sizes


def _abandoned(store: Store) -> list[int]:
    with durable.reporting(f"cannot empty {store.layout.incoming}"):
        return [durable.remove_tree(path) for path in store.lease.abandoned()]


def _unregistered(store: Store) -> list[int]:
    sizes = (remove_unregistered(store, path) for path in unregistered_files(store))
    found = [size for size in sizes if size is not None]
    with store.database.transaction(), durable.reporting(f"cannot tidy {store.layout.objects}"):
        for directory in durable.listdir(store.layout.objects):
            if (store.layout.objects / directory).is_dir():
                durable.rmdir(store.layout.objects / directory)  # those that are empty
    return found


def _mark_unheld(store: Store) -> None:
    """Make candidates of objects that are neither used nor marked: there are none, unless the store was damaged."""
    with store.database.transaction():
        store.database.run(
            "INSERT INTO loose (object, holder, run) SELECT id, ?, 0 FROM objects o"
            " WHERE NOT EXISTS (SELECT 1 FROM uses WHERE object = o.id)"
            " AND NOT EXISTS (SELECT 1 FROM loose WHERE object = o.id)",
            (NOBODY,),
        )


def _tombstones(store: Store, before_ns: int) -> int:
    with store.database.transaction():
        deleted = store.database.run(
            "DELETE FROM runs WHERE state IN ('merged', 'discarded') AND changed_ns < ?"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE run = runs.key)"
            " AND NOT EXISTS (SELECT 1 FROM links WHERE run = runs.key)"
            " AND NOT EXISTS (SELECT 1 FROM forks WHERE parent = runs.key)"
            " AND NOT EXISTS (SELECT 1 FROM effects WHERE run = runs.id AND open = 1)",
            (before_ns,),
        )
        if deleted:
            store.database.run("DELETE FROM effects WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = effects.run)")
        return deleted


def _registered(store: Store, run_id: str) -> tuple[str] | None:
    return store.database.one("SELECT state FROM runs WHERE id = ?", (run_id,))


def _is_registered_file(store: Store, name: bytes) -> bool:
    return store.database.one("SELECT 1 FROM objects WHERE name = ? AND place = ?", (name, Place.FILE)) is not None


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
