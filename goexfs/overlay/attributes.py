"""Attributes, extended attributes and link targets.

Owns how they are set and where they are read from; times follow the rules of POSIX (a change of anything sets ctime).
Permission is not checked here: the kernel has done so before it asks.  Event-loop thread only.
"""

import errno
import os
import stat
from collections.abc import Callable

from goexfs.overlay import acls
from goexfs.overlay.changes import Op
from goexfs.overlay.files import Files
from goexfs.overlay.given import Given
from goexfs.overlay.nodes import Dir, File, Node, Symlink
from goexfs.overlay.view import View, error
from snapshots.entries import Changed

XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65_536

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
"""the base lost the file; an open handle keeps its content, not its attributes"""
_NO_XATTRS = (errno.EOPNOTSUPP, *_GONE)


class Attributes:
    """The operations on attributes of one view."""

    def __init__(self, view: View, files: Files, now_ns: Callable[[], int]) -> None:
        self._view = view
        self._files = files
        self._changes = view.changes
        self._now_ns = now_ns

    def setattr(
        self,
        node: Node,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> None:
        """Set what is not None.  *mode* is the permission bits; a *size* copies up, the rest never reads the
        content.
        """
        self._check(node)
        if size is not None:
            if isinstance(node, Dir):
                raise error(errno.EISDIR)
            if not isinstance(node, File):
                raise error(errno.EINVAL)
            self._files.truncate(node, size)
        if mode is uid is gid is atime_ns is mtime_ns is ctime_ns is None:
            return
        acl = None if mode is None else self._own_acl(node)  # before anything is changed: it may have to wait
        now = self._now_ns()
        bits = Changed.ATTRS
        self._changes.before(node)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
            if acl is not None:
                node.xattrs = {**acl, acls.ACCESS: acls.pack(acls.with_mode(acls.parse(acl[acls.ACCESS]), mode))}
                bits |= Changed.XATTRS
        if uid is not None:
            node.uid = uid
        if gid is not None:
            node.gid = gid
        if atime_ns is not None:
            node.atime_ns = atime_ns
        if mtime_ns is not None:
            node.mtime_ns = mtime_ns
        node.ctime_ns = now if ctime_ns is None else ctime_ns
        self._changes.record(Op.SETATTR, node, bits, now)

    def _own_acl(self, node: Node) -> dict[bytes, bytes] | None:
        """All extended attributes of a node, if an access ACL is among them."""
        if isinstance(node, Symlink) or (node.xattrs is None and node.base_dir is None):
            return None
        xattrs = self._own_xattrs(node)
        return xattrs if acls.ACCESS in xattrs else None

    def _check(self, node: Node) -> None:
        if self._view.guard is not None:
            self._view.guard.allow_change(node)

    def readlink(self, node: Node) -> bytes:
        """The target of a symbolic link; EINVAL for anything else."""
        if not isinstance(node, Symlink):
            raise error(errno.EINVAL)
        if node.target is None:
            if node.base_dir is None:
                raise error(errno.ESTALE)
            node.target = self._view.base.readlink(node.base_dir, node.base_name)
        return node.target

    def statvfs(self) -> os.statvfs_result:
        """Of the filesystem that new data goes to: the one below the store."""
        return self._view.working.statvfs()

    # -- extended attributes

    def _from_base(self, node: Node) -> bool:
        return node.xattrs is None and node.base_dir is not None

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """One value; ENODATA when there is none."""
        if node.xattrs is not None:
            value = node.xattrs.get(name)
            if value is None:
                raise error(errno.ENODATA)
            return value
        if node.base_dir is None or _is_given(node):
            raise error(errno.ENODATA)
        try:
            return self._view.base.getxattr(node.base_dir, node.base_name, name)
        except OSError as e:
            raise error(errno.ENODATA if e.errno in _GONE else e.errno or errno.EIO) from None

    def listxattr(self, node: Node) -> list[bytes]:
        """All names."""
        if node.xattrs is not None:
            return list(node.xattrs)
        if node.base_dir is None or _is_given(node):
            return []
        try:
            return self._view.base.listxattr(node.base_dir, node.base_name)
        except OSError as e:
            if e.errno in _NO_XATTRS:
                return []
            raise

    def setxattr(self, node: Node, name: bytes, value: bytes) -> None:
        """Set one value.  (XATTR_CREATE and XATTR_REPLACE have been looked after by whoever calls.)"""
        self._check(node)
        if len(name) > XATTR_NAME_MAX:
            raise error(errno.ERANGE)
        if len(value) > XATTR_SIZE_MAX:
            raise error(errno.E2BIG)
        if name.startswith(b"user.") and not stat.S_ISREG(node.mode) and not stat.S_ISDIR(node.mode):
            raise error(errno.EPERM)  # as every kernel filesystem has it: xattr(7)
        acl = self._checked_acl(node, name, value) if name in acls.NAMES else None
        xattrs = self._own_xattrs(node)
        needless = acl is not None and (not acl or (name == acls.ACCESS and not acls.says_more(acl)))
        if needless and name not in xattrs and (not acl or node.mode & 0o777 == acls.bits_of(acl)):
            return
        self._changes.before(node)
        if needless:
            xattrs.pop(name, None)
        else:
            xattrs[name] = value
        if acl and name == acls.ACCESS:
            node.mode = node.mode & ~0o777 | acls.bits_of(acl)
        self._xattrs_changed(node, xattrs)

    def _checked_acl(self, node: Node, name: bytes, value: bytes) -> acls.Acl:
        acls.check_place(name, node.mode)
        return acls.parse(value)

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove one; ENODATA when there is none."""
        self._check(node)
        if name in acls.NAMES and isinstance(node, Symlink):
            raise error(errno.EOPNOTSUPP)
        xattrs = self._own_xattrs(node)
        if name not in xattrs:
            if name in acls.NAMES:
                return  # Linux takes away an ACL that is not there without a word
            raise error(errno.ENODATA)
        self._changes.before(node)
        del xattrs[name]
        self._xattrs_changed(node, xattrs)

    def _own_xattrs(self, node: Node) -> dict[bytes, bytes]:
        if node.xattrs is not None:
            return dict(node.xattrs)
        if node.base_dir is None:
            return {}
        try:
            return self._view.base.xattrs(node.base_dir, node.base_name)
        except OSError as e:
            if e.errno in _NO_XATTRS:
                return {}
            raise

    def _xattrs_changed(self, node: Node, xattrs: dict[bytes, bytes]) -> None:
        now = self._now_ns()
        node.xattrs = xattrs
        node.ctime_ns = now
        self._changes.record(Op.XATTR, node, Changed.XATTRS | Changed.ATTRS, now)


def _is_given(node: Node) -> bool:
    """Whether a policy's content stands in for the file, whose attributes might tell as much as its content."""
    return isinstance(node, File) and isinstance(node.content, Given)
