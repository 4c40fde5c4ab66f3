"""Merging a run: what it changed becomes the base's.

Owns the verb: locks, the checks that come before a plan, and the record in the store.  What is done to the base is
planned by ``planner`` and done by ``apply``.  Belongs to the thread of the store.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from snapshots.entries import Checkpoint, Entry, UpperState
from snapshots.errors import BaseChanged, BaseError, Conflict, MergeError, NothingChosen, RunState, StoreError
from snapshots.history.forks import began_ns
from snapshots.layers.aliases import with_aliases
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import UpperTree
from snapshots.merging import disk
from snapshots.merging.apply import Application
from snapshots.merging.choosing import Selection
from snapshots.merging.choosing import resolve as resolve_selection
from snapshots.merging.handover import Handover
from snapshots.merging.mergelog import MergeLog, Pending
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.mergesteps import alone_in, go_through, home_of, record_merged
from snapshots.merging.partial import Substitute, cut
from snapshots.merging.plan import ConflictKind, PathConflict, Plan
from snapshots.merging.planner import plan_merge
from snapshots.merging.reads import check_reads as look_at_reads
from snapshots.merging.returning import IN_ORDER
from snapshots.merging.settle import Resolve, Settled, settle
from snapshots.merging.staging import staging_name
from snapshots.names import readable
from snapshots.review.changes import Change
from snapshots.review.compare import Sides
from snapshots.review.diff import diff
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

__all__ = ["ConflictKind", "MergeResult", "PathConflict", "Plan", "merge", "plan_merge"]


class MergeResult(msgspec.Struct, frozen=True):
    """What a merge did, or with ``dry_run`` would do."""

    run_id: str
    merged: bool
    """False for a dry run"""
    plan: Plan
    leftover: bytes | None
    """a directory in the base's root that could not be moved away: the next command tries again; usually None"""
    number: int | None = None
    """in the log of merges, for ``undo``; None when nothing was done"""
    partly: bool = False
    """whether something is left in the run"""
    completed: tuple[bytes, ...] = ()
    """what was not chosen and is needed for what was: new directories"""
    settled: tuple[Settled, ...] = ()
    """paths that the base had changed too, and what became of each; sorted by path"""
    others: tuple[tuple[bytes, "MergeResult"], ...] = ()
    """of a run with several bases: the further ones in which there was something to do, and what was done there"""


class Planned(NamedTuple):
    """What a merge would do, and what it was made of."""

    plan: Plan
    rest: bytes
    """drops the chosen part from the run; empty: all of it"""
    completed: tuple[bytes, ...]
    state: UpperState
    """what is merged"""
    independent: tuple[Entry, ...]
    """entries of the run as they have to be before the base is touched"""
    upper: UpperState | None
    """what the run has, if that is known"""
    now_ns: int
    """modification time of the files that are made of chosen hunks, and of merged texts"""
    settled: tuple[Settled, ...]


Progress = Callable[[int, int], None]
"""Told how much of how much is done."""


class How(NamedTuple):
    """What is wanted of a merge, see ``merge``."""

    choose: Callable[[Change], bool] | None
    hunks: Selection | None
    screen: "Gate | None"
    resolve: Resolve | None
    check_reads: bool
    stays: bool = False
    """the run stays kept whatever is left in it: another part of it has something that is not merged"""
    review: "Review | None" = None


Review = Callable[[Sequence[Change]], None]
"""Is shown what is to be merged, before anything is done about it, while it can be read."""

Gate = Callable[[UpperState], None]
"""Looks at what would be merged, and raises what speaks against it."""


