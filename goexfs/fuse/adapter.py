"""The handlers that pyfuse3 calls: inode numbers and errno on this side, nodes and `OSError` on the other.

Owns the table of open handles and the ready replies in ``node.face``; decides nothing about the filesystem.  An
exception that nobody expected is logged and answered with EIO: a handler that let it through would end the session
loop, and with it the mount.

Threading: the event loop's thread.  Whatever would have to wait for a disk comes back as `WouldBlock`; its
``prepare`` runs in a worker thread, with the request's task waiting and everybody else's going on.
"""

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from goexfs.fuse.recording import Recording
from goexfs.fuse.seal import DIRTY_HARD, DIRTY_SOFT, Sealer
from goexfs.overlay import Dir, DirHandle, File, Handle, Invalidation, Node, Overlay, WouldBlock
from snapshots.entries import INLINE_LIMIT

FOR_EVER = 10 * 24 * 3600.0
"""validity of what the kernel was told, in seconds, while changes of the base are reported"""
UNWATCHED = 1.0
"""the same while they are not"""
PUSH_LIMIT = INLINE_LIMIT
"""bytes up to which a content is put into the page cache when the file is first opened"""
MISSING_LIMIT = 32_768
"""names in base directories that the kernel may remember as missing"""
SLOW_READS = 64
"""worker threads for requests that wait for a disk"""

_SUID_SGID = stat.S_ISUID | stat.S_ISGID

log = logging.getLogger(__name__)


