"""Taking a merge back: the base becomes the exact tree it was before, or is left as it is.

Owns the verb.  An undo goes through the plan of the merge in the other direction, with what the merge had replaced,
and is recorded like a merge: it can be undone too, which is the merge again.  Belongs to the thread of the store.
"""

import os

import msgspec

from snapshots.apply import Application
from snapshots.base import STAGING_PREFIX, BaseTree
from snapshots.basepaths import BasePaths, is_below
from snapshots.errors import BaseError, Conflict, MergeError
from snapshots.mergelog import MergeLog, MergeRecord
from snapshots.mergerecovery import alone_in, go_through, home_of, recover_merges
from snapshots.names import readable
from snapshots.store import Store
from snapshots.trails import Trails


class UndoResult(msgspec.Struct, frozen=True):
    """What was taken back, or with ``dry_run`` would be."""

    undone: MergeRecord
    number: int | None
    """of the undo in the log of merges; None for a dry run"""
    leftover: bytes | None
    """see ``MergeResult``"""


def undo(store: Store, number: int, *, dry_run: bool = False) -> UndoResult:
    """Take a merge, or an undo, back.

    Errors: MergeError when there is none of this number, when it is undone already, when what it needs is not kept any
    more, or when it failed on the way and nothing was changed; Conflict (with one ``PathConflict`` per path) when the
    base is not as the merge left it; BaseError, StoreError.
    """
    log = MergeLog(store)
    recover_merges(store, base=log.get(number).base)
    record = log.get(number)
    by = log.taken_back().get(number)
    if by is not None:
        raise MergeError(f"merge {number} was undone by {by} already; `goexfs undo {by}` brings it back")
    if not log.is_kept(number):
        raise MergeError(f"what merge {number} replaced is not kept any more: later merges took its room")
    plan, trail = log.course(number)
    with BaseTree(record.base) as base, alone_in(base):
        st = base.stat_dir(base.root)
        identity = (st.st_dev, st.st_ino)
        if identity != record.base_identity:
            raise BaseError(f"{readable(record.base)} is not the directory that was merged into; move that one back")
        if dry_run:
            conflicts = Trails(plan, BasePaths(base)).conflicts(trail, new=not record.backward)
            if conflicts:
                more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
                raise Conflict(f"{readable(conflicts[0].path)}: {conflicts[0].message}{more}", conflicts)
            return UndoResult(record, None, None)
        name = STAGING_PREFIX + b"undo-" + os.urandom(4).hex().encode()
        times = (st.st_atime_ns, st.st_mtime_ns)
        with log.begin(None, record.label, record.base, identity, name, root_times=times, undoes=number) as pending:
            application = Application(
                plan, base, None, name, home_of(base, log, pending), backward=not record.backward, trail=trail
            )
            leftover = go_through(store, log, pending, application)
        return UndoResult(record, pending.number, leftover)


def latest(store: Store, place: bytes) -> int:
    """The latest merge in effect over the base that ``place`` (an absolute path) is in; MergeError."""
    log = MergeLog(store)
    gone = log.taken_back()
    for record in reversed(log.records()):
        here = place == record.base or is_below(place, record.base)
        if here and not record.backward and record.number not in gone:
            return record.number
    raise MergeError(f"nothing was merged into {readable(place)} that could be undone; `goexfs merges --all` lists all")
