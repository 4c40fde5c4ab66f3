"""Merging a part of a run: what the chosen changes are in its upper, and what is left of it.

Owns the cut.  A part is made of whole *units*: a name in a directory that stays in the base or is new, with all that
the run has below it.  What the run renamed belongs to both its names, and hard links belong together.  A choice that
would cut a unit is refused, by name; only the new directories on the way to what was chosen are added to it.  Of a file
a *substitute* may be merged instead: the base's content with the chosen hunks.  Pure: from values to values, but for
``settle``, which looks at the base that a merge has left.

What stays in the run sits on top of the new base.  So the directories that were made and the files of which a
substitute was merged get a new origin there: the base inode that the merge left, if it still is as it left it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from snapshots.entries import (
    ROOT_INO,
    WHITEOUT,
    Ancestor,
    Changed,
    Checkpoint,
    Content,
    Entry,
    Identity,
    Link,
    Origin,
    UpperState,
)
from snapshots.errors import SelectionRefused
from snapshots.layers.basepaths import BasePaths, is_below, join, split
from snapshots.names import readable
from snapshots.review.changes import Change, Status


class Substitute(NamedTuple):
    """What is merged of a file instead of all that the run made of it."""

    content: Content | None
    """None: the base's own stays, and only name and attributes are merged"""
    size: int
    mtime_ns: int
    like: Entry
    """the file's entry, with the attributes it is to get"""


class Renewal(msgspec.Struct, frozen=True):
    """An entry that gets the base inode at ``path`` for its origin when the merge is done."""

    ino: int
    path: bytes
    size: int | None
    """what the merge leaves there; anything else is somebody else's, and a conflict later.  None for directories"""
    mtime_ns: int | None
    object: bytes | None = None
    """what the merge leaves there, for later three-way merges; empty for an empty file, None when there is no object"""


class Rest(msgspec.Struct, frozen=True):
    """What takes a part out of an upper; encoded with the merge, for whoever has to finish it."""

    checkpoint: Checkpoint
    """drops it: the base shows it then"""
    renewals: tuple[Renewal, ...] = ()


class Part(NamedTuple):
    """A part of an upper, and what takes it out of there."""

    state: UpperState
    """what is merged, as an upper of its own"""
    rest: Rest
    is_all: bool
    """nothing is left that differs from the base"""
    completed: tuple[bytes, ...]
    """new directories that were not chosen, but are needed for what was; sorted"""


class _Unit(NamedTuple):
    parent: int
    name: bytes
    ino: int
    inodes: frozenset[int]
    """entries at and below it"""


class _Made(NamedTuple):
    parent: int
    name: bytes
    path: bytes


class _Layout:
    """An upper, seen as units in directories that stay or are new."""

    def __init__(self, state: UpperState, changes: Sequence[Change]) -> None:
        added = {change.path for change in changes if change.status is Status.ADDED}
        self.units: dict[bytes, _Unit] = {}
        self.kept: dict[int, bytes] = {ROOT_INO: b""}
        """directories that stay, with their paths"""
        self.made: dict[int, _Made] = {}
        """new directories where the base has nothing, outer ones first"""
        waiting = [(ROOT_INO, b"")]
        while waiting:
            parent, above = waiting.pop()
            for name, ino in state.links.get(parent, {}).items():
                path = join(above, name)
                entry = state.entries.get(ino)
                if entry is not None and entry.is_dir:
                    stays = not entry.opaque and entry.origin is not None and entry.origin.path == path
                    if stays and parent not in self.made:
                        self.kept[ino] = path
                        waiting.append((ino, path))
                        continue
                    if entry.origin is None and path in added:
                        self.made[ino] = _Made(parent, name, path)
                        waiting.append((ino, path))
                        continue
                self.units[path] = _Unit(parent, name, ino, _below(state, ino))
        self.made_at = {made.path for made in self.made.values()}

    def unit_of(self, path: bytes) -> bytes | None:
        """The unit that a changed path belongs to; None for the directories that units are in."""
        above: bytes | None = path
        while above is not None and above not in self.units:
            if above in self.made_at:
                return None
            above = split(above)[0] if above else None
        return above


