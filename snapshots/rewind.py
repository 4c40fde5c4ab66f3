"""Going back: a run becomes what it was at another point of its history.

Owns the rewind of a run that is not mounted, and the journal record of any (``goexfs.overlay.rewind`` changes a mounted
one).  A rewind is a change like others: it adds a checkpoint that equals the old state, so it is itself in the
history, and so is what it took back.  Belongs to one store, so to one thread; whoever calls holds the run's lock.

The order: the record first, then the checkpoint.  A crash between the two is made good by recovery, to which the
record tells the outcome.
"""

import time
from typing import NamedTuple

import msgspec

from snapshots.entries import Checkpoint, UpperState
from snapshots.history import History, Snapshot
from snapshots.journal import MAX_BODY, REWIND, Change, JournalWriter, encoded_size
from snapshots.selection import select
from snapshots.states import difference, is_empty
from snapshots.store import Store
from snapshots.timeline import state_at


class Rewound(NamedTuple):
    """What a rewind did."""

    nodes: int
    """that are different now"""
    before: Snapshot | None
    """what the run was before; None when there was nothing to do"""


def goal(store: Store, run_id: str, position: int, paths: tuple[bytes, ...], current: UpperState) -> Checkpoint:
    """What has to change for ``current`` to become (or for its ``paths``) what the run was at ``position``.

    Errors: HistoryGone, RunError (see ``snapshots.selection``).
    """
    target = state_at(store, run_id, position)
    after = select(current, target, paths, time.time_ns()) if paths else target
    return difference(current, after, 0)


def rewind(store: Store, run_id: str, position: int, paths: tuple[bytes, ...] = ()) -> Rewound:
    """Rewind a run that is not mounted.  Errors: HistoryGone, RunError, RunState, StoreError."""
    upper = store.upper(run_id)
    current = upper.load()
    change = goal(store, run_id, position, paths, current)
    if is_empty(change):
        return Rewound(0, None)
    before = History(store, run_id).snapshot(kind="rewind")
    now = time.time_ns()
    outcome = record(change, current, now)
    if encoded_size(outcome) > MAX_BODY:  # recovery would have to do without; the checkpoint is one transaction anyway
        outcome = Change(REWIND, now, 0, 0, b"", (), (), (), ())
    writer = JournalWriter(store.runs.directory(run_id) / "journal", current.journal, now)
    try:
        writer.append(outcome)
    finally:
        writer.close()
    upper.commit(msgspec.structs.replace(change, journal=writer.next), hold=())
    store.sync()
    return Rewound(len(change.entries) + len(change.gone), before)


def record(change: Checkpoint, current: UpperState, now_ns: int, process: int = 0) -> Change:
    """The record of a rewind: all of its outcome, contents included; what is gone has no links."""
    gone = tuple(
        msgspec.structs.replace(current.entries[ino], nlink=0, content=None)
        for ino in change.gone
        if ino in current.entries
    )
    return Change(REWIND, now_ns, process, 0, b"", (*change.entries, *gone), change.links, change.unlinked, ())
