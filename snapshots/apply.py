"""Carrying out a plan: stage, check, commit point, apply, finish, and everything taken back when a step fails.

Owns the order of the steps and how each operation is done and undone.  Decides nothing about what is merged.  Belongs
to the thread of its ``BaseTree``, which should be open for this alone.

Before the commit point nothing in the base has changed except for the staging directory.  After it every operation is
one system call with an inverse; what is replaced stays in the staging directory until the end.  So a failure anywhere
is taken back in reverse order, and the base is what it was, modification times included.
"""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from snapshots import disk
from snapshots.base import BaseTree
from snapshots.basepaths import BasePaths, split
from snapshots.compare import carried
from snapshots.content import ObjectReader
from snapshots.entries import Identity
from snapshots.errors import Conflict, GoexfsError, MergeError
from snapshots.names import readable
from snapshots.plan import (
    Aside,
    Attrs,
    ConflictKind,
    Link,
    Operation,
    PathConflict,
    Plan,
    Put,
    Replace,
    SetAttrs,
    Unlock,
)
from snapshots.staging import Staging


def carry_out(
    plan: Plan, base: BaseTree, objects: ObjectReader, name: bytes, record: Callable[[], None]
) -> bytes | None:
    """Change the base as planned, all or nothing.

    ``name`` is that of the staging directory.  ``record`` is called when the base is complete and durable, and
    notes the success elsewhere; when it raises, the base is taken back as well.

    Returns the name of a directory in the base that could not be removed and may be, or None.  Errors: Conflict when
    the base changed since the plan was made, MergeError for everything else that failed.
    """
    if plan.conflicts:
        raise ValueError("a plan with conflicts is not to be carried out")
    return _Merge(plan, base, objects, name).run(record)


