"""The steps of one merge or undo beside what is done to the base, the same for the living and for the dead.

Owns the lock on a base, where the slots are, what is recorded when the base is complete, and what becomes of the run.
Knows nothing of recovery.  Belongs to the thread of its store.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from snapshots.entries import UpperState
from snapshots.errors import MergeError, RunUnknown
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, split
from snapshots.merging.apply import Application
from snapshots.merging.handover import forget_given
from snapshots.merging.mergelog import MergeLog, MergeRecord, Pending
from snapshots.merging.partial import Rest, settle
from snapshots.merging.plan import Link, Plan, SetAttrs, Unlock
from snapshots.merging.preimages import Keeping, TakenBack, size_of
from snapshots.merging.returning import Leaving, keep, turn
from snapshots.names import readable
from snapshots.storage.store import Store


def home_of(base: BaseTree, log: MergeLog, pending: Pending, plan: Plan | None = None) -> Keeping | TakenBack:
    """Where the slots of a merge come from and go to; ``plan`` is needed for a merge that begins only."""
    if pending.undoes is None:
        return Keeping(plan, base, log, pending.number)
    return TakenBack(plan, base, log, pending.number, pending.undoes)


def go_through(
    store: Store, log: MergeLog, pending: Pending, application: Application, *, resume: bool = False,
    upper: UpperState | None = None,
) -> bytes | None:  # fmt: skip
    """Carry a merge out (or what is left of it), record it, and close its entry in the log; see ``carry_out``.

    ``upper`` is all that the run has, if that has been read.
    """

    def record(done: Application) -> None:
        try:
            write_record(log, pending, done)
            remember_run(store, log, pending, done, upper=upper)
            if pending.run_id is not None:
                record_merged(store, pending.run_id, done.base, pending.rest)
                forget_given(store, done.plan)
        except BaseException:
            log.unwrite(pending.number)
            raise

    application.token = pending.token
    try:
        leftover = (application.resume if resume else application.run)(record)
    except BaseException:
        if not application.staging.made:
            log.finish(pending)
        raise
    if leftover is None:
        log.finish(pending)
        log.prune()
    return leftover


def write_record(log: MergeLog, pending: Pending, done: Application) -> None:
    """Enter what is complete in the base into the log."""
    trail = done.trail()
    operations = done.plan.operations
    count = len({split(op.path) for op in operations if not isinstance(op, Unlock | Link | SetAttrs)})
    record = MergeRecord(
        pending.number, time.time_ns(), pending.run_id, pending.label, pending.base, pending.base_identity,
        pending.undoes, done.backward, count, size_of(done.staging), trail.root_times, pending.joint,
    )  # fmt: skip
    log.write(record, done.plan, trail)


def remember_run(
    store: Store, log: MergeLog, pending: Pending, done: Application, *, upper: UpperState | None = None,
    others: Sequence[str] = (),
) -> None:  # fmt: skip
    """See ``returning``: note what is about to be taken out of the run, or give it back; ``others`` end with it."""
    if pending.undoes is not None:
        turn(store, log, pending.number, pending.undoes, done)
    elif pending.run_id is not None:
        keep(store, log, pending.number, done.plan, Leaving(pending.run_id, pending.rest, tuple(others)), upper)


def record_merged(store: Store, run_id: str, base: BaseTree, rest: bytes = b"") -> None:
    """Mark a run merged and drop its upper (once it is marked, what is left over is the store's garbage).

    With ``rest`` a part was merged, and this drops that part from the upper; doing so twice is like doing so once.
    """
    if rest:
        drop_merged(store, {run_id: (base, rest)})
    else:
        end_merged(store, [run_id])


def drop_merged(store: Store, parts: Mapping[str, tuple[BaseTree, bytes]]) -> None:
    """Drop what was merged of runs (by id: the base, and what drops it) from their uppers, of all of them at once."""
    changes = {
        run_id: settle(msgspec.msgpack.decode(rest, type=Rest), BasePaths(base), store.objects.exists)
        for run_id, (base, rest) in parts.items()
    }
    with store.database.transaction():
        for run_id, change in changes.items():
            store.upper(run_id).commit(change)


def end_merged(store: Store, run_ids: Sequence[str]) -> None:
    """Mark runs merged, all of them at once; those that were forgotten since are passed over."""
    known = [run_id for run_id in run_ids if _is_known(store, run_id)]
    try:
        store.discard(*known, state="merged")
    except RunUnknown:
        pass
    except Exception:
        if any(store.runs.get(run_id).state != "merged" for run_id in known):
            raise


def _is_known(store: Store, run_id: str) -> bool:
    try:
        store.runs.get(run_id)
    except RunUnknown:
        return False
    return True


@contextmanager
def alone_in(base: BaseTree) -> Iterator[None]:
    """Keep other merges out of the base; MergeError at once when there is one."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base.fd(base.root))
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MergeError(f"another merge into {readable(base.path)} is under way; wait for it") from None
        yield
    finally:
        os.close(fd)
