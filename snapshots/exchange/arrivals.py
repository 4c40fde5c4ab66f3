"""What a file from elsewhere wants to change, as values that have been looked at.

Owns what is taken from such a file and what is refused: whoever made it is not trusted.  Knows neither a format nor a
run.  Pure.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import IO, NamedTuple

from snapshots.errors import ImportRefused
from snapshots.names import is_valid_name, readable

MOST_ARRIVALS = 5_000_000
MOST_PATH = 4096
MOST_DEPTH = 1000
_NOT_CARRIED = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"security.ima", b"security.evm")


class What(Enum):
    """What an arrival is."""

    NODE = "node"
    LINK = "link"
    """one more name of a file that arrived, or that is there"""
    GONE = "gone"
    """the name is taken away, with all below it"""
    EMPTY = "empty"
    """all that the base has in the directory is taken away"""
    EMPTIED = "emptied"
    """the directory goes if nothing is left in it, and so those it is in"""
    MOVED = "moved"
    """``target`` is renamed to the path"""


class Arrival(NamedTuple):
    """One name."""

    what: What
    path: bytes
    mode: int = 0
    """type and permission bits"""
    uid: int | None = None
    """None: whoever imports it"""
    gid: int | None = None
    mtime_ns: int | None = None
    """None: now"""
    rdev: int = 0
    target: bytes = b""
    """of a symlink its target, of a link the path of the file, of what was moved its former path"""
    xattrs: dict[bytes, bytes] | None = None
    """the complete set; None: as they are"""
    open: Callable[[], IO[bytes]] | None = None
    """the content of a regular file"""
    implied: bool = False
    """a directory that is only on the way: what is there already stays as it is"""


def path_of(name: bytes, *, source: str) -> bytes:
    """A name in an archive as a path below the base; ImportRefused when it leads out of it or is no path."""
    shown = readable(name[:200])
    if name.startswith(b"/"):
        raise ImportRefused(f"{source} has an absolute name: {shown}; nothing was imported")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ImportRefused(f"{source} has a name that leads out of the base: {shown}; nothing was imported")
    if not all(is_valid_name(part) and len(part) <= 255 for part in parts) or len(parts) > MOST_DEPTH:
        raise ImportRefused(f"{source} has a name that no file can have: {shown}; nothing was imported")
    if len(name) > MOST_PATH:
        raise ImportRefused(f"{source} has a name of {len(name)} bytes: {shown}…; nothing was imported")
    return b"/".join(parts)


def carried(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes that are a file's own: not those of an overlay, nor the kernel's labels."""
    return {name: value for name, value in xattrs.items() if not name.startswith(_NOT_CARRIED)}


def checked(arrivals: Iterable[Arrival], *, source: str, most_bytes: int) -> Iterator[Arrival]:
    """The arrivals, until there is one that is refused: ImportRefused.

    Devices are: a run has no use for them, and a merge would make them.  So is more than ``most_bytes`` of content
    (counted as it is read, whatever a header says).
    """
    budget = _Budget(most_bytes, source)
    for number, arrival in enumerate(arrivals):
        if number >= MOST_ARRIVALS:
            raise ImportRefused(f"{source} has more than {MOST_ARRIVALS} names; nothing was imported")
        if arrival.what is What.NODE and (stat.S_ISCHR(arrival.mode) or stat.S_ISBLK(arrival.mode)):
            raise ImportRefused(f"{source} has a device: {readable(arrival.path)}; nothing was imported")
        if arrival.open is not None:
            arrival = arrival._replace(open=budget.limited(arrival.open))
        yield arrival


class _Budget:
    """Bytes that may still be read."""

    def __init__(self, most: int, source: str) -> None:
        self.most = most
        self.left = most
        self.source = source

    def limited(self, open_: Callable[[], IO[bytes]]) -> Callable[[], IO[bytes]]:
        return lambda: _Limited(open_(), self)  # type: ignore[return-value]


class _Limited:
    """A content that is counted."""

    def __init__(self, content: IO[bytes], budget: _Budget) -> None:
        self._content = content
        self._budget = budget

    def read(self, size: int) -> bytes:
        data = self._content.read(size)
        self._budget.left -= len(data)
        if self._budget.left < 0:
            raise ImportRefused(
                f"{self._budget.source} holds more than {self._budget.most:,} bytes; --limit allows more (nothing was"
                " imported)"
            )
        return data

    def __enter__(self) -> "_Limited":
        return self

    def __exit__(self, *exc: object) -> None:
        self._content.close()
