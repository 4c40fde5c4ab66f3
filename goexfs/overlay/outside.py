"""The base changed from outside the run.

Owns what that means for loaded nodes and which of the kernel's caches are wrong now.  A file that the run has not
touched comes back as a new inode (the kernel keeps its own idea of the size of one it knows); a file that it has
touched keeps what the run made of it.  Event-loop thread only.
"""

import os
import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple

from goexfs.overlay.following import has_moved_on, renew
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.nodes import Dir, File, Node
from goexfs.overlay.rescue import Rescue
from goexfs.overlay.view import View
from snapshots.layers.base import BaseDir


class Invalidation(NamedTuple):
    """One thing that the kernel must forget."""

    ino: int
    """of the directory when there is a name, else of the inode whose attributes and pages are stale"""
    name: bytes | None


class Outside:
    """Applies reports about the base to one view."""

    def __init__(self, view: View, rescue: Rescue, now_ns: Callable[[], int]) -> None:
        self._view = view
        self._rescue = rescue
        self._now_ns = now_ns
        view.follow_content = self._follow_content
        self._replaced: list[tuple[Dir, os.stat_result | None]] = []
        """directories that the run keeps and the base has replaced, not yet followed"""

    def base_changed(self, path: bytes) -> list[Invalidation]:
        """Something happened at *path* (relative to the base): created, changed, removed or renamed.

        A local base is asked at once: what has just been changed is in memory.  On one that may be slow this raises
        `WouldBlock`, so it is only for requests (nothing reports what changes there).
        """
        with self._view.directly():
            return self._changed(path)

    def _changed(self, path: bytes) -> list[Invalidation]:
        above, _, name = path.rpartition(b"/")
        stale: list[Invalidation] = []
        if not path:
            self._refresh_dir(self._view.root, stale)
            return stale
        directory = self._view.dir_over(above)
        if self._view.is_hidden(path) or (directory is None and not self._view.elsewhere):
            return stale  # nothing of it was ever looked at
        guard = self._view.guard
        if guard is not None and guard.concerns(name):
            guard.base_changed(path, self._stat(self._view.base.dir(above), name))
        if directory is not None:
            self._refresh_dir(directory, stale)
            child = directory.children.get(name)
            if isinstance(child, Node):
                self._child_changed(directory, name, child, stale)
            else:
                stale.append(Invalidation(directory.ino, name))  # the kernel may remember that it is not there
        if self._view.elsewhere:
            base = directory.base if directory is not None else None
            self._loaded_elsewhere(self._view.base.dir(above) if base is None else base, name, path, stale)
        self._follow_replaced(stale)
        return stale

    def in_memory(self, paths: Iterable[bytes]) -> Callable[[], None]:
        """For a worker thread: what `base_changed` is about to ask of these paths is brought into memory."""
        base = self._view.base
        if not isinstance(base, LocalBaseTree):
            return lambda: None
        places: dict[bytes, list[bytes]] = {}
        for path in paths:
            above, _, name = path.rpartition(b"/")
            if not self._view.is_hidden(path):
                places.setdefault(above, []).append(name or b".")
        return base.looking(places.items())

    def everything_in_memory(self) -> Callable[[], None]:
        """For a worker thread: what `everything_changed` is about to ask is brought into memory."""
        base = self._view.base
        if not isinstance(base, LocalBaseTree):
            return lambda: None
        return base.looking((path, list(directory.children)) for path, directory in self._view.loaded_dirs())

    def everything_changed(self) -> list[Invalidation]:
        """Reports were lost: look at every name that is loaded.  """
        with self._view.directly():
            return self._all_changed()

    def _all_changed(self) -> list[Invalidation]:
        stale: list[Invalidation] = []
        for directory in [node for node in self._view.nodes.values() if isinstance(node, Dir)]:
            self._refresh_dir(directory, stale)
            for name, child in list(directory.children.items()):
                if isinstance(child, Node):
                    self._child_changed(directory, name, child, stale)
        self._follow_replaced(stale)
        return stale

    def _child_changed(self, directory: Dir, name: bytes, child: Node, stale: list[Invalidation]) -> None:
        if not directory.shows(child, name) or (not child.dev and not child.kept):
            return  # the run's own file of that name, or a canary
        st = self._stat(directory.base, name)
        if st is not None and _same(child, st):
            if isinstance(child, Dir):
                self._refresh_dir(child, stale)
            return
        if child.kept:
            if directory.is_alias(name) and (st is None or st.st_ino != child.base_ino):
                self._view.drop_child(directory, name, child)
                stale.append(Invalidation(directory.ino, name))
            elif isinstance(child, Dir):
                self._replaced.append((child, st))
                stale.append(Invalidation(directory.ino, name))
            else:
                at_home = directory.base is not None and child.came_from(directory.base, name)
                self._touched_changed(child, st, stale, at_home=at_home)
            return
        if st is not None and isinstance(child, Dir) and stat.S_ISDIR(st.st_mode):
            self._view.replace(directory, name, child, st)
            stale.append(Invalidation(directory.ino, name))
            return
        for above, known in child.names():  # of a hard link the base reports only one name; all lead to one new node
            self._view.drop_child(above, known, child)
            stale.append(Invalidation(above.ino, known))

    def _follow_replaced(self, stale: list[Invalidation]) -> None:
        """What shows through a directory that the run keeps is gone, or is another one: nothing tells of its names."""
        while self._replaced:
            directory, st = self._replaced.pop()
            self._view.follow(directory, st)
            for name, child in list(directory.children.items()):
                if isinstance(child, Node):
                    self._child_changed(directory, name, child, stale)

    def _loaded_elsewhere(self, base: BaseDir, name: bytes, path: bytes, stale: list[Invalidation]) -> None:
        """What has that name may be known by another one: moved by the run, or a hard link of the base (of which only
        one name is reported).
        """
        st = self._stat(base, name)
        node = self._view.of_base(st.st_dev, st.st_ino) if st is not None else None
        if node is not None and st is not None and not _same(node, st):
            if node.kept:
                self._touched_changed(node, st, stale)
            elif node.parent is not None:
                self._child_changed(node.parent, node.name, node, stale)
        away = self._view.away.get(path)
        if away is not None and away is not node:
            self._touched_changed(away, st, stale, at_home=True)
        moved = self._view.dir_over(path)
        if moved is not None and moved is not node and moved.kept and (st is None or not _same(moved, st)):
            self._replaced.append((moved, st))
        for file in [file for file in self._view.partial if file is not node and file.came_from(base, name)]:
            self._touched_changed(file, st, stale)

    def _touched_changed(
        self, node: Node, st: os.stat_result | None, stale: list[Invalidation], *, at_home: bool = False
    ) -> None:
        if not isinstance(node, File):
            return
        if node.content is not None:
            self._rescue.add(node, st)
        elif st is not None and (st.st_ino == node.base_ino or at_home):
            stale += self._follow_content(node, st)

    def _follow_content(self, node: File, st: os.stat_result) -> list[Invalidation]:
        if not has_moved_on(node, st):
            return []
        return [Invalidation(above.ino, name) for above, name in renew(self._view, node, st, self._now_ns)]

    def _refresh_dir(self, directory: Dir, stale: list[Invalidation]) -> None:
        if directory.changed or directory.base is None:
            return
        before = directory.mtime_ns, directory.ctime_ns, directory.nlink, directory.size
        self._view.refresh(directory)
        if (directory.mtime_ns, directory.ctime_ns, directory.nlink, directory.size) != before:
            stale.append(Invalidation(directory.ino, None))

    def _stat(self, base: BaseDir | None, name: bytes) -> os.stat_result | None:
        if base is None:
            return None
        try:
            return self._view.base.stat(base, name)
        except OSError:
            return None


def _same(node: Node, st: os.stat_result) -> bool:
    """Whether the base still has the inode of an unchanged node, with the same content and attributes."""
    return (st.st_dev, st.st_ino) == (node.dev, node.base_ino) and (node.is_dir or node.same_as(st))
