"""The two sides of a path, and what differs between them.

Owns how a side is read from an entry or a base inode, and the rule of what counts as a difference: a file rewritten
with the same bytes does not.  Contents are streamed, and not read at all where identities already tell.  Knows no tree
walk.  Belongs to the thread of its ``BaseTree``.
"""

import os
import stat

from snapshots.entries import Changed, Content, Entry, Identity
from snapshots.errors import BaseChanged
from snapshots.layers.basepaths import BasePaths, join
from snapshots.layers.content import (
    Ahead,
    ObjectReader,
    Readable,
    open_base,
    open_entry,
    same_content,
)
from snapshots.layers.large import small_object
from snapshots.layers.tree import Place
from snapshots.review.changes import Side

_LABELS = frozenset((b"security.selinux", b"security.ima", b"security.evm"))
"""Attributes that the kernel puts on files by itself: no run's doing, and not for a merge to carry over."""


def carried(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes that a merge carries over and a diff compares."""
    return {name: value for name, value in xattrs.items() if name not in _LABELS}


def attrs_between(before: Side, after: Side, *, times: bool, xattrs: bool = True) -> tuple[str, ...]:
    """The names of the attributes that differ, links aside; mtimes only with ``times``."""
    found = []
    if before.kind != stat.S_IFLNK and stat.S_IMODE(before.mode) != stat.S_IMODE(after.mode):
        found.append("mode")
    if before.uid != after.uid:
        found.append("uid")
    if before.gid != after.gid:
        found.append("gid")
    if xattrs and carried(before.xattrs) != carried(after.xattrs):
        found.append("xattrs")
    if times and before.mtime_ns != after.mtime_ns:
        found.append("mtime")
    return tuple(found)


class Sides:
    """Makes sides of base inodes and of places of the run."""

    def __init__(self, base: BasePaths, objects: ObjectReader) -> None:
        self._base = base
        self._objects = Ahead(objects)
        self._compared: dict[tuple[object, ...], bool] = {}
        """whether contents of the run and of the base differ, where that was looked into"""

    def of_base(self, path: bytes, st: os.stat_result, shown_at: bytes | None = None) -> Side:
        """The side of a base inode, for a path in the run where it shows through unchanged if ``shown_at``."""
        kind = stat.S_IFMT(st.st_mode)
        return Side(
            path=path if shown_at is None else shown_at, mode=st.st_mode, uid=st.st_uid, gid=st.st_gid,
            size=st.st_size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0, mtime_ns=st.st_mtime_ns,
            rdev=st.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0, nlink=st.st_nlink,
            target=(self._base.readlink(path) or b"") if kind == stat.S_IFLNK else None,
            node=(st.st_dev, st.st_ino),
            read_xattrs=lambda: self._base.xattrs(path), opener=lambda: open_base(self._base, path),
            lister=lambda: self._children(path) if kind == stat.S_IFDIR else [],
        )

    def _children(self, path: bytes) -> list[Side]:
        paths = (join(path, name) for name in self._base.list(path))
        return [self.of_base(child, st) for child in paths if (st := self._base.stat(child)) is not None]

    def of_entry(self, entry: Entry, path: bytes) -> Side:
        """The side of a changed node at one of its paths in the run."""
        kind = stat.S_IFMT(entry.mode)
        origin = entry.origin
        if (small := small_object(entry)) is not None:
            self._objects.expect(small)
        return Side(
            path=path, mode=entry.mode, uid=entry.uid, gid=entry.gid,
            size=_size(entry), mtime_ns=entry.mtime_ns,
            rdev=entry.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0, nlink=entry.nlink,
            target=self._target(entry) if kind == stat.S_IFLNK else None,
            node=(origin.identity.dev, origin.identity.ino) if origin is not None else entry.ino,
            read_xattrs=lambda: self.xattrs_of(entry), opener=lambda: self.content_of(entry),
            lister=list,
        )

    def of_place(self, place: Place) -> Side | None:
        """The side of a place in the run; None when its base vanished."""
        if place.entry is not None:
            return self.of_entry(place.entry, place.path)
        assert place.base is not None
        st = place.st or self._base.stat(place.base)
        return self.of_base(place.base, st, place.path) if st is not None else None

    def content_of(self, entry: Entry) -> Readable:
        """The content of a changed regular file, to be closed; BaseChanged."""
        return open_entry(entry, self._base, self._objects)

    def is_ancestor(self, entry: Entry, base_path: bytes) -> bool:
        """Whether the base has the text that is kept as the ancestor of an entry, or none is kept: then times tell."""
        ancestor = entry.ancestor
        if ancestor is None or entry.origin is None or ancestor.identity != entry.origin.identity:
            return True
        then = self._objects.read(ancestor.object) if ancestor.object else b""
        try:
            with open_base(self._base, base_path) as now:
                return now.size == len(then) and now.read(0, now.size) == then
        except BaseChanged:
            return False

    def xattrs_of(self, entry: Entry) -> dict[bytes, bytes]:
        """All extended attributes of a changed node."""
        if entry.xattrs is not None and entry.changed & Changed.XATTRS:
            return entry.xattrs
        return self._base.xattrs(entry.origin.path) if entry.origin is not None else {}

    def _target(self, entry: Entry) -> bytes:
        if entry.target is not None:
            return entry.target
        return (self._base.readlink(entry.origin.path) if entry.origin is not None else None) or b""

    # -- what differs

    def content_differs(self, before: Side, after: Side, was: Place, now: Place) -> bool:
        """Whether two nodes of one kind, at these places, differ in content, target or device number."""
        if before.kind == stat.S_IFLNK:
            return before.target != after.target
        if before.kind != stat.S_IFREG:
            return before.rdev != after.rdev
        if _is_same_record(was, now) or (_content(was) is _content(now) is None and before.node == after.node):
            return False
        if before.size != after.size:
            return True
        if was.entry is not None or was.st is None or now.entry is None:
            return self._read_and_compare(before, after)
        # Whoever makes a plan after a diff asks again, and large files are not to be read twice.
        key = Identity.of(was.st), now.entry.content, now.entry.origin
        if key not in self._compared:
            self._compared[key] = self._read_and_compare(before, after)
        return self._compared[key]

    def _read_and_compare(self, before: Side, after: Side) -> bool:
        try:
            with after.open() as new, before.open() as old:
                return not same_content(old, new)
        except BaseChanged:
            return True  # what it would be compared with is gone; reading the side says so

    def attrs_that_differ(self, before: Side, after: Side, place: Place, *, times: bool) -> tuple[str, ...]:
        """The names of the attributes that differ; mtimes only with ``times``."""
        entry = place.entry
        unasked = before.node == after.node and (entry is None or not entry.changed & Changed.XATTRS)
        found = attrs_between(before, after, times=times, xattrs=not unasked)
        if not before.is_dir and before.node != after.node and (before.nlink > 1 or after.nlink > 1):
            found += ("links",)
        return found


def _content(place: Place) -> Content | None:
    return place.entry.content if place.entry is not None else None


def _is_same_record(was: Place, now: Place) -> bool:
    """Whether two files have the same content by what is recorded of it alone."""
    old, new = _content(was), _content(now)
    if old is None and new is None:
        return was.base is not None and was.base == now.base
    if old is None or new is None or old != new:
        return False
    if not old.base_limit:
        return True
    one, other = was.entry and was.entry.origin, now.entry and now.entry.origin
    return one is not None and one == other


def _size(entry: Entry) -> int:
    if stat.S_ISREG(entry.mode):
        return entry.content.size if entry.content is not None else entry.size
    return entry.size if stat.S_ISLNK(entry.mode) else 0
