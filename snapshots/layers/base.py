"""The base, reached by directory descriptors: no long path is ever put together, no symlink ever followed.

Owns the descriptors of the base's directories (a bounded, least-recently-used set) and nothing else: it keeps no
attributes, so what it answers is what the base says at that moment.  Knows no upper and never writes.

A ``BaseDir`` names a directory by its parent and its name.  Its descriptor is opened when first needed and may be
closed again to make room; when it is reopened, through its parent, it must still be the inode that it was, or ESTALE
is raised: the base changed and the caller must look its way down again.

Threading: a ``BaseTree`` belongs to one thread and is not shared across a fork (descriptors are borrowed from the
set, and listings of one directory share its offset).  Descriptors from ``BaseTree.open`` are the caller's own and
may go anywhere.
"""

import errno
import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from snapshots.errors import BaseError
from snapshots.names import is_valid_name, readable

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIR_UNREADABLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a base name may have become a FIFO since it was looked at, and opening one must not hang.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

STAGING_PREFIX = b".goexfs-merge-"
"""Names in the root of a base that belong to merges: no list shows them, and asked for they are not there."""


class BaseDir:
    """A directory of the base, as a name in its parent; compared by identity.  Made by ``BaseTree`` only."""

    __slots__ = ("_dev", "_fd", "_ino", "_listable", "name", "parent")

    def __init__(self, parent: "BaseDir | None", name: bytes) -> None:
        self.parent = parent
        self.name = name
        self._fd = -1
        self._listable = True
        self._dev = -1
        """device of the inode this was when first opened; -1 before that"""
        self._ino = -1

    @property
    def path(self) -> bytes:
        """Relative to the base, without a leading slash; empty for the base itself.  May exceed PATH_MAX."""
        names: list[bytes] = []
        d = self
        while d.parent is not None:
            names.append(d.name)
            d = d.parent
        return b"/".join(reversed(names))

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number; (-1, -1) until it was first opened."""
        return self._dev, self._ino

    def __repr__(self) -> str:
        return f"<BaseDir {readable(self.path) or '.'}>"


class BaseTree:
    """The base directory at ``path``; at most about ``max_open`` of its directories are kept open.

    Raises ``BaseError`` when it is missing, not a directory, or may not be read.  Everything else raises the
    ``OSError`` of the system call.
    """

    def __init__(self, path: bytes, *, max_open: int = 256) -> None:
        self.path = path
        self._max_open = max(2, max_open)
        self._open_dirs: OrderedDict[BaseDir, None] = OrderedDict()
        self.root = BaseDir(None, b"")
        try:
            fd = self._openat(path, _DIR & ~os.O_NOFOLLOW, None)
        except FileNotFoundError:
            raise BaseError(f"the base {readable(path)} does not exist; name a directory that does") from None
        except NotADirectoryError:
            raise BaseError(f"the base {readable(path)} is not a directory; name a directory") from None
        except PermissionError:
            raise BaseError(f"the base {readable(path)} may not be read; check its permissions") from None
        except OSError as e:
            raise BaseError(f"the base {readable(path)} cannot be opened: {e.strerror}") from e
        st = os.fstat(fd)
        self.root._fd = fd
        self.root._dev, self.root._ino = st.st_dev, st.st_ino
        self._pid = os.getpid()
        self.dev: int = st.st_dev
        """device of the base's root"""

    def __enter__(self) -> Self:
        return self

    def __del__(self) -> None:
        """The changes of a diff hold the tree that they were made from, and nobody else does."""
        if hasattr(self, "dev") and os.getpid() == self._pid:  # in a child the numbers may mean something else by now
            self.close()

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor.  The tree is of no use afterwards."""
        self.trim(0)
        if self.root._fd >= 0:
            os.close(self.root._fd)
            self.root._fd = -1

    # -- directories

    def dir(self, path: bytes) -> BaseDir:
        """The directory at ``path`` below the base (``b""`` is the base).  Opens nothing, so it may not exist."""
        d = self.root
        if path:
            for name in path.split(b"/"):
                d = self.child(d, name)
        return d

    def child(self, parent: BaseDir, name: bytes) -> BaseDir:
        """The directory ``name`` in ``parent``.  Opens nothing, so it may not exist."""
        if not is_valid_name(name):
            raise ValueError(f"not a name in a directory: {name!r}")
        return BaseDir(parent, name)

    def fd(self, d: BaseDir) -> int:
        """A descriptor of the directory, borrowed until the next call on this tree: do not close it.

        It can be listed unless the directory is one that this user may only pass through (then it is O_PATH).
        ESTALE when the directory is not the inode it was when this ``BaseDir`` was first opened.
        """
        fd = d._fd
        if fd < 0:
            return self._reopen(d)
        if d.parent is not None:
            self._open_dirs.move_to_end(d)
        return fd

    def release(self, d: BaseDir) -> None:
        """Close the directory's descriptor, if open, and forget which inode it was; the next use opens it anew."""
        if d.parent is not None:
            self.rest(d)
            d._dev = d._ino = -1

    def rest(self, d: BaseDir) -> None:
        """Close the directory's descriptor, if open; the next use opens it again, and it has to be the same inode."""
        if d.parent is not None and d._fd >= 0:
            del self._open_dirs[d]
            os.close(d._fd)
            d._fd = -1

    def trim(self, keep: int) -> None:
        """Close all but the ``keep`` most recently used directories (the root stays open)."""
        while len(self._open_dirs) > keep:
            oldest, _ = self._open_dirs.popitem(last=False)
            os.close(oldest._fd)
            oldest._fd = -1

    def _reopen(self, d: BaseDir) -> int:
        missing: list[BaseDir] = []
        step: BaseDir = d
        while step._fd < 0:
            missing.append(step)
            if step.parent is None:
                raise ValueError("the base tree is closed")
            step = step.parent
        fd = self.fd(step)
        while missing:
            step = missing.pop()
            fd = self._open_dir(step, fd)
        return fd

    def _open_dir(self, d: BaseDir, parent_fd: int) -> int:
        listable = True
        try:
            fd = self._openat(d.name, _DIR, parent_fd)
        except PermissionError:
            fd = self._openat(d.name, _DIR_UNREADABLE, parent_fd, noatime=False)
            listable = False
        st = os.fstat(fd)
        if d._ino < 0:
            d._dev, d._ino = st.st_dev, st.st_ino
        elif (d._dev, d._ino) != (st.st_dev, st.st_ino):
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), d.name)
        d._fd = fd
        d._listable = listable
        self._open_dirs[d] = None
        # The set always holds d itself and its parent, whose descriptor a longer walk still uses.
        self.trim(self._max_open)
        return fd

    def _openat(self, name: bytes, flags: int, dir_fd: int | None, *, noatime: bool = True) -> int:
        """``openat``, without O_NOATIME where the owner is someone else, and with room made on EMFILE."""
        if noatime:
            flags |= os.O_NOATIME
        try:
            return self._openat_once(name, flags, dir_fd)
        except OSError as e:
            # EPERM is O_NOATIME on someone else's file; a file that may not be read at all is EACCES.
            if e.errno == errno.EPERM and flags & os.O_NOATIME:
                return self._openat(name, flags & ~os.O_NOATIME, dir_fd, noatime=False)
            if e.errno == errno.EMFILE and len(self._open_dirs) > 2:
                self.trim(max(2, len(self._open_dirs) // 2))
                return self._openat(name, flags, dir_fd, noatime=False)
            raise

    def _openat_once(self, name: bytes, flags: int, dir_fd: int | None) -> int:
        """``openat``; the one place in which anything is opened."""
        return os.open(name, flags, dir_fd=dir_fd)

    # -- what is in them; ``name`` may be b"." for the directory itself

    def stat(self, d: BaseDir, name: bytes) -> os.stat_result:
        """``lstat`` of a name; FileNotFoundError."""
        if d.parent is None and name.startswith(STAGING_PREFIX):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return os.stat(name, dir_fd=self.fd(d), follow_symlinks=False)

    def stat_dir(self, d: BaseDir) -> os.stat_result:
        """``fstat`` of the directory itself."""
        return os.fstat(self.fd(d))

    def open(self, d: BaseDir, name: bytes, flags: int = os.O_RDONLY) -> int:
        """Open a name and return a descriptor that is the caller's to close; ELOOP for a symlink."""
        return self._openat(name, flags | _FILE, self.fd(d))

    def readlink(self, d: BaseDir, name: bytes) -> bytes:
        """The target of a symlink."""
        return os.readlink(name, dir_fd=self.fd(d))

    def xattrs(self, d: BaseDir, name: bytes) -> dict[bytes, bytes]:
        """All extended attributes of a name that this user may see; of a symlink its own."""
        path = self._proc_path(d, name)
        found: dict[bytes, bytes] = {}
        for attr in _listxattr(path):
            try:
                found[os.fsencode(attr)] = os.getxattr(path, attr, follow_symlinks=False)
            except OSError as e:
                if e.errno != errno.ENODATA:  # removed since it was listed
                    raise
        return found

    def listxattr(self, d: BaseDir, name: bytes) -> list[bytes]:
        """The names of the extended attributes of a name; empty where the filesystem has none."""
        return [os.fsencode(attr) for attr in _listxattr(self._proc_path(d, name))]

    def getxattr(self, d: BaseDir, name: bytes, attr: bytes) -> bytes:
        """One extended attribute; ENODATA when it is not set."""
        return os.getxattr(self._proc_path(d, name), attr, follow_symlinks=False)

    # Last of the public methods: below it ``list`` in an annotation of this class would mean the method.
    def list(self, d: BaseDir) -> list[bytes]:
        """The names in a directory, in no particular order; PermissionError where it may not be read."""
        fd = self.fd(d)
        if not d._listable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), d.name)
        # listdir duplicates the descriptor, which shares its offset, and rewinds it when done, also on an error.
        names = [os.fsencode(name) for name in os.listdir(fd)]
        return names if d.parent is not None else [name for name in names if not name.startswith(STAGING_PREFIX)]

    def _proc_path(self, d: BaseDir, name: bytes) -> bytes:
        # There is no getxattrat(2) before Linux 6.13; the magic link stands for the directory, and the last
        # component is not followed.  Works on O_PATH descriptors and on symlinks, sockets and FIFOs alike.
        return b"/proc/self/fd/%d/%b" % (self.fd(d), name)


def _listxattr(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno == errno.EOPNOTSUPP:
            return []
        raise
