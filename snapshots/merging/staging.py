"""The hidden directory in the base's root in which a merge prepares what is new and keeps what is old.

Owns its name, what is made in it, and its removal.  It lies in the base because only there is a rename into place
possible.  It also holds the journal, from the commit point to the end.  Knows no conflicts and no order of operations.
Belongs to the thread of its ``BaseTree``.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from snapshots.entries import Entry
from snapshots.errors import BaseChanged, MergeError
from snapshots.layers.base import STAGING_PREFIX, BaseTree
from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.layers.content import BaseContent, ObjectReader, RowReader, StoredContent, open_entry
from snapshots.layers.large import Giving, small_object
from snapshots.merging import disk
from snapshots.merging.course import Seen
from snapshots.merging.plan import Make
from snapshots.names import readable
from snapshots.storage.layout import OBJECT_MODE

DETACH = b"detach"
ATTACH = b"attach"
_UNFINISHED = b"journal"
_COPY = 8 << 20
_STEP = 256 << 20
COST = 4096
"""What a file or an operation costs beside its bytes, in bytes: for the progress."""


_DEFAULT_LIST = b"system.posix_acl_default"
_PERMISSIONS = 0o777
_BATCH = 256
"""Files of which the contents are read together, if they are small."""


def staging_name(run_id: str) -> bytes:
    """The name of a run's staging directory."""
    return STAGING_PREFIX + os.fsencode(run_id)


def _nothing(_: int) -> None:
    pass


