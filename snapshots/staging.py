"""The hidden directory in the base's root in which a merge prepares what is new and keeps what is old.

Owns its name, what is made in it, and its removal.  It lies in the base because only there is a rename into place
possible.  Knows no conflicts and no order of operations.  Belongs to the thread of its ``BaseTree``.
"""

import os
import stat
from collections import deque
from collections.abc import Iterable

from snapshots import disk
from snapshots.base import BaseTree
from snapshots.basepaths import BasePaths, join, split
from snapshots.content import BaseContent, ObjectReader, StoredContent, open_entry
from snapshots.entries import Entry
from snapshots.errors import BaseChanged, MergeError
from snapshots.names import readable
from snapshots.plan import Make

PREFIX = b".goexfs-merge-"
_DONE = b".done"
_COPY = 8 << 20


def staging_name(run_id: str) -> bytes:
    """The name of a run's staging directory."""
    return PREFIX + os.fsencode(run_id)


class Staging:
    """The staging directory of one merge, from ``create`` to ``remove``."""

    def __init__(self, base: BaseTree, objects: ObjectReader, name: bytes) -> None:
        self.name = name
        self.fd = -1
        """of the directory, while it is there"""
        self.made = False
        """whether the directory is this merge's and in the base"""
        self._tree = base
        self._paths = BasePaths(base)
        self._objects = objects

    def create(self) -> None:
        """Make the directory.  MergeError when an interrupted merge left one that holds what it replaced."""
        root = self._tree.fd(self._tree.root)
        self._remove(self.name + _DONE)
        try:
            disk.mkdir(root, self.name)
        except FileExistsError:
            raise MergeError(
                f"an earlier merge of this run was interrupted; {readable(self.name)} in the base holds what it had "
                "replaced by then: put that back, or remove the directory, and merge again"
            ) from None
        self.made = True
        self.fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        # What is made below must not inherit the root's group or default access control list.
        disk.chmod(root, self.name, 0o700)
        inherited = self._tree.xattrs(self._tree.root, self.name)
        lists = {name: value for name, value in inherited.items() if name.startswith(b"system.posix_acl")}
        if lists:
            disk.set_xattrs(root, self.name, lists, {})

    def make(self, makes: Iterable[Make]) -> None:
        """Make new nodes, parents first; BaseChanged when the base no longer has what a content takes from it."""
        for make in makes:
            above, name = split(make.staged)
            self._make(self._tree.fd(self._paths.dir(join(self.name, above) if above else self.name)), name, make)

    def _make(self, dir_fd: int, name: bytes, make: Make) -> None:
        entry = make.entry
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFREG:
            self._make_file(dir_fd, name, make)
            return
        if kind == stat.S_IFDIR:
            disk.mkdir(dir_fd, name)
        elif kind == stat.S_IFLNK:
            disk.symlink(entry.target or b"", dir_fd, name)
        else:
            disk.mknod(dir_fd, name, entry.mode, entry.rdev)
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
            disk.chown(dir_fd, name, entry.uid, entry.gid)
        if make.xattrs:
            disk.set_xattrs(dir_fd, name, {}, make.xattrs)
        if kind == stat.S_IFDIR:
            return  # its mode and times are set when everything is in it
        if kind != stat.S_IFLNK:
            disk.chmod(dir_fd, name, stat.S_IMODE(entry.mode))
        disk.utime(dir_fd, name, (entry.atime_ns, entry.mtime_ns))

    def _make_file(self, dir_fd: int, name: bytes, make: Make) -> None:
        entry = make.entry
        fd = disk.create(dir_fd, name)
        try:
            self._write(fd, entry)
            st = os.fstat(fd)
            if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
                disk.own_file(fd, entry.uid, entry.gid)
            if make.xattrs:
                # By descriptor: writing the content may have closed the directory's.
                disk.set_file_xattrs(fd, make.xattrs)
            disk.finish_file(fd, stat.S_IMODE(entry.mode), (entry.atime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _write(self, fd: int, entry: Entry) -> None:
        """Copy the content; holes stay holes."""
        written = 0
        with open_entry(entry, self._paths, self._objects) as source:
            lower = source if isinstance(source, BaseContent) else None
            if lower is not None:
                written = self._copy_base(lower, fd, 0, lower.size)
            elif isinstance(source, StoredContent):
                lower = source.lower
                for piece in source.pieces():
                    if piece.object is not None:
                        self._copy_object(piece.object, piece.start, fd, piece.offset, piece.length)
                        written = piece.offset + piece.length
                    elif lower is not None:
                        written = self._copy_base(lower, fd, piece.offset, piece.offset + piece.length) or written
            if lower is not None and not lower.is_unchanged():
                raise BaseChanged(f"{readable(lower.path)} in the base was written to while it was copied; try again")
            if written != source.size:
                disk.truncate(fd, source.size)

    def _copy_base(self, lower: BaseContent, fd: int, start: int, end: int) -> int:
        written = 0
        for offset, length in lower.data_ranges(start, end):
            disk.copy(lower.fd, offset, fd, offset, length)
            written = offset + length
        return written

    def _copy_object(self, name: bytes, start: int, fd: int, offset: int, length: int) -> None:
        source = self._objects.descriptor(name) if length > _COPY else None
        if source is not None:
            disk.copy(source, start, fd, offset, length)
            return
        end = offset + length
        while offset < end:
            data = self._objects.read(name, start, min(_COPY, end - offset))
            if not data:
                raise MergeError(f"object {name.hex()} of the store is shorter than it was; run goexfs fsck")
            disk.write(fd, data, offset)
            start, offset = start + len(data), offset + len(data)

    def retire(self) -> None:
        """Rename the directory so that its name says: nothing in here is needed any more."""
        root = self._tree.fd(self._tree.root)
        self._remove(self.name + _DONE)
        disk.rename(root, self.name, root, self.name + _DONE)
        self.name += _DONE

    def remove(self) -> None:
        """Remove the directory and everything in it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._remove(self.name)
        self.made = False

    def _remove(self, name: bytes) -> None:
        """Remove a tree of any depth with two descriptors: directories are pulled up before they are emptied."""
        root = self._tree.fd(self._tree.root)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            top = os.open(name, flags, dir_fd=root)
        except FileNotFoundError:
            return
        try:
            pulled = 0
            waiting: deque[bytes] = deque()
            current: bytes | None = None
            while True:
                fd = top if current is None else os.open(current, flags, dir_fd=top)
                try:
                    for entry in _listing(fd):
                        child, is_dir = entry
                        if not is_dir:
                            disk.unlink(fd, child)
                            continue
                        st = os.stat(child, dir_fd=fd, follow_symlinks=False)
                        if st.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                            disk.chmod(fd, child, 0o700)
                        if current is None:
                            waiting.append(child)
                        else:
                            pulled += 1
                            deeper = b"d%d" % pulled
                            disk.rename(fd, child, top, deeper)
                            waiting.append(deeper)
                finally:
                    if current is not None:
                        os.close(fd)
                        disk.rmdir(top, current)
                if not waiting:
                    break
                current = waiting.popleft()
        finally:
            os.close(top)
        disk.rmdir(root, name)


def _listing(fd: int) -> list[tuple[bytes, bool]]:
    with os.scandir(fd) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
