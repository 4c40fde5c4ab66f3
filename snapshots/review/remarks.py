"""What git's patch format has no word for, in lines of text: owners, modes, extended attributes, links, kinds.

Owns the wording of these facts, one line each, and the readable forms of extended attributes and access control lists.
Knows no patch format: ``patch`` makes comment lines of them, which ``git apply`` and ``patch`` skip.  Pure but for the
extended attributes of a side, which are read when first asked for; belongs to the thread of the sides' ``BaseTree``.
"""

import stat
import struct
import time
from collections.abc import Iterator
from typing import Any

from snapshots.errors import BaseChanged
from snapshots.layers.content import BaseContent, Readable, StoredContent
from snapshots.names import readable
from snapshots.review.changes import KINDS, Change, Side, Status
from snapshots.review.compare import carried

MOST_SHOWN = 60
"""Bytes of an extended attribute's value that are shown."""
MOST_RANGES = 20
"""Ranges of a large file that are listed."""
_SPARSE_FROM = 64 << 10
"""Bytes below which nobody cares whether a file has holes."""

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_TAGS = {0x01: "user:", 0x02: "user:{}", 0x04: "group:", 0x08: "group:{}", 0x10: "mask:", 0x20: "other:"}
"""Tags of an entry in the kernel's form of an access control list (linux/posix_acl.h)."""


def remarks(change: Change) -> Iterator[str]:
    """The facts about a change that a patch of it does not say; names as ``readable`` has them."""
    before, after, path = change.before, change.after, _shown(change.path)
    yield from _kinds(change)
    if change.link_to is not None:
        yield f"hard link: {path} is {_shown(change.link_to)}"
    if before is None and after is not None:
        yield from _new(path, after)
    if after is not None and change.content_changed:
        yield from _holes(path, before, after)
    if before is None or after is None:
        return
    for attr in change.attrs:
        if attr == "mode":
            modes = stat.S_IMODE(before.mode), stat.S_IMODE(after.mode)
            if not _in_git(after) or (modes[0] ^ modes[1]) & ~0o111:
                yield f"mode of {path}: {modes[0]:04o} -> {modes[1]:04o}"
        elif attr in ("uid", "gid"):
            yield f"{attr} of {path}: {getattr(before, attr)} -> {getattr(after, attr)}"
        elif attr == "mtime":
            yield f"mtime of {path}: {moment(before.mtime_ns)} -> {moment(after.mtime_ns)}"
        elif attr == "xattrs":
            yield from _xattrs(path, before, after)
        elif attr == "links" and change.link_to is None:
            yield f"hard links of {path} broken"


def _shown(path: bytes) -> str:
    return readable(path) or "."


def _in_git(side: Side) -> bool:
    return side.kind in (stat.S_IFREG, stat.S_IFLNK)


def _kinds(change: Change) -> Iterator[str]:
    before, after = change.before, change.after
    path = _shown(change.path)
    if before is not None and after is not None and before.kind == after.kind:
        if _in_git(after) or after.is_dir:
            return
        if change.status is Status.RENAMED:
            yield f"{_kind(after)} renamed: {_shown(change.old_path or b'')} -> {path}"
        elif change.content_changed:
            yield f"{_kind(after)} made anew: {path}"
        return
    if before is not None and after is not None:
        yield f"kind of {path}: {_kind(before)} -> {_kind(after)}"
    for side, verb in ((before, "removed"), (after, "made")):
        if side is not None and not side.is_dir and not _in_git(side):
            yield f"{_kind(side)} {verb}: {_shown(side.path)}"


def _kind(side: Side) -> str:
    name = KINDS.get(side.kind, "unknown")
    return name.upper() if name == "fifo" else name


def _new(path: str, after: Side) -> Iterator[str]:
    """Of a new file only what nobody would expect of it."""
    mode = stat.S_IMODE(after.mode)
    if after.kind == stat.S_IFREG and mode & (stat.S_ISUID | stat.S_ISGID):
        yield f"mode of {path}: {mode:04o}"
    for name, value in sorted(carried(after.xattrs).items()):
        yield f"{xattr_name(name)} of {path}: {xattr_value(name, value)}"


def _xattrs(path: str, before: Side, after: Side) -> Iterator[str]:
    for name, (old, new) in xattr_differences(before, after).items():
        yield f"{xattr_name(name)} of {path}: {xattr_value(name, old)} -> {xattr_value(name, new)}"


