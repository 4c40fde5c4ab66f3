"""Copying a tree with everything that a merge carries over, for pre-images that cannot be renamed.

Owns the order: content, owner, xattrs, mode, times, and of a directory all that only when it is full; and what is known
of the nodes meanwhile.  Hard links among what is copied stay links.  What has names elsewhere, too, is linked again on
the way back, instead of being copied, if it is still there.  Follows nothing.  No state, any thread.
"""

import os
import stat
from collections.abc import Iterator

import msgspec

from snapshots.merging import disk
from snapshots.merging.handles import handle_of, link_again, search
from snapshots.review.compare import carried

Number = tuple[int, int]
"""Device and inode number."""


class Node(msgspec.Struct, frozen=True, array_like=True):
    """What a copy was made of."""

    dev: int
    ino: int
    handle: bytes = b""
    """of what has several names, if the filesystem has handles"""


Nodes = dict[bytes, Node]
"""By path in the copy."""


def copy_tree(from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> Nodes:
    """Make ``to_name``, which must be free, an exact copy; OSError, and then an incomplete one may be there."""
    return _Copying({}, -1).copy_all(from_fd, from_name, to_fd, to_name)


def copy_back(
    from_fd: int, from_name: bytes, to_fd: int, to_name: bytes, nodes: Nodes, top_fd: int
) -> dict[Number, Number]:
    """The reverse, given what ``copy_tree`` returned; which node is which now.

    What has other names is linked to them, if it can be opened by its handle or has one below ``top_fd``.
    """
    copying = _Copying(nodes, top_fd)
    copying.copy_all(from_fd, from_name, to_fd, to_name)
    return copying.now


class _Copying:
    def __init__(self, nodes: Nodes, top_fd: int) -> None:
        self._nodes = nodes
        """what is copied back"""
        self._top_fd = top_fd
        self._elsewhere: dict[int, bytes] | None = None
        self._links: dict[Number, tuple[int, bytes]] = {}
        self._opened: list[int] = []
        self._found: Nodes = {}
        self.now: dict[Number, Number] = {}
        """what became of the nodes that had been copied"""

    def copy_all(self, from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> Nodes:
        try:
            self._copy(from_fd, from_name, to_fd, to_name, b"")
        finally:
            for fd in self._opened:
                os.close(fd)
        return self._found

    def _copy(self, from_fd: int, name: bytes, to_fd: int, to_name: bytes, path: bytes) -> None:
        st = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
        is_dir = stat.S_ISDIR(st.st_mode)
        several = st.st_nlink > 1 and not is_dir
        self._found[path] = Node(st.st_dev, st.st_ino, handle_of(from_fd, name) if several else b"")
        if is_dir:
            self._copy_directory(from_fd, name, to_fd, to_name, path)
        elif several and (st.st_dev, st.st_ino) in self._links:
            disk.link(*self._links[st.st_dev, st.st_ino], to_fd, to_name)
            return
        elif self._is_linked(path, to_fd, to_name):
            self._remember(st, to_fd, to_name)
            return
        elif stat.S_ISREG(st.st_mode):
            _copy_content(from_fd, name, to_fd, to_name, st.st_size)
        elif stat.S_ISLNK(st.st_mode):
            disk.symlink(os.readlink(name, dir_fd=from_fd), to_fd, to_name)
        else:
            disk.mknod(to_fd, to_name, st.st_mode, st.st_rdev)
        made = os.stat(to_name, dir_fd=to_fd, follow_symlinks=False)
        if (made.st_uid, made.st_gid) != (st.st_uid, st.st_gid):
            disk.chown(to_fd, to_name, st.st_uid, st.st_gid)
        disk.set_xattrs(to_fd, to_name, carried(disk.xattrs(to_fd, to_name)), carried(disk.xattrs(from_fd, name)))
        if not stat.S_ISLNK(st.st_mode):
            disk.chmod(to_fd, to_name, stat.S_IMODE(st.st_mode))
        disk.utime(to_fd, to_name, (st.st_atime_ns, st.st_mtime_ns))
        if several:
            self._remember(st, to_fd, to_name)
        was = self._nodes.get(path)
        if was is not None:
            self.now[was.dev, was.ino] = made.st_dev, made.st_ino

    def _copy_directory(self, from_fd: int, name: bytes, to_fd: int, to_name: bytes, path: bytes) -> None:
        disk.mkdir(to_fd, to_name)
        source = disk.open_dir(from_fd, name)
        try:
            target = disk.open_dir(to_fd, to_name)
            try:
                for child in sorted(map(os.fsencode, os.listdir(source))):
                    self._copy(source, child, target, child, os.path.join(path, child))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _remember(self, st: os.stat_result, to_fd: int, to_name: bytes) -> None:
        self._opened.append(os.dup(to_fd))
        self._links[st.st_dev, st.st_ino] = self._opened[-1], to_name

    def _is_linked(self, path: bytes, to_fd: int, to_name: bytes) -> bool:
        """Whether what is to be there was elsewhere, too, and is a name of that again."""
        was = self._nodes.get(path)
        if was is None or not was.handle:
            return False
        if link_again(self._top_fd, was.handle, to_fd, to_name):
            return True
        if self._elsewhere is None:
            wanted = {each.ino: each.handle for each in self._nodes.values() if each.handle}
            self._elsewhere = search(self._top_fd, wanted)
        other = self._elsewhere.get(was.ino)
        if other is None:
            return False
        try:
            disk.link(self._top_fd, other, to_fd, to_name)
        except OSError:
            return False
        return True


def _copy_content(from_fd: int, name: bytes, to_fd: int, to_name: bytes, size: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=from_fd)
    try:
        target = disk.create(to_fd, to_name)
        try:
            for start, length in data_ranges(source, size):
                disk.copy(source, start, target, start, length)
            disk.truncate(target, size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length, in bytes, of what is no hole in the first *size* bytes of a file."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return  # a hole to the end
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end - start
