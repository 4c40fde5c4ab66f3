"""Every system call by which a merge changes the base, each announced at the seam of ``snapshots.storage.durable``.

Owns the calls that Python lacks (``renameat2``, ``syncfs``) and how attributes are set without following anything.
Knows no plan: a directory descriptor and a name come in, an ``OSError`` or nothing comes out.  No state, any thread.
"""

import ctypes
import errno
import os
import stat
from functools import cache

from snapshots.names import readable
from snapshots.storage import durable
from snapshots.storage.durable import NOT_IN_KERNEL, step

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_COPY = 8 << 20
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL)


@cache
def libc() -> ctypes.CDLL:
    """The C library, for calls that Python lacks."""
    return ctypes.CDLL(None, use_errno=True)


def rename(from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> None:
    """Rename to a name that is free; FileExistsError when it is not."""
    step("base rename", readable(to_name))
    if not _renameat2(from_fd, from_name, to_fd, to_name, _RENAME_NOREPLACE):
        # A filesystem without the flag: a name that comes up between these two calls is lost.
        if exists(to_fd, to_name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to_name)
        os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)


def exchange(a_fd: int, a_name: bytes, b_fd: int, b_name: bytes) -> None:
    """Swap two names."""
    step("base exchange", readable(b_name))
    if not _renameat2(a_fd, a_name, b_fd, b_name, _RENAME_EXCHANGE):
        spare = a_name + b"~"
        os.rename(b_name, spare, src_dir_fd=b_fd, dst_dir_fd=a_fd)
        try:
            os.rename(a_name, b_name, src_dir_fd=a_fd, dst_dir_fd=b_fd)
        except OSError:
            os.rename(spare, b_name, src_dir_fd=a_fd, dst_dir_fd=b_fd)
            raise
        os.rename(spare, a_name, src_dir_fd=a_fd, dst_dir_fd=a_fd)


def _renameat2(from_fd: int, from_name: bytes, to_fd: int, to_name: bytes, flags: int) -> bool:
    """Whether kernel and filesystem know the flag; OSError when they do and it failed."""
    try:
        call = libc().renameat2
    except AttributeError:
        return False
    if call(from_fd, ctypes.c_char_p(from_name), to_fd, ctypes.c_char_p(to_name), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), to_name)


def exists(dir_fd: int, name: bytes) -> bool:
    """Whether there is anything of this name."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def link(from_fd: int, from_name: bytes, to_fd: int, to_name: bytes) -> None:
    """One more name for a file; of a symlink for the symlink itself."""
    step("base link", readable(to_name))
    os.link(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)


def link_path(path: bytes, to_fd: int, to_name: bytes) -> None:
    """One more name for a file outside of the base."""
    step("base link", readable(to_name))
    os.link(path, to_name, dst_dir_fd=to_fd, follow_symlinks=False)


def unlink(dir_fd: int, name: bytes) -> None:
    """Remove a name that is no directory."""
    step("base unlink", readable(name))
    os.unlink(name, dir_fd=dir_fd)


def rmdir(dir_fd: int, name: bytes) -> None:
    """Remove an empty directory."""
    step("base rmdir", readable(name))
    os.rmdir(name, dir_fd=dir_fd)


def mkdir(dir_fd: int, name: bytes) -> None:
    """A new directory that only its owner may enter."""
    step("base mkdir", readable(name))
    os.mkdir(name, 0o700, dir_fd=dir_fd)


def symlink(target: bytes, dir_fd: int, name: bytes) -> None:
    """A new symlink."""
    step("base symlink", readable(name))
    os.symlink(target, name, dir_fd=dir_fd)


def mknod(dir_fd: int, name: bytes, mode: int, rdev: int) -> None:
    """A new FIFO, socket or device; devices take privilege."""
    step("base mknod", readable(name))
    os.mknod(name, stat.S_IFMT(mode) | 0o600, rdev, dir_fd=dir_fd)


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create(dir_fd: int, name: bytes, mode: int = 0o600) -> int:
    """A new empty file, open for writing; of ``mode`` the umask may take bits away."""
    if durable.seam is not None:
        step("base create", readable(name))
    return os.open(name, _CREATE, mode, dir_fd=dir_fd)


def write(fd: int, data: bytes, offset: int) -> None:
    """Write all of some bytes at an offset."""
    view = memoryview(data)
    while view:
        if durable.seam is not None:
            step("base write", f"fd {fd}")
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def copy(from_fd: int, start: int, fd: int, offset: int, length: int) -> None:
    """Copy a range between files in the kernel, which shares the blocks where the filesystem can."""
    while length:
        step("base copy", f"fd {fd}")
        try:
            done = os.copy_file_range(from_fd, fd, min(length, 1 << 30), start, offset)
        except OSError as e:
            if e.errno not in NOT_IN_KERNEL:
                raise
            data = os.pread(from_fd, min(length, _COPY), start)
            write(fd, data, offset)
            done = len(data)
        if not done:
            raise OSError(errno.EIO, "the source of a copy became shorter")
        start, offset, length = start + done, offset + done, length - done


def write_file(dir_fd: int, name: bytes, data: bytes) -> None:
    """A new file with this content, not yet synced."""
    fd = create(dir_fd, name)
    try:
        write(fd, data, 0)
    finally:
        os.close(fd)


def read_file(dir_fd: int, name: bytes) -> bytes | None:
    """The content of a regular file; None when there is none of this name."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        return file.read()


