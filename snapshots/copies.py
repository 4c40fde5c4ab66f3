"""Copying a tree with everything that a merge carries over, for pre-images that cannot be renamed.

Owns the order: content, owner, xattrs, mode, times, and of a directory all that only when it is full.  Hard links among
what is copied stay links.  Follows nothing.  No state, any thread.
"""

import os
import stat

from snapshots import disk
from snapshots.compare import carried

_Links = dict[tuple[int, int], tuple[int, bytes]]


def copy_tree(from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> None:
    """Make ``to_name``, which must be free, an exact copy; OSError, and then an incomplete one may be there."""
    links: _Links = {}
    opened: list[int] = []
    try:
        _copy(from_fd, from_name, to_fd, to_name, links, opened)
    finally:
        for fd in opened:
            os.close(fd)


def _copy(from_fd: int, name: bytes, to_fd: int, to_name: bytes, links: _Links, opened: list[int]) -> None:
    st = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
    if stat.S_ISDIR(st.st_mode):
        disk.mkdir(to_fd, to_name)
        source = disk.open_dir(from_fd, name)
        try:
            target = disk.open_dir(to_fd, to_name)
            try:
                for child in sorted(map(os.fsencode, os.listdir(source))):
                    _copy(source, child, target, child, links, opened)
            finally:
                os.close(target)
        finally:
            os.close(source)
    elif st.st_nlink > 1 and (st.st_dev, st.st_ino) in links:
        disk.link(*links[st.st_dev, st.st_ino], to_fd, to_name)
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
    if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
        opened.append(os.dup(to_fd))
        links[st.st_dev, st.st_ino] = opened[-1], to_name


def _copy_content(from_fd: int, name: bytes, to_fd: int, to_name: bytes, size: int) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=from_fd)
    try:
        target = disk.create(to_fd, to_name)
        try:
            end = 0
            while end < size:
                try:
                    start = os.lseek(source, end, os.SEEK_DATA)
                except OSError:
                    break  # a hole to the end
                end = min(os.lseek(source, start, os.SEEK_HOLE), size)
                disk.copy(source, start, target, start, end - start)
            disk.truncate(target, size)
        finally:
            os.close(target)
    finally:
        os.close(source)
