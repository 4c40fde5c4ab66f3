"""Merges, or undos, into several bases that are one: all of them or none, also across SIGKILL.

Owns the decision, ``merges/joint-N.…`` in the store, and the order of the steps.  Each member is a merge of its own,
with a number, a journal in its base and a record in the log; what they have in common is the decision, named after the
first.  Belongs to the thread of its store.

1. Every member is announced, staged and checked, and its journal written.  In no base has anything changed.
2. The decision is written: the commit point of all.
3. Every member is applied.  Then every one is recorded, and last, in one transaction, the runs in the store.
4. Every member lets go of what it would need to go back; then the decision goes.

What fails before the end of 3 takes every member back to its start; only then the decision goes, and after it the
journals.  So at every instant: with the decision every member can go forward, and without it none has begun.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from snapshots.errors import StoreDamaged
from snapshots.layers.base import BaseTree
from snapshots.merging.apply import Application
from snapshots.merging.handover import forget_given
from snapshots.merging.mergelog import MergeLog, Pending
from snapshots.merging.mergesteps import drop_merged, end_merged, remember_run, write_record
from snapshots.merging.returning import keep_together
from snapshots.merging.undisturbed import undisturbed
from snapshots.storage import durable
from snapshots.storage.store import Store

_JOINT = "joint-"


class Joint(msgspec.Struct, frozen=True):
    """The decision that several merges are to be done."""

    members: tuple[tuple[int, bytes], ...]
    """number and token of each; a number may be given again after a merge that came to nothing"""
    merged: tuple[str, ...]
    """ids of the runs that are over then, those of which nothing had to be applied too; none when something stays"""


class Member(NamedTuple):
    """One merge of several that are one."""

    pending: Pending
    application: Application
    base: BaseTree


def carry_out(store: Store, log: MergeLog, members: Sequence[Member], merged: Sequence[str] = ()) -> list[bytes | None]:
    """Do all of them or none; for each what ``apply.carry_out`` returns.  Errors as there."""
    at = members[0]
    decided = Joint(tuple((each.pending.number, each.pending.token) for each in members), tuple(merged))
    with ExitStack() as quiet:
        try:
            for at in members:
                at.application.token = at.pending.token
                at.application.prepare()
            quiet.enter_context(undisturbed())
            with durable.reporting(f"cannot write the log of merges in {log.path}"):
                durable.write_file(_path(log, members[0].pending), msgspec.msgpack.encode(decided))
        except BaseException as reason:
            _take_back(log, members, at, reason)
        return go_through(store, log, decided, members)


def go_through(
    store: Store, log: MergeLog, decided: Joint, members: Sequence[Member], *, returnable: bool = True
) -> list[bytes | None]:
    """What comes after the decision, or is left of it.

    Unless ``returnable`` nothing is taken back when it fails: the next command tries again.
    """
    if not members:
        end_merged(store, decided.merged)
        return []
    at = members[0]
    with undisturbed():
        try:
            for at in members:
                at.application.proceed()
            for at in members:
                log.unwrite(at.pending.number)
                write_record(log, at.pending, at.application)
            for at in members:
                others = set(decided.merged) - {each.pending.run_id for each in members} if at is members[0] else ()
                remember_run(store, log, at.pending, at.application, others=sorted(others))
            if members[0].pending.undoes is not None:
                keep_together(store, log, [each for each, _ in decided.members])
            drop_merged(store, {
                each.pending.run_id: (each.base, each.pending.rest)
                for each in members if each.pending.run_id is not None and each.pending.rest
            })  # fmt: skip
            end_merged(store, decided.merged)
        except BaseException as reason:
            if not returnable:
                raise
            for each in members:
                log.unwrite(each.pending.number)
            _take_back(log, members, at, reason)
        leftovers = []
        for each in members:
            if each.pending.run_id is not None:
                forget_given(store, each.application.plan)
            leftovers.append(each.application.finish())
        for each, leftover in zip(members, leftovers, strict=True):
            if leftover is None:
                log.finish(each.pending)
        tidy(log)
    log.prune()
    return leftovers


def _take_back(log: MergeLog, members: Sequence[Member], at: Member, reason: BaseException) -> NoReturn:
    """Let nothing have happened, and say why; ``at`` is where it failed."""
    with undisturbed():
        for each in reversed(members):
            each.application.retreat(reason)
        _withdraw(log, _path(log, members[0].pending))
        left = ""
        for each in members:
            left += each.application.abandon()
            if not each.application.staging.made:
                log.finish(each.pending)
    told = at.application.told(reason, left)
    if told is reason:
        raise reason
    raise told from reason


# -- the decision


def decision(log: MergeLog, pendings: Sequence[Pending]) -> Joint | None:
    """What was decided about these; None when they are to be taken back.  Errors: StoreDamaged."""
    members = {(each.number, each.token) for each in pendings}
    for name in _decisions(log):
        path = log.path / name
        try:
            found = msgspec.msgpack.decode(path.read_bytes(), type=Joint)
        except FileNotFoundError:
            continue
        except msgspec.MsgspecError as e:
            raise StoreDamaged(f"{path} is damaged ({e})") from e
        if members & set(found.members):
            return found
    return None


def locked(stack: ExitStack, log: MergeLog, first: int) -> list[Pending]:
    """Those that are one with the merge ``first`` and have not come to their end, locked; none while it is alive.

    Whoever has locked the first of them gets the others: nobody begins with another one and keeps it.
    """
    found: list[Pending] = []
    for number in sorted(log.pending_numbers()):
        known = log.peek(number)
        if known is None or known.joint != first:
            continue
        pending = stack.enter_context(log.locked(number, wait=bool(found)))
        if pending is not None:
            found.append(pending)
        elif not found:
            return []
    return found


def tidy(log: MergeLog) -> None:
    """Remove decisions of which every member has come to its end."""
    names = [name for name in durable.listdir(log.path) if name.startswith(_JOINT)]
    waiting = set(log.pending_numbers()) if names else set()  # read last: members are there before their decision is
    for name in names:
        first, *more = name.removeprefix(_JOINT).split(".")
        if len(more) > 1 and first.isdigit() and int(first) not in waiting:
            durable.unlink(log.path / name)  # its writer died before it was whole
            continue
        try:
            found = msgspec.msgpack.decode((log.path / name).read_bytes(), type=Joint)
        except (OSError, msgspec.MsgspecError):
            continue
        if not waiting & {number for number, _ in found.members}:
            _withdraw(log, log.path / name)


def _decisions(log: MergeLog) -> list[str]:
    return [name for name in durable.listdir(log.path) if name.startswith(_JOINT) and name.count(".") == 1]


def _withdraw(log: MergeLog, path: Path) -> None:
    if path.exists():
        durable.sync_directory(log.path)  # what came before goes before
        durable.unlink(path)
        durable.sync_directory(log.path)


def _path(log: MergeLog, first: Pending) -> Path:
    """Never that of another decision: numbers may be given again."""
    return log.path / f"{_JOINT}{first.joint}.{first.token.hex()}"
