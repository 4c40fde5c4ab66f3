"""What the base had where the run wrote: kept for a three-way merge, while the base still has it.

Owns what is worth keeping (text, up to a limit) and the reading of it, off the request path.  A content counts only if
the base inode was what the run saw before it was read and after.  A base that does not answer holds up nobody for
longer than ``PATIENCE_S``: then there is no ancestor, and a conflict will have to be settled by hand.

Threading: ``wanted`` on the event loop's thread, ``read`` in the sealing thread.
"""

import os
import stat
import threading
from typing import NamedTuple

from goexfs.overlay.nodes import Dir, File
from snapshots.entries import ANCESTOR_LIMIT, Changed, Identity
from snapshots.errors import GoexfsError
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join
from snapshots.merging.text import is_text

PATIENCE_S = 2.0
"""for all ancestors of one batch"""
BATCH_LIMIT = 32 << 20
"""bytes read for one batch"""


class Wanted(NamedTuple):
    """One base file whose content is to be kept."""

    ino: int
    """of the node that needs it"""
    path: bytes
    """in the base"""
    identity: Identity


def wanted(node: File) -> Wanted | None:
    """What would be the ancestor of a node, if it is not kept yet."""
    if not node.changed & Changed.DATA:
        return None
    if node.base_dir is not None:
        found = Wanted(node.ino, join(node.base_dir.path, node.base_name), node.identity or node.base_identity())
    else:
        above = node.parent
        hidden = above.hidden_at(node.name) if isinstance(above, Dir) else None
        if above is None or above.base is None or hidden is None:
            return None
        found = Wanted(node.ino, join(above.base.path, node.name), hidden.identity)
    known = node.ancestor is not None and node.ancestor.identity == found.identity
    if known or not stat.S_ISREG(found.identity.mode) or found.identity.size > ANCESTOR_LIMIT:
        return None
    return found


def read(root_fd: int, files: list[Wanted]) -> dict[int, bytes]:
    """The contents that are text and are what the run saw, by inode number.  ``root_fd`` is borrowed."""
    found: dict[int, bytes] = {}
    thread = threading.Thread(target=_read, args=(root_fd, files, found), daemon=True, name="goexfs-ancestors")
    thread.start()
    thread.join(PATIENCE_S)
    return dict(found)


def _read(root_fd: int, files: list[Wanted], found: dict[int, bytes]) -> None:
    try:
        with BaseTree(b"/proc/self/fd/%d" % root_fd, max_open=8) as tree:
            paths, left = BasePaths(tree), BATCH_LIMIT
            for file in files:
                data = _content(paths, file) if file.identity.size <= left else None
                if data is not None:
                    found[file.ino] = data
                    left -= len(data)
    except (OSError, GoexfsError):
        pass  # without them a merge is less clever, not wrong


def _content(paths: BasePaths, file: Wanted) -> bytes | None:
    st = paths.stat(file.path)
    if st is None or Identity.of(st) != file.identity:
        return None
    fd = paths.open(file.path)
    if fd is None:
        return None
    try:
        data = os.pread(fd, file.identity.size, 0)
        same = Identity.of(os.fstat(fd)) == file.identity and len(data) == file.identity.size
    finally:
        os.close(fd)
    return data if same and is_text(data) else None
