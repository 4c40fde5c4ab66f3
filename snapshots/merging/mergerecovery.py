"""What becomes of a merge or an undo whose process died: rolled back before its commit point, forward after it.

Owns that decision.  Belongs to the thread of its store.

What is found, and what follows: with a journal in the staging directory the rest of its operations is done (or, when
that fails, all of them are undone); without one the record in the log says whether the base is complete or untouched,
and the staging directory is moved where it belongs.  Each step can be done again from its start.

Of several that are one (``snapshots.merging.joint``) a journal alone decides nothing: with the decision in the log all
go forward, without it all go back.  A base that cannot be reached now is brought to the same end when it can be.
"""

from contextlib import ExitStack
from typing import Literal, NamedTuple

from snapshots.errors import BaseError, GoexfsError, MergeError
from snapshots.layers.base import BaseTree
from snapshots.merging import disk, joint
from snapshots.merging.apply import Application
from snapshots.merging.handover import forget_given
from snapshots.merging.mergelog import MergeLog, Pending
from snapshots.merging.mergesteps import alone_in, go_through, home_of
from snapshots.merging.preimages import TakenBack
from snapshots.merging.staging import Staging
from snapshots.names import readable
from snapshots.storage.store import Store

Outcome = Literal["completed", "taken back"]


class RecoveredMerge(NamedTuple):
    """A merge that had been interrupted, and what became of it."""

    number: int
    label: str
    base: bytes
    outcome: Outcome


def recover_merges(store: Store, *, base: bytes | None = None) -> list[RecoveredMerge]:
    """Bring every interrupted merge to an end, or those over one base, with all that are one with them.

    Errors: MergeError, BaseError when one cannot be; of other bases than ``base`` nothing is said, the next command
    tries again.
    """
    log = MergeLog(store)
    recovered = []
    several: dict[int, set[bytes]] = {}
    for pending in log.interrupted():
        if pending.joint:
            several.setdefault(pending.joint, set()).add(pending.base)
            continue
        try:
            if base is None or pending.base == base:
                recovered.append(_recover(store, log, pending))
        except (GoexfsError, OSError):
            if base is not None:
                raise
    for first, bases in several.items():
        if base is None or base in bases:
            recovered += _recover_joint(store, log, first, base)
    joint.tidy(log)
    return recovered


def _recover(store: Store, log: MergeLog, pending: Pending) -> RecoveredMerge:
    with ExitStack() as stack:
        base = _opened(stack, pending)
        home = home_of(base, log, pending)
        application = Application.of_crashed(base, pending.staging, home, pending.token)
        if application is None:
            return _told(pending, _end(store, log, pending, base))
        log.unwrite(pending.number)
        try:
            go_through(store, log, pending, application, resume=True)
        except GoexfsError:
            if application.staging.made:
                raise
            return _told(pending, "taken back")
        return _told(pending, "completed")


def _told(pending: Pending, outcome: Outcome) -> RecoveredMerge:
    return RecoveredMerge(pending.number, pending.label, pending.base, outcome)


def _opened(stack: ExitStack, pending: Pending) -> BaseTree:
    """The base, for this alone."""
    base = stack.enter_context(BaseTree(pending.base))
    stack.enter_context(alone_in(base))
    st = base.stat_dir(base.root)
    if (st.st_dev, st.st_ino) != pending.base_identity:
        raise BaseError(
            f"{readable(pending.base)} is not the directory into which a merge was interrupted; move that one back"
        )
    return base


def _end(store: Store, log: MergeLog, pending: Pending, base: BaseTree) -> Outcome:
    """Of one that has no journal: its base is complete, when there is a record, or untouched."""
    home = home_of(base, log, pending)
    staging = Staging(base, None, pending.staging)
    is_there = staging.reopen()
    found = [record for record in log.records() if record.number == pending.number]
    try:
        if found and pending.undoes is None:
            forget_given(store, log.course(pending.number)[0])
        if is_there:
            staging.close_journal()  # one that never was complete: it would be in the way of the next one
            (home.settle if found else home.give_back)(staging)
        elif found and isinstance(home, TakenBack):
            home.forget_source()
    finally:
        staging.close()
    disk.utime(base.fd(base.root), b".", found[0].root_times if found else pending.root_times)
    log.finish(pending)
    return "completed" if found else "taken back"


def _recover_joint(store: Store, log: MergeLog, first: int, wanted: bytes | None) -> list[RecoveredMerge]:
    """All that are one with the merge ``first``, as far as their bases can be reached.

    An error is raised when it concerns the base ``wanted``.
    """
    with ExitStack() as stack:
        pendings = joint.locked(stack, log, first)
        decided = joint.decision(log, pendings)
        reached: list[tuple[Pending, BaseTree]] = []
        for pending in pendings:
            try:
                reached.append((pending, _opened(stack, pending)))
            except (GoexfsError, OSError):
                if pending.base == wanted:
                    raise
        try:
            if decided is None:
                outcome: Outcome = "taken back"
                for pending, base in reached:
                    _back(store, log, pending, base)
            else:
                outcome = _forward(store, log, decided, reached, is_whole=len(reached) == len(decided.members))
        except (GoexfsError, OSError):
            if wanted is not None:
                raise
            return []
        return [_told(pending, outcome) for pending, _ in reached]


def _back(store: Store, log: MergeLog, pending: Pending, base: BaseTree) -> None:
    application = Application.of_crashed(base, pending.staging, home_of(base, log, pending), pending.token)
    if application is None:
        _end(store, log, pending, base)
        return
    application.retreat(MergeError("it was interrupted"))
    left = application.abandon()
    if application.staging.made:
        raise MergeError(f"an interrupted merge into {readable(pending.base)} was taken back{left}")
    log.finish(pending)


def _forward(
    store: Store, log: MergeLog, decided: joint.Joint, reached: list[tuple[Pending, BaseTree]], *, is_whole: bool
) -> Outcome:
    members, complete = [], []
    for pending, base in reached:
        home = home_of(base, log, pending)
        application = Application.of_crashed(base, pending.staging, home, pending.token)
        if application is None:
            complete.append((pending, base))
        else:
            members.append(joint.Member(pending, application, base))
    # Where one has let go of what it would need to go back, or cannot be reached, there is only one way.
    returnable = is_whole and not complete
    try:
        joint.go_through(store, log, decided, members, returnable=returnable)
    except GoexfsError:
        if not returnable or any(member.application.staging.made for member in members):
            raise
        return "taken back"
    for pending, base in complete:
        _end(store, log, pending, base)
    return "completed"
