"""Renames and copies that only their content tells: a file deleted here and created there with the same bytes.

Owns the pairing of additions with what they equal.  ``diff`` knows renames by the identity of nodes; whoever deletes a
file and writes it anew elsewhere leaves no such trace.  Nothing is guessed: only files that are equal byte for byte are
paired, never similar ones.  A view for people and patches: for a merge both stay what they are, a deletion and an
addition.  Reads, never writes; belongs to the thread of its sides' ``BaseTree``.

What it costs is bounded.  Sources are only what the changes mention and the sides it is given: the base is not
searched. Only files of one size and with the same beginning are compared, up to ``MOST_COMPARED`` per addition, none
above ``LARGEST``, and ``MOST_BYTES`` in all; what is beyond that stays an addition.  Empty files equal each other and
say nothing, so they are never paired.
"""

import stat
from collections.abc import Iterable, Sequence

from snapshots.errors import BaseChanged
from snapshots.layers.basepaths import split
from snapshots.layers.content import CHUNK
from snapshots.review.changes import Change, Side, Status
from snapshots.review.compare import attrs_between

LARGEST = 64 << 20
"""Bytes above which a file is not compared."""
MOST_BYTES = 256 << 20
"""Bytes that are read in all."""
MOST_COMPARED = 8
"""Sources that one addition is compared with."""
_HEAD = 4096

_Key = tuple[int, bytes]
"""Size and beginning of a file."""


def with_moves(changes: Sequence[Change], sources: Iterable[Side] = (), *, times: bool = False) -> list[Change]:
    """The changes, with additions that equal something paired with it, sorted by path.

    With a deleted file an addition becomes one rename; with another file that is in the state before, or in
    ``sources`` (such files), it becomes a copy.  ``Change.by_content`` marks both.
    """
    added = [change for change in changes if change.status is Status.ADDED and _comparable(change.after)]
    if not added or all(change.link_to is not None for change in added):
        return list(changes)
    pairing = _Pairing(changes, [change for change in added if change.link_to is None], sources, times)
    return pairing.result()


def _comparable(side: Side | None) -> bool:
    return side is not None and stat.S_ISREG(side.mode) and 0 < side.size <= LARGEST


class _Pairing:
    def __init__(
        self, changes: Sequence[Change], added: Sequence[Change], sources: Iterable[Side], times: bool
    ) -> None:
        self._changes = changes
        self._added = added
        self._times = times
        self._left = MOST_BYTES
        self._heads: dict[int, bytes | None] = {}
        sizes = {change.after.size for change in added if change.after is not None}
        self._gone = {
            change.path: change.before
            for change in changes
            if change.status is Status.DELETED and change.before is not None
            and _comparable(change.before) and change.before.size in sizes
        }  # fmt: skip
        there = {side.path: side for side in sources}
        there.update((c.before.path, c.before) for c in changes if c.before is not None)
        self._there = [side for side in there.values() if _comparable(side) and side.size in sizes]

    def result(self) -> list[Change]:
        """See ``with_moves``."""
        found: dict[int, Change] = {}
        used: set[bytes] = set()
        gone = self._by_key(self._gone.values())
        for change in self._added:
            side = self._equal(change.after, [s for s in gone.get(self._key(change.after), ()) if s.path not in used])
            if side is not None:
                used.add(side.path)
                found[id(change)] = self._moved(Status.RENAMED, change, side)
        there = self._by_key(self._there)
        for change in self._added:
            if id(change) not in found:
                side = self._equal(change.after, there.get(self._key(change.after), ()))
                if side is not None:
                    found[id(change)] = self._moved(Status.COPIED, change, side)
        result = [
            found.get(id(change), change)
            for change in self._changes
            if change.status is not Status.DELETED or change.path not in used
        ]
        result.sort(key=lambda change: (change.path, change.status is not Status.DELETED))
        return result

    def _moved(self, status: Status, change: Change, before: Side) -> Change:
        assert change.after is not None, "it was added"
        attrs = attrs_between(before, change.after, times=self._times)
        return Change(status, change.path, before.path, before, change.after, False, attrs, by_content=True)

    def _by_key(self, sides: Iterable[Side]) -> dict[_Key | None, list[Side]]:
        found: dict[_Key | None, list[Side]] = {}
        for side in sides:
            key = self._key(side)
            if key is not None:
                found.setdefault(key, []).append(side)
        return found

    def _key(self, side: Side | None) -> _Key | None:
        """None for what cannot be read (any more)."""
        if side is None:
            return None
        if id(side) not in self._heads:
            self._heads[id(side)] = None
            if self._left > 0:
                self._left -= _HEAD
                try:
                    with side.open() as content:
                        self._heads[id(side)] = content.read(0, _HEAD)
                except BaseChanged:
                    pass
        head = self._heads[id(side)]
        return None if head is None else (side.size, head)

    def _equal(self, after: Side | None, candidates: Iterable[Side]) -> Side | None:
        """The one that an addition equals; one with its name, or in its directory, before others."""
        if after is None:
            return None
        above, name = split(after.path)
        ordered = sorted(candidates, key=lambda s: (split(s.path)[1] != name, split(s.path)[0] != above, s.path))
        for side in ordered[:MOST_COMPARED]:
            if self._same(side, after):
                return side
        return None

    def _same(self, a: Side, b: Side) -> bool:
        try:
            with a.open() as old, b.open() as new:
                if old.size != new.size:
                    return False
                for offset in range(0, old.size, CHUNK):
                    self._left -= 2 * CHUNK if old.size > CHUNK else 2 * old.size
                    if self._left < 0 or old.read(offset, CHUNK) != new.read(offset, CHUNK):
                        return False
        except BaseChanged:
            return False
        return True
