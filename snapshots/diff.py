"""What a run changed, compared with its base as it is now.

Owns the finding of changes: every change and only changes.  Reads, never writes.  Belongs to the thread of its
``BaseTree``.

The tree of the run and the tree of the base are compared name by name, and only where the upper has names: the cost
goes with the changes, not with the base.  What exists on one side only is *added* or *gone*, and an added node whose
origin is gone is a rename.  Then the two directories of a renamed directory are compared in turn, which may find more
of both, until nothing is left to pair.  A path that exists on both sides is never a rename: what is there now is
compared with what was there before, however it came about.  So every path has at most one change.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace

from snapshots.aliases import with_aliases
from snapshots.base import BaseTree
from snapshots.basepaths import BasePaths, is_below, join, split
from snapshots.changes import Change, Side, Status, as_json
from snapshots.compare import Sides
from snapshots.content import ObjectReader
from snapshots.entries import Changed, Entry
from snapshots.tree import Place, UpperTree

__all__ = ["Change", "Side", "Status", "as_json", "diff"]


def diff(
    tree: UpperTree, base: BaseTree, objects: ObjectReader, *, times: bool = False, paths: Iterable[bytes] = ()
) -> list[Change]:
    """Every change of the run, sorted by path; BaseError where the base cannot be read.

    With ``times`` a different mtime is a change (by default it is not).  ``paths`` (relative to the base) limit it to
    what lies at or below one of them, before or after.
    """
    below = BasePaths(base)
    finder = _Finder(with_aliases(tree, below), below, Sides(below, objects), times)
    return limited(finder.find(), paths)


def limited(changes: list[Change], paths: Iterable[bytes]) -> list[Change]:
    """Those of the changes that lie at or below one of the paths, before or after; all of them for no paths."""
    wanted = [path.strip(b"/") for path in paths]
    if not wanted or b"" in wanted:
        return changes
    return [change for change in changes if any(_touches(change, path) for path in wanted)]


def _touches(change: Change, wanted: bytes) -> bool:
    for path in (change.path, change.old_path):
        if path is None:
            continue
        if path == wanted or is_below(path, wanted):
            return True
        if change.status is Status.RENAMED and is_below(wanted, path):
            return True  # it came or went with the directory
    return False


class _Finder:
    """One comparison."""

    def __init__(self, tree: UpperTree, base: BasePaths, sides: Sides, times: bool) -> None:
        self._tree = tree
        self._base = base
        self._sides = sides
        self._times = times
        self._changes: list[Change] = []
        self._dirs: list[tuple[Place, bytes]] = []
        """directories still to be compared: in the run, in the base"""
        self._found: list[Place] = []
        """places that the base does not have, not looked at yet"""
        self._waiting: dict[bytes, list[Place]] = {}
        """places that the base does not have, by their origin's path, which is not gone so far"""
        self._gone: dict[bytes, os.stat_result] = {}
        """base paths that the run does not have"""
        self._opened: set[bytes] = set()
        """directories of ``_gone`` whose children are in ``_gone`` too"""
        self._renamed: set[bytes] = set()
        """base paths that were gone and turned up elsewhere"""

    def find(self) -> list[Change]:
        st = self._base.stat(b"")
        assert st is not None, "the root is open"
        self._pair(self._tree.root, b"", st)
        while self._dirs or self._found or self._open_gone() or self._give_up_waiting():
            while self._dirs:
                self._compare_directories(*self._dirs.pop())
            if self._found:
                self._settle(self._found.pop())
        self._report_gone()
        self._changes.sort(key=lambda change: (change.path, change.status is not Status.DELETED))
        return _with_links(self._changes, self._tree)

    # -- comparing

    def _compare_directories(self, place: Place, before: bytes) -> None:
        names: Iterable[bytes] = self._tree.links(place)
        natural = place.lower == before
        if not natural:
            names = {*names, *self._base.list(before)}
            if place.lower is not None:
                names.update(self._base.list(place.lower))
        for name in names:
            path = join(before, name)
            child = self._tree.child(place, name)
            if child is not None and child.entry is None and self._base.stat(child.base or b"") is None:
                child = None
            st = None if path in self._renamed else self._base.stat(path)
            if child is None:
                if st is not None:
                    self._lose(path, st)
            elif st is not None:
                self._pair(child, path, st)
            elif not (natural and self._vanished(child, path)):
                self._found.append(child)

    def _vanished(self, place: Place, path: bytes) -> bool:
        """Whether this is nothing but a directory on the way, which the base does not have any more."""
        if place.base != path:
            return False
        owned = Changed.ATTRS | Changed.XATTRS
        return all(p.entry is None or (p.entry.is_dir and not p.entry.changed & owned) for p in self._tree.walk(place))

    def _pair(self, place: Place, path: bytes, st: os.stat_result) -> None:
        before = self._sides.of_base(path, st)
        after = self._sides.of_place(place)
        assert after is not None, "the caller made sure that it exists"
        if before.kind != after.kind:
            self._changes.append(Change(Status.TYPE_CHANGED, place.path, None, before, after, True, ()))
            if before.is_dir:
                self._lose_children(path)
            if after.is_dir:
                self._found += self._tree.children(place, self._base)
            return
        content_changed, attrs = self._differences(before, after, place, path)
        if content_changed:
            self._changes.append(Change(Status.MODIFIED, place.path, None, before, after, True, attrs))
        elif attrs:
            self._changes.append(Change(Status.ATTRS_CHANGED, place.path, None, before, after, False, attrs))

    def _differences(self, before: Side, after: Side, place: Place, path: bytes) -> tuple[bool, tuple[str, ...]]:
        if after.is_dir:
            self._dirs.append((place, path))
            content_changed = False
        else:
            content_changed = self._sides.content_differs(before, after, place, path)
        return content_changed, self._sides.attrs_that_differ(before, after, place, times=self._times)

    # -- what only the run has

    def _settle(self, place: Place) -> None:
        if place.base is None:
            self._add(place)
        elif place.base in self._gone and self._same_kind(place, self._gone[place.base]):
            self._rename(place, place.base)
        else:
            self._waiting.setdefault(place.base, []).append(place)

    def _same_kind(self, place: Place, st: os.stat_result) -> bool:
        return place.entry is None or stat.S_IFMT(place.entry.mode) == stat.S_IFMT(st.st_mode)

    def _add(self, place: Place) -> None:
        after = self._sides.of_place(place)
        if after is None:
            return
        self._changes.append(Change(Status.ADDED, place.path, None, None, after, not after.is_dir, ()))
        if after.is_dir:
            self._found += self._tree.children(place, self._base)

    def _rename(self, place: Place, path: bytes) -> None:
        st = self._gone.pop(path)
        self._renamed.add(path)
        if path in self._opened:  # its names were taken for deleted; the comparison below knows better
            self._opened = {p for p in self._opened if p != path and not is_below(p, path)}
            self._gone = {p: s for p, s in self._gone.items() if not is_below(p, path)}
        before = self._sides.of_base(path, st)
        after = self._sides.of_place(place)
        assert after is not None, "its base was there a moment ago"
        content_changed, attrs = self._differences(before, after, place, path)
        self._changes.append(Change(Status.RENAMED, place.path, path, before, after, content_changed, attrs))

    def _give_up_waiting(self) -> bool:
        """Whether there were places whose origin is not gone, so that they are additions: the outermost directories,
        or else all files.  What is below the directories may still be a rename."""
        dirs = [base for base, places in self._waiting.items() if self._is_dir(places[0])]
        if dirs:
            least = min(base.count(b"/") for base in dirs)
            chosen = [base for base in dirs if base.count(b"/") == least]
        else:
            chosen = list(self._waiting)
        for base in chosen:
            for place in self._waiting.pop(base):
                self._add(place)
        return bool(chosen)

    def _is_dir(self, place: Place) -> bool:
        if place.entry is not None:
            return place.entry.is_dir
        st = self._base.stat(place.base or b"")
        return st is not None and stat.S_ISDIR(st.st_mode)

    # -- what only the base has

    def _lose(self, path: bytes, st: os.stat_result) -> None:
        if path in self._renamed:
            return
        self._gone[path] = st
        self._found += self._waiting.pop(path, ())

    def _lose_children(self, path: bytes) -> None:
        for name in self._base.list(path):
            child = join(path, name)
            st = self._base.stat(child)
            if st is not None:
                self._lose(child, st)

    def _open_gone(self) -> bool:
        """Whether there were gone directories from below which something may have been renamed; look into them."""
        chosen: set[bytes] = set()
        for base in self._waiting:
            outermost = None
            above = base
            while above:
                above = split(above)[0]
                st = self._gone.get(above)
                if st is not None and above not in self._opened and stat.S_ISDIR(st.st_mode):
                    outermost = above
            if outermost is not None:
                chosen.add(outermost)
        for path in chosen:
            self._opened.add(path)
            self._lose_children(path)
        return bool(chosen)

    def _report_gone(self) -> None:
        waiting = list(self._gone.items())
        while waiting:
            path, st = waiting.pop()
            before = self._sides.of_base(path, st)
            self._changes.append(Change(Status.DELETED, path, None, before, None, not before.is_dir, ()))
            if before.is_dir and path not in self._opened:
                for name in self._base.list(path):
                    child = join(path, name)
                    inner = self._base.stat(child)
                    if inner is not None:
                        waiting.append((child, inner))


