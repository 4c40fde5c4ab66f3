"""Bringing directories into the kernel's memory, for whoever is about to walk through them.

Owns what is read along with a directory: the attributes of its names, the targets of its links, and the directories
below it, in the order in which programs walk, as long as that is quick.  Answers nothing but what is in memory now.
Nothing is asked of what is mounted below: our own mount would wait for us, and another one may be dead.

Threading: worker threads only; everything here may wait for a disk.
"""

import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress

from goexfs.overlay.nowait import is_mountpoint, tells_kinds

NAMES_LIMIT = 1024
"""names of one directory beyond which their attributes are not read along"""
WALK_SECONDS = 0.02
"""how long to go on below the directory that was asked for"""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Known = tuple[str, tuple[int, int]]
"""what of a directory is in memory (``list``, ``names`` or ``xattrs``: of all its names), and the directory's
identity"""


def look(fd: int, names: Iterable[bytes]) -> list[bytes]:
    """Read the attributes of names in a directory; those that are directories."""
    below = []
    for name in names:
        with suppress(OSError):
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                below.append(name)
            elif stat.S_ISLNK(mode):
                os.readlink(name, dir_fd=fd)
    return below


def fetch(fd: int, names: Iterable[bytes]) -> None:
    """Have the disk begin to read files in a directory; returns while it does."""
    for name in names:
        with suppress(OSError):
            file = os.open(name, _FILE, dir_fd=fd)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)


def read_attributes(fd: int, name: bytes) -> None:
    """Read the extended attributes of a name."""
    path = b"/proc/self/fd/%d/%b" % (fd, name)
    with suppress(OSError):
        for attr in os.listxattr(path, follow_symlinks=False):
            os.getxattr(path, attr, follow_symlinks=False)


def read_tree(top: int, *, attributes: bool, seconds: float = WALK_SECONDS) -> list[Known]:
    """Read the directory open as *top*, and for so long what is below it on the same device.

    With *attributes*, the extended ones too.
    """
    known: list[Known] = []
    end = time.monotonic() + seconds
    device = os.fstat(top).st_dev
    waiting: list[tuple[int, list[bytes]]] = []
    """open directories, and the names of those below them that are still to be read, last first"""
    try:
        fd = os.open(b".", _DIR, dir_fd=top)  # for an offset of its own
        waiting.append((fd, _read_directory(fd, known, attributes=attributes)))
        while waiting:
            fd, names = waiting[-1]
            if not names or time.monotonic() > end:
                os.close(waiting.pop()[0])
                continue
            with suppress(OSError):
                fd = os.open(names.pop(), _DIR, dir_fd=fd)
                waiting.append((fd, []))
                if os.fstat(fd).st_dev == device:
                    waiting[-1][1].extend(_read_directory(fd, known, attributes=attributes))
    finally:
        for fd, _ in waiting:
            os.close(fd)
    return known


def _read_directory(fd: int, known: list[Known], *, attributes: bool) -> list[bytes]:
    """Read one directory; the names of the directories in it, last first."""
    st = os.fstat(fd)
    names, mounts = [], 0
    told = tells_kinds(fd)
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            # Where a listing does not tell it, to ask what the name is would be to ask what is mounted there.
            if (not told or entry.is_dir(follow_symlinks=False)) and is_mountpoint(name, fd):
                mounts += 1
            else:
                names.append(name)
    known.append(("list", (st.st_dev, st.st_ino)))
    if len(names) > NAMES_LIMIT:
        return []
    below = look(fd, names)
    if not mounts:
        known.append(("names", (st.st_dev, st.st_ino)))
    if attributes:
        for name in (b".", *names):
            read_attributes(fd, name)
        if not mounts:
            known.append(("xattrs", (st.st_dev, st.st_ino)))
    return below[::-1]