def merge(
    store: Store, run: Run, *, dry_run: bool = False, choose: Callable[[Change], bool] | None = None,
    hunks: Selection | None = None, gate: Gate | None = None, screen: Gate | None = None,
    resolve: Resolve | None = None, check_reads: bool = False, progress: Progress | None = None,
    review: Review | None = None,
) -> MergeResult:  # fmt: skip
    """Make all that a run changed real, or nothing; the run is then ``merged`` and its upper gone.

    With ``choose`` only the changes that it accepts: what is left stays in the run, which is over the new base then.
    With ``hunks`` only these parts of changes.  SelectionRefused when they make no sense alone, or there are none.
    ``screen`` is asked before a plan is made, also in a dry run; ``gate`` before the base is touched: a base that
    changed while it was asked is a MergeError.
    ``resolve`` says what becomes of the conflicts that are left when texts are merged.  With ``check_reads`` a file
    that the run only read, and that has changed in the base since, is one, too.  ``progress`` is told how much is done.
    ``review`` is shown the changes, also in a dry run, and also those that turn out to be in conflict.

    A dry run only makes the plan, of a mounted run as it was last sealed.  Errors: Conflict (with one ``PathConflict``
    per path) when the base moved; MergeError when it failed on the way and was taken back; RunBusy while the run is
    mounted; RunState when it is merged or discarded; BaseError, StoreError.
    """
    recover_merges(store, base=run.base)
    run = store.runs.get(run.id)
    if not run.is_live:
        raise RunState(f"run {run.label} is {run.state}; only an active or kept run can be merged")
    how = How(choose, hunks, screen, resolve, check_reads, review=review)
    if dry_run:
        with BaseTree(run.base) as base:
            planned = plan_of(store, run, base, how)
            return result_of(run, planned, merged=False)
    with locked(store, run.id), BaseTree(run.base) as base, alone_in(base):
        store.runs.check_unmounted(run.id)
        planned = plan_of(store, run, base, how)
        if gate is not None:
            again = how._replace(screen=None, review=None)
            planned = _through(gate, planned, lambda: plan_of(store, run, base, again, planned.now_ns))
        plan, rest = planned.plan, planned.rest
        if planned.independent:
            store.upper(run.id).commit(Checkpoint(planned.independent, (), (), (), planned.state.next_ino))
        if not plan.operations:
            if plan.root_times_ns is not None:  # names came and went, and nothing is left of that: no merge to undo
                disk.utime(base.fd(base.root), b".", plan.root_times_ns)
            record_merged(store, run.id, base, rest)
            return result_of(run, planned)
        try:
            number, leftover = _carry_out(store, run, base, planned, progress)
        except BaseChanged:
            raise
        except (MergeError, StoreError, BaseError):
            # Taking back renames things, and so moves the ctimes that the next plan looks at.  They were in order.
            with suppress(StoreError):  # what failed before is the error to tell
                store.runs.update(run.id, options={**run.options, IN_ORDER: time.time_ns()})
            raise
        return result_of(run, planned, number, leftover)


def result_of(
    run: Run, planned: Planned, number: int | None = None, leftover: bytes | None = None, *, merged: bool = True
) -> MergeResult:
    """The outcome of one merge."""
    return MergeResult(
        run.id, merged, planned.plan, leftover, number, bool(planned.rest), planned.completed, planned.settled
    )


def _through(gate: Gate, planned: Planned, again: Callable[[], Planned]) -> Planned:
    """What was planned, when the gate lets it pass and the base is still the one that it was planned for."""
    gate(planned.state)
    now = again()
    if now.plan != planned.plan:
        raise MergeError("the base changed while the result was verified; nothing was changed, merge again")
    return now


def _carry_out(
    store: Store, run: Run, base: BaseTree, planned: Planned, progress: Progress | None
) -> tuple[int, bytes | None]:
    log = MergeLog(store)
    with announced(store, log, run, base, planned.plan, planned.rest) as (pending, application):
        application.progress = progress
        leftover = go_through(store, log, pending, application, upper=planned.upper)
    return pending.number, leftover


