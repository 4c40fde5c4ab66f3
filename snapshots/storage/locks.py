"""Locks between processes: bytes of files, held by an open file description.

Owns the use of ``F_OFD_*`` locks; knows nothing of what they protect.  Chosen over ``flock`` because they can be asked
about without being taken (``goexfs ls`` looks at a run at the very moment somebody mounts it, and must not make that
fail), and over POSIX locks because closing another descriptor of the file does not drop them.

The lock belongs to the open file: a forked child shares it, and it is free when the last copy is closed, also by
SIGKILL.  So nothing here unlocks: holders close.  No state: any thread.
"""

import errno
import fcntl
import os
import struct

_FLOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, pid
_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})


def try_lock(fd: int, byte: int) -> bool:
    """Lock one byte (which need not exist) for this open file; False at once if another holds it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as exc:
        if exc.errno in _TAKEN:
            return False
        raise
    return True


def wait_lock(fd: int, byte: int) -> None:
    """Lock one byte for this open file, waiting for the holder."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))


def is_locked(fd: int, byte: int) -> bool:
    """Whether another open file holds the byte."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
