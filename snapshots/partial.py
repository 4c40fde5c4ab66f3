"""Merging a part of a run: what the chosen changes are in its upper, and what is left of it.

Owns the cut.  A part is made of whole *units*: a name in a directory that stays in the base, with all that the run has
below it.  What the run renamed belongs to both its names, and hard links belong together.  A choice that would cut a
unit is refused, by name; only the new directories on the way to what was chosen are added to it.  Pure: from values to
values.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from snapshots.basepaths import is_below, join, split
from snapshots.changes import Change, Status
from snapshots.entries import ROOT_INO, WHITEOUT, Changed, Checkpoint, UpperState
from snapshots.errors import MergeError
from snapshots.names import readable


class Part(NamedTuple):
    """A part of an upper, and what takes it out of there."""

    state: UpperState
    """what is merged, as an upper of its own"""
    rest: Checkpoint
    """drops it: the base shows it then"""
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


def cut(state: UpperState, changes: Sequence[Change], chosen: set[bytes]) -> Part:
    """The part with the changes whose path is in ``chosen``; MergeError when it makes no sense alone."""
    completed = _missing(changes, chosen)
    chosen = chosen | completed
    units: dict[bytes, _Unit] = {}
    kept: dict[int, bytes] = {ROOT_INO: b""}
    """directories that stay, with their paths"""
    waiting = [(ROOT_INO, b"")]
    while waiting:
        parent, above = waiting.pop()
        for name, ino in state.links.get(parent, {}).items():
            path = join(above, name)
            entry = state.entries.get(ino)
            is_dir = entry is not None and entry.is_dir and not entry.opaque
            if entry is not None and is_dir and entry.origin is not None and entry.origin.path == path:
                kept[ino] = path
                waiting.append((ino, path))
                continue
            units[path] = _Unit(parent, name, ino, _below(state, ino))
    taken = _taken(units, changes, chosen)
    _check_origins(state, units, taken)
    changing = {units[path].parent for path in taken}
    entries, links = {}, {}
    for ino, path in kept.items():
        if (entry := state.entries.get(ino)) is not None:
            bits = entry.changed if path in chosen else entry.changed & ~(Changed.ATTRS | Changed.XATTRS)
            entries[ino] = replace(entry, changed=int(bits if ino in changing else bits & ~Changed.NAMES))
        links[ino] = {name: child for name, child in state.links.get(ino, {}).items() if child in kept}
    gone: set[int] = set()
    for path in taken:
        unit = units[path]
        links[unit.parent][unit.name] = unit.ino
        gone |= unit.inodes
        for ino in unit.inodes:
            entries[ino] = state.entries[ino]
            if ino in state.links:
                links[ino] = state.links[ino]
    rest = Checkpoint(
        (), tuple(sorted(gone)), (), tuple((units[path].parent, units[path].name) for path in sorted(taken)),
        state.next_ino,
    )  # fmt: skip
    left = any(change.path not in chosen for change in changes)
    return Part(UpperState(entries, links, state.next_ino, state.journal), rest, not left, tuple(sorted(completed)))


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


def _taken(units: dict[bytes, _Unit], changes: Sequence[Change], chosen: set[bytes]) -> set[bytes]:
    """The units that are chosen, whole."""
    inside: dict[bytes, set[bool]] = {}
    left_out: dict[bytes, bytes] = {}
    for change in changes:
        for path in {change.path, change.old_path or change.path}:
            above: bytes | None = path
            while above is not None and above not in units:
                above = split(above)[0] if above else None
            if above is not None:
                inside.setdefault(above, set()).add(change.path in chosen)
                if change.path not in chosen:
                    left_out.setdefault(above, change.path)
    for path, choices in inside.items():
        if len(choices) > 1:
            raise MergeError(
                f"{readable(path)} can only be merged as a whole: {readable(left_out[path])} was left out; choose both"
                " or neither"
            )
    taken = {path for path, choices in inside.items() if choices == {True}}
    owner: dict[int, bool] = {}
    for path, unit in units.items():
        for ino in unit.inodes:
            if owner.setdefault(ino, path in taken) != (path in taken):
                raise MergeError(
                    f"{readable(path)} has another name that was chosen differently; choose both or neither"
                )
    return taken


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
                raise MergeError(
                    f"{readable(path)} came from {readable(origin.path)}, which the merge would change; choose it too"
                )