@contextmanager
def announced(
    store: Store, log: MergeLog, run: Run, base: BaseTree, plan: Plan, rest: bytes, *, label: str = "",
    joint: int | None = None,
) -> Iterator[tuple[Pending, Application]]:  # fmt: skip
    """A merge that is in the log, and what will do it; ``joint`` as in ``MergeLog.begin``."""
    st = base.stat_dir(base.root)
    identity, times = (st.st_dev, st.st_ino), (st.st_atime_ns, st.st_mtime_ns)
    name = staging_name(run.id)
    with log.begin(
        run.id, label or run.label, run.base, identity, name, root_times=times, rest=rest, joint=joint
    ) as pending:
        application = Application(plan, base, store.objects, name, home_of(base, log, pending, plan))
        if not rest:
            application.staging.giving = Handover(store, run.id)
        yield pending, application


def in_order_ns(store: Store, run: Run) -> int:
    """A time at which the base was as the run saw it.

    When that is still to come, the clock was set back, and times say nothing: then it is 0, after which everything is.
    """
    known = max(began_ns(store, run), int(run.options.get(IN_ORDER, 0)))
    return known if known <= time.time_ns() else 0


def plan_of(store: Store, run: Run, base: BaseTree, how: How, now_ns: int = 0) -> Planned:
    """Conflict when there can be no plan."""
    check_is_base_of(base, run)
    choose, hunks, screen = how.choose, how.hunks, how.screen
    state, rest = store.upper(run.id).load(), b""
    whole = state
    completed: tuple[bytes, ...] = ()
    independent: tuple[Entry, ...] = ()
    now_ns = now_ns or time.time_ns()
    below = BasePaths(base)
    sides = Sides(below, store.objects)
    tree = with_aliases(UpperTree(state), below)
    partly = choose is not None or hunks is not None or how.stays
    changes = diff(tree, base, store.objects, sides=sides) if partly or how.review is not None else []
    if how.review is not None:
        shown = [change for change in changes if choose is None or choose(change)]
        how.review(shown if hunks is None else [change for change in shown if change.path in hunks])
    if partly:
        chosen = {change.path for change in changes if choose is None or choose(change)}
        substitutes: dict[bytes, Substitute] = {}
        if hunks is not None:
            left_out = {change.path for change in changes} - chosen
            selection = {path: wanted for path, wanted in hunks.items() if path not in left_out}
            chosen, substitutes, independent = resolve_selection(tree, changes, below, store.objects, selection, now_ns)
        if not chosen and not how.stays:
            raise NothingChosen(
                f"run {run.label} changed nothing of that kind; goexfs diff --name-status shows what it did"
            )
        part = cut(tree.state, changes, chosen, substitutes)
        completed = part.completed
        if not part.is_all or how.stays:
            state, rest = part.state, msgspec.msgpack.encode(part.rest)
    if screen is not None:
        screen(state)
    outcome = settle(
        state, base, store.objects, since_ns=in_order_ns(store, run), resolve=how.resolve,
        label=os.fsencode(run.label), now_ns=now_ns, tree=tree, sides=sides,
    )  # fmt: skip
    upper = None if independent else whole
    conflicts = outcome.plan.conflicts
    if how.check_reads:
        conflicts = (*conflicts, *look_at_reads(store, run.id, state, BasePaths(base)))
    if conflicts:
        raise refusal(run, conflicts)
    return Planned(outcome.plan, rest, completed, outcome.state, independent, upper, now_ns, outcome.settled)


def check_is_base_of(base: BaseTree, run: Run) -> None:
    """BaseError when another directory than the run's base has its path now."""
    st = base.stat_dir(base.root)
    if (st.st_dev, st.st_ino) != tuple(run.base_identity):
        raise BaseError(
            f"{readable(run.base)} is not the directory that run {run.label} was made over; move the original back"
        )


@contextmanager
def locked(store: Store, run_id: str) -> Iterator[None]:
    """Hold the run's lock, unless the caller holds it already; RunBusy."""
    if store.runs.held_lock(run_id) is not None:
        yield
        return
    with store.runs.lock(run_id):
        yield


def refusal(run: Run, conflicts: tuple[PathConflict, ...]) -> Conflict:
    """The error that lists them."""
    first = conflicts[0]
    more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
    where = readable(first.path) or "."
    message = f"run {run.label} conflicts with its base: {where}: {first.message}{more}; nothing was changed"
    return Conflict(message, conflicts)
