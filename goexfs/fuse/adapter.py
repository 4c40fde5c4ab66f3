"""The handlers that pyfuse3 calls: inode numbers and errno on this side, nodes and `OSError` on the other.

Owns the table of open handles; decides nothing about the filesystem.  What handlers have in common is in ``answering``,
what they say of a node in ``faces``, which contents are put into the page cache in ``pushing``.

Threading: the event loop's thread.
"""

import errno
import functools
import os
import stat
from collections.abc import Callable, Sequence

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from goexfs.fuse.answering import Threads, errno_of, request
from goexfs.fuse.faces import Faces
from goexfs.fuse.listings import Listings
from goexfs.fuse.pushing import Pushing
from goexfs.fuse.recording import Recording
from goexfs.fuse.referee import Referee
from goexfs.fuse.seal import DIRTY_HARD, DIRTY_SOFT, Sealer
from goexfs.fuse.unsynced import sync_and_close
from goexfs.overlay import DirHandle, File, Handle, Node, Overlay, WouldBlock, acls
from goexfs.overlay.given import Given
from snapshots.entries import NOBODY

_SUID_SGID = stat.S_ISUID | stat.S_ISGID
_XATTRS = (b"user.", b"trusted.", b"security.", *acls.NAMES)
"""the extended attributes there are: namespaces, and POSIX ACLs"""
_EXEC = 0x20  # <linux/fs.h>: __FMODE_EXEC, set when execve(2) opens


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
        self.threads = Threads()
        self.faces = Faces(overlay)
        self._pushing = Pushing(overlay, self.threads)
        self._listings = Listings()
        self._face = self.faces.of
        self._told = self.faces.told
        self._checks_permissions = checks_permissions
        self.referee: Referee | None = None
        """decides about requests that would go over a limit; None: they are refused"""
        # A write that the kernel has taken already could not be refused, nor wait: its program would be gone.
        self.enable_writeback_cache = overlay.meter is None or not overlay.meter.strict

    # -- for the service

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

    def _changed_by(self, ctx: RequestContext, ino: int, *, takes_room: bool = True) -> Node:
        """The node that a process is about to change."""
        if self._recording is not None:
            if takes_room:
                self._recording.check_room()
            else:
                self._recording.check_whole()
        return self._used_by(ctx, ino)

    def _used_by(self, ctx: RequestContext, ino: int) -> Node:
        if self._recording is not None:
            self._overlay.on_behalf_of(self._recording.number_of(ctx.pid))
        return self._node(ino)

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
            return self.faces.missing(directory, name)

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
            elif not node.lookups:
                self._listings.forget(ino)

    @request
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        above = self._changed_by(ctx, parent)
        return self._told(self._overlay.mknod(above, name, mode, rdev, ctx.uid, ctx.gid, umask=ctx.umask))

    @request
    def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        above = self._changed_by(ctx, parent)
        return self._told(self._overlay.mkdir(above, name, mode, ctx.uid, ctx.gid, umask=ctx.umask))

    @request
    def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.symlink(self._changed_by(ctx, parent), name, target, ctx.uid, ctx.gid))

    @request
    def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._overlay.link(self._changed_by(ctx, ino), self._node(parent), name))

    @request
    def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._overlay.unlink(self._changed_by(ctx, parent, takes_room=False), name)

    @request
    def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._overlay.rmdir(self._changed_by(ctx, parent, takes_room=False), name)

    @request
    def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        self._overlay.rename(self._changed_by(ctx, old_parent), old_name, self._node(new_parent), new_name, flags)

    # -- attributes

    @request
    def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        node = self._node(ino)
        if not self.faces.watched and not isinstance(node, File):
            # A changed file becomes another inode at its next lookup: the kernel would not believe a new size.
            self._overlay.refresh(node)
        return self._face(node)

    @request
    def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._changed_by(ctx, ino)
        mode = attr.st_mode if fields.update_mode else None
        gid = attr.st_gid if fields.update_gid else None
        # chown(path, -1, -1) changes nothing but the ctime, and yet is a change of owner.
        of_owner = not (fields.update_mode or fields.update_size or fields.update_atime or fields.update_mtime)
        uid = attr.st_uid if fields.update_uid else node.uid if of_owner and gid is None else None
        if of_owner and node.mode & _SUID_SGID and isinstance(node, File):
            # HANDLE_KILLPRIV leaves this to us: a change of owner takes the privileges away, whoever makes it.
            if ctx.uid not in (0, node.uid) and not node.writers:  # who writes may, and is told of in the same way
                raise FUSEError(errno.EPERM)
            self._overlay.kill_privileges(node)
        before = node.mode
        if fields.update_ctime:
            self._overlay.stamped_by_kernel(attr.st_ctime_ns)  # nobody else can set it
        same = fields.update_size and not fields.update_mtime  # size as before: the kernel leaves the times alone
        self._overlay.setattr(
            node,
            mode=mode,
            uid=uid,
            gid=gid,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else node.mtime_ns if same else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else node.ctime_ns if same else None,
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
        if not name.startswith(_XATTRS):
            raise FUSEError(errno.EOPNOTSUPP)
        return self._overlay.getxattr(self._node(ino), name)

    @request
    def listxattr(self, ino: int, ctx: RequestContext) -> Sequence[bytes]:
        # The kernel answers ENODATA to whoever asks for a trusted one without CAP_SYS_ADMIN, but leaves the list to us.
        seen = tuple(each for each in _XATTRS if each != b"trusted." or not ctx.uid)
        return [name for name in self._overlay.listxattr(self._node(ino)) if name.startswith(seen)]

    @request
    def setxattr(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if not name.startswith(_XATTRS):
            raise FUSEError(errno.EOPNOTSUPP)
        node = self._changed_by(ctx, ino)
        mode = node.mode
        self._overlay.setxattr(node, name, value)
        if name == acls.ACCESS:
            if mode & stat.S_ISGID and ctx.uid and node.gid not in (ctx.gid, *pyfuse3.get_sup_groups(ctx.pid)):
                self._overlay.setattr(node, mode=stat.S_IMODE(node.mode) & ~stat.S_ISGID)
            if node.mode != mode:
                # Attributes only, so this waits for nothing; the kernel does not expect that they change.
                pyfuse3.invalidate_inode(node.ino, attr_only=True)

    @request
    def removexattr(self, ino: int, name: bytes, ctx: RequestContext) -> None:
        if not name.startswith(_XATTRS):
            raise FUSEError(errno.EOPNOTSUPP)
        self._overlay.removexattr(self._changed_by(ctx, ino), name)

    @request
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = self._overlay.statvfs()
        reply = StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(reply, f"f_{field}", getattr(found, f"f_{field}"))
        return reply

    # -- open files

    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        info: FileInfo
        handle, info, prepare = await self._open(ino, flags, ctx)
        if prepare is not None:
            await self._pushing.when_read(handle, prepare)
        return info

    @request
    def _open(self, ino: int, flags: int, ctx: RequestContext) -> tuple[Handle, FileInfo, Callable[[], None] | None]:
        node = self._changed_by(ctx, ino) if flags & (os.O_ACCMODE | os.O_TRUNC) else self._used_by(ctx, ino)
        mode = node.mode
        try:
            handle = self._overlay.open(node, flags)
        except OSError as e:
            if e.errno in (errno.ESTALE, errno.ENOENT) and node.base_dir is not None and not node.changed:
                # The base has another file there, or none, and the report of it is still on its way.  ESTALE makes
                # the kernel look the name up once more.
                above = node.base_dir.path
                self.faces.stale(self._overlay.base_changed(above + b"/" + node.base_name if above else node.base_name))
                raise FUSEError(errno.ESTALE) from None
            raise
        self._leave_times_to_the_kernel(handle)
        if self._recording is not None:
            self._record_reading(handle, ctx.pid)
        number = self._number(handle)
        if self.referee is not None:
            self.referee.opened(number, ctx.pid)
        if not ctx.uid:
            self._roots.add(number)
            self._keep_privileges(node, mode)
        return handle, FileInfo(fh=number, keep_cache=True), self._pushing.push(handle)

    def _record_reading(self, handle: Handle, pid: int) -> None:
        node = handle.node
        assert self._recording is not None
        if node.content is None and node.base_dir is not None and handle.flags & os.O_ACCMODE != os.O_WRONLY:
            above = node.base_dir.path
            path = above + b"/" + node.base_name if above else node.base_name
            identity = node.identity if node.changed and node.identity is not None else node.base_identity()
            self._recording.read(node.ino, pid, path, identity)
        elif isinstance(node.content, Given) and node.content.canary is not None:
            self._recording.read(node.ino, pid, node.content.canary.path, NOBODY)
        if handle.flags & _EXEC:
            self._recording.executes(pid)

    def _leave_times_to_the_kernel(self, handle: Handle) -> None:
        """With the writeback cache the kernel keeps the times of what is open for writing, and tells of every new one.

        Pages reach us later than the write(2) that made them, and must not make the file look younger.  A write in
        the clock tick in which the file was made changes no time, so nothing is told: this cannot wait for a setattr.
        """
        if handle.writable and self.enable_writeback_cache:
            handle.node.timed = True

    @request
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        above = self._changed_by(ctx, parent)
        node, handle = self._overlay.create(above, name, mode, flags, ctx.uid, ctx.gid, umask=ctx.umask)
        self._leave_times_to_the_kernel(handle)
        handle.node.pushed = True  # all that will be in it passes through the page cache
        number = self._number(handle)
        if self.referee is not None:
            self.referee.opened(number, ctx.pid)
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
        if self._recording is not None:
            self._recording.check_room()
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
        if self.referee is not None:
            self.referee.closed(fh)
        if isinstance(handle, Handle):
            self._listings.closed(handle.node)
            self._overlay.release(handle)

    async def flush(self, fh: int) -> None:
        """Nothing is kept back here that a close would have to bring out; the kernel asks once."""
        raise FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """What was acknowledged is in the journal, or in a working file that the journal names: sync those."""
        waits = await self._syncers(fh)
        try:
            for sync in waits:
                await self.threads.run(sync)
        except OSError as e:
            raise errno_of(e, "fsync", fh) from None

    @request
    def _syncers(self, fh: int) -> list[Callable[[], None]]:
        if self._recording is not None:
            return [self._recording.syncer()]
        spool = self._overlay.spool_to_sync(self._file(fh))
        return [] if spool is None else [functools.partial(sync_and_close, spool)]

    def _file(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if not isinstance(handle, Handle):
            raise FUSEError(errno.EBADF)
        return handle

    # -- directories

    @request
    def opendir(self, ino: int, ctx: RequestContext) -> int:
        handle = self._overlay.opendir(self._node(ino))
        if self.faces.watched:  # what the kernel keeps it keeps until it is told
            self._listings.keep(handle.node)
        return self._number(handle)

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
                    self._listings.listed(handle.node)
                    return
                except WouldBlock as blocked:
                    waiting = blocked
                await self.threads.run(waiting.prepare)
        except Exception as e:
            raise errno_of(e, "readdir", fh, start) from None

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Names are in the journal."""
        if self._recording is not None:
            try:
                await self.threads.run(self._recording.syncer())
            except OSError as e:
                raise errno_of(e, "fsyncdir", fh) from None

    @request
    def releasedir(self, fh: int) -> None:
        handle = self._handles.pop(fh, None)
        if isinstance(handle, DirHandle):
            self._overlay.releasedir(handle)
