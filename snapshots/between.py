"""What differs between two states over one base: two points of a run, or two runs.

Owns the finding of these changes; what a change consists of is in ``snapshots.changes``.  Reads, never writes.  Belongs
to the thread of its ``BaseTree``.

The two trees are compared name by name, and only where one of the uppers has names: what neither changed is not looked
at, however large the base.  A path that both have is never a rename, as in ``snapshots.diff``; of the others, the same
node under another path is one.  Nodes are the same when they came from the same path of the base, or, made by the run
itself, have one inode number below ``shared``: two runs give the same numbers to different files once they have parted.
"""

import itertools
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import replace

from snapshots.aliases import with_aliases
from snapshots.base import BaseTree
from snapshots.basepaths import BasePaths, is_below, join, split
from snapshots.changes import Change, Side, Status
from snapshots.compare import Sides
from snapshots.content import CHUNK, BaseContent, ObjectReader, Readable, StoredContent
from snapshots.diff import limited
from snapshots.entries import Changed, Entry, UpperState
from snapshots.errors import BaseChanged
from snapshots.tree import Place, UpperTree

Node = bytes | int
"""What makes two places one node: the base path it came from, or its inode number."""


def difference_of(
    before: UpperState,
    after: UpperState,
    base: BaseTree,
    objects: ObjectReader,
    *,
    shared: int | None = None,
    times: bool = False,
    paths: Iterable[bytes] = (),
) -> list[Change]:
    """Every change that makes ``after`` of ``before``, sorted by path; BaseError where the base cannot be read.

    ``shared``: the first inode number that may mean another node in each (``snapshots.forks.shared_numbers``); None for
    two states of one run.  ``times`` and ``paths`` as in ``diff``.  Paths of the side before are those of that state.
    """
    below = BasePaths(base)
    finder = _Finder(_View(before, below), _View(after, below), below, objects, shared, times)
    return limited(finder.find(), paths)


class _View:
    """One state, and the base under it."""

    def __init__(self, state: UpperState, base: BasePaths) -> None:
        self.tree = with_aliases(UpperTree(state), base)
        self._base = base
        self._origins: dict[bytes, list[int]] | None = None

    def child(self, parent: Place, name: bytes) -> Place | None:
        """What is there under a name; None for nothing."""
        place = self.tree.child(parent, name)
        return place if place is not None and self._exists(place) else None

    def children(self, place: Place) -> list[Place]:
        """What is there in a directory."""
        return [child for child in self.tree.children(place, self._base) if self._exists(child)]

    def _exists(self, place: Place) -> bool:
        if place.base is None:
            return True
        if place.entry is not None and (not place.entry.is_dir or place.entry.changed):
            return True
        if self._base.stat(place.base) is not None:
            return True
        # A directory on the way that the base does not have any more counts if the run has something in it.
        return any(each.entry is not None and each.entry.changed for each in self.tree.walk(place) if each.path)

    def is_dir(self, place: Place) -> bool:
        """Whether a place is a directory."""
        if place.entry is not None:
            return place.entry.is_dir
        st = self._base.stat(place.base or b"")
        return st is not None and stat.S_ISDIR(st.st_mode)

    def paths(self, node: Node) -> list[bytes]:
        """Where a node is (or would be, if it is there at all)."""
        if isinstance(node, int):
            return self.tree.paths(node)
        below: list[bytes] = []
        above = node
        while True:
            found = [join(path, b"/".join(reversed(below))) for path in self._at(above)]
            if found or not above:
                return found
            above, name = split(above)
            below.append(name)

    def _at(self, origin: bytes) -> list[bytes]:
        """The paths of entries that came from a path of the base."""
        if not origin:
            return [b""]
        if self._origins is None:
            self._origins = {}
            for ino, entry in self.tree.state.entries.items():
                if entry.origin is not None and not entry.opaque:
                    self._origins.setdefault(entry.origin.path, []).append(ino)
        return [path for ino in self._origins.get(origin, ()) for path in self.tree.paths(ino)]


