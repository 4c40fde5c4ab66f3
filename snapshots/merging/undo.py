"""Taking a merge back: the base becomes the exact tree it was before, or is left as it is.

Owns the verb.  An undo goes through the plan of the merge in the other direction, with what the merge had replaced,
and is recorded like a merge: it can be undone too, which is the merge again.  Belongs to the thread of the store.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from snapshots.errors import BaseError, Conflict, MergeError
from snapshots.layers.base import STAGING_PREFIX, BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.merging.apply import Application
from snapshots.merging.course import Trail
from snapshots.merging.joint import Member, carry_out
from snapshots.merging.jointmerge import absolute
from snapshots.merging.mergelog import MergeLog, MergeRecord
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.mergesteps import alone_in, go_through, home_of
from snapshots.merging.plan import PathConflict, Plan
from snapshots.merging.returning import Returning, kept
from snapshots.merging.trails import Trails
from snapshots.names import is_inside, readable
from snapshots.storage.store import Store


class UndoResult(msgspec.Struct, frozen=True):
    """What was taken back, or with ``dry_run`` would be."""

    undone: MergeRecord
    """the first one of several that are one"""
    number: int | None
    """of the undo in the log of merges; None for a dry run"""
    leftover: bytes | None
    """see ``MergeResult``"""
    bases: tuple[bytes, ...] = ()
    """all in which something was taken back"""
    returning: Returning | None = None
    """what the run has again, or after the undo of an undo has not any more; None for a dry run, and of old merges"""

    @property
    def gave(self) -> bool:
        """Whether the run has changes again."""
        return self.returning is not None and not self.undone.backward and not self.returning.why_not

    @property
    def gave_all(self) -> bool:
        """Whether it was all of the run that was merged, and is back."""
        return self.gave and self.returning is not None and not self.returning.rest


def undo(store: Store, number: int, *, dry_run: bool = False) -> UndoResult:
    """Take a merge, or an undo, back; one into several bases in all of them, or in none.

    Errors: MergeError when there is none of this number, when it is undone already, when what it needs is not kept any
    more, or when it failed on the way and nothing was changed; Conflict (with one ``PathConflict`` per path) when a
    base is not as the merge left it; BaseError, StoreError.
    """
    log = MergeLog(store)
    for record in log.group(number):
        recover_merges(store, base=record.base)
    group = log.group(number)
    number, taken_back = group[0].number, log.taken_back()
    for record in group:
        by = taken_back.get(record.number)
        if by is not None:
            by = log.get(by).joint or by
            raise MergeError(f"merge {number} was undone by {by} already; `goexfs undo {by}` brings it back")
        if not log.is_kept(record.number):
            raise MergeError(f"what merge {number} replaced is not kept any more: later merges took its room")
    with ExitStack() as stack:
        opened = [(record, *_opened(stack, log, record)) for record in group]
        if dry_run or len(opened) > 1:
            _check(opened)
        if dry_run:
            return UndoResult(group[0], None, None, tuple(record.base for record in group))
        members: list[Member] = []
        for record, base, plan, trail in opened:
            st = base.stat_dir(base.root)
            first = members[0].pending.number if members else 0
            pending = stack.enter_context(
                log.begin(
                    None, record.label, record.base, record.base_identity,
                    STAGING_PREFIX + b"undo-" + os.urandom(4).hex().encode(),
                    root_times=(st.st_atime_ns, st.st_mtime_ns), undoes=record.number,
                    joint=first if record.joint else None,
                )
            )  # fmt: skip
            application = Application(
                plan, base, None, pending.staging, home_of(base, log, pending), backward=not record.backward,
                trail=trail,
            )  # fmt: skip
            members.append(Member(pending, application, base))
        pending, application, _ = members[0]
        if pending.joint:
            leftover = next(filter(None, carry_out(store, log, members)), None)
        else:
            leftover = go_through(store, log, pending, application)
    given = [found for each in members if (found := kept(log, each.pending.number)) is not None]
    told = next((found for found in given if found.why_not), given[0] if given else None)
    return UndoResult(group[0], pending.number, leftover, tuple(record.base for record in group), told)


def _opened(stack: ExitStack, log: MergeLog, record: MergeRecord) -> tuple[BaseTree, Plan, Trail]:
    """The base of a merge, for this alone, and what was done in it."""
    plan, trail = log.course(record.number)
    base = stack.enter_context(BaseTree(record.base))
    stack.enter_context(alone_in(base))
    st = base.stat_dir(base.root)
    if (st.st_dev, st.st_ino) != record.base_identity:
        raise BaseError(f"{readable(record.base)} is not the directory that was merged into; move that one back")
    return base, plan, trail


def _check(opened: Sequence[tuple[MergeRecord, BaseTree, Plan, Trail]]) -> None:
    """Conflict when a base is not as the merge left it."""
    conflicts: tuple[PathConflict, ...] = ()
    for record, base, plan, trail in opened:
        found = Trails(plan, BasePaths(base)).conflicts(trail, new=not record.backward)
        conflicts += absolute(record.base, found) if record.joint else tuple(found)
    if conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        raise Conflict(f"{readable(conflicts[0].path)}: {conflicts[0].message}{more}", conflicts)


def latest(store: Store, place: bytes) -> int:
    """The latest merge in effect over the base that ``place`` (an absolute path) is in; MergeError."""
    log = MergeLog(store)
    gone = log.taken_back()
    for group in reversed(log.together()):
        for record in group:
            if is_inside(place, record.base) and not record.backward and record.number not in gone:
                return group[0].number
    raise MergeError(f"nothing was merged into {readable(place)} that could be undone; `goexfs merges --all` lists all")