def open_dir(dir_fd: int, name: bytes) -> int:
    """A descriptor of a directory, never through a symlink; the caller closes."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def truncate(fd: int, size: int) -> None:
    """Set a file's size; what is added is a hole."""
    step("base truncate", f"fd {fd}")
    os.ftruncate(fd, size)


def chown(dir_fd: int, name: bytes, uid: int, gid: int) -> None:
    """Set the owner of a node, never through a symlink; takes setuid bits and capabilities away."""
    step("base chown", readable(name))
    os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)


def chmod(dir_fd: int, name: bytes, mode: int) -> None:
    """Set the permission bits of anything but a symlink; ELOOP for one."""
    step("base chmod", readable(name))
    # There is no fchmodat that does not follow symlinks before Linux 6.6: the descriptor stands for the node itself.
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def own_file(fd: int, uid: int, gid: int) -> None:
    """Set the owner of an open file that the merge made."""
    step("base chown", f"fd {fd}")
    os.fchown(fd, uid, gid)


def finish_file(fd: int, mode: int | None, times_ns: tuple[int, int]) -> None:
    """Set permission bits (None: they are right) and times of an open file that the merge made, when it is written."""
    if mode is not None:
        step("base chmod", f"fd {fd}")
        os.fchmod(fd, mode)
    if durable.seam is not None:
        step("base utime", f"fd {fd}")
    os.utime(fd, ns=times_ns)


def utime(dir_fd: int, name: bytes, times_ns: tuple[int, int]) -> None:
    """Set access and modification time, never through a symlink."""
    step("base utime", readable(name))
    os.utime(name, ns=times_ns, dir_fd=dir_fd, follow_symlinks=False)


def set_xattrs(dir_fd: int, name: bytes, now: dict[bytes, bytes], wanted: dict[bytes, bytes]) -> None:
    """Make the extended attributes ``wanted``, given those that are set ``now``."""
    path = b"/proc/self/fd/%d/%b" % (dir_fd, name)
    for attr in now.keys() - wanted.keys():
        step("base removexattr", readable(name))
        os.removexattr(path, attr, follow_symlinks=False)
    for attr, value in wanted.items():
        if now.get(attr) != value:
            step("base setxattr", readable(name))
            os.setxattr(path, attr, value, follow_symlinks=False)


def set_file_xattrs(fd: int, wanted: dict[bytes, bytes]) -> None:
    """Set extended attributes of an open file that the merge made."""
    for attr, value in wanted.items():
        step("base setxattr", f"fd {fd}")
        os.setxattr(fd, attr, value)


def xattrs(dir_fd: int, name: bytes) -> dict[bytes, bytes]:
    """All extended attributes of a name, of a symlink its own."""
    path = b"/proc/self/fd/%d/%b" % (dir_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {os.fsencode(attr): os.getxattr(path, attr, follow_symlinks=False) for attr in names}


def sync_dir(dir_fd: int) -> None:
    """Make the names in a directory survive a power cut."""
    step("base sync", f"fd {dir_fd}")
    os.fsync(dir_fd)


def sync(dir_fd: int) -> None:
    """Make everything on the directory's filesystem survive a power cut."""
    step("base sync", f"fd {dir_fd}")
    if libc().syncfs(dir_fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
