"""How far a merge came, and what it left: the values that make it survive a crash and be taken back later.

Owns what is written in the staging directory at the commit point, what is remembered of every node that a merge put
into the base, and how a path of the run is translated into one of the base.  Knows no disk.  Pure data, any thread.

A plan is a list of operations with inverses, so it can be gone through in two directions: *forward* makes of the old
tree the new one, *backward* of the new tree the old one.  What is not in the base meanwhile lies in the slots.
"""

import os
import stat
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from snapshots.layers.basepaths import join, split
from snapshots.merging.plan import Aside, Plan, Put, Replace

Times = tuple[int, int]
"""Access and modification time in nanoseconds."""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A node as a merge left it.  Without the ctime, which moves whenever a merge or an undo renames the node."""

    dev: int
    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, st: os.stat_result) -> "Seen":
        """What is to be remembered of a ``stat`` result; of a directory not its size and time."""
        is_dir = stat.S_ISDIR(st.st_mode)
        size, mtime_ns = (0, 0) if is_dir else (st.st_size, st.st_mtime_ns)
        return cls(st.st_dev, st.st_ino, st.st_mode, st.st_uid, st.st_gid, size, mtime_ns)

    def is_same_node(self, other: "Seen") -> bool:
        """Whether it is the same inode of the same kind."""
        return (self.dev, self.ino, stat.S_IFMT(self.mode)) == (other.dev, other.ino, stat.S_IFMT(other.mode))


class Trail(msgspec.Struct, frozen=True):
    """What a merge or an undo left in the base: what is still to be there when it is taken back."""

    nodes: dict[int, Seen]
    """by number of the operation that put them there, or set their attributes"""
    below: dict[int, dict[bytes, Seen]]
    """everything below a directory that taking back would remove, by number of the operation, by relative path"""
    times: dict[bytes, Times]
    """of the directories in which names change, as they were before the first merge, by base path"""
    root: Seen
    root_times: Times

    def renumbered(self, number_now: Callable[[tuple[int, int]], tuple[int, int]]) -> "Trail":
        """The same when nodes were copied, and have other numbers (device, inode)."""

        def now(seen: Seen) -> Seen:
            dev, ino = number_now((seen.dev, seen.ino))
            return replace(seen, dev=dev, ino=ino)

        return replace(
            self,
            nodes={number: now(seen) for number, seen in self.nodes.items()},
            below={number: {path: now(seen) for path, seen in each.items()} for number, each in self.below.items()},
        )


class Course(msgspec.Struct, frozen=True):
    """The journal of one merge or undo, complete at the commit point."""

    plan: Plan
    backward: bool
    start_times: dict[bytes, Times]
    """of the directories in which names change, to take it back; by path as it is at the start"""
    end_times: dict[bytes, Times]
    """to set at the end, by path as it is then"""
    root_times: Times
    """of the base itself, at the end"""
    swaps: dict[bytes, tuple[int, int]]
    """device and inode number of what a slot holds when its ``Replace`` is done"""
    times: dict[bytes, Times]
    """see ``Trail``"""
    trail: Trail | None
    """of what is taken back; None for a plan that is new"""
    token: bytes = b""
    """the one in the log of merges; a journal without it is somebody else's, and is not carried out"""


class Homes:
    """Where nodes in the new tree were in the old one, by path."""

    def __init__(self, plan: Plan) -> None:
        self.of_slots = {op.slot: op.path for op in plan.detach if isinstance(op, Aside)}
        """base path from which a slot was filled"""
        self.moved = {
            op.path: self.of_slots[op.slot]
            for op in plan.attach
            if isinstance(op, Put | Replace) and op.slot in self.of_slots
        }
        """path in the new tree -> in the old one, of what was renamed"""
        self._old_to_new = {old: new for new, old in self.moved.items()}

    def of(self, path: bytes) -> bytes:
        """Where the node at a path of the new tree was; the path itself, if nothing on the way has moved."""
        return _follow(path, self.moved)

    def before(self, path: bytes) -> bytes:
        """The name in the old tree that is this name in the new one, whatever node has it."""
        above, name = split(path)
        return join(self.of(above), name)

    def after(self, path: bytes) -> bytes:
        """The name in the new tree that is this name in the old one, whatever node has it."""
        above, name = split(path)
        return join(_follow(above, self._old_to_new), name)


def _follow(path: bytes, moved: dict[bytes, bytes]) -> bytes:
    above, below = path, b""
    while above:
        if above in moved:
            return join(moved[above], below) if below else moved[above]
        above, name = split(above)
        below = join(name, below) if below else name
    return path
