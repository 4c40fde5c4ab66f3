"""What Linux does between a system call and a FUSE request, over an `Overlay` without a mount.

Owns the emulation: names are cached and counted as the kernel's dentries and inodes are, forgotten when it pleases,
and the checks that the kernel makes before it asks the filesystem are made here, in its order.  Whatever is answered
here is the kernel's rule, not the overlay's; see fs/namei.c, fs/xattr.c and fs/fuse/dir.c.  Only what root meets:
permissions are not checked.
"""

import errno
import os
import random
import stat
from collections.abc import Callable
from typing import Any

from goexfs.overlay import Dir, DirHandle, File, Handle, Node, Overlay, WouldBlock

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
MAX_LINKS_FOLLOWED = 40
ROOT = 1


def failure(number: int) -> OSError:
    """An error as a system call would raise it."""
    return OSError(number, os.strerror(number))


class OpenFile:
    """A file descriptor: of a regular file (with an overlay handle) or of a directory."""

    def __init__(self, ino: int, flags: int, handle: Handle | DirHandle) -> None:
        self.ino = ino
        self.flags = flags
        self.handle = handle


class Mount:
    """System calls on one overlay, by paths relative to its root.

    A path is bytes; ``b""`` is the root.  With ``at`` (an open directory) it is relative to that.  *seed* decides which
    reads are of whole pages, and what the kernel forgets.
    """

    def __init__(self, overlay: Overlay, *, watched: bool = True, seed: int = 0) -> None:
        self.overlay = overlay
        overlay.base_watched = watched
        self.watched = watched
        self.blocked = 0
        """how often an operation said that it would have to wait"""
        self._random = random.Random(seed)
        self._names: dict[int, dict[bytes, int | None]] = {}
        """the dentries: directory -> name -> inode, None where the kernel remembers that there is nothing"""
        self._parents: dict[int, set[tuple[int, bytes]]] = {ROOT: set()}
        """the names under which the kernel knows an inode"""
        self._counts: dict[int, int] = {}
        self._pins: dict[int, int] = {}
        self._dead: set[int] = set()

    # -- between the kernel and the overlay

    def ask(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the overlay as its adapter does: again, after what it waits for has been prepared."""
        for _ in range(200):
            try:
                return operation(*arguments, **options)
            except WouldBlock as blocked:
                self.blocked += 1
                blocked.prepare()
        raise AssertionError(f"{operation.__name__} never has what it waits for")

    def rescue(self) -> None:
        """Copy all of what partly copied files need of base files that are lost, as the service does."""
        while self.overlay.rescue.is_needed:
            self.ask(self.overlay.rescue.step)

    def node(self, ino: int) -> Node:
        """The node that the adapter finds for an inode of the kernel."""
        return self.overlay.nodes[ino]

    def _enter(self, parent: int, name: bytes, node: Node) -> int:
        self.overlay.remember(node)
        self._counts[node.ino] = self._counts.get(node.ino, 0) + 1
        self._bind(parent, name, node.ino)
        return node.ino

    def _bind(self, parent: int, name: bytes, ino: int | None) -> None:
        names = self._names.setdefault(parent, {})
        old = names.get(name)
        if old is not None and old != ino:
            self._parents[old].discard((parent, name))
        names[name] = ino
        if ino is not None:
            self._parents.setdefault(ino, set()).add((parent, name))
        if old is not None and old != ino:
            self._evict_inode(old)

    def _lookup(self, parent: int, name: bytes) -> int | None:
        if parent in self._dead:
            raise failure(errno.ENOENT)
        if not isinstance(self.node(parent), Dir):
            raise failure(errno.ENOTDIR)
        names = self._names.get(parent, {})
        if self.watched and name in names:
            return names[name]
        try:
            node = self.ask(self.overlay.lookup, self.node(parent), name)
        except FileNotFoundError:
            self._bind(parent, name, None)
            return None
        return self._enter(parent, name, node)

    def _walk(self, path: bytes, *, follow: bool, at: OpenFile | None = None) -> tuple[int, bytes, int | None]:
        """Directory, last name and inode (None: nothing there) of a path; for the start itself the name is empty."""
        return self._step(at.ino if at else ROOT, path, follow, [0])

    def _step(self, start: int, path: bytes, follow: bool, links: list[int]) -> tuple[int, bytes, int | None]:
        directory = start
        if not path:
            return directory, b"", directory
        names = path.split(b"/")
        for at, name in enumerate(names):
            last = at == len(names) - 1
            ino = self._lookup(directory, name)
            if ino is not None and stat.S_ISLNK(self.node(ino).mode) and (follow or not last):
                links[0] += 1
                if links[0] > MAX_LINKS_FOLLOWED:
                    raise failure(errno.ELOOP)
                target = self.ask(self.overlay.readlink, self.node(ino))
                rest = b"/".join([target, *names[at + 1 :]])
                return self._step(directory, rest, follow, links)
            if last:
                return directory, name, ino
            if ino is None:
                raise failure(errno.ENOENT)
            directory = ino
        raise AssertionError("unreachable")

    def _existing(self, path: bytes, *, follow: bool, at: OpenFile | None = None) -> int:
        ino = self._walk(path, follow=follow, at=at)[2]
        if ino is None:
            raise failure(errno.ENOENT)
        return ino

    def _vacant(self, path: bytes, at: OpenFile | None) -> tuple[int, bytes]:
        directory, name, ino = self._walk(path, follow=False, at=at)
        if ino is not None:
            raise failure(errno.EEXIST)
        return directory, name

    def _pin(self, ino: int) -> None:
        self._pins[ino] = self._pins.get(ino, 0) + 1

    def _unpin(self, ino: int) -> None:
        self._pins[ino] -= 1
        if not self._pins[ino]:
            del self._pins[ino]
            self._evict_inode(ino)

    def _evict_inode(self, ino: int) -> None:
        if ino == ROOT or self._parents.get(ino) or ino in self._pins or ino not in self._counts:
            return
        for name, child in list(self._names.get(ino, {}).items()):  # negative ones, and those of a removed directory
            if child is not None:
                return
            del self._names[ino][name]
        self._names.pop(ino, None)
        self._parents.pop(ino, None)
        self._dead.discard(ino)
        self.overlay.forget(ino, self._counts.pop(ino))

    def forget(self, chance: float) -> None:
        """Memory is short: each name that nothing keeps in the cache goes with this probability."""
        for parent in sorted(self._names, reverse=True):
            for name, ino in sorted(self._names.get(parent, {}).items()):
                if ino is None:
                    if self._random.random() < chance:
                        del self._names[parent][name]
                elif not self._names.get(ino) and ino not in self._pins and self._random.random() < chance:
                    del self._names[parent][name]
                    self._parents[ino].discard((parent, name))
                    self._evict_inode(ino)
            if not self._names.get(parent):
                self._names.pop(parent, None)

    def known(self) -> list[int]:
        """Every inode that the kernel knows."""
        return [ROOT, *self._counts]

    def names_of(self, ino: int) -> set[tuple[int, bytes]]:
        """The (directory, name) pairs under which the kernel knows an inode; none of a file that is only open."""
        return self._parents.get(ino, set())

    def invalidate(self, parent: int, name: bytes) -> None:
        """The filesystem says that a name is not to be believed any more: it goes, with everything below it."""
        names = self._names.get(parent, {})
        if name not in names:
            return
        ino = names.pop(name)
        if ino is not None:
            for below in list(self._names.get(ino, {})):
                self.invalidate(ino, below)
            self._parents[ino].discard((parent, name))
            self._evict_inode(ino)

    def forget_everything(self) -> None:
        """Drop every name that can be dropped, from the leaves up."""
        before = -1
        while before != len(self._names):
            before = len(self._names)
            self.forget(1.0)
        for _ in range(100):
            self.forget(1.0)
            if not self._names:
                return

    # -- open files

    def open(self, path: bytes, flags: int, mode: int, *, at: OpenFile | None = None) -> OpenFile:
        """open(2), not for FIFOs, sockets and devices."""
        creating = bool(flags & os.O_CREAT)
        follow = not flags & os.O_NOFOLLOW and not (creating and flags & os.O_EXCL)
        directory, name, ino = self._walk(path, follow=follow, at=at)
        if ino is None:
            if not creating:
                raise failure(errno.ENOENT)
            node, handle = self.ask(
                self.overlay.create, self.node(directory), name, stat.S_IFREG | mode, flags & ~os.O_NOCTTY, 0, 0
            )
            self._enter(directory, name, node)
            self._pin(node.ino)
            return OpenFile(node.ino, flags, handle)
        node = self.node(ino)
        if creating:
            if flags & os.O_EXCL:
                raise failure(errno.EEXIST)
            if node.is_dir:
                raise failure(errno.EISDIR)
        if flags & os.O_DIRECTORY and not node.is_dir:
            raise failure(errno.ENOTDIR)
        if stat.S_ISLNK(node.mode):
            raise failure(errno.ELOOP)
        if node.is_dir:
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise failure(errno.EISDIR)
            handle = self.ask(self.overlay.opendir, node)
        else:
            handle = self.ask(self.overlay.open, node, flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY))
        self._pin(ino)
        return OpenFile(ino, flags, handle)

    def close(self, file: OpenFile) -> None:
        """close(2)."""
        if isinstance(file.handle, DirHandle):
            self.overlay.releasedir(file.handle)
        else:
            self.overlay.release(file.handle)
        self._unpin(file.ino)

    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """pread(2).  Below the size that the kernel knows the answer must be complete: it takes a gap for zeros."""
        if file.flags & os.O_ACCMODE == os.O_WRONLY:
            raise failure(errno.EBADF)
        if isinstance(file.handle, DirHandle):
            raise failure(errno.EISDIR)
        known = self.node(file.ino).size
        wanted = max(0, min(size, known - offset))
        if not wanted:
            return b""
        if self._random.random() < 0.3:  # whole pages, as the page cache asks for them
            page = offset // 4096 * 4096
            got = bytes(self.ask(self.overlay.read, file.handle, page, (offset + wanted - page + 4095) // 4096 * 4096))
            assert page + len(got) <= known, f"{len(got)} bytes at {page} of a file of {known}"
            return got[offset - page : offset - page + wanted]
        got = bytes(self.ask(self.overlay.read, file.handle, offset, wanted))
        assert len(got) == wanted, f"{len(got)} bytes for {wanted} at {offset} of a file of {known}"
        return got

    def write(self, file: OpenFile, offset: int, data: bytes) -> int:
        """pwrite(2)."""
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise failure(errno.EBADF)
        if not data:
            return 0
        assert isinstance(file.handle, Handle)
        if file.flags & os.O_APPEND:
            offset = self.node(file.ino).size
        written: int = self.ask(self.overlay.write, file.handle, offset, data)
        return written

    def ftruncate(self, file: OpenFile, size: int) -> None:
        """ftruncate(2)."""
        if size < 0 or file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise failure(errno.EINVAL)
        self.ask(self.overlay.setattr, self.node(file.ino), size=size)

    def fstat(self, file: OpenFile) -> Node:
        """fstat(2)."""
        return self.node(file.ino)

    def readdir(self, file: OpenFile, start: int, count: int) -> tuple[list[bytes], int]:
        """At most *count* names from a position on, without the dots, and the position of the next one; readdirplus."""
        assert isinstance(file.handle, DirHandle)
        if file.ino in self._dead:
            return [], start  # ENOENT, which the C library takes for the end
        names: list[bytes] = []
        while count > 0:
            took = 0
            try:
                for name, node, following in self.overlay.readdir(file.handle, start):
                    took += 1
                    start = following
                    if name not in (b".", b".."):
                        self._enter(file.ino, name, node)
                        names.append(name)
                        count -= 1
                    if not count:
                        return names, start
            except WouldBlock as blocked:
                self.blocked += 1
                blocked.prepare()
                continue
            break
        return names, start

    # -- paths

    def stat(self, path: bytes, *, follow: bool, at: OpenFile | None = None) -> Node:
        """stat(2) or lstat(2)."""
        node = self.node(self._existing(path, follow=follow, at=at))
        if not self.watched:
            self.ask(self.overlay.refresh, node)
        return node

    def readlink(self, path: bytes, *, at: OpenFile | None = None) -> bytes:
        """readlink(2)."""
        node = self.node(self._existing(path, follow=False, at=at))
        if not stat.S_ISLNK(node.mode):
            raise failure(errno.EINVAL)
        target: bytes = self.ask(self.overlay.readlink, node)
        return target

    def mkdir(self, path: bytes, mode: int, *, at: OpenFile | None = None) -> None:
        """mkdir(2)."""
        directory, name = self._vacant(path, at)
        self._enter(directory, name, self.ask(self.overlay.mkdir, self.node(directory), name, mode & 0o1777, 0, 0))

    def mknod(self, path: bytes, mode: int, *, at: OpenFile | None = None) -> None:
        """mknod(2)."""
        directory, name = self._vacant(path, at)
        self._enter(directory, name, self.ask(self.overlay.mknod, self.node(directory), name, mode, 0, 0, 0))

    def symlink(self, path: bytes, target: bytes, *, at: OpenFile | None = None) -> None:
        """symlink(2)."""
        directory, name = self._vacant(path, at)
        self._enter(directory, name, self.ask(self.overlay.symlink, self.node(directory), name, target, 0, 0))

    def link(self, old: bytes, new: bytes) -> None:
        """link(2)."""
        ino = self._existing(old, follow=False)
        directory, name = self._vacant(new, None)
        node = self.node(ino)
        if node.is_dir:
            raise failure(errno.EPERM)
        self._enter(directory, name, self.ask(self.overlay.link, node, self.node(directory), name))

    def unlink(self, path: bytes, *, at: OpenFile | None = None) -> None:
        """unlink(2)."""
        directory, name, ino = self._walk(path, follow=False, at=at)
        if ino is None:
            raise failure(errno.ENOENT)
        if not name or self.node(ino).is_dir:
            raise failure(errno.EISDIR)
        self.ask(self.overlay.unlink, self.node(directory), name)
        self._bind(directory, name, None)

    def rmdir(self, path: bytes, *, at: OpenFile | None = None) -> None:
        """rmdir(2)."""
        directory, name, ino = self._walk(path, follow=False, at=at)
        if ino is None:
            raise failure(errno.ENOENT)
        if not name:
            raise failure(errno.EBUSY)
        if not self.node(ino).is_dir:
            raise failure(errno.ENOTDIR)
        self.ask(self.overlay.rmdir, self.node(directory), name)
        self._died(ino)
        self._bind(directory, name, None)

    def _died(self, ino: int) -> None:
        self._dead.add(ino)
        for name, child in list(self._names.get(ino, {}).items()):
            assert child is None, f"{name!r} was in a directory that was removed as empty"
        self._names.pop(ino, None)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """renameat2(2)."""
        if flags & ~3 or flags == 3:
            raise failure(errno.EINVAL)
        if not old or not new:
            raise failure(errno.EBUSY)
        old_dir, old_name = self._parent_of(old)
        new_dir, new_name = self._parent_of(new)
        ino = self._lookup(old_dir, old_name)
        if ino is None:
            raise failure(errno.ENOENT)
        target = self._lookup(new_dir, new_name)
        if flags & RENAME_NOREPLACE and target is not None:
            raise failure(errno.EEXIST)
        if flags & RENAME_EXCHANGE and target is None:
            raise failure(errno.ENOENT)
        if old_dir != new_dir:
            if self._is_above(ino, new_dir):
                raise failure(errno.EINVAL)
            if target is not None and self._is_above(target, old_dir):
                raise failure(errno.EINVAL if flags & RENAME_EXCHANGE else errno.ENOTEMPTY)
        if target == ino:
            return
        if target is not None and not flags & RENAME_EXCHANGE:
            if self.node(ino).is_dir and not self.node(target).is_dir:
                raise failure(errno.ENOTDIR)
            if not self.node(ino).is_dir and self.node(target).is_dir:
                raise failure(errno.EISDIR)
        self.ask(self.overlay.rename, self.node(old_dir), old_name, self.node(new_dir), new_name, flags)
        self._moved(old_dir, old_name, ino, new_dir, new_name, target, bool(flags & RENAME_EXCHANGE))

    def _moved(
        self,
        old_dir: int,
        old_name: bytes,
        ino: int,
        new_dir: int,
        new_name: bytes,
        target: int | None,
        exchanged: bool,
    ) -> None:
        self._pin(ino)
        if target is not None:
            self._pin(target)
            if not exchanged and self.node(target).is_dir:
                self._died(target)
        self._bind(new_dir, new_name, ino)
        self._bind(old_dir, old_name, target if exchanged else None)
        self._unpin(ino)
        if target is not None:
            self._unpin(target)

    def _parent_of(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        ino = self._existing(above, follow=True)
        if not self.node(ino).is_dir:
            raise failure(errno.ENOTDIR)
        return ino, name

    def _is_above(self, ino: int, directory: int) -> bool:
        step = directory
        while step != ino:
            if step == ROOT or not self._parents.get(step):
                return False
            step = next(iter(self._parents[step]))[0]
        return True

    def truncate(self, path: bytes, size: int) -> None:
        """truncate(2)."""
        node = self.node(self._existing(path, follow=True))
        if node.is_dir:
            raise failure(errno.EISDIR)
        if not isinstance(node, File):
            raise failure(errno.EINVAL)
        self.ask(self.overlay.setattr, node, size=size)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        self.ask(self.overlay.setattr, self.node(self._existing(path, follow=True)), mode=mode)

    def chown(self, path: bytes, uid: int, gid: int, *, follow: bool) -> None:
        """chown(2) or lchown(2); -1 leaves one as it is."""
        node = self.node(self._existing(path, follow=follow))
        if isinstance(node, File) and node.mode & (stat.S_ISUID | stat.S_ISGID):
            self.overlay.kill_privileges(node)  # HANDLE_KILLPRIV leaves it to the filesystem
        self.ask(self.overlay.setattr, node, uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool) -> None:
        """utimensat(2)."""
        node = self.node(self._existing(path, follow=follow))
        self.ask(self.overlay.setattr, node, atime_ns=atime_ns, mtime_ns=mtime_ns)

    def getxattr(self, path: bytes, name: bytes, *, follow: bool) -> bytes:
        """getxattr(2) or lgetxattr(2)."""
        node = self.node(self._existing(path, follow=follow))
        if name.startswith(b"user.") and not _may_have_user_xattrs(node):
            raise failure(errno.ENODATA)
        value: bytes = self.ask(self.overlay.getxattr, node, name)
        return value

    def listxattr(self, path: bytes, *, follow: bool) -> list[bytes]:
        """listxattr(2) or llistxattr(2)."""
        names: list[bytes] = self.ask(self.overlay.listxattr, self.node(self._existing(path, follow=follow)))
        return names

    def setxattr(self, path: bytes, name: bytes, value: bytes, *, follow: bool) -> None:
        """setxattr(2) or lsetxattr(2)."""
        node = self.node(self._existing(path, follow=follow))
        if name.startswith(b"user.") and not _may_have_user_xattrs(node):
            raise failure(errno.EPERM)
        self.ask(self.overlay.setxattr, node, name, value)

    def removexattr(self, path: bytes, name: bytes, *, follow: bool) -> None:
        """removexattr(2) or lremovexattr(2)."""
        node = self.node(self._existing(path, follow=follow))
        if name.startswith(b"user.") and not _may_have_user_xattrs(node):
            raise failure(errno.EPERM)
        self.ask(self.overlay.removexattr, node, name)

    def close_everything(self, files: list[OpenFile]) -> None:
        """What an unmount does: all handles closed, all inodes forgotten."""
        for file in files:
            self.close(file)
        self.forget_everything()


def _may_have_user_xattrs(node: Node) -> bool:
    return stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode)
