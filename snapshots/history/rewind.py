"""Going back: a run becomes what it was at another point of its history.

Owns the rewind of a run that is not mounted, and the journal record of any (``goexfs.overlay.rewind`` changes a mounted
one).  A rewind is a change like others: it adds a checkpoint that equals the old state, so it is itself in the
history, and so is what it took back.  Belongs to one store, so to one thread; whoever calls holds the run's lock.

The order: the record first, then the checkpoint.  A crash between the two is made good by recovery, to which the
record tells the outcome.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from snapshots.entries import Checkpoint, Content, UpperState
from snapshots.errors import HistoryGone
from snapshots.history.forks import parent_of
from snapshots.history.history import History, Snapshot
from snapshots.history.journal import MAX_BODY, REWIND, Back, Change, JournalWriter, encoded_size
from snapshots.history.logbook import generation, own_number, read
from snapshots.history.selection import select
from snapshots.history.takeback import Left, take_back
from snapshots.history.timeline import content_gone, moment_at, state_at
from snapshots.storage.states import difference, is_empty
from snapshots.storage.store import Store

_LOST = Content(-1, 0, ())
"""stands for a content that is not kept"""


class Rewound(NamedTuple):
    """What a rewind did."""

    nodes: int
    """that are different now"""
    before: Snapshot | None
    """what the run was before; None when there was nothing to do"""
    left: tuple[Left, ...] = ()
    """of what was to be taken back, what stays as it is, because others changed it since; sorted by path"""


class Aim(msgspec.Struct, frozen=True):
    """What to go back to."""

    position: int = 0
    paths: tuple[bytes, ...] = ()
    """only these; empty: all of the run"""
    process: str = ""
    """not to a position, but to what the paths were before commands matching this pattern changed them; see
    ``snapshots.history.takeback``"""


class Goal(NamedTuple):
    """What a rewind comes to."""

    current: UpperState
    """what the run is, or as much of it as changes"""
    change: Checkpoint
    back: tuple[Back, ...]
    left: tuple[Left, ...]


def goal(store: Store, run_id: str, aim: Aim, *, next_ino: int = 0) -> Goal:
    """What has to change in a run of which everything is in the store; new inode numbers begin with ``next_ino`` at
    least.  To go back as a whole costs what differs, to go back with some paths what the run changed.

    Errors: HistoryGone, RunError (see ``snapshots.history.selection``).
    """
    upper = store.upper(run_id)
    begun = 0 if aim.process or aim.paths else upper.checkpoint_before(aim.position)
    if begun and (changed := upper.load_changed(begun)) is not None:
        # What the journal did from there on, it did to nodes and names that are different now.
        current, before = changed
        then = before if begun == aim.position else state_at(store, run_id, aim.position, before=before)
        current, then = (
            msgspec.structs.replace(state, next_ino=max(current.next_ino, state.next_ino, next_ino))
            for state in (current, then)
        )
        return Goal(current, difference(current, then, 0), (Back(aim.position, ()),), ())
    current = upper.load()
    current = msgspec.structs.replace(current, next_ino=max(current.next_ino, next_ino))
    left: tuple[Left, ...] = ()
    if aim.process:
        back, left = take_back(read(store, run_id, inherited=True), aim.process, current, aim.paths)
    else:
        back = (Back(aim.position, aim.paths),)
    after, now = current, time.time_ns()
    for each in back:
        after = _gone_back(store, run_id, after, each, now)
    return Goal(current, difference(current, after, 0), back, left)


def _gone_back(store: Store, run_id: str, current: UpperState, back: Back, now_ns: int) -> UpperState:
    if not back.paths:
        return state_at(store, run_id, back.position)
    run_id, position = _whose(store, run_id, back.position)
    state, lost = moment_at(store, run_id, position)
    entries = state.entries | {
        ino: msgspec.structs.replace(state.entries[ino], content=_LOST) for ino in lost if ino in state.entries
    }
    after = select(current, msgspec.structs.replace(state, entries=entries), back.paths, now_ns)
    if any(entry.content == _LOST for entry in after.entries.values()):
        raise content_gone(run_id, position, next(iter(lost.values())))
    return after


def _whose(store: Store, run_id: str, position: int) -> tuple[str, int]:
    """The run that a position is of, and its own number: what a fork had from its parent was done in the parent.

    Errors: HistoryGone for a parent that is over.
    """
    for _ in range(generation(position)):
        origin = parent_of(store, run_id)
        record = store.runs.get(origin[0]) if origin is not None else None
        if record is None or not record.is_live:
            whom = "the run" if record is None else f"run {record.label}"
            raise HistoryGone(f"{whom} that run {run_id} is a fork of is over: what it was before is not kept")
        run_id = record.id
    return run_id, own_number(position)


def rewind(
    store: Store, run_id: str, position: int, paths: tuple[bytes, ...] = (), *, process: str = ""
) -> Rewound:
    """Rewind a run that is not mounted; with ``process`` see ``Aim``.

    Errors: HistoryGone, RunError, RunState, StoreError.
    """
    aim = Aim(position, paths, process)
    current, change, back, left = goal(store, run_id, aim)
    if is_empty(change):
        return Rewound(0, None, left)
    before = History(store, run_id).snapshot(kind="rewind")
    now = time.time_ns()
    outcome = record(change, back, current, now)
    if encoded_size(outcome) > MAX_BODY:  # recovery would have to do without; the checkpoint is one transaction anyway
        outcome = Change(REWIND, now, 0, 0, b"", (), (), (), (), back=back)
    writer = JournalWriter(store.runs.directory(run_id) / "journal", current.journal, now)
    try:
        writer.append(outcome)
    finally:
        writer.close()
    store.upper(run_id).commit(msgspec.structs.replace(change, journal=writer.next), hold=())
    store.sync()
    return Rewound(len(change.entries) + len(change.gone), before, left)


def record(
    change: Checkpoint, back: Sequence[Back], current: UpperState, now_ns: int, process: int = 0
) -> Change:
    """The record of a rewind: all of its outcome, contents included; what is gone has no links."""
    gone = tuple(
        msgspec.structs.replace(current.entries[ino], nlink=0, content=None)
        for ino in change.gone
        if ino in current.entries
    )
    return Change(
        REWIND, now_ns, process, 0, b"", (*change.entries, *gone), change.links, change.unlinked, (), back=tuple(back)
    )
