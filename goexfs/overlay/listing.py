"""Directory listings.

Owns the order of names and the positions in it.  A listing takes the names once, when it starts (or is rewound); and a
name has the same position in every listing of a directory, for the kernel may begin one with what it kept of another,
and ask us for the rest.  So a position stays valid whatever is created or removed meanwhile, and no name is lost or
doubled.
Nodes are loaded as the listing reaches them.  Event-loop thread only.
"""

import errno
from collections.abc import Callable, Iterator

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.nodes import WHITEOUT, Dir, Node
from goexfs.overlay.view import View, error

AHEAD = 512
"""names that are looked up together when one of them has to be waited for"""


class DirHandle:
    """An open directory."""

    __slots__ = ("names", "node")

    def __init__(self, node: Dir) -> None:
        self.node = node
        self.names: list[bytes] | None = None
        """by position; empty where a name is gone"""


class Listings:
    """The operations on directory handles of one view."""

    def __init__(self, view: View) -> None:
        self._view = view

    def opendir(self, node: Node) -> DirHandle:
        """Open a directory; ENOTDIR."""
        if not isinstance(node, Dir):
            raise error(errno.ENOTDIR)
        node.opens += 1
        return DirHandle(node)

    def releasedir(self, handle: DirHandle) -> None:
        """Close it."""
        handle.node.opens -= 1
        self._view.release_if_unused(handle.node)

    def readdir(self, handle: DirHandle, start: int) -> Iterator[tuple[bytes, Node, int]]:
        """The entries from position *start* on, as (name, node, position of the next one); 0 is the beginning.

        ``.`` and ``..`` come first.  May raise `WouldBlock` from any step: then list again from the last position
        that was taken.
        """
        node = handle.node
        if start == 0 or handle.names is None:
            handle.names = self._numbered(node, anew=start == 0)
        if start <= 0:
            yield b".", node, 1
        if start <= 1:
            yield b"..", node.parent or node, 2
        names = handle.names
        for at in range(max(start - 2, 0), len(names)):
            if not names[at]:
                continue
            try:
                child = self._view.find(node, names[at])
            except WouldBlock as blocked:
                raise self._ahead(node, names[at + 1 : at + AHEAD], blocked) from None
            if child is not None:
                yield names[at], child, at + 3

    def _ahead(self, node: Dir, names: list[bytes], blocked: WouldBlock) -> WouldBlock:
        """One name of a directory has to be waited for: so will the next ones have."""
        base = self._view.base
        if not isinstance(base, LocalBaseTree) or node.base is None:
            return blocked
        return base.ahead(node.base, [name for name in names if name and name not in node.children], blocked)

    def fetching(self, node: Dir, names: list[bytes]) -> Callable[[], object]:
        """For a worker thread: have the disk begin to read these files of the base directory below *node*."""
        base = self._view.base
        if not isinstance(base, LocalBaseTree) or node.base is None:
            return lambda: None
        return base.fetching(node.base, names)

    def _numbered(self, node: Dir, *, anew: bool) -> list[bytes]:
        """The names now, each at its position.  Numbered ``anew`` if most are gone and nobody else is listing."""
        names = self._names(node)
        known = node.numbered
        if known is None or known == names or (anew and node.opens == 1 and len(known) > 2 * len(names)):
            node.numbered = names
            return names
        there = set(names)
        old = [name if name in there else b"" for name in known]
        there.difference_update(known)
        new = [name for name in names if name in there]
        if new:
            node.numbered = known + new
        return old + new

    def _names(self, node: Dir) -> list[bytes]:
        children, hidden, guard = node.children, node.hidden, self._view.guard
        shown: list[bytes] = []
        if node.base is not None:
            try:
                shown = self._view.base.list(node.base)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
                    raise
            if hidden:
                shown = [name for name in shown if name not in hidden]
        if guard is not None and guard.holds_back(node):
            shown += [name for name in guard.canary_names(node) if name not in shown]
        if not children:
            return shown
        below = set(shown)
        names = [name for name in shown if children.get(name) is not WHITEOUT]
        # An unchanged child that the base no longer has is not listed: the report of its disappearance is on its way.
        names += [
            name
            for name, child in children.items()
            if name not in below and isinstance(child, Node) and (child.kept or not node.shows(child, name))
        ]
        return names
