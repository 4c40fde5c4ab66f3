"""What the kernel has in memory, asked for without waiting for a disk.

Owns the three questions that Linux answers in this way: the bytes of an open file (preadv2 with RWF_NOWAIT), a
descriptor of a name, and a name's attributes (openat2 with RESOLVE_CACHED, since Linux 5.12: it walks the dentries in
memory and never asks the filesystem); and whether something is mounted at a name, which is not asked either, and
whether listings tell kinds.  Knows no overlay.

Threading: any thread.  The foreign calls keep the interpreter's lock, since none of them waits (but `is_mountpoint`).
"""

import ctypes
import errno
import functools
import os
import struct

_OPENAT2 = 437  # the same on every architecture of today's Linux but alpha
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_CACHED = 0x20  # <linux/openat2.h>
_HOW = struct.Struct("QQQ")  # flags, mode, resolve
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_MEMORY = (b"tmpfs", b"ramfs", b"devtmpfs")

_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_waiting_syscall = ctypes.CDLL(None, use_errno=True).syscall
_waiting_syscall.restype, _waiting_syscall.argtypes = _syscall.restype, _syscall.argtypes
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fdopendir.restype, _libc.fdopendir.argtypes = ctypes.c_void_p, [ctypes.c_int]
_libc.readdir.restype, _libc.readdir.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]
_KIND = 18
"""where ``d_type`` is in ``struct dirent``, behind two numbers of 8 bytes and one of 2"""
_hows: dict[int, ctypes.Array[ctypes.c_char]] = {}
"""the structure that openat2 takes, by flags: there are half a dozen"""


def can_open() -> bool:
    """Whether `open_now` and `stat_now` work here: the kernel may be too old, or a filter in the way."""
    try:
        os.close(open_now(b".", os.O_PATH, -100))  # AT_FDCWD
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def open_now(name: bytes, flags: int, dir_fd: int) -> int:
    """openat(2) of a name whose directory entry and inode are in memory; BlockingIOError when they are not.

    Not for flags that create or truncate.
    """
    how = _hows.get(flags)
    if how is None:
        how = _hows[flags] = ctypes.create_string_buffer(_HOW.pack(flags, 0, _RESOLVE_CACHED), _HOW.size)
    fd: int = _syscall(_OPENAT2, dir_fd, name, ctypes.addressof(how), _HOW.size)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return fd


def tells_kinds(fd: int) -> bool:
    """Whether listings of this directory's filesystem say which names are directories.  (May wait for its disk.)"""
    return _tells_kinds(os.fstat(fd).st_dev, fd)


def is_mountpoint(name: bytes, dir_fd: int) -> bool:
    """Whether something is mounted there; it is not asked.  (The directory may be: this may wait for its disk.)"""
    how = ctypes.create_string_buffer(_HOW.pack(_LOOK, 0, _RESOLVE_NO_XDEV), _HOW.size)
    fd: int = _waiting_syscall(_OPENAT2, dir_fd, name, ctypes.addressof(how), _HOW.size)
    if fd < 0:
        return ctypes.get_errno() == errno.EXDEV
    os.close(fd)
    return False


def stat_now(name: bytes, dir_fd: int) -> os.stat_result:
    """lstat(2) of such a name; BlockingIOError, FileNotFoundError (the kernel remembers that it is missing)."""
    fd = open_now(name, _LOOK, dir_fd)
    try:
        return os.stat(fd)  # the inode is in memory as long as its name is
    finally:
        os.close(fd)


def read_now(fd: int, offset: int, length: int) -> memoryview | None:
    """pread(2) from the page cache; None when not all of it is there.

    (What is missing the kernel may begin to read, without waiting for it.)
    """
    buffer = bytearray(length)
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as e:
        if e.errno == errno.EOPNOTSUPP and _is_in_memory(os.fstat(fd).st_dev):
            return memoryview(os.pread(fd, length, offset))
        if e.errno in (errno.EAGAIN, errno.EOPNOTSUPP):  # the latter: this filesystem cannot say
            return None
        raise
    # A short answer may be the end of the file or the end of what the cache has.
    if got == length or offset + got >= os.fstat(fd).st_size:
        return memoryview(buffer)[:got]
    return None


def has_arrived(fd: int, offset: int) -> bool:
    """Whether a byte that the kernel was asked for is in the page cache now, or will not be."""
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass  # whoever reads it will be told
    return True


_told: dict[int, bool] = {}
"""by device"""


def _tells_kinds(device: int, fd: int) -> bool:
    known = _told.get(device)
    if known is None:
        stream = _libc.fdopendir(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd))
        try:
            entry = _libc.readdir(stream)  # "." or another one: either every kind is told or none is
            known = _told[device] = bool(entry) and ctypes.string_at(entry + _KIND, 1) != b"\0"
        finally:
            _libc.closedir(stream)
    return known


@functools.cache
def _is_in_memory(device: int) -> bool:
    """Whether the filesystem has no disk to wait for."""
    return filesystem_of(device) in _IN_MEMORY


def filesystem_of(device: int) -> bytes:
    """The kind of the filesystem with that device number; empty when it is not among the mounts."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == number:
                return fields[fields.index(b"-") + 1]
    return b""
