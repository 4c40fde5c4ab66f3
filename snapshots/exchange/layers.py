"""A diff as a layer: which nodes are there, and which names of the base are not.

Owns the reading of changes as a layer over the base, which all forms but the patch are: a renamed directory becomes its
names gone here and all of its nodes there.  Belongs to the thread of the sides' base.
"""

import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.review.changes import Change, Side, Status
from snapshots.review.compare import Sides


class Item(NamedTuple):
    """One name of a layer."""

    path: bytes
    side: Side | None
    """None: the base has this name, and the layer takes it away"""
    link_to: bytes | None = None
    """an earlier item that is the same file; else None"""
    on_the_way: bool = False
    """an unchanged directory of the base that something is in"""


def layer(changes: Sequence[Change], base: BaseTree) -> list[Item]:
    """The items, parents first; within a directory by name."""
    paths = BasePaths(base)
    found: dict[bytes, Side | None] = dict.fromkeys(_gone(changes))
    told = {change.before.path for change in changes if change.before is not None}
    for change in changes:
        if change.after is None:
            continue
        found[change.path] = change.after
        if change.link_to is not None and change.link_to not in found:
            found[change.link_to] = replace(change.after, path=change.link_to)
        if change.status is Status.RENAMED and change.before is not None and change.before.is_dir:
            found.update(_went_along(change.before, change.path, told))
    sides = Sides(paths, _NoObjects())
    on_the_way: dict[bytes, Side] = {}
    if b"" not in found and (st := paths.stat(b"")) is not None:
        on_the_way[b""] = sides.of_base(b"", st)
    for path in found:
        above = split(path)[0]
        while above and above not in found and above not in on_the_way:
            st = paths.stat(above)
            if st is not None and stat.S_ISDIR(st.st_mode):
                on_the_way[above] = sides.of_base(above, st)
            above = split(above)[0]
    items: list[Item] = []
    first: dict[object, bytes] = {}
    for path in sorted({*found, *on_the_way}):
        side = found.get(path)
        if path in on_the_way:
            items.append(Item(path, on_the_way[path], None, True))
            continue
        link_to = None
        if side is not None and not side.is_dir and side.nlink > 1:
            link_to = first.setdefault((side.node, side.kind), path)
        items.append(Item(path, side, link_to if link_to != path else None))
    return items


def _gone(changes: Sequence[Change]) -> Iterator[bytes]:
    """The outermost names that the base has and the layer takes away."""
    gone = {change.path for change in changes if change.status is Status.DELETED}
    gone |= {change.old_path for change in changes if change.status is Status.RENAMED and change.old_path is not None}
    covering = gone | {
        change.path
        for change in changes
        if change.status is Status.TYPE_CHANGED and change.after is not None and not change.after.is_dir
    }
    there = {change.path for change in changes if change.after is not None}
    for path in gone - there:
        above = split(path)[0]
        while above and above not in covering:
            above = split(above)[0]
        if not above:
            yield path


def _went_along(before: Side, path: bytes, told: set[bytes]) -> Iterator[tuple[bytes, Side]]:
    """What is below a renamed directory and has no change of its own."""
    waiting = [(side, join(path, split(side.path)[1])) for side in before.children() if side.path not in told]
    while waiting:
        side, at = waiting.pop()
        yield at, side
        if side.is_dir:
            waiting += [
                (inner, join(at, split(inner.path)[1])) for inner in side.children() if inner.path not in told
            ]


class _NoObjects:
    """Directories have no content."""

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """Never asked."""
        raise LookupError(name)

    def descriptor(self, name: bytes) -> int | None:
        """Never asked."""
        raise LookupError(name)
