"""What differs between two views of one workspace: every change and only changes.

Owns the pairing of what is in both, the finding of renames, and what is new or gone.  Knows neither what a view is made
of (``snapshots.review.views``) nor what two sides differ in (``snapshots.review.compare``).  Reads, never writes.
Belongs to the thread of the base.

The two trees are compared name by name, and only where one of them mentions names: what neither changed is not looked
at, however large the base.  What exists on one side only is *found* or *gone*, and a found node that is gone elsewhere
is a rename.  Then the two directories of a renamed directory are compared in turn, which may find more of both, until
nothing is left to pair.  A path that exists on both sides is never a rename: what is there now is compared with what
was there before, however it came about.  So every path has at most one change.
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from snapshots.entries import Changed, Entry
from snapshots.layers.basepaths import BasePaths, is_below, join, split
from snapshots.layers.tree import Place
from snapshots.review.changes import Change, Side, Status
from snapshots.review.compare import Sides
from snapshots.review.views import Node, RunView, View


def find(before: View, after: RunView, base: BasePaths, sides: Sides, *, times: bool) -> list[Change]:
    """Every change that makes ``after`` of ``before``, sorted by path."""
    return _Finder(before, after, base, sides, times).find()


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
    """One comparison.  ``before`` and ``after`` of its methods' arguments are places in the two views."""

    def __init__(self, before: View, after: RunView, base: BasePaths, sides: Sides, times: bool) -> None:
        self._before = before
        self._after = after
        self._base = base
        self._sides = sides
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
        self._pair(self._before.root, self._after.root)
        while self._dirs or self._found or self._open_gone() or self._give_up_waiting():
            while self._dirs:
                self._compare_directories(*self._dirs.pop())
            if self._found:
                self._settle(self._found.pop())
        self._report_gone()
        self._changes.sort(key=lambda change: (change.path, change.status is not Status.DELETED))
        return list(self._with_links())

    # -- comparing

    def _compare_directories(self, before: Place, after: Place) -> None:
        names = {*self._before.names(before), *self._after.names(after)}
        if before.lower != after.lower:
            for lower in (before.lower, after.lower):
                names.update(self._base.list(lower) if lower is not None else ())
        there = self._before.some(before, names)
        here = self._after.some(after, names)
        for name in sorted(names, reverse=True):
            was, now = there.get(name), here.get(name)
            if was is not None and was.path in self._renamed:
                was = None
            if was is not None and now is not None:
                self._pair(was, now)
            elif was is not None:
                self._lose(was)
            elif now is not None:
                self._found.append(now)

    def _pair(self, before: Place, after: Place) -> None:
        if before.entry is None and after.entry is None and before.base == after.base and after.path:
            return  # only the root has names without having an entry
        if before.entry is not None and before.entry == after.entry and not before.entry.is_dir:
            return
        old, new = self._before.side(before), self._after.side(after)
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
            content_changed = self._sides.content_differs(old, new, before, after)
        asked = before if before.entry is not None and before.entry.changed & Changed.XATTRS else after
        return content_changed, self._sides.attrs_that_differ(old, new, asked, times=self._times)

    # -- what only the view after has

    def _settle(self, place: Place) -> None:
        node = self._after.node(place)
        if node is None:
            self._add(place)
            return
        for path in self._gone_nodes.get(node, ()):
            was = self._gone.get(path)
            if was is not None and self._rename(was, place):
                return
        self._waiting.setdefault(node, []).append(place)

    def _add(self, place: Place) -> None:
        side = self._after.side(place)
        if side is None:
            return
        is_dir = side.is_dir
        self._changes.append(Change(Status.ADDED, place.path, None, None, side, not is_dir, ()))
        if is_dir:
            self._found += self._after.children(place)

    def _rename(self, before: Place, after: Place) -> bool:
        """Whether what is gone is what was found: it is of the same kind."""
        old, new = self._before.side(before), self._after.side(after)
        if old is None or new is None or old.kind != new.kind:
            return False
        path = before.path
        del self._gone[path]
        self._renamed.add(path)
        if path in self._opened:  # its names were taken for deleted; the comparison below knows better
            self._opened = {p for p in self._opened if p != path and not is_below(p, path)}
            self._gone = {p: place for p, place in self._gone.items() if not is_below(p, path)}
        content_changed, attrs = self._differences(before, after, old, new)
        self._changes.append(Change(Status.RENAMED, after.path, path, old, new, content_changed, attrs))
        return True

    def _give_up_waiting(self) -> bool:
        """Whether there were places of which nothing is gone, so that they are additions: the outermost directories,
        or else all files.  What is below the directories may still be a rename."""
        dirs = [node for node, places in self._waiting.items() if self._after.is_dir(places[0])]
        if dirs:
            depths = {node: self._waiting[node][0].path.count(b"/") for node in dirs}
            least = min(depths.values())
            chosen: list[Node] = [node for node in dirs if depths[node] == least]
        else:
            chosen = list(self._waiting)
        for node in chosen:
            for place in self._waiting.pop(node):
                self._add(place)
        return bool(chosen)

    # -- what only the view before has

    def _lose(self, place: Place) -> None:
        if place.path in self._renamed:
            return
        self._gone[place.path] = place
        node = self._before.node(place)
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
            side = self._before.side(place)
            if side is None:
                continue
            self._changes.append(Change(Status.DELETED, place.path, None, side, None, not side.is_dir, ()))
            if side.is_dir and place.path not in self._opened:
                waiting += self._before.children(place)

    # -- hard links

    def _with_links(self) -> Iterator[Change]:
        """The changes, with ``link_to`` where a path became one more name of a file that has another name."""
        renamed: set[bytes] | None = None
        tree = self._after.tree
        first: dict[int, bytes] = {}
        for change in self._changes:
            after = change.after
            place = tree.resolve(change.path) if after is not None and after.nlink > 1 and not after.is_dir else None
            entry = place.entry if place is not None else None
            if after is not None and entry is not None and tree.number_of_links(entry.ino) > 1:
                if renamed is None:
                    renamed = {each.path for each in self._changes if each.status is Status.RENAMED}
                if entry.ino not in first:
                    first[entry.ino] = self._first_name(entry, renamed)
                was_it = change.before is not None and change.before.node == after.node
                if change.path != first[entry.ino] and not was_it:
                    change = replace(change, link_to=first[entry.ino])
            yield change

    def _first_name(self, entry: Entry, renamed: set[bytes]) -> bytes:
        """The name of a file that its other names are links to: where it was before, else where it was renamed."""
        paths = self._after.tree.paths(entry.ino)
        origin = entry.origin.path if entry.origin is not None else None
        node = self._after.node(Place(paths[0], entry, origin, None))
        known = set(self._before.paths(node)) if node is not None else set()
        for path in paths:
            above, name = split(path)
            parent = self._after.tree.resolve(above)
            lower = parent.lower if parent is not None else None
            if path in known or (lower is not None and join(lower, name) == origin):
                return path
        return next((path for path in paths if path in renamed), paths[0])
