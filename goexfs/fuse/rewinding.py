"""What a rewind of a mounted run is made of, before and after the moment in which the view changes.

Owns the plan (in the sealing thread, with its store) and the record of it.  When all this happens is `service`'s.
"""

import time
from typing import NamedTuple

from goexfs.fuse.recording import Recording
from goexfs.overlay import Invalidation, Overlay
from goexfs.overlay.slowbase import SlowBaseTree
from snapshots.entries import Checkpoint, UpperState
from snapshots.errors import RunError
from snapshots.history.history import History
from snapshots.history.journal import MAX_BODY, Back, encoded_size
from snapshots.history.rewind import Aim, goal, record
from snapshots.history.takeback import Left
from snapshots.storage.states import is_empty
from snapshots.storage.store import Store


class Plan(NamedTuple):
    """What is to change."""

    current: UpperState
    change: Checkpoint
    snapshot: str
    """names what was there before; empty when nothing is to change"""
    back: tuple[Back, ...]
    left: tuple[Left, ...]
    """see ``snapshots.history.rewind.Rewound``"""


class Done(NamedTuple):
    """What a rewind did."""

    nodes: int
    """that are different now"""
    snapshot: str
    """names what was there before; empty when there was nothing to do"""
    left: tuple[Left, ...]


def plan(overlay: Overlay, run_id: str, aim: Aim, store: Store) -> Plan:
    """The plan.  Errors: HistoryGone, RunError, StoreError."""
    if isinstance(overlay.view.base, SlowBaseTree):
        raise RunError("the base is on a filesystem that may be slow to answer: unmount the run, then rewind it")
    current, change, back, left = goal(store, run_id, aim, next_ino=overlay.next_ino)
    if is_empty(change):
        return Plan(current, change, "", back, left)
    return Plan(current, change, History(store, run_id).snapshot(kind="rewind").name, back, left)


def carry_out(overlay: Overlay, planned: Plan, recording: Recording | None) -> list[Invalidation]:
    """Change the view, after writing the journal; what the kernel must forget.  Event loop's thread.

    Errors: RunError when the record would be too long; OSError when there is no room for it.  Nothing has changed then.
    """
    now = time.time_ns()
    change = overlay.prepare_rewind(planned.change)
    outcome = record(change, planned.back, planned.current, now)
    if encoded_size(outcome) > MAX_BODY:
        raise RunError("too much would change for a rewind of a mounted run: unmount it first")
    return overlay.rewind(change, lambda: recording.append(outcome) if recording is not None else None, now)
