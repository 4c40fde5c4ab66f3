"""What a diff consists of: changes, and the two sides of each.

Owns the values and their JSON form.  Knows neither how changes are found (``diff``) nor how they are shown.  A side
can be read only while the base and the store it came from are open; everything else in a change is plain data.
"""

import stat
from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from snapshots.layers.content import Readable
from snapshots.names import text_fields


class Status(StrEnum):
    """What happened at a path."""

    ADDED = "A"
    MODIFIED = "M"
    """other content, link target or device number (and perhaps other attributes)"""
    DELETED = "D"
    RENAMED = "R"
    """of a directory: with everything below it that has no change of its own"""
    COPIED = "C"
    """a new file that equals another one; found by ``moves`` only"""
    TYPE_CHANGED = "T"
    ATTRS_CHANGED = "X"


class Side(msgspec.Struct, frozen=True, eq=False, dict=True):
    """One node, as it is in the base or in the run."""

    path: bytes
    """in the base for the side before, in the run for the side after"""
    mode: int
    """type and permission bits"""
    uid: int
    gid: int
    size: int
    """in bytes; of a symlink the length of its target, 0 for other kinds that are not regular files"""
    mtime_ns: int
    rdev: int
    """device number, 0 for what is no device"""
    nlink: int
    target: bytes | None
    """of a symlink, else None"""
    node: object
    """equal for two sides that are the same inode"""
    read_xattrs: Callable[[], dict[bytes, bytes]]
    opener: Callable[[], Readable]
    lister: "Callable[[], list[Side]]"

    @property
    def kind(self) -> int:
        """The type bits of the mode."""
        return stat.S_IFMT(self.mode)

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @cached_property
    def xattrs(self) -> dict[bytes, bytes]:
        """All extended attributes; asked for when first used."""
        return self.read_xattrs()

    def open(self) -> Readable:
        """The content of a regular file, to be closed; BaseChanged when the base no longer has what it takes."""
        return self.opener()

    def children(self) -> "list[Side]":
        """What is in a directory, sorted by name; only for the side before, and empty for other kinds."""
        return self.lister()


class Change(msgspec.Struct, frozen=True, eq=False):
    """One line of a diff."""

    status: Status
    path: bytes
    """in the run; of a deletion in the base"""
    old_path: bytes | None
    """of a rename or copy: the path in the base; else None"""
    before: Side | None
    """None for what was added"""
    after: Side | None
    """None for what was deleted"""
    content_changed: bool
    """whether there is other content, target or device number; True for additions and deletions of files"""
    attrs: tuple[str, ...]
    """which of mode, uid, gid, xattrs, mtime and links (hard links broken or made) differ between the sides"""
    link_to: bytes | None = None
    """another path in the run of the same file, of which this path became a hard link; else None"""
    by_content: bool = False
    """of a rename or copy: only equal content tells (see ``moves``), not the identity of the node"""


def placed(change: Change, where: Callable[[bytes], bytes]) -> Change:
    """The change with other paths, those of its sides too."""
    names = {name: getattr(change, name) for name in ("path", "old_path", "link_to")}
    sides = {name: getattr(change, name) for name in ("before", "after")}
    return msgspec.structs.replace(
        change,
        **{name: where(path) for name, path in names.items() if path is not None},
        **{name: msgspec.structs.replace(side, path=where(side.path)) for name, side in sides.items() if side},
    )


KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}
"""Type bits -> what people call it."""


def as_json(change: Change) -> dict[str, Any]:
    """A change as JSON values.

    A path that is not UTF-8 is a readable approximation, with the exact bytes beside it in ``…_base64``.
    """
    fields: dict[str, Any] = {"status": str(change.status), **text_fields("path", change.path)}
    if change.old_path is not None:
        fields.update(text_fields("old_path", change.old_path))
        fields["found_by"] = "content" if change.by_content else "identity"
    if change.link_to is not None:
        fields.update(text_fields("link_to", change.link_to))
    fields["content_changed"] = change.content_changed
    fields["attrs"] = list(change.attrs)
    fields["before"] = _side_json(change.before)
    fields["after"] = _side_json(change.after)
    if change.content_changed and change.after is not None and change.after.kind == stat.S_IFREG:
        from snapshots.review.remarks import bytes_of_sparse

        if (data := bytes_of_sparse(change.after)) is not None:
            fields["sparse"] = {"data_bytes": data}
    if "xattrs" in change.attrs or change.before is None:
        from snapshots.review.remarks import xattrs_json

        if xattrs := xattrs_json(change):
            fields["xattrs"] = xattrs
    return fields


def _side_json(side: Side | None) -> dict[str, Any] | None:
    if side is None:
        return None
    fields: dict[str, Any] = {
        "kind": KINDS.get(side.kind, "unknown"), "mode": f"{side.mode:06o}", "uid": side.uid, "gid": side.gid,
        "size": side.size, "mtime_ns": side.mtime_ns, "links": side.nlink,
    }
    if side.target is not None:
        fields.update(text_fields("target", side.target))
    if side.kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields["rdev"] = side.rdev
    return fields
