"""A file from elsewhere becomes a run: what is in it happens in an overlay that nobody has mounted.

Owns the making of such a run and how an arrival is done.  An overlay does it, so that copy-up, whiteouts, links and
origins are what they would be had a program done the same in a mount.  Belongs to the thread of its store.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from goexfs.overlay import Dir, File, Node, Overlay, WouldBlock
from goexfs.overlay.sealing import store_batch
from snapshots.entries import UpperState
from snapshots.errors import GoexfsError, ImportRefused, StoreLimit
from snapshots.exchange.arrivals import Arrival, What
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import split
from snapshots.names import readable
from snapshots.storage.bound import full
from snapshots.storage.runs import Run
from snapshots.storage.store import Store
from snapshots.upkeep.room import check_room, make_room

_CHUNK = 1 << 20
_DIRTY_BYTES = 32 << 20
_TRIES = 1000


def make_run(
    store: Store, base: bytes, layers: Iterable[Iterable[Arrival]], *, name: str | None, command: tuple[str, ...],
    store_limit: int | None = None,
) -> Run:  # fmt: skip
    """A kept run over ``base`` in which the layers have happened, one after the other.

    ``store_limit``: bytes that the whole store may take up, 0: any, None: what the store says.  When a layer is
    refused, or cannot be stored, nothing is left of it.  Errors: ImportRefused, BaseError, StoreError (StoreLimit when
    the store has no room for all of it), RunExists, RunError for the name.
    """
    room = check_room(store, limit=store_limit).room
    # Should this process be killed, nobody must take what there is then for all of it.
    run = store.runs.create(base=base, name=name, command=(*command, "(interrupted)"), options={})
    try:
        with store.runs.lock(run.id), BaseTree(base) as tree:
            spool = store.runs.directory(run.id) / "spool"
            spool.mkdir(exist_ok=True)
            overlay = Overlay(tree, UpperState({}, {}, store.upper(run.id).load().next_ino), store.objects, spool)
            try:
                for layer in layers:
                    arriving = _Arriving(overlay, store, run.id, room, store_limit)
                    arriving.all(layer)
                    room = arriving.room
            finally:
                overlay.close()
        return store.runs.update(run.id, state="kept", command=command)
    except BaseException:
        with contextlib.suppress(GoexfsError):
            store.discard(run.id)
            store.runs.forget(run.id)
        raise


class _Arriving:
    """One layer."""

    def __init__(self, overlay: Overlay, store: Store, run_id: str, room: int, store_limit: int | None) -> None:
        self._overlay = overlay
        self._store = store
        self._run_id = run_id
        self._store_limit = store_limit
        self.room = room
        """bytes of content that may come before somebody has to look at the store again"""
        self._times: dict[bytes, int] = {}
        """of directories, to be set last"""

    def all(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            try:
                self._do(arrival)
            except OSError as error:
                where = readable(arrival.path) or "."
                raise ImportRefused(f"{where} cannot be imported: {error.strerror}; nothing was imported") from None
            if self._overlay.dirty_bytes > _DIRTY_BYTES:
                self._seal()
        for path, mtime_ns in sorted(self._times.items(), reverse=True):
            node = self._find(path)
            if isinstance(node, Dir):
                self._ask(self._overlay.setattr, node, mtime_ns=mtime_ns)
        self._seal()

    def _do(self, arrival: Arrival) -> None:
        if os.geteuid() != 0:
            arrival = _as_ours(arrival)
        if arrival.what is What.GONE:
            above = self._find(split(arrival.path)[0])
            if isinstance(above, Dir) and arrival.path:
                self._remove(above, split(arrival.path)[1])
        elif arrival.what is What.EMPTY:
            node = self._find(arrival.path)
            if isinstance(node, Dir):
                self._empty(node)
        elif arrival.what is What.EMPTIED:
            self._prune(arrival.path)
        elif arrival.what is What.MOVED:
            self._move(arrival)
        elif arrival.what is What.LINK:
            self._link(arrival)
        elif stat.S_ISDIR(arrival.mode):
            self._directory(arrival)
        else:
            self._other(arrival)

    # -- what arrives

    def _directory(self, arrival: Arrival) -> None:
        if arrival.path:
            parent, name = self._parent(arrival.path)
            node = self._lookup(parent, name)
            if not isinstance(node, Dir):
                self._remove(parent, name)
                node = self._ask(self._overlay.mkdir, parent, name, stat.S_IMODE(arrival.mode), *_owner(arrival))
            elif arrival.implied:
                return
        else:
            node = self._overlay.root
        self._attributes(node, arrival)
        if arrival.mtime_ns is not None:
            self._times[arrival.path] = arrival.mtime_ns

    def _other(self, arrival: Arrival) -> None:
        if not arrival.path:
            raise ImportRefused("what was to be imported is no directory at its top; nothing was imported")
        parent, name = self._parent(arrival.path)
        node = self._lookup(parent, name)
        uid, gid = _owner(arrival)
        same = node is not None and stat.S_IFMT(node.mode) == stat.S_IFMT(arrival.mode)
        if stat.S_ISLNK(arrival.mode):
            if not same or self._ask(self._overlay.readlink, node) != arrival.target:
                self._remove(parent, name)
                node = self._ask(self._overlay.symlink, parent, name, arrival.target, uid, gid)
        elif not same or not isinstance(node, File) or node.nlink > 1 or not stat.S_ISREG(node.mode):
            # A file that has other names would change under all of them.
            self._remove(parent, name)
            node = self._ask(self._overlay.mknod, parent, name, arrival.mode, arrival.rdev, uid, gid)
        assert node is not None
        if arrival.open is not None:
            assert isinstance(node, File)
            self._content(node, arrival.open)
        self._attributes(node, arrival)
        if arrival.mtime_ns is not None:
            self._ask(self._overlay.setattr, node, mtime_ns=arrival.mtime_ns)

    def _content(self, node: File, open_: Callable[[], Any]) -> None:
        handle = self._ask(self._overlay.open, node, os.O_WRONLY)
        try:
            self._ask(self._overlay.setattr, node, size=0)
            at = 0
            with open_() as content:
                while data := content.read(_CHUNK):
                    self._make_room(len(data))
                    self._ask(self._overlay.write, handle, at, data)
                    at += len(data)
        finally:
            self._overlay.release(handle)

    def _make_room(self, more: int) -> None:
        """For so many bytes more: what has arrived may have taken up less than it seems, and other things may go."""
        if self.room < more:
            self._seal()
            use = make_room(self._store, limit=self._store_limit, wanted=more).after
            if use.room < more:
                raise StoreLimit(f"{full(use)}; nothing was imported")
            self.room = use.room
        self.room -= more

    def _attributes(self, node: Node, arrival: Arrival) -> None:
        uid, gid = arrival.uid, arrival.gid
        if (uid is not None and uid != node.uid) or (gid is not None and gid != node.gid):
            self._ask(self._overlay.setattr, node, uid=uid, gid=gid)
        mode = stat.S_IMODE(arrival.mode)
        if not stat.S_ISLNK(arrival.mode) and mode != stat.S_IMODE(node.mode):
            self._ask(self._overlay.setattr, node, mode=mode)
        if arrival.xattrs is None:
            return
        names = set(self._ask(self._overlay.listxattr, node))
        for name in names - arrival.xattrs.keys():
            with contextlib.suppress(OSError):  # the kernel's own
                self._ask(self._overlay.removexattr, node, name)
        for name, value in arrival.xattrs.items():
            if name not in names or self._ask(self._overlay.getxattr, node, name) != value:
                self._ask(self._overlay.setxattr, node, name, value)

    def _link(self, arrival: Arrival) -> None:
        source = self._find(arrival.target)
        if source is None or isinstance(source, Dir):
            raise ImportRefused(
                f"{readable(arrival.path)} is a link to {readable(arrival.target)}, which is no file; nothing was"
                " imported"
            )
        parent, name = self._parent(arrival.path)
        if self._lookup(parent, name) is not source:
            self._remove(parent, name)
            self._ask(self._overlay.link, source, parent, name)

    def _move(self, arrival: Arrival) -> None:
        old_parent, old_name = self._parent(arrival.target)
        parent, name = self._parent(arrival.path)
        self._ask(self._overlay.rename, old_parent, old_name, parent, name)

    def _prune(self, path: bytes) -> None:
        while path:
            node = self._find(path)
            if not isinstance(node, Dir) or self._names(node):
                return
            above, name = split(path)
            parent = self._find(above)
            assert isinstance(parent, Dir)
            self._ask(self._overlay.rmdir, parent, name)
            path = above

    # -- names

    def _parent(self, path: bytes) -> tuple[Dir, bytes]:
        """The directory of a path, made if there is none; symlinks are never followed."""
        above, name = split(path)
        node: Node = self._overlay.root
        at = b""
        for part in above.split(b"/") if above else ():
            at = at + b"/" + part if at else part
            assert isinstance(node, Dir)
            child = self._lookup(node, part)
            if child is None:
                child = self._ask(self._overlay.mkdir, node, part, 0o755, os.geteuid(), os.getegid())
            if not isinstance(child, Dir):
                raise ImportRefused(
                    f"{readable(path)} would be in {readable(at)}, which is no directory; nothing was imported"
                )
            node = child
        assert isinstance(node, Dir)
        return node, name

    def _find(self, path: bytes) -> Node | None:
        node: Node | None = self._overlay.root
        for part in path.split(b"/") if path else ():
            node = self._lookup(node, part) if isinstance(node, Dir) else None
        return node

    def _lookup(self, parent: Dir, name: bytes) -> Node | None:
        try:
            node: Node = self._ask(self._overlay.lookup, parent, name)
        except FileNotFoundError:
            return None
        return node

    def _remove(self, parent: Dir, name: bytes) -> None:
        """Take away a name, if it is there, with all below it."""
        node = self._lookup(parent, name)
        if node is None:
            return
        if isinstance(node, Dir):
            self._empty(node)
            self._ask(self._overlay.rmdir, parent, name)
        else:
            self._ask(self._overlay.unlink, parent, name)

    def _empty(self, directory: Dir) -> None:
        for name in self._names(directory):
            self._remove(directory, name)

    def _names(self, directory: Dir) -> list[bytes]:
        handle = self._ask(self._overlay.opendir, directory)
        try:
            names = [name for name, _, _ in self._ask(lambda: list(self._overlay.readdir(handle, 0)))]
        finally:
            self._overlay.releasedir(handle)
        return [name for name in names if name not in (b".", b"..")]

    # -- the overlay

    def _ask(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the overlay, which says when it would have to wait for the disk; here somebody can."""
        for _ in range(_TRIES):
            try:
                return operation(*arguments, **options)
            except WouldBlock as blocked:
                blocked.prepare()
        raise ImportRefused("the base is changing too quickly to be read; try again")

    def _seal(self) -> None:
        while (batch := self._overlay.collect()) is not None:
            try:
                stored = store_batch(batch, self._store, self._run_id)
            except BaseException:
                self._overlay.give_back(batch)
                raise
            self._overlay.finish(batch, stored)


def _as_ours(arrival: Arrival) -> Arrival:
    """What an ordinary user may have of it: a merge could set nothing else, as ``tar`` could not."""
    xattrs = arrival.xattrs
    if xattrs is not None:
        xattrs = {name: value for name, value in xattrs.items() if name.startswith((b"user.", b"system.posix_acl_"))}
    return arrival._replace(uid=None, gid=None, xattrs=xattrs)


def _owner(arrival: Arrival) -> tuple[int, int]:
    return (
        os.geteuid() if arrival.uid is None else arrival.uid,
        os.getegid() if arrival.gid is None else arrival.gid,
    )