def cut(
    state: UpperState, changes: Sequence[Change], chosen: set[bytes],
    substitutes: Mapping[bytes, Substitute] | None = None,
) -> Part:  # fmt: skip
    """The part with the changes whose path is in ``chosen``; SelectionRefused when it makes no sense alone.

    Of the paths in ``substitutes`` (which are chosen, too) only these are merged.
    """
    completed = _missing(changes, chosen)
    chosen = chosen | completed
    layout = _Layout(state, changes)
    units = layout.units
    taken = _taken(layout, changes, chosen)
    _check_origins(state, units, taken)
    partial = {units[path].ino: (path, each) for path, each in (substitutes or {}).items()}
    going = {path for path in taken if units[path].ino not in partial}
    changing = {units[path].parent for path in taken}
    new = {ino: made for ino, made in layout.made.items() if made.path in chosen}
    entries, links = {}, {}
    for ino, path in layout.kept.items():
        if (entry := state.entries.get(ino)) is not None:
            bits = entry.changed if path in chosen else entry.changed & ~(Changed.ATTRS | Changed.XATTRS)
            entries[ino] = replace(entry, changed=int(bits if ino in changing else bits & ~Changed.NAMES))
        links[ino] = {name: child for name, child in state.links.get(ino, {}).items() if child in layout.kept}
    for ino, made in new.items():
        entries[ino], links[ino] = state.entries[ino], {}
        links[made.parent][made.name] = ino
    gone: set[int] = set()
    for path in taken:
        unit = units[path]
        links[unit.parent][unit.name] = unit.ino
        if unit.ino in partial:
            entries[unit.ino] = _substituted(partial[unit.ino][1])
            continue
        gone |= unit.inodes
        for ino in unit.inodes:
            entries[ino] = state.entries[ino]
            if ino in state.links:
                links[ino] = state.links[ino]
    unlinked = {(units[path].parent, units[path].name) for path in going}
    renewed: list[Entry] = []
    renewals: list[Renewal] = []
    for ino, made in reversed(new.items()):
        if all((ino, name) in unlinked for name in state.links.get(ino, {})):
            gone.add(ino)
            unlinked.add((made.parent, made.name))
        else:
            renewed.append(replace(state.entries[ino], changed=int(Changed.NAMES), origin=_unknown(made.path)))
            renewals.append(Renewal(ino, made.path, None, None))
    for ino, (path, each) in partial.items():
        entry = state.entries[ino]
        renewed.append(replace(entry, origin=_unknown(path), changed=int(entry.changed | Changed.ATTRS)))
        renewals.append(Renewal(ino, path, each.size, each.mtime_ns, _object(each.content)))
    # What such a name hides is not what it hid: the base has this very node there now.
    stay = tuple(Link(units[path].parent, units[path].name, units[path].ino) for path in sorted(taken - going)
                 if units[path].ino != WHITEOUT)  # fmt: skip
    checkpoint = Checkpoint(tuple(renewed), tuple(sorted(gone)), stay, tuple(sorted(unlinked)), state.next_ino)
    left_over = bool(partial) or any(change.path not in chosen for change in changes)
    part = UpperState(entries, links, state.next_ino, state.journal, state.hides)
    return Part(part, Rest(checkpoint, tuple(renewals)), not left_over, tuple(sorted(completed)))


def settle(rest: Rest, base: BasePaths, exists: Callable[[bytes], bool]) -> Checkpoint:
    """The checkpoint that leaves the rest over the base as the merge has left it.

    ``exists`` says whether there is an object of this name: of a merge that died it may have been collected.
    """
    renewals = {renewal.ino: renewal for renewal in rest.renewals}
    entries = []
    for entry in rest.checkpoint.entries:
        renewal = renewals.get(entry.ino)
        if renewal is not None:
            origin, ancestor = _origin(renewal, base), None
            if renewal.object is not None and (not renewal.object or exists(renewal.object)):
                ancestor = Ancestor(origin.identity, renewal.object)
            entry = replace(entry, origin=origin, ancestor=ancestor)
        entries.append(entry)
    return replace(rest.checkpoint, entries=tuple(entries))


def together(state: UpperState, changes: Sequence[Change]) -> list[list[Change]]:
    """The changes in groups that can only be merged as a whole, in the order of their first paths."""
    layout = _Layout(state, changes)
    first: dict[object, int] = {}
    leader = list(range(len(changes)))

    def find(at: int) -> int:
        while leader[at] != at:
            leader[at] = at = leader[leader[at]]
        return at

    def join_by(mark: object, at: int) -> None:
        a, b = find(first.setdefault(mark, at)), find(at)
        leader[max(a, b)] = min(a, b)

    for at, change in enumerate(changes):
        for path in {change.path, change.old_path or change.path}:
            unit = layout.unit_of(path)
            if unit is not None:
                join_by(unit, at)
                for ino in layout.units[unit].inodes:
                    join_by(ino, at)
                    origin = state.entries[ino].origin
                    above = layout.unit_of(origin.path) if origin is not None else None
                    if above is not None:  # what it came from is changed by that
                        join_by(above, at)
        if (node := _linked_node(change)) is not None:
            join_by(node, at)
    groups: dict[int, list[Change]] = {}
    for at, change in enumerate(changes):
        groups.setdefault(find(at), []).append(change)
    return [groups[at] for at in sorted(groups)]


