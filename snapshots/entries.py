"""The records an upper consists of: entries, links, contents and where they came from.

Owns the data model that the overlay writes at a checkpoint and that diff and merge read.  Knows no SQLite, no
FUSE and no file on disk.  Every value is immutable once made, so threads may share them.

An upper is keyed by node, not by path: an *entry* is one changed inode, a *link* is one name in one directory.
So renaming a directory rewrites two links, whatever lies below it, and a hard link is one entry with two links.
"""

import os
import stat
from typing import Final

import msgspec

ROOT_INO = 1
"""Inode number of the root directory of every run (the kernel fixes it)."""

FIRST_NEW_INO = 1 << 52
"""New files get inode numbers from here up: above what base filesystems use, below 2**53 (exact in a double)."""

INLINE_LIMIT = 128 * 1024
"""Bytes up to which a dirty content is a buffer in memory, and an object a row of the database."""

ANCESTOR_LIMIT = 1 << 20
"""Bytes up to which the text that the base had is kept for a three-way merge."""

WHITEOUT = 0
"""``Link.ino`` of a whiteout: the base has this name, the run does not."""


class Changed:
    """What of a node differs (or may differ) from its origin: bits of an int.

    Not an ``IntFlag``: combining two of those takes 60 times as long, and every change of a run combines several.
    """

    ATTRS: Final = 1
    """mode, owner, nlink or times were set by the run"""
    DATA: Final = 2
    """the content was written or truncated by the run"""
    XATTRS: Final = 4
    """``Entry.xattrs`` holds the complete set of extended attributes"""
    NAMES: Final = 8
    """a directory in which the run created, removed or renamed names"""


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Which base inode, in which state: two equal identities mean an untouched base file."""

    dev: int
    ino: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> "Identity":
        """The identity of a ``stat`` result."""
        return cls(st.st_dev, st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


NOBODY = Identity(0, 0, 0, 0, 0, 0)
"""The identity of what is in no base: of a canary, in the record of its reading."""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where in the base a node came from."""

    path: bytes
    """relative to the base, no leading slash; ``b""`` is the base itself; never changed by renames in the run"""
    identity: Identity
    """the base inode when the run first changed it (at copy-up), or when it was loaded if only its name changed"""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A byte range of a file that is stored in an object."""

    offset: int
    """in the file, in bytes"""
    length: int
    """in bytes, at least 1"""
    object: bytes
    """name of the object"""
    start: int
    """where in the object the range begins, in bytes"""


class Content(msgspec.Struct, frozen=True, array_like=True):
    """The sealed content of a regular file.

    Extents are sorted and do not overlap.  A byte outside every extent comes from the base file (the entry's
    origin) when it is below ``base_limit``, and is zero (a hole) otherwise.
    """

    size: int
    """in bytes"""
    base_limit: int
    """0 when nothing is read from the base any more"""
    extents: tuple[Extent, ...]

    @property
    def objects(self) -> frozenset[bytes]:
        """Names of the objects this content needs."""
        return frozenset(extent.object for extent in self.extents)


class Ancestor(msgspec.Struct, frozen=True, array_like=True):
    """What the base had where a file is that the run wrote: text, kept for a three-way merge."""

    identity: Identity
    """the base inode whose content it is: the entry's origin, or what its name hides"""
    object: bytes
    """name of the object; empty for an empty file"""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One changed inode, or an unchanged directory on the way to one (``changed`` is 0, attributes as loaded)."""

    ino: int
    mode: int
    """type and permission bits, as in ``st_mode``"""
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    """in bytes; of a symlink the length of its target; of a directory what the base said, or 0"""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    changed: int
    """a ``Changed`` bit set, kept as an int"""
    origin: Origin | None
    """None for what the run created"""
    content: Content | None
    """None when the content is the origin's (and for everything that is not a regular file)"""
    target: bytes | None
    """of a symlink; None for other kinds, and when the base lost the origin before it was read"""
    xattrs: dict[bytes, bytes] | None
    """the complete set when ``Changed.XATTRS``, else None: as the origin's (none at all without an origin)"""
    opaque: bool
    """a directory with an origin none of whose base names show through"""
    ancestor: Ancestor | None = None
    """None for what is no text, was not written to, or was changed in the base before it could be read"""

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def objects(self) -> frozenset[bytes]:
        """Names of all objects that this entry needs."""
        of_content = self.content.objects if self.content is not None else frozenset()
        return of_content | {self.ancestor.object} if self.ancestor and self.ancestor.object else of_content


class Hidden(msgspec.Struct, frozen=True, array_like=True):
    """What the base had at a name that a run hides: deleted, moved away or replaced by something else."""

    identity: Identity
    """the base inode as the run saw it last"""
    below: bytes
    """of a directory that the run emptied first: ``snapshots.review.hidden.digest`` of what it had hidden in there;
    empty for other kinds, and when that is not known"""


class Link(msgspec.Struct, frozen=True, array_like=True):
    """One name in one directory of the upper."""

    parent: int
    """inode number of the directory"""
    name: bytes
    ino: int
    """``WHITEOUT`` hides the base's name"""
    hides: Hidden | None = None
    """None when the base had nothing there, when what it had is this very node, and when it is not known"""


class Checkpoint(msgspec.Struct, frozen=True):
    """What changed in an upper since the last checkpoint; applied in one transaction."""

    entries: tuple[Entry, ...]
    """inserted or replaced by ``ino``"""
    gone: tuple[int, ...]
    """inode numbers whose entries are dropped"""
    links: tuple[Link, ...]
    """inserted or replaced by (parent, name)"""
    unlinked: tuple[tuple[int, bytes], ...]
    """(parent, name) pairs whose links are dropped: the base shows through again, or nothing was there"""
    next_ino: int
    """the first inode number that no node of this run ever had"""
    journal: int = 0
    """number of the first journal record that is not in it; 0 leaves the number as it was"""


class UpperState(msgspec.Struct, frozen=True):
    """Everything an upper consists of, as read from the store; what the overlay and the diff are built from."""

    entries: dict[int, Entry]
    """by inode number; empty for a run that changed nothing yet (not even the root need have an entry)"""
    links: dict[int, dict[bytes, int]]
    """inode number of a directory -> name -> inode number of what it names, or ``WHITEOUT``"""
    next_ino: int
    """the first inode number that no node of this run ever had"""
    journal: int = 1
    """number of the first journal record that is not in it"""
    hides: dict[int, dict[bytes, Hidden]] = {}
    """``Link.hides`` of the names in ``links`` that have one, by directory and name"""