class _Merge:
    def __init__(self, plan: Plan, base: BaseTree, objects: ObjectReader, name: bytes) -> None:
        self._plan = plan
        self._tree = base
        self._paths = BasePaths(base)
        self._staging = Staging(base, objects, name)
        self._done: list[Operation] = []
        self._ours: set[tuple[int, int]] = set()
        """inodes that this merge has renamed, which changes their ctime"""
        self._times: dict[bytes, tuple[int, int]] = {}
        """access and modification times of the directories in which names change, by base path, as they were"""
        self._at: bytes = b""
        """what is being worked on, for messages"""

    def run(self, record: Callable[[], None]) -> bytes | None:
        try:
            self._stage()
            self._check()
        except BaseException as e:
            self._fail(e)
        with _undisturbed():
            try:
                self._apply()
                record()
            except BaseException as e:
                self._fail(e)
            return self._finish()

    def _fail(self, reason: BaseException) -> NoReturn:
        with _undisturbed():
            left = self._take_back(reason)
        if isinstance(reason, OSError):
            where = readable(self._at) or "the base"
            raise MergeError(f"the merge failed at {where}: {reason.strerror}; nothing was changed{left}") from reason
        raise reason

    # -- the steps

    def _stage(self) -> None:
        for path in (*self._plan.touched, b""):  # the staging directory comes and goes in the root
            st = self._paths.stat(path)
            if st is not None:
                self._times[path] = (st.st_atime_ns, st.st_mtime_ns)
        self._staging.create()
        for make in self._plan.makes:
            self._at = make.path
            self._staging.make((make,))

    def _check(self) -> None:
        """All that is renamed away still is what it was: better to know before the first change than after."""
        for op in self._plan.detach:
            if isinstance(op, Aside):
                self._at = op.path
                self._verify(*self._where(op.path), op.expected)

    def _apply(self) -> None:
        for number, op in enumerate(self._plan.operations):
            if number == len(self._plan.detach):
                self._paths.forget()  # from here on, paths are the run's
            self._do(op)
        disk.sync(self._tree.fd(self._tree.root))

    def _finish(self) -> bytes | None:
        try:
            self._staging.retire()
            self._staging.remove()
        except OSError:
            return self._staging.name  # it is in nobody's way, and the next merge of the run removes it
        finally:
            self._set_root_times(self._plan.root_times_ns or self._times[b""])
        return None

    def _set_root_times(self, times: tuple[int, int]) -> None:
        try:
            disk.utime(self._tree.fd(self._tree.root), b".", times)
        except OSError:
            pass  # the merge is complete, or taken back: a directory's time is not worth an error

    # -- one operation

    def _where(self, path: bytes) -> tuple[int, bytes]:
        """Descriptor of the directory and name in it."""
        above, name = split(path)
        return self._tree.fd(self._paths.dir(above)), name or b"."

    def _do(self, op: Operation) -> None:
        self._at = op.path
        dir_fd, name = self._where(op.path)
        if isinstance(op, SetAttrs):
            self._done.append(op)  # several system calls, so it is taken back even when only begun
            self._set(dir_fd, name, op.after)
            return
        if isinstance(op, Unlock):
            disk.chmod(dir_fd, name, op.mode | stat.S_IWUSR | stat.S_IXUSR)
        elif isinstance(op, Aside):
            self._verify(dir_fd, name, op.expected)
            disk.rename(dir_fd, name, self._staging.fd, op.slot)
            self._ours.add((op.expected.dev, op.expected.ino))
        elif isinstance(op, Put):
            disk.rename(self._staging.fd, op.slot, dir_fd, name)
        elif isinstance(op, Replace):
            self._verify(dir_fd, name, op.expected)
            disk.exchange(self._staging.fd, op.slot, dir_fd, name)
            self._ours.add((op.expected.dev, op.expected.ino))
        else:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            disk.link(dir_fd, name, self._staging.fd, op.slot)
            self._ours.add((st.st_dev, st.st_ino))
        self._done.append(op)

    def _undo(self, op: Operation) -> None:
        if isinstance(op, SetAttrs):
            if op.before is not None:
                self._set(*self._where(op.path), op.before)
            return
        if isinstance(op, Link):
            disk.unlink(self._staging.fd, op.slot)
            return
        dir_fd, name = self._where(op.path)
        if isinstance(op, Unlock):
            disk.chmod(dir_fd, name, op.mode)
        elif isinstance(op, Aside):
            disk.rename(self._staging.fd, op.slot, dir_fd, name)
        elif isinstance(op, Put):
            disk.rename(dir_fd, name, self._staging.fd, op.slot)
        else:
            disk.exchange(self._staging.fd, op.slot, dir_fd, name)

    def _set(self, dir_fd: int, name: bytes, attrs: Attrs) -> None:
        if attrs.uid is not None and attrs.gid is not None:
            disk.chown(dir_fd, name, attrs.uid, attrs.gid)
        if attrs.xattrs is not None:
            disk.set_xattrs(dir_fd, name, carried(disk.xattrs(dir_fd, name)), attrs.xattrs)
        if attrs.mode is not None:
            disk.chmod(dir_fd, name, attrs.mode)
        if attrs.times_ns is not None:
            disk.utime(dir_fd, name, attrs.times_ns)

    def _verify(self, dir_fd: int, name: bytes, expected: Identity) -> None:
        """Conflict unless the base still has there what the plan was made for."""
        try:
            now = Identity.of(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        except FileNotFoundError:
            raise self._changed() from None
        if stat.S_ISDIR(expected.mode):
            same = (now.dev, now.ino, stat.S_IFMT(now.mode)) == (expected.dev, expected.ino, stat.S_IFMT(expected.mode))
        elif (expected.dev, expected.ino) in self._ours:
            same = _without_ctime(now) == _without_ctime(expected)
        else:
            same = now == expected
        if not same:
            raise self._changed()

    def _changed(self) -> Conflict:
        advice = "it changed while the merge was under way; try again"
        conflict = PathConflict(self._at, ConflictKind.BOTH_MODIFIED, advice)
        return Conflict(f"{readable(self._at)}: {conflict.message}", (conflict,))

    # -- taking back

    def _take_back(self, reason: BaseException) -> str:
        """Undo everything done; what to add to the message.  MergeError when the base could not be restored."""
        failures: list[str] = []
        attaching = len(self._done) > len(self._plan.detach)
        self._paths.forget()
        for index in range(len(self._done) - 1, -1, -1):
            if attaching and index < len(self._plan.detach):
                attaching = False
                self._paths.forget()  # from here on, paths are the base's again
            op = self._done[index]
            try:
                self._undo(op)
            except (OSError, GoexfsError) as e:
                failures.append(f"{readable(op.path)} ({e})")
        for path, times in self._times.items() if self._done else ():
            try:
                disk.utime(*self._where(path), times)
            except OSError:
                pass
        if failures:
            raise MergeError(
                f"the merge failed ({reason}) and could not be taken back at {', '.join(failures[:5])}; what it had "
                f"replaced is in {readable(self._staging.name)} in the base: move it back by hand"
            ) from reason
        if not self._staging.made:
            return ""
        try:
            self._staging.remove()
        except OSError as e:
            return f", but {readable(self._staging.name)} in the base could not be removed ({e.strerror}); remove it"
        finally:
            self._set_root_times(self._times[b""])
        return ""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals that would end the program until the block is through: it is short, and half of it is bad."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _without_ctime(identity: Identity) -> tuple[int, ...]:
    return (identity.dev, identity.ino, identity.mode, identity.size, identity.mtime_ns)
