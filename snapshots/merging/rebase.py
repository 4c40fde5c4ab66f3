"""Bringing a run onto the present base without merging it.

Owns the verb.  What both sides changed is settled as for a merge (``settle``), and the outcome is the run's upper
then: a checkpoint in its history like any other, so that a rewind leads back to how the run stood before.  (It stands
on the old base again then, and what the base changed is in conflict again.)  Belongs to the thread of the store.

The order is that of a rewind: a snapshot, the record, the checkpoint.
"""

import os
import time

import msgspec

from snapshots.errors import RunState
from snapshots.history.history import History, Snapshot
from snapshots.history.journal import MAX_BODY, REBASE, Change, JournalWriter, encoded_size
from snapshots.history.rewind import record
from snapshots.layers.base import BaseTree
from snapshots.merging.merge import check_is_base_of, in_order_ns, locked, refusal
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.mergesteps import alone_in
from snapshots.merging.settle import Resolve, Settled, settle
from snapshots.storage.runs import Run
from snapshots.storage.states import difference, is_empty
from snapshots.storage.store import Store


class Rebased(msgspec.Struct, frozen=True):
    """What a rebase did, or with ``dry_run`` would do."""

    run_id: str
    settled: tuple[Settled, ...]
    """paths that the base had changed too, and what became of each; sorted by path"""
    before: Snapshot | None
    """what the run was before; None when nothing had to be done"""


def rebase(store: Store, run: Run, *, dry_run: bool = False, resolve: Resolve | None = None) -> Rebased:
    """Let a run stand on the base as it is now, or leave it as it is.

    Errors: Conflict (with one ``PathConflict`` per path) when something cannot be settled; RunBusy while the run is
    mounted; RunState when it is merged or discarded; MergeError, BaseError, StoreError.
    """
    recover_merges(store, base=run.base)
    run = store.runs.get(run.id)
    if not run.is_live:
        raise RunState(f"run {run.label} is {run.state}; only an active or kept run can be rebased")
    with locked(store, run.id), BaseTree(run.base) as base, alone_in(base):
        store.runs.check_unmounted(run.id)
        check_is_base_of(base, run)
        upper = store.upper(run.id)
        current = upper.load()
        outcome = settle(
            current, base, store.objects, since_ns=in_order_ns(store, run), resolve=resolve,
            label=os.fsencode(run.label),
        )  # fmt: skip
        if outcome.plan.conflicts:
            raise refusal(run, outcome.plan.conflicts)
        change = difference(current, outcome.state, 0)
        if is_empty(change) or dry_run:
            return Rebased(run.id, outcome.settled, None)
        before = History(store, run.id).snapshot(kind="rebase")
        now = time.time_ns()
        told = msgspec.structs.replace(record(change, (), current, now), op=REBASE)
        if encoded_size(told) > MAX_BODY:  # recovery would have to do without; the checkpoint is one transaction anyway
            told = Change(REBASE, now, 0, 0, b"", (), (), (), ())
        writer = JournalWriter(store.runs.directory(run.id) / "journal", current.journal, now)
        try:
            writer.append(told)
        finally:
            writer.close()
        upper.commit(msgspec.structs.replace(change, journal=writer.next), hold=())
        store.sync()
        return Rebased(run.id, outcome.settled, before)
