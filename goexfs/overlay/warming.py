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
from typing import NamedTuple

from goexfs.overlay.nowait import is_mountpoint, tells_kinds

NAMES_LIMIT = 1024
"""names of one directory beyond which their attributes are not read along"""
WALK_SECONDS = 0.02
"""how long to go on behind the directory that was asked for"""
LEVELS_LIMIT = 64
"""descriptors that a walk holds; deeper down it gives up what is far above"""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Place = tuple[int, int]
"""the identity of a directory: device and inode number"""
Known = tuple[str, Place]
"""what of a directory is in memory (``list``, ``names`` or ``xattrs``: of all its names)"""


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


class Walk:
    """The reading of a tree, directory by directory, for a while at a time: it goes on where it was when somebody gets
    to where it has not been yet.

    It goes in the order in which programs walk, and holds a descriptor of every directory on its way down.
    """

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        """from where it began down to where it is"""

    def close(self) -> None:
        """Let go of every directory."""
        while self._levels:
            os.close(self._levels.pop().fd)

    def read(
        self, top: int, above: Place | None = None, name: bytes = b"",
        *, attributes: bool, seconds: float = WALK_SECONDS,
    ) -> list[Known]:  # fmt: skip
        """Read the directory open as *top*, and for so long what follows on the same device.

        That is what is below it, and then, if *top* is *name* in the directory *above* and the walk was about to go on
        there, what was left of the walk.  With *attributes*, the extended ones too.
        """
        end = time.monotonic() + seconds
        if not self._has_before_it(above, name):
            self.close()
        known: list[Known] = []
        device = self._enter(os.open(b".", _DIR, dir_fd=top), None, known, attributes)  # for an offset of its own
        while (level := self._frontier()) is not None and time.monotonic() < end:
            with suppress(OSError):
                fd = os.open(level.below.popitem()[0], _DIR, dir_fd=level.fd)
                self._enter(fd, device, known, attributes)
        return known

    @property
    def is_done(self) -> bool:
        """Whether nothing is left before it."""
        return not self._levels

    def _has_before_it(self, above: Place | None, name: bytes) -> bool:
        """Whether that name, or one beside it, was to be read next; it counts as read then.

        Who goes to and fro in a large tree would else wait for much that he never asks for.
        """
        level = self._frontier()
        if level is None or level.place != above or name not in level.below:
            return False
        del level.below[name]
        return True

    def _frontier(self) -> "_Level | None":
        """The deepest directory of which something is left; let go of those below it."""
        while self._levels and not self._levels[-1].below:
            os.close(self._levels.pop().fd)
        return self._levels[-1] if self._levels else None

    def _enter(self, fd: int, device: int | None, known: list[Known], attributes: bool) -> int:
        """Go down into an open directory, unless it is on another *device*; the one it is on."""
        try:
            st = os.fstat(fd)
            same = device in (None, st.st_dev)
            below = _read_directory(fd, (st.st_dev, st.st_ino), known, attributes=attributes) if same else []
        except BaseException:
            os.close(fd)
            raise
        self._levels.append(_Level(fd, (st.st_dev, st.st_ino), dict.fromkeys(below)))
        if len(self._levels) > LEVELS_LIMIT:
            os.close(self._levels.pop(0).fd)
        return st.st_dev


class _Level(NamedTuple):
    """One directory on the way down."""

    fd: int
    place: Place
    below: dict[bytes, None]
    """names of directories that are still to be read, last first"""


def read_directory(top: int, *, attributes: bool) -> list[Known]:
    """Read the directory open as *top*, and nothing below it."""
    walk = Walk()
    try:
        return walk.read(top, attributes=attributes, seconds=0.0)
    finally:
        walk.close()


def _read_directory(fd: int, place: Place, known: list[Known], *, attributes: bool) -> list[bytes]:
    """Read one directory; the names of the directories in it, last first."""
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
    known.append(("list", place))
    if len(names) > NAMES_LIMIT:
        return []
    below = look(fd, names)
    if not mounts:
        known.append(("names", place))
    if attributes:
        for name in (b".", *names):
            read_attributes(fd, name)
        if not mounts:
            known.append(("xattrs", place))
    return below[::-1]
