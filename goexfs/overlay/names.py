"""Operations that change names: create, link, unlink, rename.

Owns whiteouts and what a directory's link count and times do.  Each operation first finds everything it needs (which
may raise `WouldBlock`), then changes memory, then records the change; so it can be called again after a `WouldBlock`.
Event-loop thread only.
"""

import errno
import stat
from collections.abc import Callable

from goexfs.overlay import acls
from goexfs.overlay.changes import Op
from goexfs.overlay.content import Inline
from goexfs.overlay.guard import Concealed
from goexfs.overlay.nodes import WHITEOUT, Dir, File, Node, Symlink, new_node
from goexfs.overlay.records import base_path_of, path_of
from goexfs.overlay.view import NAME_MAX, View, error
from snapshots.entries import Changed, Hidden
from snapshots.history.journal import Whole
from snapshots.review.hidden import digest

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
LINK_MAX = 65_000
PATH_MAX = 4096


class Names:
    """The operations on names of one view."""

    def __init__(self, view: View, now_ns: Callable[[], int]) -> None:
        self._view = view
        self._changes = view.changes
        self._now_ns = now_ns

    # -- making

    def mknod(
        self, parent: Node, name: bytes, mode: int, rdev: int, uid: int, gid: int, *, umask: int = 0
    ) -> Node:
        """A new file, FIFO, socket or device.  *umask* counts where no default ACL takes its place."""
        kind = mode if stat.S_IFMT(mode) else mode | stat.S_IFREG
        return self._create(parent, name, kind, uid, gid, rdev=rdev, umask=umask)

    def mkdir(self, parent: Node, name: bytes, mode: int, uid: int, gid: int, *, umask: int = 0) -> Node:
        """A new directory."""
        return self._create(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid, umask=umask)

    def symlink(self, parent: Node, name: bytes, target: bytes, uid: int, gid: int) -> Node:
        """A new symbolic link."""
        if not target:
            raise error(errno.ENOENT)
        if len(target) >= PATH_MAX:
            raise error(errno.ENAMETOOLONG)
        return self._create(parent, name, stat.S_IFLNK | 0o777, uid, gid, target=target)

    def _create(
        self,
        parent: Node,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes | None = None,
        umask: int = 0,
    ) -> Node:
        directory = self._vacancy(parent, name)
        xattrs, mode = self._inherited(directory, mode, umask)
        guard = self._view.guard
        ruling = -1 if guard is None else guard.allow_new(directory, name, is_dir=stat.S_ISDIR(mode))
        meter = self._view.meter
        if meter is not None and (meter.files >= meter.most_files or meter.bytes >= meter.most_bytes):
            meter.check_new()
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        now = self._now_ns()
        node = new_node(self._view.new_number(), mode)
        node.uid, node.gid, node.rdev = uid, gid, rdev
        node.atime_ns = node.mtime_ns = node.ctime_ns = now
        node.changed = Changed.ATTRS
        node.ruling = ruling
        if isinstance(node, File):
            node.content = Inline()
            node.changed |= Changed.DATA
        elif isinstance(node, Dir):
            node.nlink = 2
            directory.nlink += directory.nlink > 1  # 1 says "not counted" (btrfs) and stays
        elif isinstance(node, Symlink):
            assert target is not None
            node.target, node.size = target, len(target)
        if xattrs:
            node.xattrs = xattrs
            node.changed |= Changed.XATTRS
        self._view.register(node)
        self._attach(directory, name, node)
        if meter is not None:
            meter.files += 1
        data = (Whole(b""),) if isinstance(node, File) else ()
        self._changes.record(Op.CREATE, node, node.changed, now, (directory, name), data=data)
        return node

    def _inherited(self, directory: Dir, mode: int, umask: int) -> tuple[dict[bytes, bytes], int]:
        """The ACLs of what is created in a directory, and its mode."""
        default = b"" if stat.S_ISLNK(mode) else self._default_acl(directory)
        if not default:
            return {}, mode if stat.S_ISLNK(mode) else mode & ~umask
        access, mode = acls.inherited(acls.parse(default), mode)
        found = {} if access is None else {acls.ACCESS: acls.pack(access)}
        if stat.S_ISDIR(mode):
            found[acls.DEFAULT] = default
        return found, mode

    def _default_acl(self, directory: Dir) -> bytes:
        if directory.xattrs is not None:
            return directory.xattrs.get(acls.DEFAULT, b"")
        if directory.base_dir is None:
            return b""
        if directory.default_acl is None:
            try:
                base = self._view.base
                directory.default_acl = base.getxattr(directory.base_dir, directory.base_name, acls.DEFAULT)
            except OSError:
                directory.default_acl = b""
        return directory.default_acl

    def link(self, node: Node, parent: Node, name: bytes) -> Node:
        """One more name for a node that is not a directory."""
        if node.is_dir:
            raise error(errno.EPERM)
        directory = self._vacancy(parent, name)
        if not node.nlink:
            raise error(errno.ENOENT)
        if node.nlink >= LINK_MAX:
            raise error(errno.EMLINK)
        guard = self._view.guard
        if guard is not None:
            guard.allow_change(node)
            guard.allow_new(directory, name, is_dir=False)
            guard.moved(node)
        now = self._now_ns()
        self._changes.before(node)
        node.nlink += 1
        node.ctime_ns = now
        self._attach(directory, name, node)
        self._changes.record(Op.LINK, node, Changed.ATTRS, now, (directory, name))
        return node

    # -- removing

    def unlink(self, parent: Node, name: bytes) -> None:
        """Remove a name of anything but a directory."""
        node = self._view.lookup(parent, name)
        assert isinstance(parent, Dir)
        if node.is_dir:
            raise error(errno.EISDIR)
        self._remove(parent, name, node)

    def rmdir(self, parent: Node, name: bytes) -> None:
        """Remove an empty directory."""
        node = self._view.lookup(parent, name)
        assert isinstance(parent, Dir)
        if not isinstance(node, Dir):
            raise error(errno.ENOTDIR)
        if not self.is_empty(node):
            raise error(errno.ENOTEMPTY)
        self._remove(parent, name, node)

    def _remove(self, parent: Dir, name: bytes, node: Node) -> None:
        guard = self._view.guard
        if guard is not None:
            guard.allow_removal(parent, node)
        meter = self._view.meter
        if meter is not None:
            meter.check_deletion(node)
        whiteout = self._leaves_whiteout(parent, name, node)
        now = self._now_ns()
        self._changes.before(node)
        self._detach(parent, name, node, whiteout, for_good=True)
        self._lose_link(node, now, parent)
        if whiteout and meter is not None and meter.counts_names:
            meter.deleted(path_of((parent, name)))
        self._changes.record(Op.UNLINK, node, Changed.ATTRS, now, (parent, name))
        self._view.release_if_unused(node)

    def is_empty(self, directory: Dir) -> bool:
        """Whether a directory has no name that the run can see."""
        children = directory.children
        if any(child is not WHITEOUT for child in children.values()):
            return False
        if directory.base is None:
            return True
        if self._view.guard is not None and self._view.guard.holds_back(directory):
            return False
        try:
            names = self._view.base.list(directory.base)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as e:
            if e.errno == errno.ESTALE:
                return True
            raise
        return all(name in children for name in names)

    # -- renaming

    def rename(self, old_parent: Node, old_name: bytes, new_parent: Node, new_name: bytes, flags: int = 0) -> None:
        """Rename, replace or (RENAME_EXCHANGE) swap.  Whatever lies below a directory is not touched: it goes along."""
        node = self._view.lookup(old_parent, old_name)
        target = self._view.find(new_parent, new_name)
        guard = self._view.guard
        assert isinstance(old_parent, Dir)
        assert isinstance(new_parent, Dir)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise error(errno.EINVAL)
        if isinstance(node, Dir) and _is_below(new_parent, node):
            raise error(errno.EINVAL)
        if flags & RENAME_EXCHANGE:
            if target is None:
                raise error(errno.ENOENT)
            if isinstance(target, Dir) and _is_below(old_parent, target):
                raise error(errno.EINVAL)
            if guard is not None:
                guard.allow_removal(new_parent, target)
                guard.allow_removal(old_parent, node)
                guard.allow_rename(node, new_parent, new_name)
                guard.allow_rename(target, old_parent, old_name)
            self._exchange(old_parent, old_name, node, new_parent, new_name, target)
            return
        if target is not None:
            if flags & RENAME_NOREPLACE:
                raise error(errno.EEXIST)
            if target is node:
                return  # two names of one inode: POSIX says that nothing happens
            self._check_replaceable(node, target, old_parent)
        else:
            self._vacancy(new_parent, new_name)
        if guard is not None:
            if target is not None:
                guard.allow_removal(new_parent, target, replaced=True)
            guard.allow_removal(old_parent, node)
            guard.allow_rename(node, new_parent, new_name)
        self._move(old_parent, old_name, node, new_parent, new_name, target)

    def _check_replaceable(self, node: Node, target: Node, old_parent: Dir) -> None:
        if isinstance(target, Dir):
            if not node.is_dir:
                raise error(errno.EISDIR)
            if _is_below(old_parent, target) or not self.is_empty(target):
                raise error(errno.ENOTEMPTY)
        elif node.is_dir:
            raise error(errno.ENOTDIR)

    def _move(
        self, old_parent: Dir, old_name: bytes, node: Node, new_parent: Dir, new_name: bytes, target: Node | None
    ) -> None:
        whiteout = self._leaves_whiteout(old_parent, old_name, node)
        now = self._now_ns()
        self._changes.before(node)
        if target is not None:
            self._changes.before(target)
            self._detach(new_parent, new_name, target, whiteout=False, for_good=True)
            self._lose_link(target, now, new_parent)
            self._changes.also(target, Changed.ATTRS)
        self._detach(old_parent, old_name, node, whiteout)
        self._attach(new_parent, new_name, node)
        node.ctime_ns = now
        if node.is_dir and old_parent is not new_parent:
            self._move_dot_dot(old_parent, new_parent)
        self._moved(node)
        self._changes.record(Op.RENAME, node, Changed.ATTRS, now, (old_parent, old_name), (new_parent, new_name))
        if target is not None:
            self._view.release_if_unused(target)

    def _exchange(self, a_parent: Dir, a_name: bytes, a: Node, b_parent: Dir, b_name: bytes, b: Node) -> None:
        if a is b:
            return
        now = self._now_ns()
        for node in (a, b):
            self._changes.before(node)
        self._detach(a_parent, a_name, a, whiteout=False)
        self._detach(b_parent, b_name, b, whiteout=False)
        self._attach(a_parent, a_name, b)
        self._attach(b_parent, b_name, a)
        if a_parent is not b_parent and a.is_dir != b.is_dir:
            self._move_dot_dot(*((a_parent, b_parent) if a.is_dir else (b_parent, a_parent)))
        a.ctime_ns = b.ctime_ns = now
        self._moved(a, b)
        self._changes.also(b, Changed.ATTRS)
        self._changes.record(Op.RENAME, a, Changed.ATTRS, now, (a_parent, a_name), (b_parent, b_name))

    def _moved(self, *nodes: Node) -> None:
        if self._view.guard is not None:
            for node in nodes:
                self._view.guard.moved(node)

    def _move_dot_dot(self, old_parent: Dir, new_parent: Dir) -> None:
        old_parent.nlink -= old_parent.nlink > 2
        new_parent.nlink += new_parent.nlink > 1

    # -- the pieces

    def _vacancy(self, parent: Node, name: bytes) -> Dir:
        """The directory *parent*, which has no *name*; EEXIST otherwise, EPERM for a name that is hidden."""
        if len(name) > NAME_MAX:
            raise error(errno.ENAMETOOLONG)
        try:
            self._view.lookup(parent, name)
        except Concealed:
            raise error(errno.EPERM) from None
        except FileNotFoundError:
            pass
        else:
            raise error(errno.EEXIST)
        assert isinstance(parent, Dir)
        if name in parent.hidden:
            raise error(errno.EPERM)
        if parent is not self._view.root and not parent.nlink:
            raise error(errno.ENOENT)  # removed, but somebody still stands in it
        return parent

    def _leaves_whiteout(self, parent: Dir, name: bytes, node: Node) -> bool:
        return parent.shows(node, name) or self._view.base_has(parent, name)

    def _attach(self, directory: Dir, name: bytes, node: Node) -> None:
        directory.children[name] = node
        if node.base_dir is not None:
            self._view.elsewhere = True
            if isinstance(node, File):
                self._view.away[base_path_of(node)] = node
            if directory.base is not None and node.came_from(directory.base, name):
                directory.hide(name, None)  # it is where it was
        if directory.aliases is not None:
            directory.aliases.discard(name)
        node.add_name(directory, name)
        meter = self._view.meter
        if meter is not None and meter.counts_names:
            meter.came_back(path_of((directory, name)))

    def _detach(
        self, directory: Dir, name: bytes, node: Node, whiteout: bool, *, for_good: bool = False
    ) -> None:
        if directory.shows(node, name) and node.identity is not None:
            directory.hide(name, Hidden(node.identity, _digest(node) if for_good else b""))
        if whiteout:
            directory.children[name] = WHITEOUT
        else:
            directory.children.pop(name, None)
        if directory.aliases is not None:
            directory.aliases.discard(name)
        node.drop_name(directory, name)

    def _lose_link(self, node: Node, now: int, parent: Dir) -> None:
        if isinstance(node, Dir):
            node.nlink = 0
            parent.nlink -= parent.nlink > 2
        else:
            node.nlink -= 1
            if not node.nlink and isinstance(node, File):
                self._view.orphans.add(node)
        if not node.nlink and node.base_dir is None and self._view.meter is not None:
            self._view.meter.files -= 1
        node.ctime_ns = now


def _digest(node: Node) -> bytes:
    """Of what the run had hidden in an empty directory, if all of it is known."""
    if not isinstance(node, Dir) or node.base is None:
        return b""
    hides = node.hides or {}
    return digest(hides) if hides.keys() == node.children.keys() else b""


def _is_below(directory: Dir, top: Dir) -> bool:
    """Whether *directory* is *top* or lies below it."""
    step: Dir | None = directory
    while step is not None:
        if step is top:
            return True
        step = step.parent
    return False
