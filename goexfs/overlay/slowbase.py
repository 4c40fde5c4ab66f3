"""A base on a filesystem that may answer slowly or not at all (network, FUSE): nothing of it is asked on the event
loop.

Owns the hand-over of answers: a question that has no answer yet raises `WouldBlock`; its ``prepare`` asks in the
worker thread, through a `BaseTree` that no other thread uses meanwhile, and leaves the answer (or the error) for the
operation, which is then called again.  A thread that is stuck holds up nobody but its own caller.  For a local disk
`LocalBaseTree` is right, and `open_base` chooses.

Threading: as `BaseTree`, except that ``prepare`` runs in any thread.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.nowait import filesystem_of
from snapshots.layers.base import BaseDir, BaseTree

SLOW_FILESYSTEMS = frozenset(b"9p afs ceph cifs coda gfs2 lustre nfs nfs4 ocfs2 smb3 virtiofs".split())

ANSWER_S = 1.0
"""How long an answer is good for, in seconds;

longer when the base is so slow that an operation could not collect all it needs.
"""

_OPEN_PER_TREE = 8

_UNCLAIMED_LIMIT = 4096
"""Answers kept at most; operations that were interrupted never come back for theirs."""


class _Answer(NamedTuple):
    value: Any
    failure: OSError | None
    until: float
    """by ``time.monotonic``"""


def is_slow(path: bytes) -> bool:
    """Whether the filesystem at *path* may keep its callers waiting: the network ones and everything on FUSE."""
    kind = filesystem_of(os.stat(path).st_dev)
    return kind in SLOW_FILESYSTEMS or kind == b"fuse" or kind.startswith(b"fuse.")


def open_base(path: bytes) -> "SlowBaseTree | LocalBaseTree":
    """The base, asked in the way that suits its filesystem.  Raises `snapshots.errors.BaseError`."""
    return SlowBaseTree(path) if os.path.isdir(path) and is_slow(path) else LocalBaseTree(path)


_Question = tuple[str, *tuple[Hashable, ...]]
_Key = tuple[bytes, _Question]


class SlowBaseTree(BaseTree):
    """A `BaseTree` that never waits once ``waiting`` is False."""

    def __init__(self, path: bytes, *, max_open: int = 256) -> None:
        super().__init__(path, max_open=max_open)
        self.waiting = True
        """while the overlay is being built, before there is an event loop"""
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()
        self._lock = threading.Lock()
        self._idle: list[BaseTree] = []
        """trees that no thread is asking; as many as threads ever asked at once"""
        self._closed = False

    def _ask(self, question: _Question, ask: Callable[[BaseTree, BaseDir], Any], d: BaseDir) -> Any:
        path = d.path
        if self.waiting:
            return self._asked(path, ask)
        key = (path, question)
        with self._lock:
            # A descriptor has one owner; any other answer stays, because an operation that needs two would
            # otherwise lose the first while it waits for the second.
            answer = self._answers.pop(key, None) if question[0] == "open" else self._answers.get(key)
        if answer is not None and answer.until < time.monotonic():
            _drop(key, answer)
            answer = None
        if answer is None:

            def prepare() -> None:
                self._prepare(key, ask)

            raise WouldBlock(prepare)
        if answer.failure is not None:
            raise OSError(answer.failure.errno, answer.failure.strerror)
        return answer.value

    def _prepare(self, key: _Key, ask: Callable[[BaseTree, BaseDir], Any]) -> None:
        started = time.monotonic()
        value, failure = None, None
        try:
            value = self._asked(key[0], ask)
        except OSError as e:
            failure = e
        now = time.monotonic()
        answer = _Answer(value, failure, now + max(ANSWER_S, 4 * (now - started)))
        dropped: list[tuple[_Key, _Answer]] = []
        with self._lock:
            if self._closed:
                dropped.append((key, answer))
            else:
                if key in self._answers:  # of another operation with the same question, which will ask again
                    dropped.append((key, self._answers.pop(key)))
                self._answers[key] = answer
                if len(self._answers) > _UNCLAIMED_LIMIT:
                    dropped.append(self._answers.popitem(last=False))
        for pair in dropped:
            _drop(*pair)

    def _asked(self, path: bytes, ask: Callable[[BaseTree, BaseDir], Any]) -> Any:
        with self._lock:
            tree = self._idle.pop() if self._idle else None
        if tree is None:
            tree = BaseTree(self.path, max_open=_OPEN_PER_TREE)
        try:
            return ask(tree, tree.dir(path))
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(tree)
                    tree = None
            if tree is not None:
                tree.close()

    def close(self) -> None:
        """See `BaseTree.close`; a thread that is still asking closes what it uses."""
        with self._lock:
            self._closed = True
            trees, self._idle = self._idle, []
            answers, self._answers = self._answers, OrderedDict()
        for tree in trees:
            tree.close()
        for pair in answers.items():
            _drop(*pair)
        super().close()

    # -- what a `BaseTree` answers

    def stat(self, d: BaseDir, name: bytes) -> os.stat_result:
        """See `BaseTree.stat`."""
        result: os.stat_result = self._ask(("stat", name), lambda tree, own: tree.stat(own, name), d)
        return result

    def stat_dir(self, d: BaseDir) -> os.stat_result:
        """See `BaseTree.stat_dir`."""
        result: os.stat_result = self._ask(("stat_dir",), lambda tree, own: tree.stat_dir(own), d)
        return result

    def open(self, d: BaseDir, name: bytes, flags: int = os.O_RDONLY) -> int:
        """See `BaseTree.open`."""
        fd: int = self._ask(("open", name, flags), lambda tree, own: tree.open(own, name, flags), d)
        return fd

    def readlink(self, d: BaseDir, name: bytes) -> bytes:
        """See `BaseTree.readlink`."""
        target: bytes = self._ask(("readlink", name), lambda tree, own: tree.readlink(own, name), d)
        return target

    def xattrs(self, d: BaseDir, name: bytes) -> dict[bytes, bytes]:
        """See `BaseTree.xattrs`."""
        found: dict[bytes, bytes] = self._ask(("xattrs", name), lambda tree, own: tree.xattrs(own, name), d)
        return found

    def listxattr(self, d: BaseDir, name: bytes) -> "list[bytes]":
        """See `BaseTree.listxattr`."""
        found: list[bytes] = self._ask(("listxattr", name), lambda tree, own: tree.listxattr(own, name), d)
        return found

    def getxattr(self, d: BaseDir, name: bytes, attr: bytes) -> bytes:
        """See `BaseTree.getxattr`."""
        value: bytes = self._ask(("getxattr", name, attr), lambda tree, own: tree.getxattr(own, name, attr), d)
        return value

    def list(self, d: BaseDir) -> "list[bytes]":
        """See `BaseTree.list`."""
        names: list[bytes] = self._ask(("list",), lambda tree, own: tree.list(own), d)
        return names


def _drop(key: _Key, answer: _Answer) -> None:
    """Nobody takes this answer: a descriptor is closed."""
    if key[1][0] == "open" and answer.value is not None:
        os.close(answer.value)