def request(operation: Callable[..., Any]) -> Any:
    """Make a handler out of a plain method, which may raise `OSError` and `WouldBlock` (and is then called again).

    Answers an async method; typed as Any because its signature is that of pyfuse3, with other names.
    """

    @functools.wraps(operation)
    async def handler(self: "Adapter", *arguments: Any) -> Any:
        try:
            while True:
                try:
                    return operation(self, *arguments)
                except WouldBlock as blocked:
                    waiting = blocked
                await self.in_thread(waiting.prepare)
        except OSError as e:
            raise FUSEError(e.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("request %s%r failed; it is answered with EIO", operation.__name__, arguments)
            raise FUSEError(errno.EIO) from None

    return handler


class Adapter(pyfuse3.Operations):
    """Requests of the kernel on one overlay."""

    enable_writeback_cache = True
    enable_acl = False
    supports_dot_lookup = False

    def __init__(
        self, overlay: Overlay, sealer: Sealer, recording: Recording | None = None, *, checks_permissions: bool = False
    ) -> None:
        """*checks_permissions* when the mount lacks ``default_permissions``, so that access(2) is asked here."""
        super().__init__()
        self._overlay = overlay
        self._sealer = sealer
        self._recording = recording
        self._nodes = overlay.nodes
        self._handles: dict[int, Handle | DirHandle] = {}
        self._last_handle = 0
        self._roots: set[int] = set()
        """handles that root opened: what it writes through them takes no setuid away"""
        self._threads = trio.CapacityLimiter(SLOW_READS)
        self._checks_permissions = checks_permissions
        self._watched = False
        self._timeout = UNWATCHED
        self._missing: dict[tuple[int, bytes], None] = {}
        """what the kernel may remember as missing for long: a name that appears unreported must be found again"""
        self.stale: Callable[[Iterable[Invalidation]], None] = lambda stale: None
        """to be set: takes what the kernel is to forget"""
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = UNWATCHED

    # -- for the service

    def watched(self, watched: bool) -> None:
        """The base is watched from now on, or no more: how long may the kernel believe what it is told?"""
        self._overlay.base_watched = self._watched = watched
        self._timeout = self._absent.entry_timeout = FOR_EVER if watched else UNWATCHED
        for node in self._nodes.values():
            node.face = None

    def forget_missing(self) -> list[Invalidation]:
        """Everything that the kernel may remember as missing, to be looked up again."""
        missing = [Invalidation(*one) for one in self._missing]
        self._missing.clear()
        return missing

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Run something that waits in a worker thread.  Not cancelled halfway: somebody waits for the reply."""
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(function, limiter=self._threads)

    @property
    def open_handles(self) -> int:
        """Files and directories that programs have open."""
        return len(self._handles)

    @property
    def has_writers(self) -> bool:
        """Whether a program has a file open for writing, so that the kernel may hold data that was not written here
        yet.
        """
        return any(isinstance(handle, Handle) and handle.writable for handle in self._handles.values())

    # -- replies

    def _node(self, ino: int) -> Node:
        node = self._nodes.get(ino)
        if node is None:
            raise FUSEError(errno.ESTALE)
        return node

    def _changed_by(self, ctx: RequestContext, ino: int) -> Node:
        """The node that a process is about to change."""
        if self._recording is not None:
            self._overlay.on_behalf_of(self._recording.number_of(ctx.pid))
        return self._node(ino)

    def _face(self, node: Node) -> EntryAttributes:
        face = node.face
        if not isinstance(face, EntryAttributes):
            face = EntryAttributes()
            face.st_ino = node.ino
            face.st_mode = node.mode
            face.st_nlink = node.nlink
            face.st_uid = node.uid
            face.st_gid = node.gid
            face.st_rdev = node.rdev
            face.st_size = node.size
            face.st_blocks = node.blocks
            face.st_atime_ns = node.atime_ns
            face.st_mtime_ns = node.mtime_ns
            face.st_ctime_ns = node.ctime_ns
            # What the run made itself cannot change behind its back.
            face.entry_timeout = face.attr_timeout = self._timeout if node.base_dir is not None else FOR_EVER
            node.face = face
        return face

    def _told(self, node: Node) -> EntryAttributes:
        """The reply of a request that lets the kernel know *node* by one more lookup."""
        self._overlay.remember(node)
        return self._face(node)

    def _number(self, handle: Handle | DirHandle) -> int:
        self._last_handle += 1
        self._handles[self._last_handle] = handle
        return self._last_handle

    # -- names

    @request
    def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        directory = self._node(parent)
        try:
            return self._told(self._overlay.lookup(directory, name))
        except FileNotFoundError:
            if self._watched and isinstance(directory, Dir) and directory.base is not None:
                self._missing[parent, name] = None
                if len(self._missing) > MISSING_LIMIT:
                    self.stale([Invalidation(*next(iter(self._missing)))])
                    del self._missing[next(iter(self._missing))]
            return self._absent  # the kernel remembers this too, unlike ENOENT

    def forget(self, inodes: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]
        # A plain function: pyfuse3 awaits what it gets unless it is None, and forgetting comes by the thousand.
        nodes = self._nodes
        for ino, count in inodes:
            node = nodes.get(ino)
            if node is None:
                continue
            self._overlay.forget(ino, count)
            if not node.lookups and isinstance(node, File):
                node.pushed = False  # its pages are gone with the kernel's inode

    @request
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.mknod(self._changed_by(ctx, parent), name, mode, rdev, ctx.uid, ctx.gid))

    @request
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.mkdir(self._changed_by(ctx, parent), name, mode, ctx.uid, ctx.gid))

    @request
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.symlink(self._changed_by(ctx, parent), name, target, ctx.uid, ctx.gid))

    @request
    def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.link(self._changed_by(ctx, ino), self._node(parent), name))

    @request
    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._overlay.unlink(self._changed_by(ctx, parent), name)

    @request
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._overlay.rmdir(self._changed_by(ctx, parent), name)

    @request
    def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        self._overlay.rename(self._changed_by(ctx, old_parent), old_name, self._node(new_parent), new_name, flags)

    # -- attributes

    @request
    def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        node = self._node(ino)
        if not self._watched and not isinstance(node, File):
            # A changed file becomes another inode at its next lookup: the kernel would not believe a new size of this
            # one.
            self._overlay.refresh(node)
        return self._face(node)

    @request
    def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._changed_by(ctx, ino)
        mode = attr.st_mode if fields.update_mode else None
        uid = attr.st_uid if fields.update_uid else None
        gid = attr.st_gid if fields.update_gid else None
        if (uid is not None or gid is not None) and mode is None and node.mode & _SUID_SGID and isinstance(node, File):
            # HANDLE_KILLPRIV leaves this to us: a change of owner takes the privileges away, whoever makes it.
            self._overlay.kill_privileges(node)
        before = node.mode
        self._overlay.setattr(
            node,
            mode=mode,
            uid=uid,
            gid=gid,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        if fields.update_size and mode is None and not ctx.uid:
            self._keep_privileges(node, before)
        return self._face(node)

    def _keep_privileges(self, node: Node, mode: int) -> None:
        """A change of the content took setuid and setgid away, as it must unless it was root's.

        The kernel knows better who made it, but libfuse does not pass that on: root stands for CAP_FSETID.
        """
        if mode & _SUID_SGID and node.mode != mode:
            self._overlay.setattr(node, mode=mode, ctime_ns=node.ctime_ns)

    @request
    def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        return self._overlay.readlink(self._node(ino))

    @request
    def access(self, ino: int, mask: int, ctx: RequestContext) -> bool:
        # Asked only of a mount without default_permissions, which is root's own: root may do anything but execute
        # what nobody may.
        if not self._checks_permissions:
            raise FUSEError(errno.ENOSYS)
        node = self._node(ino)
        return not mask & os.X_OK or node.is_dir or bool(node.mode & 0o111)

    @request
    def getxattr(self, ino: int, name: bytes, ctx: RequestContext) -> bytes:
        return self._overlay.getxattr(self._node(ino), name)

    @request
    def listxattr(self, ino: int, ctx: RequestContext) -> Sequence[bytes]:
        return self._overlay.listxattr(self._node(ino))

    @request
    def setxattr(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._overlay.setxattr(self._changed_by(ctx, ino), name, value)

    @request
    def removexattr(self, ino: int, name: bytes, ctx: RequestContext) -> None:
        self._overlay.removexattr(self._changed_by(ctx, ino), name)

    @request
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = self._overlay.statvfs()
        reply = StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(reply, f"f_{field}", getattr(found, f"f_{field}"))
        return reply

    # -- open files

    @request
    def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._changed_by(ctx, ino)
        mode = node.mode
        try:
            handle = self._overlay.open(node, flags)
        except OSError as e:
            if e.errno in (errno.ESTALE, errno.ENOENT) and node.base_dir is not None and not node.changed:
                # The base has another file there, or none, and the report of it is still on its way.  ESTALE makes
                # the kernel look the name up once more.
                above = node.base_dir.path
                self.stale(self._overlay.base_changed(above + b"/" + node.base_name if above else node.base_name))
                raise FUSEError(errno.ESTALE) from None
            raise
        if handle.node.opens == 1 and not handle.node.pushed and 0 < handle.node.size <= PUSH_LIMIT:
            self._push(handle)
        number = self._number(handle)
        if not ctx.uid:
            self._roots.add(number)
            self._keep_privileges(node, mode)
        return FileInfo(fh=number, keep_cache=True)

    def _push(self, handle: Handle) -> None:
        """Put a small content into the page cache, so that reading it needs no request.

        Only by the first open handle: while there is another, a page may be locked by a read that waits for us.
        """
        node = handle.node
        node.pushed = True
        if handle.flags & os.O_ACCMODE == os.O_WRONLY or handle.flags & os.O_TRUNC:
            return
        try:
            data = self._overlay.read(handle, 0, node.size)
            if len(data) == node.size:
                pyfuse3.notify_store(node.ino, 0, data)  # type: ignore[arg-type]  # takes any buffer
        except (WouldBlock, OSError):
            pass  # not in the page cache of the base, or refused: the reads will come as requests

    @request
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node, handle = self._overlay.create(self._changed_by(ctx, parent), name, mode, flags, ctx.uid, ctx.gid)
        handle.node.pushed = True  # all that will be in it passes through the page cache
        number = self._number(handle)
        if not ctx.uid:
            self._roots.add(number)
        return FileInfo(fh=number, keep_cache=True), self._told(node)

    @request
    def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        return self._overlay.read(self._file(fh), offset, size)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        held = self._sealer.held_bytes
        if held >= DIRTY_SOFT:
            self._sealer.hurry()
            if held >= DIRTY_HARD and not await self._sealer.make_room():
                raise FUSEError(errno.ENOSPC)
        written: int = await self._write(fh, offset, data)
        return written

    @request
    def _write(self, fh: int, offset: int, data: bytes) -> int:
        handle = self._file(fh)
        node = handle.node
        mode = node.mode
        written = self._overlay.write(handle, offset, data)
        node.pushed = True  # what was written came out of the page cache, and is there
        if mode & _SUID_SGID:
            if fh in self._roots:
                self._keep_privileges(node, mode)
            elif node.mode != mode:
                # Attributes only, so this waits for nothing; before the reply, so that the next stat sees it.
                pyfuse3.invalidate_inode(node.ino, attr_only=True)
        return written

    @request
    def release(self, fh: int) -> None:
        handle = self._handles.pop(fh, None)
        self._roots.discard(fh)
        if isinstance(handle, Handle):
            self._overlay.release(handle)

    async def flush(self, fh: int) -> None:
        """Nothing is kept back here that a close would have to bring out; the kernel asks once."""
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """What was acknowledged is in the journal, or in a working file that the journal names: sync those two."""
        waits = await self._syncers(fh)
        try:
            for sync in waits:
                await self.in_thread(sync)
        except OSError as e:
            raise FUSEError(e.errno or errno.EIO) from None

    @request
    def _syncers(self, fh: int) -> list[Callable[[], None]]:
        spool = self._overlay.spool_to_sync(self._file(fh))
        waits: list[Callable[[], None]] = []
        if spool is not None:
            waits.append(functools.partial(_sync_and_close, spool))
        if self._recording is not None:
            waits.append(self._recording.syncer())
        return waits

    def _file(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if not isinstance(handle, Handle):
            raise FUSEError(errno.EBADF)
        return handle

    # -- directories

    @request
    def opendir(self, ino: int, ctx: RequestContext) -> int:
        return self._number(self._overlay.opendir(self._node(ino)))

    async def readdir(self, fh: int, start: int, token: ReaddirToken) -> None:
        # Not through `request`: what was already put into the reply must not be put there again.
        handle = self._handles.get(fh)
        if not isinstance(handle, DirHandle):
            raise FUSEError(errno.EBADF)
        try:
            while True:
                try:
                    for name, node, following in self._overlay.readdir(handle, start):
                        # Not counted by the kernel: it never makes an inode of these two out of a listing.
                        counted = name != b"." and name != b".."
                        if not pyfuse3.readdir_reply(token, name, self._face(node), following):
                            return
                        if counted:
                            self._overlay.remember(node)
                        start = following
                    return
                except WouldBlock as blocked:
                    waiting = blocked
                await self.in_thread(waiting.prepare)
        except OSError as e:
            raise FUSEError(e.errno or errno.EIO) from None
        except FUSEError:
            raise
        except Exception:
            log.exception("listing of directory %d failed; it is answered with EIO", handle.node.ino)
            raise FUSEError(errno.EIO) from None

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Names are in the journal."""
        if self._recording is not None:
            try:
                await self.in_thread(self._recording.syncer())
            except OSError as e:
                raise FUSEError(e.errno or errno.EIO) from None

    @request
    def releasedir(self, fh: int) -> None:
        handle = self._handles.pop(fh, None)
        if isinstance(handle, DirHandle):
            self._overlay.releasedir(handle)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
