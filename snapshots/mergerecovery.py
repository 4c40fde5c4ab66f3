"""What becomes of a merge or an undo whose process died: rolled back before its commit point, forward after it.

Owns that decision, the lock on a base, and the recording of what is complete, which is the same for the living and
the dead.  Belongs to the thread of its store.

What is found, and what follows: with a journal in the staging directory the rest of its operations is done (or, when
that fails, all of them are undone); without one the record in the log says whether the base is complete or untouched,
and the staging directory is moved where it belongs.  Each step can be done again from its start.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import msgspec

from snapshots import disk
from snapshots.apply import Application
from snapshots.base import BaseTree
from snapshots.basepaths import BasePaths, split
from snapshots.errors import BaseError, GoexfsError, MergeError, RunUnknown
from snapshots.handover import forget_given
from snapshots.mergelog import MergeLog, MergeRecord, Pending
from snapshots.names import readable
from snapshots.partial import Rest, settle
from snapshots.plan import Link, Plan, SetAttrs, Unlock
from snapshots.preimages import Keeping, TakenBack, size_of
from snapshots.staging import Staging
from snapshots.store import Store


class RecoveredMerge(NamedTuple):
    """A merge that had been interrupted, and what became of it."""

    number: int
    label: str
    base: bytes
    outcome: Literal["completed", "taken back"]


def recover_merges(store: Store, *, base: bytes | None = None) -> list[RecoveredMerge]:
    """Bring every interrupted merge to an end, or those over one base.

    Errors: MergeError, BaseError when one cannot be; of other bases than ``base`` nothing is said, the next command
    tries again.
    """
    log = MergeLog(store)
    recovered = []
    for pending in log.interrupted():
        try:
            if base is None or pending.base == base:
                recovered.append(_recover(store, log, pending))
        except (GoexfsError, OSError):
            if base is not None:
                raise
    return recovered


def _recover(store: Store, log: MergeLog, pending: Pending) -> RecoveredMerge:
    with BaseTree(pending.base) as base, alone_in(base):
        st = base.stat_dir(base.root)
        if (st.st_dev, st.st_ino) != pending.base_identity:
            raise BaseError(
                f"{readable(pending.base)} is not the directory into which a merge was interrupted; move that one back"
            )
        home = home_of(base, log, pending)
        application = Application.of_crashed(base, pending.staging, home, pending.token)
        if application is not None:
            log.unwrite(pending.number)
            try:
                go_through(store, log, pending, application, resume=True)
            except GoexfsError:
                if application.staging.made:
                    raise
                return RecoveredMerge(pending.number, pending.label, pending.base, "taken back")
            return RecoveredMerge(pending.number, pending.label, pending.base, "completed")
        staging = Staging(base, None, pending.staging)
        is_there = staging.reopen()
        found = [record for record in log.records() if record.number == pending.number]
        try:
            if found and pending.undoes is None:
                forget_given(store, log.course(pending.number)[0])
            if is_there:
                (home.settle if found else home.give_back)(staging)
            elif found and isinstance(home, TakenBack):
                home.forget_source()
        finally:
            staging.close()
        disk.utime(base.fd(base.root), b".", found[0].root_times if found else pending.root_times)
        log.finish(pending)
        return RecoveredMerge(pending.number, pending.label, pending.base, "completed" if found else "taken back")


def home_of(base: BaseTree, log: MergeLog, pending: Pending, plan: Plan | None = None) -> Keeping | TakenBack:
    """Where the slots of a merge come from and go to; ``plan`` is needed for a merge that begins only."""
    if pending.undoes is None:
        return Keeping(plan, base, log, pending.number)
    return TakenBack(plan, base, log, pending.number, pending.undoes)


def go_through(
    store: Store, log: MergeLog, pending: Pending, application: Application, *, resume: bool = False
) -> bytes | None:
    """Carry a merge out (or what is left of it), record it, and close its entry in the log; see ``carry_out``."""

    def record(done: Application) -> None:
        trail = done.trail()
        operations = done.plan.operations
        count = len({split(op.path) for op in operations if not isinstance(op, Unlock | Link | SetAttrs)})
        try:
            log.write(
                MergeRecord(
                    pending.number, time.time_ns(), pending.run_id, pending.label, pending.base, pending.base_identity,
                    pending.undoes, done.backward, count, size_of(done.staging), trail.root_times,
                ),
                done.plan, trail,
            )  # fmt: skip
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


def record_merged(store: Store, run_id: str, base: BaseTree, rest: bytes = b"") -> None:
    """Mark a run merged and drop its upper (once it is marked, what is left over is the store's garbage).

    With ``rest`` a part was merged, and this drops that part from the upper; doing so twice is like doing so once.
    """
    if rest:
        change = settle(msgspec.msgpack.decode(rest, type=Rest), BasePaths(base), store.objects.exists)
        store.upper(run_id).commit(change)
        return
    try:
        store.discard(run_id, state="merged")
    except RunUnknown:
        pass  # forgotten since
    except Exception:
        if store.runs.get(run_id).state != "merged":
            raise


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