class Staging:
    """The staging directory of one merge, from ``create`` (or ``receive``, or ``reopen``) to ``remove`` (or ``leave``).

    Until ``commit`` it holds nothing of the base.  The journal in it changes its name with the phase: it is ``detach``
    while names go away and ``attach`` while they come.
    """

    def __init__(self, base: BaseTree, objects: ObjectReader | None, name: bytes) -> None:
        self.name = name
        self.fd = -1
        """of the directory, while it is there"""
        self.made = False
        """whether the directory is this merge's and in the base"""
        self._tree = base
        self._paths = BasePaths(base)
        self._objects = objects
        self.made_files: dict[bytes, Seen] = {}
        """the new files as they were made here, by their paths in the run"""
        self.giving: Giving | None = None
        """where files are had that need not be copied"""
        self.tick: Callable[[int], None] = _nothing
        """told of every part of the work, in bytes or what a small file costs"""

    def create(self) -> None:
        """Make the directory.  MergeError when there is one already."""
        root = self._tree.fd(self._tree.root)
        try:
            disk.mkdir(root, self.name)
        except FileExistsError:
            raise MergeError(
                f"{readable(self.name)} in the base was left by an interrupted merge of another store: recover it"
                " there, or remove the directory, and merge again"
            ) from None
        self.made = True
        self.fd = disk.open_dir(root, self.name)
        # What is made below must not inherit the root's group or default access control list.
        disk.chmod(root, self.name, 0o700)
        inherited = self._tree.xattrs(self._tree.root, self.name)
        lists = {name: value for name, value in inherited.items() if name.startswith(b"system.posix_acl")}
        if lists:
            disk.set_xattrs(root, self.name, lists, {})

    def reopen(self) -> bool:
        """Take over the directory that is there; False when there is none.  MergeError when it is none."""
        root = self._tree.fd(self._tree.root)
        try:
            self.fd = disk.open_dir(root, self.name)
        except FileNotFoundError:
            return False
        except OSError as e:
            raise MergeError(
                f"{readable(self.name)} in the base is not what an interrupted merge left there ({e.strerror}): move it"
                " away, and try again"
            ) from e
        self.made = True
        return True

    # -- the journal

    def commit(self, journal: bytes, phase: bytes) -> None:
        """Write the journal and make it, and all that is staged, durable: the commit point is the rename."""
        disk.write_file(self.fd, _UNFINISHED, journal)
        disk.sync(self.fd)
        disk.rename(self.fd, _UNFINISHED, self.fd, phase)
        disk.sync_dir(self.fd)

    def turn(self, old: bytes, new: bytes) -> None:
        """Go over to the other phase."""
        disk.rename(self.fd, old, self.fd, new)

    def journal(self) -> tuple[bytes, bytes] | None:
        """The journal and the phase; None before the commit point and after the end."""
        for phase in (DETACH, ATTACH):
            data = disk.read_file(self.fd, phase)
            if data is not None:
                return data, phase
        return None

    def close_journal(self) -> None:
        """Remove the journal: what is in the base is complete, and what is in the slots is not needed for it."""
        for name in (DETACH, ATTACH, _UNFINISHED):
            if disk.exists(self.fd, name):
                disk.unlink(self.fd, name)

    def slots(self) -> dict[bytes, tuple[int, int]]:
        """Device and inode number of what is in every slot."""
        found = {}
        with os.scandir(self.fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name.isdigit():
                    st = entry.stat(follow_symlinks=False)
                    found[name] = st.st_dev, st.st_ino
        return found

    # -- what is made in it

    def make(self, makes: Iterable[Make]) -> None:
        """Make new nodes, parents first; BaseChanged when the base no longer has what a content takes from it."""
        inherited = []
        for batch in _batches(makes):
            last: bytes | None = None
            for make, content in zip(batch, self._small_contents(batch), strict=True):
                above, name = split(make.staged)
                if above != last:
                    directory, last = self._paths.dir(join(self.name, above) if above else self.name), above
                dir_fd = self._tree.fd(directory)
                if stat.S_ISREG(make.entry.mode):
                    self._make_file(dir_fd, name, make, content)
                else:
                    self._make(dir_fd, name, make)
                    if _DEFAULT_LIST in make.xattrs:
                        inherited.append((directory, name, {_DEFAULT_LIST: make.xattrs[_DEFAULT_LIST]}))
                self.tick(COST if content is None else COST + len(content))
        for directory, name, default in inherited:  # what is in them had its own list in the run, or none
            disk.set_xattrs(self._tree.fd(directory), name, {}, default)

    def _small_contents(self, makes: Sequence[Make]) -> list[bytes | None]:
        """The contents of those that are small objects: one question to the store for many files."""
        names = [small_object(make.entry) for make in makes]
        wanted = {name for name in names if name is not None}
        rows = self._objects if isinstance(self._objects, RowReader) else None
        found: dict[bytes, bytes] = rows.read_rows(wanted) if wanted and rows is not None else {}
        contents = [found.get(name) if name is not None else None for name in names]
        return [_cut(content, make.entry) for content, make in zip(contents, makes, strict=True)]

    def _make(self, dir_fd: int, name: bytes, make: Make) -> None:
        entry = make.entry
        kind = stat.S_IFMT(entry.mode)
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
            now = {attr: value for attr, value in make.xattrs.items() if attr != _DEFAULT_LIST}
            disk.set_xattrs(dir_fd, name, {}, now)
        if kind == stat.S_IFDIR:
            return  # its mode and times are set when everything is in it
        if kind != stat.S_IFLNK:
            disk.chmod(dir_fd, name, stat.S_IMODE(entry.mode))
        disk.utime(dir_fd, name, (entry.atime_ns, entry.mtime_ns))

    def _make_file(self, dir_fd: int, name: bytes, make: Make, data: bytes | None) -> None:
        """Make a file; ``data`` is all of its content, if that has been read."""
        entry = make.entry
        mode = stat.S_IMODE(entry.mode)
        times = (entry.atime_ns, entry.mtime_ns)
        fd = self._open_given(dir_fd, name, entry) if data is None else -1
        try:
            if fd < 0:
                # Nobody else may enter the staging directory, so the file can have its mode before it is complete.
                fd = disk.create(dir_fd, name, mode & _PERMISSIONS)
                if data is None:
                    self._write(fd, entry)
                else:
                    disk.write(fd, data, 0)
            if make.xattrs:
                # By descriptor: writing the content may have closed the directory's.
                disk.set_file_xattrs(fd, make.xattrs)
            disk.finish_file(fd, None, times)
            st = os.fstat(fd)
            # An access control list changes the mode, and so does a change of owner, which takes capabilities too.
            if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
                disk.own_file(fd, entry.uid, entry.gid)
                if make.xattrs:
                    disk.set_file_xattrs(fd, make.xattrs)
                disk.finish_file(fd, mode, times)
                st = os.fstat(fd)
            elif stat.S_IMODE(st.st_mode) != mode:
                disk.finish_file(fd, mode, times)
                st = os.fstat(fd)
            self.made_files[make.path] = Seen.of(st)
        finally:
            if fd >= 0:
                os.close(fd)

    def _open_given(self, dir_fd: int, name: bytes, entry: Entry) -> int:
        """The file of an object, under its new name; -1 when it has to be copied."""
        path = self.giving.path_of(entry) if self.giving is not None else None
        if path is None or self.giving is None:
            return -1
        try:
            disk.link_path(path, dir_fd, name)
        except OSError:
            return -1  # another filesystem, or one without links
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        os.fchmod(fd, 0o600)  # from here on nobody else takes it for an object
        if not self.giving.is_free(entry):
            os.fchmod(fd, OBJECT_MODE)
            os.close(fd)
            disk.unlink(dir_fd, name)
            return -1
        self.tick(entry.size)
        return fd

    def take_back_given(self) -> None:
        """What of it is an object's file is to be one again: its owner can read it, and nobody write to it."""
        waiting = [os.dup(self.fd)]
        while waiting:
            above = waiting.pop()
            try:
                for name, is_dir in _listing(above):
                    st = os.stat(name, dir_fd=above, follow_symlinks=False)
                    if is_dir and st.st_mode & stat.S_IRWXU == stat.S_IRWXU:
                        waiting.append(disk.open_dir(above, name))
                    elif stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
                        if st.st_uid != os.geteuid():
                            disk.chown(above, name, os.geteuid(), os.getegid())
                        disk.chmod(above, name, OBJECT_MODE)
            finally:
                os.close(above)

    def _write(self, fd: int, entry: Entry) -> None:
        """Copy the content; holes stay holes."""
        assert self._objects is not None
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
            self._copy(lower.fd, offset, fd, offset, length)
            written = offset + length
        return written

    def _copy_object(self, name: bytes, start: int, fd: int, offset: int, length: int) -> None:
        assert self._objects is not None
        source = self._objects.descriptor(name) if length > _COPY else None
        if source is not None:
            self._copy(source, start, fd, offset, length)
            return
        end = offset + length
        while offset < end:
            data = self._objects.read(name, start, min(_COPY, end - offset))
            if not data:
                raise MergeError(f"object {name.hex()} of the store is shorter than it was; run goexfs fsck")
            disk.write(fd, data, offset)
            self.tick(len(data))
            start, offset = start + len(data), offset + len(data)

    def _copy(self, source: int, start: int, fd: int, offset: int, length: int) -> None:
        for done in range(0, length, _STEP):
            step = min(_STEP, length - done)
            disk.copy(source, start + done, fd, offset + done, step)
            self.tick(step)

    # -- the end

    def close(self) -> None:
        """Close the descriptor; the directory stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def left(self) -> None:
        """The directory is somewhere else now, and somebody else's."""
        self.close()
        self.made = False

    def remove(self) -> None:
        """Remove the directory and everything in it."""
        self.close()
        remove_tree(self._tree.fd(self._tree.root), self.name)
        self.made = False


def _batches(makes: Iterable[Make]) -> Iterator[tuple[Make, ...]]:
    waiting = iter(makes)
    while batch := tuple(islice(waiting, _BATCH)):
        yield batch


def _cut(data: bytes | None, entry: Entry) -> bytes | None:
    """The content of an entry in the object that holds it; None when that is damaged, which is told elsewhere."""
    if data is None or entry.content is None or len(data) < entry.content.size:
        return None
    return data if len(data) == entry.content.size else data[: entry.content.size]


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Remove a tree of any depth with two descriptors: directories are pulled up before they are emptied.

    Fine if it is gone.
    """
    try:
        top = disk.open_dir(dir_fd, name)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    disk.rmdir(dir_fd, name)


def _empty(top: int) -> None:
    pulled = 0
    waiting: deque[bytes] = deque()
    current: bytes | None = None
    while True:
        fd = top if current is None else disk.open_dir(top, current)
        try:
            for child, is_dir in _listing(fd):
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
                    while disk.exists(top, deeper := b"d%d" % pulled):  # of a removal that was interrupted
                        pulled += 1
                    disk.rename(fd, child, top, deeper)
                    waiting.append(deeper)
        finally:
            if current is not None:
                os.close(fd)
                disk.rmdir(top, current)
        if not waiting:
            return
        current = waiting.popleft()


def _listing(fd: int) -> list[tuple[bytes, bool]]:
    with os.scandir(fd) as entries:
        return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