class _Finder:
    """One comparison.  ``before`` and ``after`` of its methods' arguments are places in the two trees."""

    def __init__(
        self,
        before: _View,
        after: _View,
        base: BasePaths,
        objects: ObjectReader,
        shared: int | None,
        times: bool,
    ) -> None:
        self._before = before
        self._after = after
        self._base = base
        self._sides = Sides(base, objects)
        self._shared = shared
        self._times = times
        self._changes: list[Change] = []
        self._dirs: list[tuple[Place, Place]] = []
        """directories still to be compared"""
        self._found: list[Place] = []
        """places that are new, not looked at yet"""
        self._waiting: dict[Node, list[Place]] = {}
        """places that are new, by node, of which nothing is gone so far"""
        self._gone: dict[bytes, Place] = {}
        """what is not there any more, by path"""
        self._gone_nodes: dict[Node, list[bytes]] = {}
        self._opened: set[bytes] = set()
        """directories of ``_gone`` whose children are in ``_gone`` too"""
        self._renamed: set[bytes] = set()
        """paths before of what turned up elsewhere"""

    def find(self) -> list[Change]:
        self._pair(self._before.tree.root, self._after.tree.root)
        while self._dirs or self._found or self._open_gone() or self._give_up_waiting():
            while self._dirs:
                self._compare_directories(*self._dirs.pop())
            if self._found:
                self._settle(self._found.pop())
        self._report_gone()
        self._changes.sort(key=lambda change: (change.path, change.status is not Status.DELETED))
        return list(self._with_links())

    def _node(self, place: Place) -> Node | None:
        if place.base is not None:
            return place.base
        assert place.entry is not None
        return place.entry.ino if self._shared is None or place.entry.ino < self._shared else None

    # -- comparing

    def _compare_directories(self, before: Place, after: Place) -> None:
        names = {*self._before.tree.links(before), *self._after.tree.links(after)}
        if before.lower != after.lower:
            for lower in (before.lower, after.lower):
                names.update(self._base.list(lower) if lower is not None else ())
        for name in sorted(names, reverse=True):
            was = self._before.child(before, name)
            if was is not None and was.path in self._renamed:
                was = None
            now = self._after.child(after, name)
            if was is not None and now is not None:
                self._pair(was, now)
            elif was is not None:
                self._lose(was)
            elif now is not None:
                self._found.append(now)

    def _pair(self, before: Place, after: Place) -> None:
        if before.entry is None and after.entry is None and before.base == after.base and after.path:
            return  # only the root has names without having an entry
        if before.entry == after.entry and before.entry is not None and not before.entry.is_dir:
            return
        old, new = self._side_before(before), self._side_after(after)
        if old is None or new is None:
            return  # the base lost it while it was looked at
        if old.kind != new.kind:
            self._changes.append(Change(Status.TYPE_CHANGED, after.path, None, old, new, True, ()))
            if old.is_dir:
                for child in self._before.children(before):
                    self._lose(child)
            if new.is_dir:
                self._found += self._after.children(after)
            return
        content_changed, attrs = self._differences(before, after, old, new)
        if content_changed:
            self._changes.append(Change(Status.MODIFIED, after.path, None, old, new, True, attrs))
        elif attrs:
            self._changes.append(Change(Status.ATTRS_CHANGED, after.path, None, old, new, False, attrs))

    def _differences(self, before: Place, after: Place, old: Side, new: Side) -> tuple[bool, tuple[str, ...]]:
        if new.is_dir:
            self._dirs.append((before, after))
            content_changed = False
        else:
            content_changed = not _same_record(before, after) and _differs(old, new)
        asked = before if before.entry is not None and before.entry.changed & Changed.XATTRS else after
        return content_changed, self._sides.attrs_that_differ(old, new, asked, times=self._times)

    def _side_before(self, place: Place) -> Side | None:
        side = self._sides.of_place(place)
        if side is None:
            return None
        if place.entry is not None and self._is_strange(place.entry):
            side = replace(side, node=("before", place.entry.ino))
        return replace(side, lister=lambda: self._children(place))

    def _children(self, place: Place) -> list[Side]:
        if not self._before.is_dir(place):
            return []
        return [side for child in self._before.children(place) if (side := self._side_before(child)) is not None]

    def _side_after(self, place: Place) -> Side | None:
        return self._sides.of_place(place)

    def _is_strange(self, entry: Entry) -> bool:
        """Whether its number means another node in the state after."""
        return entry.origin is None and self._shared is not None and entry.ino >= self._shared

    # -- what only the state after has

    def _settle(self, place: Place) -> None:
        node = self._node(place)
        if node is None:
            self._add(place)
            return
        for path in self._gone_nodes.get(node, ()):
            was = self._gone.get(path)
            if was is not None and self._same_kind(was, place):
                self._rename(was, place)
                return
        self._waiting.setdefault(node, []).append(place)

    def _same_kind(self, before: Place, after: Place) -> bool:
        old, new = self._side_before(before), self._side_after(after)
        return old is not None and new is not None and old.kind == new.kind

    def _add(self, place: Place) -> None:
        side = self._side_after(place)
        if side is None:
            return
        self._changes.append(Change(Status.ADDED, place.path, None, None, side, not side.is_dir, ()))
        if side.is_dir:
            self._found += self._after.children(place)

    def _rename(self, before: Place, after: Place) -> None:
        path = before.path
        del self._gone[path]
        self._renamed.add(path)
        if path in self._opened:  # its names were taken for deleted; the comparison below knows better
            self._opened = {p for p in self._opened if p != path and not is_below(p, path)}
            self._gone = {p: place for p, place in self._gone.items() if not is_below(p, path)}
        old, new = self._side_before(before), self._side_after(after)
        assert old is not None, "its kind was asked a moment ago"
        assert new is not None, "as above"
        content_changed, attrs = self._differences(before, after, old, new)
        self._changes.append(Change(Status.RENAMED, after.path, path, old, new, content_changed, attrs))

    def _give_up_waiting(self) -> bool:
        """Whether there were places of which nothing is gone, so that they are additions: the outermost directories,
        or else all files.  What is below the directories may still be a rename."""
        dirs = [node for node, places in self._waiting.items() if self._after.is_dir(places[0])]
        if dirs:
            depths = {node: self._waiting[node][0].path.count(b"/") for node in dirs}
            chosen: list[Node] = [node for node in dirs if depths[node] == min(depths.values())]
        else:
            chosen = list(self._waiting)
        for node in chosen:
            for place in self._waiting.pop(node):
                self._add(place)
        return bool(chosen)

    # -- what only the state before has

    def _lose(self, place: Place) -> None:
        if place.path in self._renamed:
            return
        self._gone[place.path] = place
        node = self._node(place)
        if node is not None:
            self._gone_nodes.setdefault(node, []).append(place.path)
            self._found += self._waiting.pop(node, ())

    def _open_gone(self) -> bool:
        """Whether there were gone directories from below which something may have been renamed; look into them."""
        chosen: set[bytes] = set()
        for node in self._waiting if self._gone else ():
            for above in self._before.paths(node):
                outermost = None
                while above:
                    above = split(above)[0]
                    if above in self._gone and above not in self._opened and self._before.is_dir(self._gone[above]):
                        outermost = above
                if outermost is not None:
                    chosen.add(outermost)
        for path in chosen:
            self._opened.add(path)
            for child in self._before.children(self._gone[path]):
                self._lose(child)
        return bool(chosen)

    def _report_gone(self) -> None:
        waiting = list(self._gone.values())
        while waiting:
            place = waiting.pop()
            side = self._side_before(place)
            if side is None:
                continue
            self._changes.append(Change(Status.DELETED, place.path, None, side, None, not side.is_dir, ()))
            if side.is_dir and place.path not in self._opened:
                waiting += self._before.children(place)

    # -- hard links

    def _with_links(self) -> Iterator[Change]:
        """The changes, with ``link_to`` where a path became one more name of a file that has another name."""
        renamed = {change.path for change in self._changes if change.status is Status.RENAMED}
        tree = self._after.tree
        first: dict[int, bytes] = {}
        for change in self._changes:
            place = tree.resolve(change.path) if change.after is not None and change.after.nlink > 1 else None
            entry = place.entry if place is not None else None
            if entry is not None and not entry.is_dir and tree.number_of_links(entry.ino) > 1:
                if entry.ino not in first:
                    first[entry.ino] = self._first_name(entry, renamed)
                was_it = change.before is not None and change.after is not None
                was_it = was_it and change.before.node == change.after.node  # type: ignore[union-attr]
                if change.path != first[entry.ino] and not was_it:
                    change = replace(change, link_to=first[entry.ino])
            yield change

    def _first_name(self, entry: Entry, renamed: set[bytes]) -> bytes:
        """The name of a file that its other names are links to: where it was before, else where it was renamed."""
        paths = self._after.tree.paths(entry.ino)
        node: Node = entry.origin.path if entry.origin is not None else entry.ino
        known = set(self._before.paths(node)) if not self._is_strange(entry) else set()
        return next((path for path in paths if path in known), None) or next(
            (path for path in paths if path in renamed), paths[0]
        )


