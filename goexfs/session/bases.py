"""Paths in a run with several bases.

Owns how they are written: relative to the first base, absolute in the others, which no relative one can be mistaken
for.  Knows no run.  Pure; any thread.
"""

from collections.abc import Iterable, Sequence

from snapshots.layers.basepaths import is_below, join
from snapshots.review.changes import Change, placed


class Bases:
    """The bases of a run, the first one first: absolute paths, none inside another."""

    def __init__(self, bases: Sequence[bytes]) -> None:
        self.all = tuple(bases)

    def place(self, number: int, path: bytes) -> bytes:
        """A path relative to a base (by number), as it is written."""
        if not number:
            return path
        return join(self.all[number], path) if path else self.all[number]

    def find(self, path: bytes) -> tuple[int, bytes]:
        """The number of the base that a path is in, and the path relative to it."""
        if path.startswith(b"/"):
            for number, base in enumerate(self.all):
                if path.rstrip(b"/") == base:
                    return number, b""
                if is_below(path, base):
                    return number, path[len(base.rstrip(b"/")) + 1 :].strip(b"/")
        return 0, path.strip(b"/")

    def divide(self, paths: Iterable[bytes]) -> dict[int, tuple[bytes, ...]]:
        """Paths by base, relative to it; every base, with none, when there are no paths."""
        paths = tuple(paths)
        if not paths:
            return dict.fromkeys(range(len(self.all)), ())
        found: dict[int, tuple[bytes, ...]] = {}
        for number, path in map(self.find, paths):
            found[number] = (*found.get(number, ()), path)
        return found

    def placed(self, number: int, changes: Iterable[Change]) -> list[Change]:
        """The changes in a base, as changes of the run."""
        if not number:
            return list(changes)
        return [placed(change, lambda path: self.place(number, path)) for change in changes]

    def within(self, changes: Iterable[Change]) -> dict[int, list[Change]]:
        """Changes of the run by base, as changes in it."""
        found: dict[int, list[Change]] = {}
        for change in changes:
            number = self.find(change.path)[0]
            if number:
                change = placed(change, lambda path: self.find(path)[1])
            found.setdefault(number, []).append(change)
        return found
