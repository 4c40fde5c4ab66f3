"""An upper as a tree: which node hangs where, and which part of the base shows through.

Owns the reading of entries and links as names in directories.  Knows the base only by its paths: whether a base path
exists is for the caller to ask.  Pure, immutable after construction, safe in any thread.

An upper is keyed by node.  A renamed directory is one entry whose origin's path differs from where it hangs now, and
what lies unchanged below it has no entries at all: a name that no link mentions shows the base at *the directory's
origin* plus the name.
"""

import os
from collections.abc import Iterator

import msgspec

from snapshots.entries import ROOT_INO, WHITEOUT, Entry, UpperState
from snapshots.errors import StoreDamaged
from snapshots.layers.basepaths import BasePaths, join
from snapshots.names import is_valid_name, readable


class Place(msgspec.Struct, frozen=True):
    """One name in the merged view."""

    path: bytes
    """in the run"""
    entry: Entry | None
    """None for what the run did not change"""
    base: bytes | None
    """the base path that the node came from; None for what the run created"""
    lower: bytes | None
    """the base directory whose names show through here; None for a new or opaque directory, and for other kinds.
    Without an entry it is ``base``, whatever kind of thing that is."""
    st: os.stat_result | None = None
    """what the base said of ``base``, where it was asked"""


class UpperTree:
    """The tree of one upper.  StoreDamaged when entries and links do not form a tree."""

    def __init__(self, state: UpperState) -> None:
        self.state = state
        self._check()
        root = state.entries.get(ROOT_INO)
        self.root = Place(b"", root, b"", None if root is not None and root.opaque else b"")
        self._links_to: dict[int, list[tuple[int, bytes]]] | None = None

    def _check(self) -> None:
        entries = self.state.entries
        hung: set[int] = {ROOT_INO}
        for parent, names in self.state.links.items():
            above = entries.get(parent)
            if names and above is None and parent != ROOT_INO:
                raise _damaged(f"inode {parent} has names below it and no entry")
            if names and above is not None and not above.is_dir:
                raise _damaged(f"inode {parent} has names below it and is no directory")
            for name, ino in names.items():
                if not is_valid_name(name):
                    raise _damaged(f"{readable(name)!r} is not a name")
                if ino == WHITEOUT:
                    continue
                entry = entries.get(ino)
                if entry is None:
                    raise _damaged(f"the name {readable(name)!r} leads to inode {ino}, which has no entry")
                if entry.is_dir:
                    if ino in hung:
                        raise _damaged(f"the directory {ino} has two names")
                    hung.add(ino)
        for entry in entries.values():
            path = entry.origin.path if entry.origin is not None else b""
            if path and not all(is_valid_name(name) for name in path.split(b"/")):
                raise _damaged(f"{readable(path)!r} is not a path below the base")

    def links(self, place: Place) -> dict[bytes, int]:
        """The names of a directory that the upper mentions: inode number, or ``WHITEOUT``."""
        if place.entry is None:
            return self.state.links.get(ROOT_INO, {}) if not place.path else {}
        return self.state.links.get(place.entry.ino, {})

    def child(self, parent: Place, name: bytes) -> Place | None:
        """What ``name`` in a directory leads to; None for a whiteout, and where neither upper nor base can have it.

        Without an entry it is a place in the base, where there may be nothing.
        """
        ino = self.links(parent).get(name)
        if ino is not None:
            return None if ino == WHITEOUT else self._at(join(parent.path, name), self.state.entries[ino])
        if parent.lower is None:
            return None
        base = join(parent.lower, name)
        return Place(join(parent.path, name), None, base, base)

    def _at(self, path: bytes, entry: Entry) -> Place:
        base = entry.origin.path if entry.origin is not None else None
        return Place(path, entry, base, base if entry.is_dir and not entry.opaque else None)

    def resolve(self, path: bytes) -> Place | None:
        """What a path in the run leads to; None when the upper hides it or nothing can be there (see ``child``)."""
        place: Place | None = self.root
        for name in path.split(b"/") if path else ():
            if place is None or (place.entry is not None and not place.entry.is_dir):
                return None
            place = self.child(place, name)
        return place

    def base_path(self, path: bytes) -> bytes | None:
        """The base path that a path in the run came from; None for what the run created or removed."""
        place = self.resolve(path)
        return place.base if place is not None else None

    def children(self, place: Place, base: BasePaths) -> list[Place]:
        """The merged listing of a directory, sorted by name."""
        names = set(self.links(place))
        if place.lower is not None:
            names.update(base.list(place.lower))
        found = (self.child(place, name) for name in sorted(names))
        return [child for child in found if child is not None]

    def walk(self, start: Place | None = None) -> Iterator[Place]:
        """Every place that has an entry, from ``start`` (by default the root) down, in path order by directory."""
        waiting = [start or self.root]
        seen = 0
        while waiting:
            place = waiting.pop()
            yield place
            seen += 1
            if seen > self._most_places:
                raise _damaged("the directories form a circle")
            links = self.links(place)
            for name in sorted(links, reverse=True):
                if links[name] != WHITEOUT:
                    waiting.append(self._at(join(place.path, name), self.state.entries[links[name]]))

    @property
    def _most_places(self) -> int:
        return 1 + sum(map(len, self.state.links.values()))

    def number_of_links(self, ino: int) -> int:
        """How many names in the upper lead to a node."""
        return len(self._names_of(ino))

    def paths(self, ino: int) -> list[bytes]:
        """Every path in the run at which the upper has this node, sorted."""
        found = []
        for parent, name in self._names_of(ino):
            names = [name]
            while parent != ROOT_INO:
                above = self._names_of(parent)
                if not above or len(names) > self._most_places:
                    break
                parent, name = above[0]
                names.append(name)
            else:
                found.append(b"/".join(reversed(names)))
        return sorted(found)

    def _names_of(self, ino: int) -> list[tuple[int, bytes]]:
        if self._links_to is None:
            links_to: dict[int, list[tuple[int, bytes]]] = {}
            for parent, names in self.state.links.items():
                for name, child in names.items():
                    if child != WHITEOUT:
                        links_to.setdefault(child, []).append((parent, name))
            self._links_to = links_to
        return self._links_to.get(ino, [])


def _damaged(what: str) -> StoreDamaged:
    return StoreDamaged(f"the run's entries are damaged: {what}; run goexfs fsck")