def _same_record(before: Place, after: Place) -> bool:
    """Whether two files have the same content by what is recorded of it alone."""
    old = before.entry.content if before.entry is not None else None
    new = after.entry.content if after.entry is not None else None
    if old is None and new is None:
        return before.base is not None and before.base == after.base
    if old is None or new is None or old != new:
        return False
    if not old.base_limit:
        return True
    one, other = before.entry and before.entry.origin, after.entry and after.entry.origin
    return one is not None and one == other


def _differs(before: Side, after: Side) -> bool:
    if before.kind == stat.S_IFLNK:
        return before.target != after.target
    if before.kind != stat.S_IFREG:
        return before.rdev != after.rdev
    if before.size != after.size:
        return True
    try:
        with before.open() as old, after.open() as new:
            return not _same_bytes(old, new)
    except BaseChanged:
        return True  # what it would be compared with is gone; reading the side says so


def _same_bytes(old: Readable, new: Readable) -> bool:
    """Whether two contents of one size are equal; what both take from the same place is not read."""
    if old.size != new.size:
        return False
    sources = [_sources(old), _sources(new)]
    starts = [[offset for offset, _ in each] for each in sources]
    for start, end in itertools.pairwise(sorted({*starts[0], *starts[1], old.size})):
        here = [each[bisect_right(at, start) - 1][1] for each, at in zip(sources, starts, strict=True)]
        if here[0] == here[1]:
            continue
        for offset in range(start, end, CHUNK):
            length = min(CHUNK, end - offset)
            if old.read(offset, length) != new.read(offset, length):
                return False
    return True


def _sources(content: Readable) -> list[tuple[int, object]]:
    """(offset, where the bytes from there on come from); equal where they are the same ones."""
    if isinstance(content, BaseContent):
        return [(0, _base_source(content))]
    if not isinstance(content, StoredContent):
        return [(0, content)]
    found: list[tuple[int, object]] = []
    end = 0
    for piece in content.pieces():
        if piece.offset > end or not found:
            found.append((end, "hole"))
        base = _base_source(content.lower) if piece.object is None and content.lower is not None else None
        found.append((piece.offset, base or (piece.object, piece.start - piece.offset)))
        end = piece.offset + piece.length
    found.append((end, "hole"))
    return found


def _base_source(content: BaseContent) -> tuple[int, ...]:
    st = content.stat
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns
