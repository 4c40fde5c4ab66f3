"""What a diff compares, looked at in one way: the base, or one state of a run over it.

Owns what exists at a name and what makes two places one node.  Reads the base, never writes.  Belongs to the thread of
its ``BaseTree``.
"""

import stat
from collections.abc import Collection, Iterable
from typing import Protocol

from msgspec.structs import replace

from snapshots.entries import Changed
from snapshots.layers.aliases import with_aliases
from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.layers.tree import Place, UpperTree
from snapshots.review.changes import Side
from snapshots.review.compare import Sides

Node = bytes | int
"""What makes two places one node: the base path it came from, or its inode number."""

_OWNED = Changed.ATTRS | Changed.XATTRS


class View(Protocol):
    """One of the two that are compared."""

    root: Place

    def names(self, place: Place) -> Iterable[bytes]:
        """The names of a directory that are not simply those of its ``lower``."""

    def some(self, place: Place, names: Collection[bytes]) -> dict[bytes, Place]:
        """Those of some names of a directory at which there is something."""

    def children(self, place: Place) -> Collection[Place]:
        """What is there in a directory."""

    def is_dir(self, place: Place) -> bool:
        """Whether a place is a directory."""

    def node(self, place: Place) -> Node | None:
        """Which node is there; None for one that the other view cannot have."""

    def paths(self, node: Node) -> list[bytes]:
        """Where a node is, or would be if it is there at all."""

    def side(self, place: Place) -> Side | None:
        """What is there, for a change; None when the base lost it while it was looked at."""


class BaseView:
    """The base itself."""

    def __init__(self, base: BasePaths, sides: Sides) -> None:
        self._base = base
        self._sides = sides
        self.root = Place(b"", None, b"", b"")

    def names(self, _place: Place) -> Iterable[bytes]:
        """See ``View``."""
        return ()

    def some(self, place: Place, names: Collection[bytes]) -> dict[bytes, Place]:
        """See ``View``."""
        found = self._base.stat_some(place.path, names)
        return {name: Place(path := join(place.path, name), None, path, path, st) for name, st in found.items()}

    def children(self, place: Place) -> Collection[Place]:
        """See ``View``."""
        found = self._base.stats(place.path)
        return [Place(path := join(place.path, name), None, path, path, st) for name, st in found]

    def is_dir(self, place: Place) -> bool:
        """See ``View``."""
        return place.st is not None and stat.S_ISDIR(place.st.st_mode)

    def node(self, place: Place) -> Node | None:
        """See ``View``."""
        return place.path

    def paths(self, node: Node) -> list[bytes]:
        """See ``View``."""
        return [node] if isinstance(node, bytes) else []

    def side(self, place: Place) -> Side | None:
        """See ``View``."""
        return self._sides.of_place(place)


class RunView:
    """A state of a run, and what shows through of the base.

    ``shared``: the first inode number that may mean another node in the other view (``snapshots.history.forks``); None
    for two states of one run, 0 when the other one is the base.  ``is_before`` is the side before, whose numbers of
    that kind are told apart from those of the side after.
    """

    def __init__(
        self, tree: UpperTree, base: BasePaths, sides: Sides, *, shared: int | None, is_before: bool = False
    ) -> None:
        self.tree = with_aliases(tree, base)
        self.root = self.tree.root
        self._base = base
        self._sides = sides
        self._shared = shared
        self._is_before = is_before
        self._origins: dict[bytes, list[int]] | None = None

    def names(self, place: Place) -> Iterable[bytes]:
        """See ``View``."""
        return self.tree.links(place)

    def some(self, place: Place, names: Collection[bytes]) -> dict[bytes, Place]:
        """See ``View``."""
        found = {}
        for name in names:
            child = self.tree.child(place, name)
            if child is not None and (child := self._existing(place, child)) is not None:
                found[name] = child
        return found

    def children(self, place: Place) -> Collection[Place]:
        """See ``View``."""
        if place.lower is None:
            return self.some(place, sorted(self.tree.links(place))).values()
        return self.some(place, sorted({*self.tree.links(place), *self._base.list(place.lower)})).values()

    def _existing(self, parent: Place, place: Place) -> Place | None:
        """The place, with what the base says of it if it was asked; None when nothing is there."""
        entry = place.entry
        if place.base is None or (entry is not None and not entry.is_dir):
            return place
        st = self._base.stat(place.base)
        if st is not None:
            return replace(place, st=st) if entry is None else place
        if entry is None:
            return None
        if parent.lower is None or place.base != join(parent.lower, split(place.path)[1]):
            return place  # the run moved it here
        # A directory on the way that the base does not have any more counts if the run has something in it.
        return place if any(_is_something(each) for each in self.tree.walk(place)) else None

    def is_dir(self, place: Place) -> bool:
        """See ``View``."""
        if place.entry is not None:
            return place.entry.is_dir
        st = place.st or self._base.stat(place.base or b"")
        return st is not None and stat.S_ISDIR(st.st_mode)

    def node(self, place: Place) -> Node | None:
        """See ``View``."""
        if place.base is not None:
            return place.base
        assert place.entry is not None
        return place.entry.ino if self._shared is None or place.entry.ino < self._shared else None

    def paths(self, node: Node) -> list[bytes]:
        """See ``View``."""
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

    def side(self, place: Place) -> Side | None:
        """See ``View``."""
        side = self._sides.of_place(place)
        if side is None or not self._is_before:
            return side
        if self._is_strange(place):
            side = replace(side, node=("before", place.entry.ino))  # type: ignore[union-attr]
        return replace(side, lister=lambda: self._children(place))

    def _is_strange(self, place: Place) -> bool:
        """Whether the number of what is there means another node in the other view."""
        return place.entry is not None and place.base is None and self.node(place) is None

    def _children(self, place: Place) -> list[Side]:
        if not self.is_dir(place):
            return []
        return [side for child in self.children(place) if (side := self.side(child)) is not None]


def _is_something(place: Place) -> bool:
    entry = place.entry
    return entry is not None and (not entry.is_dir or bool(entry.changed & _OWNED) or place.base is None)