def _with_links(changes: Sequence[Change], tree: UpperTree) -> list[Change]:
    """The changes, with ``link_to`` where a path became one more name of a file that has another name in the run."""
    renamed = {change.path for change in changes if change.status is Status.RENAMED}
    first: dict[int, bytes] = {}
    result = []
    for change in changes:
        place = tree.resolve(change.path) if change.after is not None and change.after.nlink > 1 else None
        entry = place.entry if place is not None else None
        if entry is not None and not entry.is_dir and tree.number_of_links(entry.ino) > 1:
            if entry.ino not in first:
                first[entry.ino] = _first_name(tree, entry, renamed)
            was_it = change.before is not None and change.after is not None and change.before.node == change.after.node
            if change.path != first[entry.ino] and not was_it:
                change = replace(change, link_to=first[entry.ino])
        result.append(change)
    return result


def _first_name(tree: UpperTree, entry: Entry, renamed: set[bytes]) -> bytes:
    """The name of a file that its other names are links to: where it was before, else where it was renamed."""
    paths = tree.paths(entry.ino)
    origin = entry.origin.path if entry.origin is not None else None
    for path in paths:
        above, name = split(path)
        parent = tree.resolve(above)
        if parent is not None and parent.lower is not None and join(parent.lower, name) == origin:
            return path
    return next((path for path in paths if path in renamed), paths[0])