def xattr_differences(before: Side | None, after: Side | None) -> dict[bytes, tuple[bytes | None, bytes | None]]:
    """Name -> old and new value of every extended attribute that differs, sorted; None where there is none."""
    old = carried(before.xattrs) if before is not None else {}
    new = carried(after.xattrs) if after is not None else {}
    names = sorted(old.keys() | new.keys())
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def xattr_name(name: bytes) -> str:
    """What people call an extended attribute."""
    if name in _ACLS:
        return "default access control list" if name == _ACLS[1] else "access control list"
    return f"extended attribute {readable(name)}"


def xattr_value(name: bytes, value: bytes | None) -> str:
    """A value on one line: an access control list as ``getfacl`` writes it, text in quotes, other bytes in hex."""
    if value is None:
        return "none"
    if name in _ACLS and (acl := acl_text(value)) is not None:
        return acl
    shown, more = value[:MOST_SHOWN], len(value) - MOST_SHOWN
    rest = f"… {len(value)} bytes" if more > 0 else ""
    try:
        text = shown.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text.rstrip("\0").isprintable() and (text or not value):
        return f'"{readable(shown)}"{rest}'
    return f"0x{shown.hex()}{rest}"


def acl_text(value: bytes) -> str | None:
    """``user::rw-,user:1000:r--,…`` of the kernel's form of an access control list; None when it is none."""
    if len(value) < 4 or len(value) % 8 != 4 or struct.unpack_from("<I", value)[0] != 2:
        return None
    entries = []
    for tag, may, who in struct.iter_unpack("<HHI", value[4:]):
        if tag not in _TAGS:
            return None
        letters = "".join(letter if may & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        entries.append(f"{_TAGS[tag].format(who)}:{letters}")
    return ",".join(entries)


def moment(ns: int) -> str:
    """A time to the nanosecond, in UTC."""
    seconds, rest = divmod(ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def xattrs_json(change: Change) -> dict[str, Any]:
    """The extended attributes that differ as JSON: name -> before and after, as text and in hex."""
    return {
        readable(name): {
            key: None if value is None else {"text": xattr_value(name, value), "hex": value[:4096].hex()}
            for key, value in (("before", old), ("after", new))
        }
        for name, (old, new) in xattr_differences(change.before, change.after).items()
    }


# -- which parts of a file there are


def _holes(path: str, before: Side | None, after: Side) -> Iterator[str]:
    data = bytes_of_sparse(after)
    if data is not None:
        yield f"sparse: {path} has {after.size} bytes, {data} of them not in holes"


def bytes_of_sparse(side: Side) -> int | None:
    """How many bytes of a file are not in holes; None when there are none worth mention."""
    if side.kind != stat.S_IFREG or side.size < _SPARSE_FROM:
        return None
    try:
        with side.open() as content:
            data = data_bytes(content)
    except BaseChanged:
        return None
    return data if data + _SPARSE_FROM <= side.size else None


def data_bytes(content: Readable) -> int:
    """How many bytes of a file are not in holes."""
    if isinstance(content, BaseContent):
        return sum(length for _, length in content.data_ranges(0, content.size))
    if not isinstance(content, StoredContent):
        return content.size
    total = 0
    for piece in content.pieces():
        if piece.object is not None:
            total += piece.length
        elif content.lower is not None:
            total += sum(length for _, length in content.lower.data_ranges(piece.offset, piece.offset + piece.length))
    return total


def written_ranges(before: Side, after: Side) -> list[tuple[int, int]] | None:
    """The (offset, length) ranges that the run wrote in a file of the base, and what lies beyond its old end; found
    without reading it.  None when it is another file, or was written anew as a whole.
    """
    if before.node != after.node or after.kind != stat.S_IFREG:
        return None
    try:
        with after.open() as content:
            if not isinstance(content, StoredContent) or content.lower is None:
                return None
            found: list[tuple[int, int]] = []
            for piece in content.pieces():
                if piece.object is None:
                    continue
                if found and sum(found[-1]) == piece.offset:
                    found[-1] = (found[-1][0], found[-1][1] + piece.length)
                else:
                    found.append((piece.offset, piece.length))
            return found
    except BaseChanged:
        return None


def ranges_text(ranges: list[tuple[int, int]]) -> list[str]:
    """Ranges for people, one a line, a bounded number of them; what is left out is counted."""
    lines = [f"bytes {offset}-{offset + length - 1} ({length})" for offset, length in ranges[:MOST_RANGES]]
    left = ranges[MOST_RANGES:]
    if left:
        lines.append(f"… {len(left)} more ranges, {sum(length for _, length in left)} bytes")
    return lines
