"""Carrying out a plan: stage, check, commit point, apply, finish, in either direction, and everything taken back when
a step fails.

Owns the order of the steps, and how each operation is done and undone.  Decides nothing about what is merged.  Belongs
to the thread of its ``BaseTree``, which should be open for this alone.

Before the commit point nothing in the base has changed except for the staging directory.  After it every operation is
one system call with an inverse; what is replaced stays in the staging directory until the end.  So a failure anywhere
is taken back in reverse order, and the base is what it was, modification times included.  After a crash the
slots tell which operations were done (``progress``).  An undo is the same plan in the other direction.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Self

import msgspec
from msgspec.structs import replace

from snapshots.entries import Identity
from snapshots.errors import Conflict, GoexfsError, MergeError
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, split
from snapshots.layers.content import ObjectReader
from snapshots.merging import disk
from snapshots.merging.course import Course, Seen, Times, Trail
from snapshots.merging.plan import (
    Aside,
    ConflictKind,
    Link,
    PathConflict,
    Plan,
    Put,
    Replace,
    SetAttrs,
    Unlock,
)
from snapshots.merging.progress import position
from snapshots.merging.setting import OWNER_MAY, set_attrs, unlock_again
from snapshots.merging.slots import Fresh, Slots
from snapshots.merging.staging import ATTACH, COST, DETACH, Staging
from snapshots.merging.trails import Trails
from snapshots.merging.undisturbed import undisturbed
from snapshots.names import readable

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Course).decode


def carry_out(
    plan: Plan, base: BaseTree, objects: ObjectReader, name: bytes, record: Callable[[], None]
) -> bytes | None:
    """Change the base as planned, all or nothing.

    ``name`` is that of the staging directory.  ``record`` is called when the base is complete and durable, and
    notes the success elsewhere; when it raises, the base is taken back as well.

    Returns the name of a directory in the base that could not be removed and may be, or None.  Errors: Conflict when
    the base changed since the plan was made, MergeError for everything else that failed.
    """
    return Application(plan, base, objects, name, Fresh(plan)).run(lambda _: record())


class Application:
    """One going through of a plan, ``backward`` with the trail of the one that is taken back.

    With a ``trail`` and forward, what is taken back is an undo.
    """

    def __init__(
        self, plan: Plan, base: BaseTree, objects: ObjectReader | None, name: bytes, slots: Slots, *,
        backward: bool = False, trail: Trail | None = None,
    ) -> None:  # fmt: skip
        if plan.conflicts:
            raise ValueError("a plan with conflicts is not to be carried out")
        self.plan = plan
        self.base = base
        self.staging = Staging(base, objects, name)
        self._paths = BasePaths(base)
        self._operations = plan.operations
        self._slots = slots
        self.backward = backward
        self._trail = trail
        self._position = len(self._operations) if backward else 0
        """operations that are done, the first of the plan first"""
        self._phase = ATTACH if backward else DETACH
        self._ours: set[tuple[int, int]] = set()
        """inodes that this merge has renamed, which changes their ctime"""
        self._course: Course | None = None
        """once it is known: from just before the commit point on"""
        self._start_times: dict[bytes, Times] = {}
        self._at: bytes = b""
        """what is being worked on, for messages"""
        self.token = b""
        self.progress: Callable[[int, int], None] | None = None
        """told how much of how much is done"""
        self._done = 0
        self._total = COST * (len(plan.makes) + len(self._operations)) + sum(
            make.entry.content.size for make in plan.makes if make.entry.content is not None
        )
        self.staging.tick = self._tick

    @classmethod
    def of_crashed(cls, base: BaseTree, name: bytes, slots: Slots, token: bytes) -> Self | None:
        """The one that died after its commit point; None when there is none.

        Errors: MergeError when its journal is damaged, or not the one with this ``token``.
        """
        staging = Staging(base, None, name)
        if not staging.reopen():
            return None
        found = staging.journal()
        if found is None:
            staging.close()
            return None
        try:
            course = _decode(found[0])
        except msgspec.MsgspecError as e:
            staging.close()
            raise MergeError(
                f"the journal in {readable(name)} in the base is damaged ({e}); see what is in there"
            ) from e
        if course.token != token:  # planted: it would be carried out with the rights of whoever recovers
            staging.close()
            raise MergeError(f"the journal in {readable(name)} in the base is not that of the merge; move it away")
        self = cls(course.plan, base, None, name, slots, backward=course.backward, trail=course.trail)
        self.staging = staging
        self._course = course
        self._start_times = course.start_times
        self._phase = found[1]
        self._position = position(course, found[1], self.staging.slots(), self._is_linked)
        self._ours = {
            (op.expected.dev, op.expected.ino)
            for op in self._operations[: self._position]
            if isinstance(op, Aside | Replace)
        }
        return self

    def _tick(self, cost: int) -> None:
        self._done += cost
        if self.progress is not None:
            try:
                self.progress(min(self._done, self._total), self._total)
            except Exception:  # rather nobody is told than the base left half-way: the terminal may be gone
                if self._course is None:
                    raise

    def run(self, record: Callable[["Application"], None]) -> bytes | None:
        """Do it; see ``carry_out``."""
        self._or_take_back(self._stage, self._check)
        with undisturbed():
            self._or_take_back(self._commit)
            return self.resume(record)

    def prepare(self) -> None:
        """Stage, check and write the journal, which is the commit point of a merge into one base."""
        self._stage()
        self._check()
        with undisturbed():
            self._commit()

    def resume(self, record: Callable[["Application"], None]) -> bytes | None:
        """Go on after the commit point; see ``carry_out``."""
        with undisturbed():
            self._or_take_back(self.proceed, lambda: record(self))
            return self.finish()

    def proceed(self) -> None:
        """Do what is left to do in the base."""
        self._go(to_start=False)

    def trail(self) -> Trail:
        """What is in the base now that everything is done."""
        assert self._course is not None
        trails = Trails(self.plan, self._paths)
        return trails.left(
            new=not self.backward, times=self._course.times, root_times=self._course.root_times,
            made=self.staging.made_files,
        )  # fmt: skip

    def _or_take_back(self, *steps: Callable[[], None]) -> None:
        try:
            for step in steps:
                step()
        except BaseException as e:
            self._fail(e)

    def _fail(self, reason: BaseException) -> NoReturn:
        with undisturbed():
            self.retreat(reason)
            told = self.told(reason, self.abandon())
        if told is reason:
            raise reason
        raise told from reason

    def told(self, reason: BaseException, left: str = "") -> BaseException:
        """A failure as the user is told of it; ``left`` is what ``abandon`` returned."""
        if isinstance(reason, GoexfsError):
            reason.args = (f"{reason}{left}", *reason.args[1:])
        if not isinstance(reason, OSError):
            return reason
        where = readable(self._at) or "the base"
        return MergeError(f"the merge failed at {where}: {reason.strerror}; nothing was changed{left}")

    # -- the steps

    def _stage(self) -> None:
        if self._trail is None:
            for path in (*self.plan.touched, b""):  # the staging directory comes and goes in the root
                st = self._paths.stat(path)
                if st is not None:
                    self._start_times[path] = (st.st_atime_ns, st.st_mtime_ns)
        else:
            self._start_times = Trails(self.plan, self._paths).start_times()
        self._check_trail()
        end_times, root_times = self._end_times()
        self._slots.fill(self.staging)
        slots = self.staging.slots()
        swaps = {}
        for number, op in enumerate(self._operations):
            if isinstance(op, Replace):
                seen = self._trail.nodes.get(number) if self._trail is not None else None
                if self.backward:
                    swaps[op.slot] = slots[op.slot]
                else:
                    swaps[op.slot] = (seen.dev, seen.ino) if seen is not None else (op.expected.dev, op.expected.ino)
        times = self._start_times if self._trail is None else self._trail.times
        self._course = Course(
            self.plan, self.backward, self._start_times, end_times, root_times, swaps, times, self._trail, self.token
        )

    def _end_times(self) -> tuple[dict[bytes, Times], Times]:
        if self._trail is not None and self.backward:
            return Trails(self.plan, self._paths).end_times(self._trail.times, self._trail)
        root = self._paths.stat(b"")
        assert root is not None, "the root is open"
        if self._trail is not None and root.st_mtime_ns != self._trail.root_times[1]:
            return {}, (root.st_atime_ns, root.st_mtime_ns)
        return {}, self.plan.root_times_ns or (self._start_times if self._trail is None else self._trail.times)[b""]

    def _check_trail(self) -> None:
        if self._trail is None:
            return
        conflicts = Trails(self.plan, self._paths).conflicts(self._trail, new=self.backward)
        if conflicts:
            first, more = conflicts[0], len(conflicts) - 1
            rest = f" (and {more} more)" if more else ""
            raise Conflict(f"{readable(first.path)}: {first.message}{rest}; nothing was changed", conflicts)

    def _check(self) -> None:
        """All that is renamed away still is what it was: better to know before the first change than after."""
        if self._trail is not None:
            return
        for number, op in enumerate(self.plan.detach):
            if isinstance(op, Aside):
                self._at = op.path
                self._verify(number, *self._where(op.path), op.expected)

    def _commit(self) -> None:
        assert self._course is not None
        self.staging.commit(_encode(self._course), self._phase)

    def _go(self, *, to_start: bool) -> None:
        """Do what is left to do, or undo what is done."""
        self._paths.forget()
        if self.backward is to_start:
            unlock_again(self._operations[self._position :], self._where)
            while self._position < len(self._operations):
                self._enter(self._position)
                self._do(self._position)
                self._position += 1
                self._tick(COST)
        else:
            while self._position > 0:
                self._enter(self._position - 1)
                self._undo(self._position - 1)
                self._position -= 1
                self._tick(COST)
        if self._course is None:
            return
        course = self._course
        for path, times in (course.start_times if to_start else course.end_times).items():
            if path:
                with suppress(FileNotFoundError):  # another process may have removed the directory
                    disk.utime(*self._where(path), times)
        if not to_start:
            disk.sync(self.base.fd(self.base.root))

    def _enter(self, number: int) -> None:
        """Be in the phase to which an operation belongs."""
        phase = DETACH if number < len(self.plan.detach) else ATTACH
        if phase != self._phase:
            self._paths.forget()  # from here on, paths are those of the other tree
            self.staging.turn(self._phase, phase)
            self._phase = phase

    def finish(self) -> bytes | None:
        """Let go of what was needed to take it back; what ``carry_out`` returns."""
        assert self._course is not None
        try:
            self.staging.close_journal()
            self._slots.settle(self.staging)
        except (OSError, GoexfsError):
            return self.staging.name  # nothing in it is needed for the base
        finally:
            self.staging.close()
            self._set_root_times(self._course.root_times)
        return None

    def _set_root_times(self, times: Times) -> None:
        with suppress(OSError):  # the merge is complete, or taken back: a directory's time is not worth an error
            disk.utime(self.base.fd(self.base.root), b".", times)

    # -- one operation

    def _where(self, path: bytes) -> tuple[int, bytes]:
        """Descriptor of the directory and name in it."""
        above, name = split(path)
        return self.base.fd(self._paths.dir(above)), name or b"."

    def _do(self, number: int) -> None:
        op = self._operations[number]
        self._at = op.path
        dir_fd, name = self._where(op.path)
        if isinstance(op, SetAttrs):
            self._position = number + 1  # several system calls, so it is taken back even when only begun
            set_attrs(dir_fd, name, op.after)
            self._position = number
        elif isinstance(op, Unlock):
            disk.chmod(dir_fd, name, op.mode | OWNER_MAY)
        elif isinstance(op, Aside):
            self._verify(number, dir_fd, name, op.expected)
            disk.rename(dir_fd, name, self.staging.fd, op.slot)
            self._ours.add((op.expected.dev, op.expected.ino))
        elif isinstance(op, Put):
            self._rename(self.staging.fd, op.slot, dir_fd, name)
        elif isinstance(op, Replace):
            self._verify(number, dir_fd, name, op.expected)
            disk.exchange(self.staging.fd, op.slot, dir_fd, name)
            self._ours.add((op.expected.dev, op.expected.ino))
        else:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            disk.link(dir_fd, name, self.staging.fd, op.slot)
            self._ours.add((st.st_dev, st.st_ino))

    def _undo(self, number: int) -> None:
        op = self._operations[number]
        self._at = op.path
        if isinstance(op, Link):
            disk.unlink(self.staging.fd, op.slot)
            return
        dir_fd, name = self._where(op.path)
        if isinstance(op, SetAttrs):
            self._position = number
            set_attrs(dir_fd, name, op.before)
            self._position = number + 1
        elif isinstance(op, Unlock):
            disk.chmod(dir_fd, name, op.mode)
        elif isinstance(op, Aside):
            self._rename(self.staging.fd, op.slot, dir_fd, name)
        else:
            if self.backward and self._trail is not None and number in self._trail.nodes:
                self._verify_seen(self._trail.nodes[number], dir_fd, name)
            if isinstance(op, Put):
                disk.rename(dir_fd, name, self.staging.fd, op.slot)
            else:
                disk.exchange(self.staging.fd, op.slot, dir_fd, name)

    def _rename(self, from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> None:
        try:
            disk.rename(from_fd, from_name, to_fd, to_name)
        except FileExistsError:
            if self._trail is None:
                raise
            raise self._changed() from None

    def _verify(self, number: int, dir_fd: int, name: bytes, expected: Identity) -> None:
        """Conflict unless the base still has there what the plan was made for."""
        if self._trail is not None:
            if not self.backward and number in self._trail.nodes:
                self._verify_seen(self._trail.nodes[number], dir_fd, name)
            return
        try:
            now = Identity.of(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        except FileNotFoundError:
            raise self._changed() from None
        if stat.S_ISDIR(expected.mode):
            same = (now.dev, now.ino, stat.S_IFMT(now.mode)) == (expected.dev, expected.ino, stat.S_IFMT(expected.mode))
        elif (expected.dev, expected.ino) in self._ours:
            same = now == replace(expected, ctime_ns=now.ctime_ns)
        else:
            same = now == expected
        if not same:
            raise self._changed()

    def _verify_seen(self, seen: Seen, dir_fd: int, name: bytes) -> None:
        """Conflict unless it is the node that was left there; its attributes may have been set back already."""
        try:
            now = Seen.of(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        except FileNotFoundError:
            raise self._changed() from None
        if not now.is_same_node(seen) or now.size != seen.size:
            raise self._changed()

    def _changed(self) -> Conflict:
        advice = "it changed while the merge was under way; try again"
        conflict = PathConflict(self._at, ConflictKind.BOTH_MODIFIED, advice)
        return Conflict(f"{readable(self._at)}: {conflict.message}", (conflict,))

    # -- after a crash

    def _is_linked(self, path: bytes, other: bytes) -> bool:
        a, b = self._paths.stat(path), self._paths.stat(other)
        return a is not None and b is not None and (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)

    # -- taking back

    def retreat(self, reason: BaseException) -> None:
        """Undo everything done; the journal stays.  MergeError when the base could not be restored."""
        untouched = self._position == (len(self._operations) if self.backward else 0)
        try:
            if not untouched:
                self._go(to_start=True)
        except (OSError, GoexfsError) as e:
            self.staging.close()
            raise MergeError(
                f"the merge failed ({reason}) and could not be taken back at {readable(self._at)} ({e}); what is "
                f"missing is in {readable(self.staging.name)} in the base, and the next goexfs command tries again"
            ) from reason

    def abandon(self) -> str:
        """After ``retreat``: remove what was staged; what to add to the message."""
        if not self.staging.made:
            return ""
        try:
            if self.staging.fd < 0:
                self.staging.reopen()
            self.staging.close_journal()
            self._slots.give_back(self.staging)
        except (OSError, GoexfsError) as e:
            why = e.strerror if isinstance(e, OSError) else str(e)
            name = readable(self.staging.name)
            return f", but {name} in the base could not be removed ({why}): the next goexfs command tries again"
        finally:
            self.staging.close()
            self._set_root_times(self._start_times[b""])
        return ""
