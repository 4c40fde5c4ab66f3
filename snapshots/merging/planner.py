"""From entries and the base as it is now to the plan of a merge.

Owns what becomes of every node and name, and the order of operations; what stands in the way is for ``conflicts`` to
say.  Reads base and objects, writes nothing.  Belongs to the thread of its ``BaseTree``.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from snapshots.entries import ROOT_INO, WHITEOUT, Changed, Entry, Hidden, Identity
from snapshots.layers.aliases import with_aliases
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.layers.content import ObjectReader
from snapshots.layers.tree import Place, UpperTree
from snapshots.merging.conflicts import Conflicts
from snapshots.merging.plan import (
    Aside,
    Attrs,
    ConflictKind,
    Link,
    Make,
    Plan,
    Put,
    Replace,
    SetAttrs,
    Unlock,
)
from snapshots.review.compare import Sides, carried

_OWNER_MAY = stat.S_IWUSR | stat.S_IXUSR


def plan_merge(
    tree: UpperTree, base: BaseTree, objects: ObjectReader, *, since_ns: int | None = None, sides: Sides | None = None
) -> Plan:
    """The plan for merging all of a run, with every conflict there is.

    ``since_ns``: a time, not before the run began, when the base was as the run saw it; without it, what the run
    hides is taken to be what it saw.  ``sides``: those of a diff, which know what was compared already.
    """
    below = BasePaths(base)
    return _Planner(with_aliases(tree, below), below, sides or Sides(below, objects), since_ns).plan()


@dataclass(slots=True)
class _Spot:
    """A name at which a node is to be."""

    path: bytes
    """in the run"""
    base_path: bytes | None
    """the base path that this name shows or hides; None in a directory that the run made"""
    occupant: os.stat_result | None
    """what the base has there"""
    staged_in: bytes | None
    """the staged directory it can be made in, if its directory is new"""
    link: tuple[int, bytes]
    """inode number of the directory in the upper, and name"""
    hides: Hidden | None
    """what of the base the run replaced there, if that is known"""

    def is_held_by(self, entry: Entry) -> bool:
        """Whether the base has this very node there."""
        if self.occupant is None or entry.origin is None:
            return False
        identity = entry.origin.identity
        return (self.occupant.st_dev, self.occupant.st_ino) == (identity.dev, identity.ino)


@dataclass(slots=True)
class _Attachment:
    slot: bytes
    spot: _Spot
    own: bool
    """what is there is the same node in its old state: its identity has been checked"""
    entry: Entry


@dataclass(slots=True)
class _Lost:
    """A base path that the run deleted."""

    st: os.stat_result
    link: tuple[int, bytes] | None
    hides: Hidden | None


class _Planner:
    def __init__(self, tree: UpperTree, base: BasePaths, sides: Sides, since_ns: int | None) -> None:
        self._tree = tree
        self._base = base
        self._sides = sides
        self._next_slot = 0
        self._conflicts = Conflicts(base, self._sides, since_ns)
        self._makes: list[Make] = []
        self._taken: dict[bytes, tuple[bytes, os.stat_result]] = {}
        """base paths that move elsewhere -> slot, and what they are now"""
        self._hidden: dict[bytes, _Lost] = {}
        """base paths that the run deleted"""
        self._attachments: list[_Attachment] = []
        self._links: list[tuple[bytes, _Spot, bool]] = []
        """hard links to make, when everything else is in place: run path of the file, where, and ``_Attachment.own``"""
        self._linked: dict[bytes, Entry] = {}
        """the nodes of those files, by run path"""
        self._attrs: dict[bytes, SetAttrs] = {}
        """by run path"""
        self._spots: dict[int, list[_Spot]] = {}
        """where the nodes that are no directories have to be"""
        self._dirs: dict[bytes, Place] = {}
        """base directories that stay, by base path"""
        self._touched: set[bytes] = set()
        """base directories in which names change, and those that move"""
        self._times: dict[bytes, tuple[int, int]] = {}
        """access and modification times that directories end up with, by run path"""
        self._waiting: list[tuple[Place, bytes | None]] = []

    def plan(self) -> Plan:
        root = self._base.stat(b"")
        assert root is not None, "the root is open"
        self._stay(self._tree.root, b"", root)
        while self._waiting:
            self._directory(*self._waiting.pop())
        for ino, spots in sorted(self._spots.items(), key=lambda item: item[1][0].path):
            self._node(self._tree.state.entries[ino], sorted(spots, key=lambda spot: spot.path))
        return self._finish()

    # -- directories

    def _directory(self, place: Place, staged: bytes | None) -> None:
        """Look at the names of a directory that is made new at ``staged``, or that the base has at ``place.base``."""
        links = self._tree.links(place)
        ino_of_place = place.entry.ino if place.entry is not None else ROOT_INO
        hides = self._tree.state.hides.get(ino_of_place, {})
        under = place.base if staged is None else None
        if under is not None and place.lower is None:  # opaque: its base names are hidden one by one
            for name in self._base.list(under):
                if name not in links:
                    self._hide(join(under, name), None, None)
        there = self._base.stat_some(under, links) if under is not None else {}
        entries = self._tree.state.entries
        for name, ino in sorted(links.items()):
            base_path = join(under, name) if under is not None else None
            if ino == WHITEOUT:
                if base_path is not None:
                    self._hide(base_path, (ino_of_place, name), hides.get(name))
                continue
            if staged is not None and (entry := entries[ino]).origin is None and self._has_one_name(entry):
                self._makes.append(Make(join(staged, name), join(place.path, name), entry, self._xattrs(entry)))
                continue
            occupant = there.get(name)
            child = self._tree.child(place, name)
            assert child is not None
            assert child.entry is not None
            spot = _Spot(child.path, base_path, occupant, staged, (ino_of_place, name), hides.get(name))
            if not child.entry.is_dir:
                self._spots.setdefault(ino, []).append(spot)
            elif child.base is None:
                self._new_directory(child, child.entry, spot)
            elif child.base == base_path:
                self._kept_directory(child, child.entry, spot)
            else:
                self._moved_directory(child, child.entry, spot)

    def _has_one_name(self, entry: Entry) -> bool:
        """Whether this is anything but a directory, with nothing to decide about other names."""
        return not entry.is_dir and entry.nlink <= 1 and self._tree.number_of_links(entry.ino) == 1

    def _hide(self, base_path: bytes, link: tuple[int, bytes] | None, hides: Hidden | None) -> None:
        st = self._base.stat(base_path)
        if st is not None:
            self._hidden[base_path] = _Lost(st, link, hides)

    def _new_directory(self, place: Place, entry: Entry, spot: _Spot) -> None:
        staged = self._make(entry, spot)
        self._attrs[spot.path] = SetAttrs(spot.path, Attrs(mode=0o700), Attrs(mode=stat.S_IMODE(entry.mode)))
        self._times[spot.path] = (entry.atime_ns, entry.mtime_ns)
        self._waiting.append((place, staged))

    def _kept_directory(self, place: Place, entry: Entry, spot: _Spot) -> None:
        if spot.occupant is not None and stat.S_ISDIR(spot.occupant.st_mode):
            assert spot.base_path is not None
            self._stay(place, spot.base_path, spot.occupant)
        elif self._matters(place):
            kind = ConflictKind.DELETED_IN_BASE if spot.occupant is None else ConflictKind.KIND
            self._conflict(place.path, kind, "restore the directory in the base", entry, spot, spot.base_path)

    def _moved_directory(self, place: Place, entry: Entry, spot: _Spot) -> None:
        origin = place.base or b""
        st = self._base.stat(origin)
        if st is None or not stat.S_ISDIR(st.st_mode):
            kind = ConflictKind.DELETED_IN_BASE if st is None else ConflictKind.KIND
            advice = "restore the directory in the base, it is renamed by the run"
            self._conflict(place.path, kind, advice, entry, spot, origin)
            return
        self._attachments.append(_Attachment(self._take(origin, st), spot, False, entry))
        self._touched.add(origin)
        self._stay(place, origin, st)

    def _stay(self, place: Place, base_path: bytes, st: os.stat_result) -> None:
        """A base directory stays, here or elsewhere, perhaps with other attributes and names."""
        self._dirs[base_path] = place
        if st.st_dev != self._base.tree.dev and self._tree.links(place):
            advice = "run over that filesystem's own directory to merge changes in it"
            self._conflicts.add(place.path, ConflictKind.OTHER_FILESYSTEM, advice, base=base_path)
        entry = place.entry
        if entry is not None or self._tree.links(place):  # the root may have names below it and no entry
            self._waiting.append((place, None))
        if entry is None:
            return
        if entry.changed & (Changed.ATTRS | Changed.XATTRS):
            origin = entry.origin
            mode = stat.S_IMODE(entry.mode)
            mode_now, mode_then = stat.S_IMODE(st.st_mode), stat.S_IMODE(origin.identity.mode if origin else st.st_mode)
            if mode_now != mode_then and mode not in (mode_now, mode_then):
                advice = "choose one side with --ours or --theirs, or set the directory's mode in the base back"
                self._conflicts.add(place.path, ConflictKind.ATTRIBUTES, advice, base=base_path, node=entry.ino)
            elif mode == mode_then:
                mode = mode_now  # only the base changed it
            self._set_attrs(place.path, base_path, entry, st, mode, times=False)
        if entry.changed & (Changed.ATTRS | Changed.NAMES):
            self._times[place.path] = (entry.atime_ns, entry.mtime_ns)

    def _matters(self, place: Place) -> bool:
        """Whether anything at or below a place was really changed, other than deletions."""
        owned = Changed.ATTRS | Changed.XATTRS
        for p in self._tree.walk(place):
            if p.entry is not None and (not p.entry.is_dir or p.entry.changed & owned or p.base is None):
                return True
        return False

    # -- everything else

    def _node(self, entry: Entry, spots: list[_Spot]) -> None:
        held = [spot for spot in spots if spot.is_held_by(entry)]
        if entry.origin is None:
            self._new_node(entry, spots)
            return
        where = held[0].base_path if held else entry.origin.path
        assert where is not None
        st = held[0].occupant if held else self._base.stat(where)
        path, advice = spots[0].path, "choose one side with --ours or --theirs, or restore the base's file"
        if st is None:
            self._conflict(path, ConflictKind.DELETED_IN_BASE, advice, entry, spots[0], where)
            return
        if stat.S_IFMT(st.st_mode) != stat.S_IFMT(entry.mode):
            self._conflict(path, ConflictKind.KIND, advice, entry, spots[0], where)
            return
        at_home = [spot for spot in spots if spot.base_path == where]
        if entry.changed and not self._conflicts.is_as_at_copy_up(entry, st, where):
            if not at_home or not self._conflicts.is_already(entry, where, st):
                self._conflict(path, ConflictKind.BOTH_MODIFIED, advice, entry, spots[0], where)
                return
            if entry.content is None:
                return  # only the base was written to: its times are the true ones
            held = held or at_home
        else:
            self._conflicts.vouch_for(st)
            if entry.content is not None and not (held and self._conflicts.has_same_content(entry, where, st)):
                self._new_node(entry, spots, held)
                return
        self._kept_node(entry, spots, held, where, st)

    def _conflict(
        self, path: bytes, kind: ConflictKind, advice: str, entry: Entry, spot: _Spot, base_path: bytes | None
    ) -> None:
        self._conflicts.add(path, kind, advice, base=base_path, node=entry.ino, link=spot.link)

    def _kept_node(
        self, entry: Entry, spots: list[_Spot], held: list[_Spot], where: bytes, st: os.stat_result
    ) -> None:
        """The base inode stays what it is; only its names and attributes may change."""
        if held:
            file = held[0].path
        elif not self._is_shown(where):
            file = spots[0].path
            self._attachments.append(_Attachment(self._take(where, st), spots[0], False, entry))
        else:
            self._new_node(entry, spots)  # two places show one base file, which no filesystem operation leads to
            return
        if entry.changed:
            self._set_attrs(file, where, entry, st, stat.S_IMODE(entry.mode), times=True)
        self._linked[file] = entry
        self._links += [(file, spot, False) for spot in spots if spot not in held and spot.path != file]

    def _new_node(self, entry: Entry, spots: list[_Spot], held: Sequence[_Spot] = ()) -> None:
        """A new inode takes every name; those in ``held`` belong to its old self."""
        wanted = [spot for spot in spots if not self._is_there_already(entry, spot)]
        if not wanted:
            return
        self._make(entry, wanted[0], own=wanted[0] in held)
        self._linked[wanted[0].path] = entry
        self._links += [(wanted[0].path, spot, spot in held) for spot in wanted[1:]]

    def _is_there_already(self, entry: Entry, spot: _Spot) -> bool:
        """Whether the base got the same new thing at this name since the run began."""
        if spot.occupant is None or spot.base_path is None or entry.nlink > 1:
            return False
        late = not self._conflicts.is_as_hidden(spot.occupant, spot.hides)
        return late and self._conflicts.is_already(entry, spot.base_path, spot.occupant)

    # -- the pieces

    def _slot(self) -> bytes:
        self._next_slot += 1
        return b"%d" % self._next_slot

    def _take(self, base_path: bytes, st: os.stat_result) -> bytes:
        slot = self._slot()
        self._taken[base_path] = (slot, st)
        return slot

    def _make(self, entry: Entry, spot: _Spot, *, own: bool = False) -> bytes:
        """Make a node where it will be, if its directory is new, or else in a slot; where."""
        if spot.staged_in is not None:
            staged = join(spot.staged_in, split(spot.path)[1])
        else:
            staged = self._slot()
            self._attachments.append(_Attachment(staged, spot, own, entry))
        self._makes.append(Make(staged, spot.path, entry, self._xattrs(entry)))
        return staged

    def _xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        return carried(self._sides.xattrs_of(entry))

    def _set_attrs(
        self, path: bytes, base_path: bytes, entry: Entry, st: os.stat_result, mode: int, *, times: bool
    ) -> None:
        """Set what differs from the base inode ``st``, if anything does."""
        before: dict[str, object] = {}
        after: dict[str, object] = {}
        owner_changes = (entry.uid, entry.gid) != (st.st_uid, st.st_gid)
        if owner_changes:
            before.update(uid=st.st_uid, gid=st.st_gid)
            after.update(uid=entry.uid, gid=entry.gid)
        # A change of owner takes setuid bits and capabilities away, so both are set again.
        if not stat.S_ISLNK(st.st_mode) and (owner_changes or mode != stat.S_IMODE(st.st_mode)):
            before["mode"] = stat.S_IMODE(st.st_mode)
            after["mode"] = mode
        xattrs_now = carried(self._base.xattrs(base_path))
        xattrs = carried(entry.xattrs) if entry.xattrs is not None and entry.changed & Changed.XATTRS else xattrs_now
        if xattrs != xattrs_now or (owner_changes and xattrs):
            before["xattrs"], after["xattrs"] = xattrs_now, xattrs
        if times and entry.mtime_ns != st.st_mtime_ns:
            before["times_ns"] = (st.st_atime_ns, st.st_mtime_ns)
            after["times_ns"] = (entry.atime_ns, entry.mtime_ns)
        if after:
            self._attrs[path] = SetAttrs(path, Attrs(**before), Attrs(**after))  # type: ignore[arg-type]

    def _is_shown(self, base_path: bytes) -> bool:
        """Whether the run shows a base path at its old name (so that it cannot be taken from there)."""
        above, name = split(base_path)
        while (place := self._dirs.get(above)) is None:  # an unchanged directory, or one that is hidden with all in it
            above, name = split(above)
        return place.lower is not None and name not in self._tree.links(place)

    # -- putting it together

    def _finish(self) -> Plan:
        detach: list[Aside] = [Aside(path, slot, Identity.of(st)) for path, (slot, st) in self._taken.items()]
        for path, lost in self._hidden.items():
            if path not in self._taken:
                self._conflicts.check_hidden(path, lost.st, self._taken, lost.hides, lost.link)
                detach.append(Aside(path, self._slot(), Identity.of(lost.st)))
        detach.sort(key=lambda op: op.path, reverse=True)
        attach: list[Put | Replace | Link | SetAttrs] = []
        for attachment in sorted(self._attachments, key=lambda a: a.spot.path):
            attach.append(self._attach(attachment.slot, attachment.spot, attachment.own, attachment.entry))
        for file, spot, own in self._links:
            slot = self._slot()
            attach += [Link(file, slot), self._attach(slot, spot, own, self._linked[file])]
        self._touched.update(split(op.path)[0] for op in detach)
        unlock = self._settle_directories()
        # The deepest first: with its own mode a directory may lose the right to be entered.
        attach += sorted(self._attrs.values(), key=lambda op: op.path, reverse=True)
        return Plan(
            tuple(self._makes), (*unlock, *detach), tuple(attach), tuple(sorted(self._touched)), self._times.get(b""),
            self._conflicts.found(),
        )

    def _attach(self, slot: bytes, spot: _Spot, own: bool, entry: Entry) -> Put | Replace:
        if spot.base_path is not None:
            self._touched.add(split(spot.base_path)[0])
        if spot.occupant is None or spot.base_path is None or spot.base_path in self._taken:
            rewritten = spot.hides is not None and stat.S_ISREG(spot.hides.identity.mode) and entry.origin is None
            if rewritten and spot.occupant is None and stat.S_ISREG(entry.mode):
                advice = "choose one side with --ours or --theirs, or restore the base's file"
                self._conflict(spot.path, ConflictKind.DELETED_IN_BASE, advice, entry, spot, spot.base_path)
            return Put(slot, spot.path)
        both_dirs = entry.is_dir and entry.origin is None and stat.S_ISDIR(spot.occupant.st_mode)
        if both_dirs and spot.hides is None and self._conflicts.is_late(spot.occupant):
            advice = "choose one side with --ours or --theirs"
            self._conflict(spot.path, ConflictKind.BOTH_ADDED, advice, entry, spot, spot.base_path)
        elif not own:
            self._conflicts.check_hidden(
                spot.base_path, spot.occupant, self._taken, spot.hides, spot.link, replaced_at=spot.path,
                node=entry.ino,
            )  # fmt: skip
        return Replace(slot, spot.path, Identity.of(spot.occupant))

    def _settle_directories(self) -> list[Unlock]:
        """Give directories their times and modes at the end; which must be unlocked first, outermost first."""
        unlock = []
        for base_path in sorted(self._touched):
            st = self._base.stat(base_path)
            if st is None:
                continue
            place = self._dirs.get(base_path)
            if place is not None:
                self._times.setdefault(place.path, (st.st_atime_ns, st.st_mtime_ns))
            if st.st_mode & _OWNER_MAY != _OWNER_MAY:
                unlock.append(Unlock(base_path, stat.S_IMODE(st.st_mode)))
                if place is not None:
                    op = self._attrs.get(place.path, SetAttrs(place.path, Attrs(), Attrs()))
                    mode = stat.S_IMODE(st.st_mode)
                    unlocked = replace(op.before, mode=mode | _OWNER_MAY)  # taking back needs to enter it
                    after = op.after if op.after.mode is not None else replace(op.after, mode=mode)
                    self._attrs[place.path] = SetAttrs(place.path, unlocked, after)
        for path, times in self._times.items():
            if path:
                op = self._attrs.get(path, SetAttrs(path, Attrs(), Attrs()))
                self._attrs[path] = SetAttrs(path, op.before, replace(op.after, times_ns=times))
        return unlock
