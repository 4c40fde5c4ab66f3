"""The base changed from outside the run.

Owns what that means for loaded nodes and which of the kernel's caches are wrong now.  A file that the run has not
touched comes back as a new inode (the kernel keeps its own idea of the size of one it knows); a file that it has
touched keeps what the run made of it.  Event-loop thread only.
"""

import logging
import os
from typing import NamedTuple

from goexfs.overlay.files import Files
from goexfs.overlay.nodes import Dir, File, Node
from goexfs.overlay.view import View
from snapshots.entries import Changed

log = logging.getLogger(__name__)


class Invalidation(NamedTuple):
    """One thing that the kernel must forget."""

    ino: int
    """of the directory when there is a name, else of the inode whose attributes and pages are stale"""
    name: bytes | None


class Outside:
    """Applies reports about the base to one view."""

    def __init__(self, view: View, files: Files) -> None:
        self._view = view
        self._files = files

    def base_changed(self, path: bytes) -> list[Invalidation]:
        """Something happened at *path* (relative to the base): created, changed, removed or renamed."""
        above, _, name = path.rpartition(b"/")
        stale: list[Invalidation] = []
        if not path:
            self._refresh_dir(self._view.root, stale)
            return stale
        directory = self._view.dir_over(above)
        if directory is None or name in directory.hidden:
            return stale  # nothing of it was ever looked at
        self._refresh_dir(directory, stale)
        child = directory.children.get(name)
        if child is None:
            stale.append(Invalidation(directory.ino, name))  # the kernel may remember that it is not there
            return stale
        if isinstance(child, Node):
            self._child_changed(directory, name, child, stale)
        return stale

    def everything_changed(self) -> list[Invalidation]:
        """Reports were lost: look at every name that is loaded."""
        stale: list[Invalidation] = []
        for directory in [node for node in self._view.nodes.values() if isinstance(node, Dir)]:
            self._refresh_dir(directory, stale)
            for name, child in list(directory.children.items()):
                if isinstance(child, Node):
                    self._child_changed(directory, name, child, stale)
        return stale

    def _child_changed(self, directory: Dir, name: bytes, child: Node, stale: list[Invalidation]) -> None:
        if not directory.shows(child, name):
            return  # the run's own file of that name
        st = self._stat(directory, name)
        if (
            st is not None
            and (st.st_dev, st.st_ino) == (child.dev, child.base_ino)
            and (child.is_dir or child.same_as(st))
        ):
            if isinstance(child, Dir):
                self._refresh_dir(child, stale)
            return
        if child.kept:
            self._touched_changed(child, st, stale)
            return
        if st is None:
            self._view.drop_child(directory, name, child)
        else:
            self._view.replace(directory, name, child, st)
        stale.append(Invalidation(directory.ino, name))

    def _touched_changed(self, node: Node, st: os.stat_result | None, stale: list[Invalidation]) -> None:
        if not isinstance(node, File):
            return
        if node.content is not None:
            try:
                self._files.rescue(node)
            except OSError as e:
                log.error(
                    "the base file of a partly copied file changed: inode %d cannot be read in full any more (%s)",
                    node.ino,
                    e,
                )
        elif st is not None and st.st_ino == node.base_ino and not node.changed & Changed.DATA:
            node.size, node.blocks = st.st_size, st.st_blocks
            node.face = None
            stale.append(Invalidation(node.ino, None))

    def _refresh_dir(self, directory: Dir, stale: list[Invalidation]) -> None:
        if directory.changed or directory.base is None:
            return
        before = directory.mtime_ns, directory.ctime_ns
        self._view.refresh(directory)
        if (directory.mtime_ns, directory.ctime_ns) != before:
            stale.append(Invalidation(directory.ino, None))

    def _stat(self, directory: Dir, name: bytes) -> os.stat_result | None:
        if directory.base is None:
            return None
        try:
            return self._view.base.stat(directory.base, name)
        except OSError:
            return None