def _substituted(wanted: Substitute) -> Entry:
    changed = wanted.like.changed | Changed.ATTRS
    if wanted.content is None:
        changed &= ~Changed.DATA
    return replace(
        wanted.like, content=wanted.content, size=wanted.size, mtime_ns=wanted.mtime_ns, changed=int(changed)
    )


def _object(content: Content | None) -> bytes | None:
    if content is None:
        return None
    return content.extents[0].object if content.extents else b""


def _unknown(path: bytes) -> Origin:
    """An origin that nothing is equal to: what it is, ``settle`` finds out."""
    return Origin(path, Identity(0, 0, 0, 0, 0, 0))


def _origin(renewal: Renewal, base: BasePaths) -> Origin:
    st = base.stat(renewal.path)
    if st is None:
        return _unknown(renewal.path)
    found = Identity.of(st)
    if renewal.size is not None and (renewal.size, renewal.mtime_ns) != (found.size, found.mtime_ns):
        return Origin(renewal.path, replace(found, size=renewal.size, mtime_ns=renewal.mtime_ns or 0, ctime_ns=0))
    return Origin(renewal.path, found)


def _missing(changes: Sequence[Change], chosen: set[bytes]) -> set[bytes]:
    """New directories above what is chosen that are not."""
    needed: set[bytes] = set()
    for path in chosen:
        above = split(path)[0]
        while above and above not in needed:
            needed.add(above)
            above = split(above)[0]
    return {c.path for c in changes if c.status is Status.ADDED and c.path in needed and c.path not in chosen}


def _below(state: UpperState, ino: int) -> frozenset[int]:
    found: set[int] = set()
    waiting = [ino]
    while waiting:
        ino = waiting.pop()
        if ino != WHITEOUT and ino not in found:
            found.add(ino)
            waiting += state.links.get(ino, {}).values()
    return frozenset(found)


def _taken(layout: _Layout, changes: Sequence[Change], chosen: set[bytes]) -> set[bytes]:
    """The units that are chosen, whole."""
    units = layout.units
    inside: dict[bytes, set[bool]] = {}
    left_out: dict[bytes, bytes] = {}
    for change in changes:
        for path in {change.path, change.old_path or change.path}:
            above = layout.unit_of(path)
            if above is not None:
                inside.setdefault(above, set()).add(change.path in chosen)
                if change.path not in chosen:
                    left_out.setdefault(above, change.path)
    for path, choices in inside.items():
        if len(choices) > 1 and units[path].ino == WHITEOUT:
            raise SelectionRefused(
                f"{readable(path)} was deleted with all that is in it: {readable(left_out[path])} cannot be left out"
                " alone; leave out both or neither"
            )
        if len(choices) > 1:
            raise SelectionRefused(
                f"{readable(path)} can only be merged as a whole: {readable(left_out[path])} was left out; choose both"
                " or neither"
            )
    taken = {path for path, choices in inside.items() if choices == {True}}
    owner: dict[int, bool] = {}
    for path, unit in units.items():
        for ino in unit.inodes:
            if owner.setdefault(ino, path in taken) != (path in taken):
                raise SelectionRefused(
                    f"{readable(path)} has another name that was chosen differently; choose both or neither"
                )
    chosen_nodes: dict[object, bool] = {}
    for change in changes:
        node, wanted = _linked_node(change), change.path in chosen
        if node is not None and chosen_nodes.setdefault(node, wanted) != wanted:
            raise SelectionRefused(
                f"{readable(change.path)} has another name that was chosen differently; choose both or neither"
            )
    return taken


def _linked_node(change: Change) -> object | None:
    """What tells the changes of all names of a base file that has several."""
    before = change.before
    return before.node if before is not None and not before.is_dir and before.nlink > 1 else None


def _check_origins(state: UpperState, units: dict[bytes, _Unit], taken: set[bytes]) -> None:
    """What is left must not need what the merge takes away from the base."""
    for path, unit in units.items():
        if path in taken:
            continue
        for ino in unit.inodes:
            origin = state.entries[ino].origin
            if origin is None:
                continue
            above: bytes = origin.path
            while above and above not in taken:
                above = split(above)[0]
            if above and (origin.path == above or is_below(origin.path, above)):
                raise SelectionRefused(
                    f"{readable(path)} came from {readable(origin.path)}, which the merge would change; choose it too"
                )
