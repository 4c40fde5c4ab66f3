"""System calls on a plain directory: the side of a differential test that is right by definition.

Owns descriptors relative to one directory, so that paths stay short, and a descriptor without access (O_PATH) of every
inode ever looked at, so that no inode number is given out twice within one test.
"""

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


class OpenFile:
    """A file descriptor and the flags it was opened with."""

    def __init__(self, fd: int, flags: int) -> None:
        self.fd = fd
        self.flags = flags


class Native:
    """System calls by paths relative to *top*; ``b""`` is *top* itself, with *at* an open directory."""

    def __init__(self, top: Path) -> None:
        self._root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self._held: dict[int, int] = {}

    def finish(self) -> None:
        """Close every descriptor."""
        for fd in (*self._held.values(), self._root):
            os.close(fd)
        self._held = {}

    def hold(self, path: bytes, *, at: OpenFile | None = None) -> None:
        """Keep the inode of *path*, so that its number stays its own."""
        self._hold(os.open(path or b".", os.O_PATH | os.O_NOFOLLOW, dir_fd=self._dir(at)))

    def hold_open(self, file: OpenFile) -> None:
        """The same for an open file, after it is closed."""
        self._hold(os.open(b"/proc/self/fd/%d" % file.fd, os.O_PATH))

    def _hold(self, fd: int) -> None:
        if self._held.setdefault(os.fstat(fd).st_ino, fd) != fd:
            os.close(fd)

    def _dir(self, at: OpenFile | None) -> int:
        return at.fd if at else self._root

    # -- open files

    def open(self, path: bytes, flags: int, mode: int, *, at: OpenFile | None = None) -> OpenFile:
        """open(2)."""
        return OpenFile(os.open(path or b".", flags, mode, dir_fd=self._dir(at)), flags)

    def close(self, file: OpenFile) -> None:
        """close(2)."""
        os.close(file.fd)

    def read(self, file: OpenFile, offset: int, size: int) -> bytes:
        """pread(2)."""
        return os.pread(file.fd, size, offset)

    def write(self, file: OpenFile, offset: int, data: bytes) -> int:
        """pwrite(2); at the end with O_APPEND, as Linux has it."""
        return os.pwrite(file.fd, data, offset)

    def ftruncate(self, file: OpenFile, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(file.fd, size)

    def fstat(self, file: OpenFile) -> os.stat_result:
        """fstat(2)."""
        return os.fstat(file.fd)

    def names(self, file: OpenFile) -> list[bytes]:
        """All names of an open directory."""
        return [os.fsencode(name) for name in os.listdir(file.fd)]

    # -- paths

    def stat(self, path: bytes, *, follow: bool, at: OpenFile | None = None) -> os.stat_result:
        """stat(2) or lstat(2)."""
        return os.stat(path or b".", dir_fd=self._dir(at), follow_symlinks=follow)

    def readlink(self, path: bytes, *, at: OpenFile | None = None) -> bytes:
        """readlink(2)."""
        return os.readlink(path or b".", dir_fd=self._dir(at))

    def mkdir(self, path: bytes, mode: int, *, at: OpenFile | None = None) -> None:
        """mkdir(2)."""
        os.mkdir(path or b".", mode, dir_fd=self._dir(at))

    def mknod(self, path: bytes, mode: int, *, at: OpenFile | None = None) -> None:
        """mknod(2)."""
        os.mknod(path or b".", mode, dir_fd=self._dir(at))

    def symlink(self, path: bytes, target: bytes, *, at: OpenFile | None = None) -> None:
        """symlink(2)."""
        os.symlink(target, path or b".", dir_fd=self._dir(at))

    def link(self, old: bytes, new: bytes) -> None:
        """link(2)."""
        os.link(old or b".", new or b".", src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)

    def unlink(self, path: bytes, *, at: OpenFile | None = None) -> None:
        """unlink(2)."""
        os.unlink(path or b".", dir_fd=self._dir(at))

    def rmdir(self, path: bytes, *, at: OpenFile | None = None) -> None:
        """rmdir(2)."""
        os.rmdir(path or b".", dir_fd=self._dir(at))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """renameat2(2)."""
        if _libc.renameat2(self._root, old or b".", self._root, new or b".", flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def truncate(self, path: bytes, size: int) -> None:
        """ftruncate(2) of a file opened for it: truncate(2) to the same size sets the times on FUSE only."""
        fd = os.open(path or b".", os.O_WRONLY | os.O_NONBLOCK, dir_fd=self._root)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def chmod(self, path: bytes, mode: int) -> None:
        """chmod(2)."""
        os.chmod(path or b".", mode, dir_fd=self._root)

    def chown(self, path: bytes, uid: int, gid: int, *, follow: bool) -> None:
        """chown(2) or lchown(2)."""
        os.chown(path or b".", uid, gid, dir_fd=self._root, follow_symlinks=follow)

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool) -> None:
        """utimensat(2)."""
        os.utime(path or b".", ns=(atime_ns, mtime_ns), dir_fd=self._root, follow_symlinks=follow)

    def getxattr(self, path: bytes, name: bytes, *, follow: bool) -> bytes:
        """getxattr(2) or lgetxattr(2)."""
        return os.getxattr(self._full(path), name, follow_symlinks=follow)

    def listxattr(self, path: bytes, *, follow: bool) -> list[bytes]:
        """listxattr(2) or llistxattr(2)."""
        return [os.fsencode(name) for name in os.listxattr(self._full(path), follow_symlinks=follow)]

    def setxattr(self, path: bytes, name: bytes, value: bytes, *, follow: bool) -> None:
        """setxattr(2) or lsetxattr(2)."""
        os.setxattr(self._full(path), name, value, follow_symlinks=follow)

    def removexattr(self, path: bytes, name: bytes, *, follow: bool) -> None:
        """removexattr(2) or lremovexattr(2)."""
        os.removexattr(self._full(path), name, follow_symlinks=follow)

    def _full(self, path: bytes) -> bytes:
        return b"/proc/self/fd/%d/%b" % (self._root, path or b".")
