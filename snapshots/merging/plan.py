"""What a merge will do, as values, and what stands in its way.

Owns the operations of a merge and the conflicts; ``planner`` finds them and ``apply`` carries them out.  Knows no disk.
Pure data, safe in any thread, encodable with msgspec (a journal of a merge is its plan and how far it came).

A merge first *makes* what is new in a hidden directory of the base, in numbered slots.  Then it *detaches*: what goes
away or moves is renamed from its base path into a slot, the deepest first, so that every base path is good when its
turn comes.  Then it *attaches*: slots are renamed to their paths in the run, parents first, so that every run path is
good in its turn.  Every operation is one system call and says itself how it is taken back.
"""

from enum import StrEnum

import msgspec

from snapshots.entries import Entry, Identity


class ConflictKind(StrEnum):
    """Why a path cannot be merged."""

    BOTH_MODIFIED = "both modified"
    DELETED_IN_BASE = "modified by the run, deleted in the base"
    MODIFIED_IN_BASE = "deleted by the run, modified in the base"
    BOTH_ADDED = "both added"
    KIND = "a different kind in the base"
    RENAMED_IN_BOTH = "renamed by the run and in the base"
    ATTRIBUTES = "attributes modified in both"
    READ = "read by the run, changed in the base"
    OTHER_FILESYSTEM = "on another filesystem"
    MODIFIED_SINCE = "modified since the merge"
    DELETED_SINCE = "deleted since the merge"
    REPLACED_SINCE = "replaced since the merge"
    ADDED_SINCE = "added since the merge"
    ATTRIBUTES_SINCE = "attributes changed since the merge"


class PathConflict(msgspec.Struct, frozen=True):
    """One path at which the base is not what the run started from."""

    path: bytes
    """in the run; of something the run deleted, in the base"""
    kind: ConflictKind
    advice: str
    """what the user can do about it, one sentence"""
    base: bytes | None = None
    """where in the base; None when nothing is left of it there"""
    node: int = 0
    """the run's inode that it is about; 0 for something the run deleted"""
    link: tuple[int, bytes] | None = None
    """the name in the upper (inode number of its directory, name) from which it comes; None when there is none"""

    @property
    def message(self) -> str:
        """Reason and advice on one line, without the path."""
        return f"{self.kind}; {self.advice}"


class Attrs(msgspec.Struct, frozen=True):
    """Attributes to set; None leaves one alone."""

    mode: int | None = None
    """permission bits only"""
    uid: int | None = None
    gid: int | None = None
    xattrs: dict[bytes, bytes] | None = None
    """the complete set, apart from the labels that the kernel puts on files by itself"""
    times_ns: tuple[int, int] | None = None
    """access and modification time"""


class Make(msgspec.Struct, frozen=True):
    """Make a new node at a path below the staging directory, complete with its attributes (directories: without)."""

    staged: bytes
    path: bytes
    """where it will be in the run, for messages"""
    entry: Entry
    xattrs: dict[bytes, bytes]


class Unlock(msgspec.Struct, frozen=True, tag=True):
    """Give the owner write and search permission on the base directory ``path``, which is a base path."""

    path: bytes
    mode: int
    """its permission bits before"""


class Aside(msgspec.Struct, frozen=True, tag=True):
    """Rename the base path ``path`` into a slot."""

    path: bytes
    slot: bytes
    expected: Identity


class Put(msgspec.Struct, frozen=True, tag=True):
    """Rename a slot to the run path ``path``, where nothing is."""

    slot: bytes
    path: bytes


class Replace(msgspec.Struct, frozen=True, tag=True):
    """Swap a slot with what is at the run path ``path``, which is then in the slot."""

    slot: bytes
    path: bytes
    expected: Identity


class Link(msgspec.Struct, frozen=True, tag=True):
    """Make a slot a hard link of the file at the run path ``path``."""

    path: bytes
    slot: bytes


class SetAttrs(msgspec.Struct, frozen=True, tag=True):
    """Set attributes of the node at the run path ``path``."""

    path: bytes
    before: Attrs
    """to take it back; of a new directory its mode while it is in a slot"""
    after: Attrs


Operation = Unlock | Aside | Put | Replace | Link | SetAttrs


class Plan(msgspec.Struct, frozen=True):
    """Everything a merge does, in order."""

    makes: tuple[Make, ...]
    detach: tuple[Unlock | Aside, ...]
    """by base path"""
    attach: tuple[Put | Replace | Link | SetAttrs, ...]
    """by run path, when everything is detached"""
    touched: tuple[bytes, ...]
    """base paths of the base directories in which names change: taking back, and undo, restore their times"""
    root_times_ns: tuple[int, int] | None
    """the base's own, as the mount showed them, set last, when the staging directory is gone; None: as they were"""
    conflicts: tuple[PathConflict, ...]
    """sorted by path; with any, there is nothing else in the plan that may be carried out"""

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What happens after the commit point."""
        return (*self.detach, *self.attach)
