"""What became of nodes that deserves a second look: rights, links, devices, and how much is gone.

Owns these rules.  Of links only the text of the target is looked at: where a chain of links leads in the end depends on
what will be there then.  Pure; the extended attributes of a side are read when first asked for.
"""

import os
import stat
from collections.abc import Iterator, Sequence

from snapshots.layers.basepaths import is_below, split
from snapshots.review.changes import Change, Side, Status

MANY_BELOW = 10
"""Deleted files from which on a deleted directory is marked."""
MANY = 50
"""Deleted files from which on all of them are marked, wherever they were."""

_ANY_X = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


def reasons(change: Change, base: bytes) -> Iterator[tuple[str, str]]:
    """(kind, reason) of what a change makes of a node."""
    before, after = change.before, change.after
    if after is None:
        return
    old_mode = before.mode if before is not None and before.kind == after.kind else 0
    gained = after.mode & ~old_mode
    if after.kind == stat.S_IFREG:
        if gained & stat.S_ISUID:
            yield "setuid", "setuid: runs with the rights of its owner"
        elif gained & stat.S_ISGID and after.mode & stat.S_IXGRP:
            yield "setuid", "setgid: runs with the rights of its group"
        elif change.content_changed and before is not None and _lends_rights(after.mode):
            yield "setuid", "another program with the rights of its owner or group (setuid, setgid)"
        if gained & _ANY_X and not old_mode & _ANY_X:
            yield "executable", "new executable" if before is None else "became executable"
        asked = change.status is Status.ADDED or "xattrs" in change.attrs
        if asked and (capability := _capability(after)) is not None and capability != _capability(before):
            yield "capability", "has file capabilities: runs with rights of root"
    if after.kind in (stat.S_IFCHR, stat.S_IFBLK) and (before is None or before.rdev != after.rdev or not old_mode):
        yield "device", "device node"
    if after.target is not None and (before is None or before.target != after.target or change.path != before.path):
        where = _outside(change.path, after.target, base)
        if where is not None:
            yield "link-outside", where


def _lends_rights(mode: int) -> bool:
    return bool(mode & stat.S_ISUID) or (mode & stat.S_ISGID and mode & stat.S_IXGRP) == stat.S_IXGRP


def _capability(side: Side | None) -> bytes | None:
    return None if side is None else side.xattrs.get(b"security.capability")


def _outside(path: bytes, target: bytes, base: bytes) -> str | None:
    root = base.rstrip(b"/")
    if target.startswith(b"/"):
        full = os.path.normpath(target)
        inside = full == root or full.startswith(root + b"/")
        return None if inside else "symlink to an absolute path outside the workspace"
    depth = 0
    for name in (split(path)[0] + b"/" + target).split(b"/"):
        if name == b"..":
            depth -= 1
            if depth < 0:
                return "symlink that leaves the workspace"
        elif name not in (b"", b"."):
            depth += 1
    return None


def mass_deletions(changes: Sequence[Change]) -> Iterator[tuple[bytes, str]]:
    """(directory, reason) for directories that are gone with much in them, or for all when it is much in all."""
    deleted = [change for change in changes if change.status is Status.DELETED and change.before is not None]
    files = sorted(change.path for change in deleted if change.before is not None and not change.before.is_dir)
    gone = sorted(change.path for change in deleted if change.before is not None and change.before.is_dir)
    outermost: list[bytes] = []
    for path in gone:
        if not outermost or not is_below(path, outermost[-1]):
            outermost.append(path)
    counts = dict.fromkeys(outermost, 0)
    elsewhere = 0
    for path in files:
        above = split(path)[0]
        while above and above not in counts:
            above = split(above)[0]
        if above:
            counts[above] += 1
        else:
            elsewhere += 1
    for path, count in counts.items():
        if count >= MANY_BELOW:
            yield path, f"directory deleted, with {count} files"
    if len(files) >= MANY and elsewhere:
        yield b"", f"{len(files)} files deleted in all"
