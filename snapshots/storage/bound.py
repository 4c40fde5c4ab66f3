"""How large a store may become, and what it takes up.

Owns the files ``limit`` and ``usage`` of a store, and the measuring.  What goes when there is no room is ``room``'s.
Knows no environment: a limit that is to hold for once is passed in.  No state: any thread, any process.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from snapshots.errors import StoreDamaged
from snapshots.names import size
from snapshots.storage import durable
from snapshots.storage.layout import Layout

DEFAULT_LIMIT = 20 << 30
"""bytes, on a filesystem that is large enough"""
SHARE = 10
"""a tenth of the filesystem, where that is less"""
LEAST = 1 << 30
"""but not less than this: below, it is the filesystem that is the limit"""
NONE = 0
"""as a limit: there is none"""
LOW = 0.9
"""of the limit: down to this things go once it is reached, and from here on users are told"""
_BLOCK = 512
_CURRENT = 0.8
"""of the limit: a measurement below this is good enough to begin with, however old"""


class Use(msgspec.Struct, frozen=True):
    """What a store takes up on the disk, in bytes, and what it may."""

    limit: int
    """`NONE`: without a limit"""
    contents: int
    """of large files, now and before"""
    database: int
    """small files, names and attributes, now and before"""
    journals: int
    """and working files, of all runs"""
    merges: int
    """what is needed to take merges back"""
    other: int

    @property
    def used(self) -> int:
        """All of it."""
        return self.contents + self.database + self.journals + self.merges + self.other

    @property
    def room(self) -> int:
        """What is left; very much without a limit."""
        return max(self.limit - self.used, 0) if self.limit else 1 << 62

    @property
    def is_near(self) -> bool:
        """Whether the limit is so near that its user should know."""
        return self.limit != NONE and self.used >= self.limit * LOW

    @property
    def is_reached(self) -> bool:
        """Whether there is no room."""
        return self.limit != NONE and self.used >= self.limit


# -- the limit


def default_limit(layout: Layout) -> int:
    """20 GiB, or a tenth of the store's filesystem where that is less, but at least 1 GiB."""
    with durable.reporting(f"cannot ask for the size of the filesystem of {layout.root}"):
        found = os.statvfs(layout.root)
    return min(DEFAULT_LIMIT, max(found.f_frsize * found.f_blocks // SHARE, LEAST))


def limit_of(layout: Layout) -> int:
    """The limit of a store, as it was set or by default.  StoreDamaged."""
    try:
        with open(layout.limit, encoding="ascii") as file:
            return int(file.read(32))
    except FileNotFoundError:
        return default_limit(layout)
    except (OSError, ValueError) as exc:
        raise StoreDamaged(f"{layout.limit} is damaged ({exc}); `goexfs gc --store-limit SIZE` sets it anew") from exc


def set_limit(layout: Layout, limit: int | None) -> None:
    """Set it for good; `NONE`: there is none, None: the default."""
    with durable.reporting(f"cannot write {layout.limit}"):
        if limit is None:
            durable.unlink(layout.limit)
        else:
            durable.write_file(layout.limit, b"%d\n" % limit)


# -- what there is


def measure(layout: Layout, *, limit: int | None = None) -> Use:
    """Look at every file of the store; costs their number.  ``limit`` instead of the store's own."""
    most = limit_of(layout) if limit is None else limit
    seen: set[tuple[int, int]] = set()
    objects, incoming, merges = (
        sum(_sizes(os.fspath(place), seen)) for place in (layout.objects, layout.incoming, layout.merges)
    )
    journals = sum(_sizes(os.fspath(layout.runs), seen, mounts=True))
    database = other = 0
    for entry in _entries(os.fspath(layout.root)):
        if entry.name.startswith(layout.database.name):
            database += _size(entry, seen)
        elif not entry.is_dir(follow_symlinks=False):
            other += _size(entry, seen)
    other += sum(_sizes(os.fspath(layout.quarantine), seen))
    use = Use(most, objects + incoming, database, journals, merges, other)
    _note(layout, use)
    return use


def known_use(layout: Layout, *, limit: int | None = None) -> Use:
    """The same without looking, if there was plenty of room the last time that somebody looked."""
    most = limit_of(layout) if limit is None else limit
    try:
        with open(layout.usage, "rb") as file:
            use = msgspec.structs.replace(msgspec.json.decode(file.read(), type=Use), limit=most)
    except (OSError, msgspec.MsgspecError):
        return measure(layout, limit=most)
    return use if use.used < most * _CURRENT or most == NONE else measure(layout, limit=most)


def _note(layout: Layout, use: Use) -> None:
    """For who asks next; nothing is lost with it."""
    beside = f"{layout.usage}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(beside, "xb") as file:
            file.write(msgspec.json.encode(use))
        os.replace(beside, layout.usage)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)


def _entries(directory: str) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _size(entry: "os.DirEntry[str]", seen: set[tuple[int, int]]) -> int:
    """Bytes on the disk, of a file with several names once."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if found.st_nlink > 1:
        if (found.st_dev, found.st_ino) in seen:
            return 0
        seen.add((found.st_dev, found.st_ino))
    return found.st_blocks * _BLOCK


def _sizes(directory: str, seen: set[tuple[int, int]], *, mounts: bool = False) -> Iterator[int]:
    """Of everything below; with ``mounts`` these are runs' directories, in which a mountpoint is not looked into."""
    waiting = [(directory, 0)]
    while waiting:
        at, depth = waiting.pop()
        for entry in _entries(at):
            if entry.is_dir(follow_symlinks=False):
                if not (mounts and depth == 1 and entry.name == "mnt"):
                    waiting.append((entry.path, depth + 1))
            else:
                yield _size(entry, seen)


def full(use: Use) -> str:
    """What to say when a store is at its limit, and what to do about it."""
    return (
        f"the store takes up {size(use.used)} of the {size(use.limit)} that it may, in runs that nobody has decided"
        " about: merge or discard some (goexfs ls), or raise it (--store-limit SIZE or none; goexfs gc --store-limit"
        " for good)"
    )
