"""A file found again by what the filesystem calls it, whatever its names are now: ``name_to_handle_at`` and back.

Owns these two calls.  A handle holds the generation of the inode, so a new file with an old number is not taken for it.
Opening one takes CAP_DAC_READ_SEARCH; whoever has not got that searches a directory tree.  No state, any thread.
"""

import ctypes
import os
import stat

from snapshots.merging import disk
from snapshots.names import readable
from snapshots.storage.durable import step

_MOST = 128  # MAX_HANDLE_SZ
_HEAD = 8


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * _MOST))


def handle_of(dir_fd: int, name: bytes) -> bytes:
    """The handle of a node, never through a symlink; empty where the filesystem has none."""
    handle, mount = _Handle(bytes=_MOST), ctypes.c_int()
    try:
        call = disk.libc().name_to_handle_at
    except AttributeError:
        return b""
    if call(dir_fd, ctypes.c_char_p(name), ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        return b""
    return bytes(handle)[: _HEAD + handle.bytes]


def link_again(on_fd: int, handle: bytes, to_fd: int, to_name: bytes) -> bool:
    """One more name for the node with this handle, on the filesystem of ``on_fd``; False when it is gone or cannot be
    opened."""
    if len(handle) < _HEAD:
        return False
    found = _Handle.from_buffer_copy(handle.ljust(ctypes.sizeof(_Handle), b"\0"))
    try:
        fd = disk.libc().open_by_handle_at(on_fd, ctypes.byref(found), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except AttributeError:
        return False
    if fd < 0:
        return False
    step("base link", readable(to_name))
    try:
        os.link(b"/proc/self/fd/%d" % fd, to_name, dst_dir_fd=to_fd, follow_symlinks=True)
    except OSError:
        return False  # its last name is gone, or it may have no more
    finally:
        os.close(fd)
    return True


def search(top_fd: int, wanted: dict[int, bytes]) -> dict[int, bytes]:
    """Paths below a directory of the nodes with these inode numbers and handles; those that are there."""
    found: dict[int, bytes] = {}
    device = os.fstat(top_fd).st_dev
    for above, folders, _, fd in os.fwalk(b".", dir_fd=top_fd, follow_symlinks=False):
        with os.scandir(fd) as entries:
            for entry in entries:
                ino, name = entry.inode(), os.fsencode(entry.name)
                if ino in wanted and ino not in found and handle_of(fd, name) == wanted[ino]:
                    found[ino] = os.path.join(above, name)
        if len(found) == len(wanted):
            break
        folders[:] = [name for name in folders if _is_on(fd, name, device)]
    return found


def _is_on(fd: int, name: bytes, device: int) -> bool:
    st = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return stat.S_ISDIR(st.st_mode) and st.st_dev == device
