"""Merging a run with several bases: one merge, which changes all of them or none.

Owns what a selection means for the parts of such a run, and what becomes of the run: it is over when nothing that it
changed anywhere is left.  What is planned for one base is ``merge``'s, the order of the steps ``joint``'s.  Belongs to
the thread of the store.

In conflicts that are raised here, paths in the first base are relative, and absolute in the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import msgspec

from snapshots.entries import Checkpoint, UpperState
from snapshots.errors import (
    BaseChanged,
    BaseError,
    Conflict,
    GoexfsError,
    MergeError,
    NothingChosen,
    RunState,
    StoreError,
)
from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.merging.joint import Member, carry_out
from snapshots.merging.merge import How, MergeResult, Planned, Progress, announced, locked, plan_of, result_of
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.mergesteps import alone_in, drop_merged, end_merged
from snapshots.merging.plan import PathConflict
from snapshots.merging.returning import IN_ORDER
from snapshots.names import readable
from snapshots.review.diff import diff
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

JointGate = Callable[[Mapping[str, UpperState]], None]
"""Looks at what would be merged, by id of run and parts, and raises what speaks against it."""


class Wanted(NamedTuple):
    """One part of a run, the run itself first, and what is wanted of it."""

    run: Run
    how: How | None
    """None: it is left as it is"""


class _Opened(NamedTuple):
    run: Run
    how: How | None
    base: BaseTree
    planned: Planned | None
    """None: nothing of it is merged"""


def merge_parts(
    store: Store, wanted: Sequence[Wanted], *, dry_run: bool = False, gate: JointGate | None = None,
    progress: Progress | None = None,
) -> list[MergeResult | None]:  # fmt: skip
    """Make what is wanted of every part real, or nothing; for each part what was done, None for nothing at all.

    Errors as of ``merge``; NothingChosen when there is nothing that is wanted in any of them.
    """
    for run, _ in wanted:
        recover_merges(store, base=run.base)
    wanted = [Wanted(store.runs.get(run.id), how) for run, how in wanted]
    for run, _ in wanted:
        if not run.is_live:
            raise RunState(f"run {run.label} is {run.state}; only an active or kept run can be merged")
    with ExitStack() as stack:
        opened = []
        for run, how in wanted:
            if not dry_run:
                stack.enter_context(locked(store, run.id))
                store.runs.check_unmounted(run.id)
            base = stack.enter_context(BaseTree(run.base))
            if not dry_run:
                stack.enter_context(alone_in(base))
            opened.append(_Opened(run, how, base, None))
        opened, stays = _planned(store, opened)
        if dry_run:
            return [each.planned and result_of(each.run, each.planned, merged=False) for each in opened]
        if gate is not None:
            gate({each.run.id: each.planned.state for each in opened if each.planned is not None})
            _check_again(store, opened)
        return _carry_out(store, opened, stays, progress)


def _planned(store: Store, parts: Sequence[_Opened]) -> tuple[list[_Opened], bool]:
    """The plans, and whether something is left in the run."""
    found, refused = [], []
    for each in parts:
        planned = None
        if each.how is not None:
            try:
                planned = plan_of(store, each.run, each.base, each.how)
            except NothingChosen:
                pass
            except Conflict as error:
                refused.append((each.run, error))
        found.append(each._replace(planned=planned))
    if refused:
        raise _refusal(parts[0].run, refused)
    if all(each.planned is None for each in found):
        raise NothingChosen(
            f"run {parts[0].run.label} changed nothing of that kind; goexfs diff --name-status shows what it did"
        )
    stays = any(
        _has_changes(store, each) if each.planned is None else bool(each.planned.rest) for each in found
    )
    if stays:
        for number, each in enumerate(found):
            if each.planned is not None and each.how is not None and not each.planned.rest:
                again = each.how._replace(stays=True, screen=None)
                found[number] = each._replace(planned=plan_of(store, each.run, each.base, again, each.planned.now_ns))
    return found, stays


def _has_changes(store: Store, part: _Opened) -> bool:
    return bool(diff(UpperTree(store.upper(part.run.id).load()), part.base, store.objects))


def _refusal(run: Run, refused: Sequence[tuple[Run, Conflict]]) -> Conflict:
    conflicts: tuple[PathConflict, ...] = ()
    for part, error in refused:
        conflicts += absolute(part.base if part.whole else None, error.conflicts)
    first, more = conflicts[0], f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
    return Conflict(
        f"run {run.label} conflicts with its bases: {readable(first.path)}: {first.message}{more}; nothing was changed",
        conflicts,
    )


def absolute(base: bytes | None, conflicts: Sequence[object]) -> tuple[PathConflict, ...]:
    """Conflicts in a base, with paths that say in which; without one as they are."""
    found = tuple(each for each in conflicts if isinstance(each, PathConflict))
    if base is None:
        return found
    return tuple(
        msgspec.structs.replace(
            each, path=below(base, each.path), base=None if each.base is None else below(base, each.base)
        )
        for each in found
    )


def below(base: bytes, path: bytes) -> bytes:
    """A path relative to a base as an absolute one."""
    return base.rstrip(b"/") + b"/" + path if path else base


def _check_again(store: Store, parts: Sequence[_Opened]) -> None:
    for each in parts:
        if each.planned is not None and each.how is not None:
            again = each.how._replace(screen=None, stays=bool(each.planned.rest))
            if plan_of(store, each.run, each.base, again, each.planned.now_ns).plan != each.planned.plan:
                raise MergeError(
                    f"{readable(each.run.base)} changed while the result was verified; nothing was changed, merge again"
                )


def _carry_out(
    store: Store, parts: Sequence[_Opened], stays: bool, progress: Progress | None
) -> list[MergeResult | None]:
    log = MergeLog(store)
    label = parts[0].run.label
    for each in parts:
        if each.planned is not None and each.planned.independent:
            state = each.planned.state
            store.upper(each.run.id).commit(Checkpoint(each.planned.independent, (), (), (), state.next_ino))
    merged = () if stays else tuple(each.run.id for each in parts)
    busy = [each for each in parts if each.planned is not None and _is_busy(each.planned)]
    # What is in the base already needs no merge to be dropped from the run.
    drop_merged(store, {
        each.run.id: (each.base, each.planned.rest)
        for each in parts if each.planned is not None and each.planned.rest and not _is_busy(each.planned)
    })  # fmt: skip
    outcomes: dict[str, tuple[int, bytes | None]] = {}
    if not busy:
        end_merged(store, merged)
    with ExitStack() as stack:
        members: list[Member] = []
        try:
            for each in busy:
                assert each.planned is not None
                first = members[0].pending.number if members else 0
                pending, application = stack.enter_context(
                    announced(
                        store, log, each.run, each.base, each.planned.plan, each.planned.rest, label=label, joint=first
                    )
                )
                members.append(Member(pending, application, each.base))
        except BaseException:
            for member in members:
                with suppress(GoexfsError):  # else the next command does it
                    log.finish(member.pending)
            raise
        if members:
            _show_progress(members, progress)
            try:
                leftovers = carry_out(store, log, members, merged)
            except BaseChanged:
                raise
            except (MergeError, StoreError, BaseError):
                for each in parts:  # see ``merge``
                    with suppress(StoreError):
                        store.runs.update(each.run.id, options={**each.run.options, IN_ORDER: time.time_ns()})
                raise
            for each, member, leftover in zip(busy, members, leftovers, strict=True):
                outcomes[each.run.id] = member.pending.joint, leftover
    number = members[0].pending.joint if members else None
    return [
        None if each.planned is None
        else result_of(each.run, each.planned, number, outcomes.get(each.run.id, (0, None))[1])
        for each in parts
    ]  # fmt: skip


def _is_busy(planned: Planned) -> bool:
    return bool(planned.plan.operations) or planned.plan.root_times_ns is not None


def _show_progress(members: Sequence[Member], progress: Progress | None) -> None:
    if progress is None:
        return
    done = [(0, 0)] * len(members)

    def told_by(number: int) -> Progress:
        def tell(now: int, total: int) -> None:
            done[number] = (now, total)
            progress(sum(each[0] for each in done), sum(each[1] for each in done))

        return tell

    for number, member in enumerate(members):
        member.application.progress = told_by(number)
