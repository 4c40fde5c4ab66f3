"""A base on a local disk: the event loop asks only for what the kernel has in memory.

Owns how each question is put.  Names are looked up and opened among the dentries in memory (`nowait`); where they are
not, and for what Linux answers in no such way (listings, extended attributes, long link targets), the question raises
`WouldBlock`, whose ``prepare`` asks it in a worker thread *and throws the answer away*: it brings the inode and the
blocks into memory, and the operation, called again, asks directly.  So no answer ever is older than the operation that
uses it, and a report of a change cannot come in between.

A directory that was listed by a worker thread, with the attributes of its names, is taken to be in memory for
`WARM_S`.  With it come the directories below it (`warming`), so that a walk costs a change of threads now and then, not
one per directory or name.  Who looks up one name after another, without listing, is served in the same way: the second
name of a directory that is not in memory brings the others along, and after some such directories those below, too.

Threading: as `BaseTree`, except that ``prepare`` runs in any thread.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from goexfs.overlay.blocking import Lent, WouldBlock
from goexfs.overlay.nowait import can_open, open_now, stat_now
from goexfs.overlay.warming import Known, Place, Walk, fetch, look, read_attributes, read_directory
from snapshots.layers.base import STAGING_PREFIX, BaseDir, BaseTree

WARM_S = 2.0
"""how long what was read just now is taken to be in memory, in seconds"""
_REMEMBERED = 4096
_PATIENCE = 32
"""names in a row that the kernel does not know although they were just looked up: then it never will, on this
filesystem"""
_MISSED = 256
"""directories of which it is remembered that a name was not in memory"""
_WALKED = 3
"""directories in a row of which a second name was not in memory: somebody walks the tree"""
_SHORT_TARGET = 60
"""bytes below which the target of a link is in the inode, on every usual filesystem"""
_OPEN_PER_TREE = 8

_Key = tuple[str, BaseDir, bytes] | tuple[str, tuple[int, int]]
"""a question about one name, or about everything in the directory with that identity"""

T = TypeVar("T")


class LocalBaseTree(BaseTree):
    """A `BaseTree` that does not wait for the disk once ``waiting`` is False."""

    def __init__(self, path: bytes, *, max_open: int = 256) -> None:
        self.waiting = True
        """while the overlay is being built, and while it follows a change from outside"""
        self._cached_only = False
        """while descriptors of directories are looked for in memory"""
        super().__init__(path, max_open=max_open)
        self._attributes_until = 0.0
        """until when somebody is taken to look at extended attributes (``ls -l`` does, directory by directory)"""
        self._prepared: OrderedDict[_Key, float] = OrderedDict()
        """what a worker thread has just asked, and until when it counts"""
        self._missed: OrderedDict[BaseDir, tuple[int, float]] = OrderedDict()
        """how many names of a directory were not in memory, and when that was last so"""
        self._walked = (0, 0.0)
        """the same of directories of which several were not"""
        self._walk = Walk()
        """what was read along, to be gone on with by whoever gets to its end within `WARM_S`"""
        self._walk_until = 0.0
        self._lock = threading.Lock()
        self._idle: list[BaseTree] = []
        """trees for worker threads; as many as ever asked at once"""
        self._closed = False
        self._unknown = 0
        self._can_ask = can_open()

    def close(self) -> None:
        """See `BaseTree.close`."""
        with self._lock:
            self._closed = True
            trees, self._idle = self._idle, []
            walk, self._walk = self._walk, Walk()
        walk.close()
        for tree in trees:
            tree.close()
        super().close()

    @contextmanager
    def directly(self) -> Iterator[None]:
        """Ask and wait, meanwhile."""
        before, self.waiting = self.waiting, True
        try:
            yield
        finally:
            self.waiting = before

    # -- asking

    def _openat_once(self, name: bytes, flags: int, dir_fd: int | None) -> int:
        if self._cached_only and dir_fd is not None:
            return open_now(name, flags, dir_fd)
        return super()._openat_once(name, flags, dir_fd)

    def _in_memory(self, ask: Callable[[], T]) -> T:
        """The answer from memory; BlockingIOError when it is not there."""
        self._cached_only = True
        try:
            return ask()
        finally:
            self._cached_only = False

    def _is_prepared(self, key: _Key) -> bool:
        until = self._prepared.get(key)
        return until is not None and time.monotonic() < until

    def _is_warm(self, kind: str, d: BaseDir) -> bool:
        """Whether that is in memory of all that is in a directory."""
        return self._is_prepared((kind, d.identity))

    def _would_block(self, kind: str, d: BaseDir, name: bytes) -> WouldBlock:
        """What brings the answer into memory, and notes that it is there."""
        if kind == "xattrs":
            self._attributes_until = time.monotonic() + WARM_S
        walked = self._worth_walking(d) if kind == "name" else None
        above = d.parent.identity if d.parent is not None else None
        walk = partial(self._walk_on, above=above, name=d.name)
        ask = self._in_thread(d, lambda fd: self._warm(kind, fd, name, walk, walked))

        def prepare() -> None:
            began = time.monotonic()
            found = ask() or ()
            now = time.monotonic()
            until = now + max(WARM_S, 4 * (now - began))  # an operation may need more than one slow answer
            for key in (*found, (kind, d, name)):
                self._prepared[key] = until
            while len(self._prepared) > _REMEMBERED:
                with suppress(KeyError):
                    self._prepared.popitem(last=False)

        return WouldBlock(prepare)

    def _worth_walking(self, d: BaseDir) -> bool | None:
        """A name of *d* is not in memory: whether somebody walks, or only its other names are worth reading; None: not
        even those.
        """
        now = time.monotonic()
        walked, walked_at = self._walked
        if now - walked_at > WARM_S:
            walked = 0
        count, last = self._missed.pop(d, (0, 0.0))
        count = 1 if now - last > WARM_S else count + 1
        # Who walks will ask for the others, too.  That he does so has to show again and again, in second names.
        ahead = count == 1 and walked > _WALKED
        self._missed[d] = 2 if ahead else count, now
        if len(self._missed) > _MISSED:
            self._missed.popitem(last=False)
        if ahead:
            return True
        if count != 2:  # afterwards all are in memory, or they are too many
            return None
        self._walked = walked, _ = walked + 1, now
        return walked > _WALKED

    def _warm(
        self, kind: str, fd: int, name: bytes, walk: Callable[..., list[Known]], walked: bool | None
    ) -> Sequence[_Key]:
        """Bring into memory what a question is about, in a worker thread; what is known to be there then."""
        if kind == "name":
            look(fd, [name])
            if walked is not None:
                return walk(fd, attributes=False) if walked else read_directory(fd, attributes=False)
        elif kind == "link":
            os.readlink(name, dir_fd=fd)
        elif kind == "list":
            return walk(fd, attributes=time.monotonic() < self._attributes_until)
        else:
            read_attributes(fd, name)
            return walk(fd, attributes=True)
        return []

    def _walk_on(self, fd: int, *, above: Place | None, name: bytes, attributes: bool) -> list[Known]:
        """Read the directory open as *fd*, *name* in *above*, and what somebody who walks will ask for next."""
        with self._lock:
            walk, self._walk = self._walk, Walk()
            if time.monotonic() > self._walk_until:
                walk.close()
        try:
            return walk.read(fd, above, name, attributes=attributes)
        finally:
            with self._lock:
                if not self._closed:
                    walk, self._walk = self._walk, walk  # the other one is of a thread that went somewhere else
                    self._walk_until = time.monotonic() + WARM_S
            walk.close()

    def _in_thread(self, d: BaseDir, ask: Callable[[int], T]) -> Callable[[], T | None]:
        """*ask*, to be called in a worker thread, with a descriptor of *d*; None when there is no such directory."""
        own, path = None, b""
        try:
            own = Lent(self._in_memory(lambda: self.fd(d)))
        except OSError:
            path = d.path

        def asked() -> T | None:
            try:
                return self._below(path, ask) if own is None else ask(own.fd)
            except OSError:
                return None  # the operation will hear of it

        return asked

    def _below(self, path: bytes, ask: Callable[[int], T]) -> T:
        with self._lock:
            tree = self._idle.pop() if self._idle else None
        if tree is None:
            # By descriptor: something may be mounted over the path by now, perhaps we ourselves.
            tree = BaseTree(b"/proc/self/fd/%d" % self.fd(self.root), max_open=_OPEN_PER_TREE)
        try:
            return ask(tree.fd(tree.dir(path)))
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(tree)
                    tree = None
            if tree is not None:
                tree.close()

    def _looked_up(self, d: BaseDir, name: bytes, ask: Callable[[], T], directly: Callable[[], T]) -> T:
        """An answer for which the dentry and the inode are enough."""
        if self.waiting or self._is_warm("names", d):
            return directly()
        if not self._can_ask:
            if not self._is_prepared(("name", d, name)):
                raise self._would_block("name", d, name)
            return directly()
        try:
            answer = self._in_memory(ask)
        except BlockingIOError:
            if not self._is_prepared(("name", d, name)):
                raise self._would_block("name", d, name) from None
        else:
            self._unknown = 0
            return answer
        self._unknown += 1
        if self._unknown >= _PATIENCE:
            self._can_ask = False  # from now on a thread is asked at once
        return directly()

    def _read(self, kind: str, d: BaseDir, name: bytes, directly: Callable[[], T]) -> T:
        """An answer that needs more than those two."""
        if self.waiting or self._is_prepared((kind, d, name)):
            return directly()
        if d.identity[1] < 0:
            with suppress(OSError):
                self._in_memory(lambda: self.fd(d))
        if self._is_warm(kind, d):
            return directly()
        raise self._would_block(kind, d, name)

    def ahead(self, d: BaseDir, names: "list[bytes]", blocked: WouldBlock) -> WouldBlock:
        """*blocked*, which was raised for a name in *d*, together with the *names* that will be asked for next."""
        ask = self._in_thread(d, lambda fd: look(fd, names))

        def prepare() -> None:
            blocked.prepare()
            ask()

        return WouldBlock(prepare)

    def fetching(self, d: BaseDir, names: "list[bytes]") -> Callable[[], object]:
        """For a worker thread: have the disk begin to read these files in *d*."""
        return self._in_thread(d, lambda fd: fetch(fd, names))

    def looking(self, places: "Iterable[tuple[bytes, list[bytes]]]") -> Callable[[], None]:
        """For a worker thread: look at these names in these directories."""
        noted = list(places)

        def look_at_all() -> None:
            for path, names in noted:
                with suppress(OSError):
                    self._below(path, lambda fd, names=names: look(fd, names))  # type: ignore[misc]

        return look_at_all

    # -- what a `BaseTree` answers

    def stat(self, d: BaseDir, name: bytes) -> os.stat_result:
        """See `BaseTree.stat`."""
        directly = super().stat
        if d.parent is None and name.startswith(STAGING_PREFIX):
            return directly(d, name)  # which says that there is none
        return self._looked_up(d, name, lambda: stat_now(name, self.fd(d)), lambda: directly(d, name))

    def stat_dir(self, d: BaseDir) -> os.stat_result:
        """See `BaseTree.stat_dir`."""
        directly = super().stat_dir
        return self._looked_up(d, b".", lambda: directly(d), lambda: directly(d))

    def open(self, d: BaseDir, name: bytes, flags: int = os.O_RDONLY) -> int:
        """See `BaseTree.open`."""
        directly = super().open
        return self._looked_up(d, name, lambda: directly(d, name, flags), lambda: directly(d, name, flags))

    def readlink(self, d: BaseDir, name: bytes) -> bytes:
        """See `BaseTree.readlink`."""
        directly = super().readlink
        if self.stat(d, name).st_size < _SHORT_TARGET:
            return directly(d, name)
        return self._read("link", d, name, lambda: directly(d, name))

    def xattrs(self, d: BaseDir, name: bytes) -> dict[bytes, bytes]:
        """See `BaseTree.xattrs`."""
        directly = super().xattrs
        return self._read("xattrs", d, name, lambda: directly(d, name))

    def listxattr(self, d: BaseDir, name: bytes) -> "list[bytes]":
        """See `BaseTree.listxattr`."""
        directly = super().listxattr
        return self._read("xattrs", d, name, lambda: directly(d, name))

    def getxattr(self, d: BaseDir, name: bytes, attr: bytes) -> bytes:
        """See `BaseTree.getxattr`."""
        directly = super().getxattr
        return self._read("xattrs", d, name, lambda: directly(d, name, attr))

    def list(self, d: BaseDir) -> "list[bytes]":
        """See `BaseTree.list`."""
        directly = super().list
        return self._read("list", d, b"", lambda: directly(d))
