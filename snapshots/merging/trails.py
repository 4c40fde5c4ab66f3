"""What a merge leaves in the base, and whether it still is there when it is to be taken back.

Owns the reading of a ``Trail`` and the conflicts that an undo can have.  Reads the base, writes nothing.  Belongs to
the thread of its ``BaseTree``.

Taking back removes what the merge put there and sets attributes back, so both must be as the merge left them.  What
it moves only (a renamed directory) must be the same node; what was done inside stays done.
"""

import stat
from collections.abc import Mapping
from types import MappingProxyType

from msgspec.structs import replace

from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.merging.course import Homes, Seen, Times, Trail
from snapshots.merging.plan import Aside, Attrs, ConflictKind, Link, PathConflict, Plan, Put, Replace, SetAttrs, Unlock
from snapshots.review.compare import carried

NOTHING: Mapping[bytes, Seen] = MappingProxyType({})
_ADVICE = "put it back as the merge left it, or keep the merge"


class Trails:
    """The trails of one plan.  ``new``: what is in the base is the new tree, else the old one."""

    def __init__(self, plan: Plan, base: BasePaths) -> None:
        self._plan = plan
        self._base = base
        self._new = {make.path for make in plan.makes}
        self._homes = Homes(plan)
        self._locked = {op.path: op.mode for op in plan.detach if isinstance(op, Unlock)}
        self._moves_on = {op.slot for op in plan.attach if isinstance(op, Put | Replace)}

    def _places(self, *, new: bool) -> dict[int, bytes]:
        """Where in the new tree (or in the old one) the nodes are that operations bring there, or change."""
        places: dict[int, bytes] = {}
        for number, op in enumerate(self._plan.operations):
            if isinstance(op, Unlock | Link):
                continue
            if isinstance(op, Aside):
                if not new:
                    places[number] = op.path
            elif new:
                places[number] = op.path
            elif not isinstance(op, Put) and not (isinstance(op, SetAttrs) and self._is_new(op.path)):
                places[number] = (self._homes.of if isinstance(op, SetAttrs) else self._homes.before)(op.path)
        return places

    def _is_new(self, path: bytes) -> bool:
        return path in self._new

    def _is_removed(self, number: int, *, new: bool) -> bool:
        """Whether going away from the new tree (or the old one) puts a node into a slot for good."""
        op = self._plan.operations[number]
        if new:
            return isinstance(op, Put | Replace) and op.slot not in self._homes.of_slots
        return isinstance(op, Replace) or (isinstance(op, Aside) and op.slot not in self._moves_on)

    def left(
        self, *, new: bool, times: dict[bytes, Times], root_times: Times, made: Mapping[bytes, Seen] = NOTHING
    ) -> Trail:
        """What there is in the new tree (or the old one), which is complete.

        ``made`` are the new files as they were made, by path: they need not be looked at again, and what somebody else
        has done to them since is not the merge's.
        """
        self._base.forget()
        places = self._places(new=new)
        nodes: dict[int, Seen] = {}
        below: dict[int, dict[bytes, Seen]] = {}
        others = self._moving(places)
        inside = self._made_below(made) if new and made else {}
        for number, path in places.items():
            st = self._base.stat(path)
            if st is None:
                continue
            nodes[number] = Seen.of(st)
            if stat.S_ISDIR(st.st_mode) and self._is_removed(number, new=new):
                below[number] = inside[number] if number in inside else self._walk(path, others)
        root = self._base.stat(b"")
        assert root is not None, "the root is open"
        return Trail(nodes, below, times, Seen.of(root), root_times)

    def _moving(self, places: dict[int, bytes]) -> set[bytes]:
        """Those of the places to which operations bring nodes of their own, each of which is looked after by itself."""
        return {path for number, path in places.items() if not isinstance(self._plan.operations[number], SetAttrs)}

    def _made_below(self, made: Mapping[bytes, Seen]) -> dict[int, dict[bytes, Seen]]:
        """What was made below each new directory, by number of the operation that put it in its place."""
        numbers = {op.slot: n for n, op in enumerate(self._plan.operations) if isinstance(op, Put | Replace)}
        found: dict[int, dict[bytes, Seen]] = {}
        for make in self._plan.makes:
            slot, _, inner = make.staged.partition(b"/")
            number = numbers[slot]
            here = found.setdefault(number, {})
            if not inner:
                continue
            seen = made.get(make.path)
            if seen is None:  # no file
                st = self._base.stat(make.path)
                if st is None:
                    continue
                seen = Seen.of(st)
            here[inner] = seen
        return found

    def _walk(self, top: bytes, others: set[bytes]) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        waiting = [b""]
        while waiting:
            above = waiting.pop()
            under = join(top, above) if above else top
            for name, st in self._base.stats(under):
                if join(under, name) in others:
                    continue
                path = join(above, name)
                found[path] = Seen.of(st)
                if stat.S_ISDIR(st.st_mode):
                    waiting.append(path)
        return found

    def conflicts(self, trail: Trail, *, new: bool) -> tuple[PathConflict, ...]:
        """What is not any more as it was left, sorted by path."""
        found: dict[bytes, PathConflict] = {}
        places = self._places(new=new)
        others = self._moving(places)
        operations = self._plan.operations

        def add(path: bytes, kind: ConflictKind, advice: str = _ADVICE) -> None:
            found.setdefault(path, PathConflict(path, kind, advice))

        for number, seen in trail.nodes.items():
            path, op = places[number], operations[number]
            st = self._base.stat(path)
            if st is None:
                add(path, ConflictKind.DELETED_SINCE)
                continue
            now = Seen.of(st)
            if not now.is_same_node(seen):
                add(path, ConflictKind.REPLACED_SINCE)
            elif isinstance(op, SetAttrs):
                if not self._has(path, now, op.after if new else self._before(op, path)):
                    add(path, ConflictKind.ATTRIBUTES_SINCE)
            elif now != seen and not stat.S_ISDIR(seen.mode):
                add(path, ConflictKind.MODIFIED_SINCE)
            if number in trail.below and path not in found:
                there = self._walk(path, others)
                for inner in sorted(there.keys() | trail.below[number].keys()):
                    was, is_now = trail.below[number].get(inner), there.get(inner)
                    if was is None:
                        add(join(path, inner), ConflictKind.ADDED_SINCE, "move it elsewhere, or keep the merge")
                    elif is_now is None:
                        add(join(path, inner), ConflictKind.DELETED_SINCE)
                    elif is_now != was:
                        same = stat.S_ISDIR(was.mode) and is_now.is_same_node(was)
                        add(join(path, inner), ConflictKind.ATTRIBUTES_SINCE if same else ConflictKind.MODIFIED_SINCE)
        for path in self._wanted(new=new) - set(places.values()):
            if self._base.stat(path) is not None:
                add(path, ConflictKind.ADDED_SINCE, "move it elsewhere, or keep the merge")
        return tuple(found[path] for path in sorted(found))

    def _before(self, op: SetAttrs, path: bytes) -> Attrs:
        """The attributes in the old tree, where a directory is not unlocked."""
        mode = self._locked.get(path)
        return op.before if mode is None else replace(op.before, mode=mode)

    def _has(self, path: bytes, now: Seen, attrs: Attrs | None) -> bool:
        if attrs is None:
            return True
        if attrs.mode is not None and stat.S_IMODE(now.mode) != attrs.mode:
            return False
        if attrs.uid is not None and (now.uid, now.gid) != (attrs.uid, attrs.gid):
            return False
        return attrs.xattrs is None or carried(self._base.xattrs(path)) == carried(attrs.xattrs)

    def _wanted(self, *, new: bool) -> set[bytes]:
        """Paths in the present tree at which something will be in the other one."""
        if new:
            return {self._homes.after(path) for path in self._homes.of_slots.values()}
        return {
            self._homes.before(op.path)
            for op in self._plan.attach
            if isinstance(op, Put) and not self._is_in_new_directory(op.path)
        }

    def _is_in_new_directory(self, path: bytes) -> bool:
        return split(path)[0] in self._new

    def end_times(self, course_times: dict[bytes, Times], trail: Trail) -> tuple[dict[bytes, Times], Times]:
        """Which times the directories of the old tree get back, and the base itself: not those changed since."""
        changed = set()
        for op in self._plan.attach:
            if isinstance(op, SetAttrs) and op.after.times_ns is not None:
                st = self._base.stat(op.path)
                if st is not None and stat.S_ISDIR(st.st_mode) and st.st_mtime_ns != op.after.times_ns[1]:
                    changed.add(self._homes.of(op.path))
        times = {path: value for path, value in course_times.items() if path and path not in changed}
        root = self._base.stat(b"")
        assert root is not None, "the root is open"
        if root.st_mtime_ns != trail.root_times[1]:
            return times, (root.st_atime_ns, root.st_mtime_ns)
        return times, course_times[b""]

    def start_times(self) -> dict[bytes, Times]:
        """Of the directories of the new tree in which names change, and of the base itself, as they are."""
        times: dict[bytes, Times] = {}
        for path in [b"", *(op.path for op in self._plan.attach if isinstance(op, SetAttrs))]:
            st = self._base.stat(path)
            if st is not None and stat.S_ISDIR(st.st_mode):
                times[path] = (st.st_atime_ns, st.st_mtime_ns)
        return times

