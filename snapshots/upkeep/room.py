"""What goes by itself when a store has come to its limit (see ``snapshots.storage.bound``), and what stays.

Owns the order:

1. What nobody can see any more: what merged and discarded runs left, what the dead left behind.
2. The history of runs that are not over, the run that was changed longest ago first, each from its oldest on:
   superseded contents, the journal, and then automatic snapshots.
3. What is needed to take merges back, the oldest first, but for the latest merge.

Never without a person: what a run that is not over is now, the snapshots that a user made, what a fork began with, and
the undo of the latest merge.  When these alone reach the limit, whoever writes is told that there is no room.  Belongs
to one store, so to one thread; safe while runs are mounted.
"""

from collections.abc import Callable

import msgspec

from snapshots.errors import StoreLimit
from snapshots.history.retention import past_bytes, thin
from snapshots.merging.mergelog import KEEP_RECORDS, MergeLog
from snapshots.storage.bound import LOW, Use, full, known_use, measure
from snapshots.storage.store import Store
from snapshots.upkeep.gc import GcReport, gc


class Freed(msgspec.Struct, frozen=True):
    """What went to make room."""

    before: Use
    after: Use
    collected: GcReport | None = None
    """what nobody could see any more"""
    histories: tuple[str, ...] = ()
    """ids of the runs whose past became shorter"""
    merges: tuple[int, ...] = ()
    """that cannot be taken back any more"""


class Waste(msgspec.Struct, frozen=True):
    """What a collection would free, at least."""

    use: Use
    unseen: int
    """bytes of contents that nobody can see any more"""
    history: int
    """bytes of contents that only the past of runs holds, and no snapshot of a user's"""
    merges: int
    """bytes that are needed to take merges back, but for the latest"""

    @property
    def over(self) -> int:
        """Bytes that have to go for the limit, of history and merges."""
        if not self.use.is_reached:
            return 0
        return min(max(self.use.used - self.unseen - int(self.use.limit * LOW), 0), self.history + self.merges)


def make_room(
    store: Store, *, limit: int | None = None, wanted: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Freed:  # fmt: skip
    """If there is no room for ``wanted`` bytes, let go what may go, in the order above, until there is, and a tenth of
    the limit is free.  Errors: those of the store.
    """
    before = use = measure(store.layout, limit=limit)
    if use.room > wanted:
        return Freed(before, use)
    aim = max(min(int(use.limit * LOW), use.limit - wanted), 0)
    collected = gc(store, progress=progress)
    use = measure(store.layout, limit=use.limit)
    histories: list[str] = []
    for (run_id,) in store.database.all(
        "SELECT id FROM runs WHERE state IN ('active', 'kept') AND NOT over ORDER BY changed_ns"
    ):
        if use.used <= aim:
            break
        gone = thin(store, run_id, spare=use.used - aim)
        if gone.records or gone.snapshots:
            histories.append(run_id)
            store.free()
            use = measure(store.layout, limit=use.limit)
    dropped: list[int] = []
    if use.used > aim:
        dropped = MergeLog(store).prune(keep_bytes=max(use.merges - (use.used - aim), 0), keep_records=KEEP_RECORDS)
        use = measure(store.layout, limit=use.limit)
    return Freed(before, use, collected, tuple(histories), tuple(dropped))


def waste(store: Store, *, limit: int | None = None) -> Waste:
    """What a collection would free; nothing is changed.  Costs what the store holds."""
    row = store.database.one(
        "SELECT coalesce(sum(size), 0) FROM objects o WHERE NOT EXISTS (SELECT 1 FROM uses WHERE object = o.id)"
    )
    runs = [run for (run,) in store.database.all("SELECT id FROM runs WHERE state IN ('active', 'kept') AND NOT over")]
    history = sum(past_bytes(store, run) for run in runs)
    records = MergeLog(store).records()[:-1]
    merges = sum(record.kept_bytes for record in records if MergeLog(store).is_kept(record.number))
    return Waste(measure(store.layout, limit=limit), (row or (0,))[0], history, merges)


def check_room(store: Store, *, limit: int | None = None) -> Use:
    """Make room for a new run if there is none.  StoreLimit when there is none to make."""
    use = known_use(store.layout, limit=limit)
    if not use.is_reached:
        return use
    use = make_room(store, limit=limit).after
    if use.is_reached:
        raise StoreLimit(full(use))
    return use
