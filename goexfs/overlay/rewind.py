"""Making a mounted view what it was at another point of its history.

Owns the way from a difference of states to nodes: what is changed in place, what goes, what the kernel must forget.
Knows no store: the difference comes from ``snapshots.history.rewind``, computed when everything was sealed, and nothing
may have changed since.  Event-loop thread only.

What becomes of what programs have open: (1) directories, and files whose bytes stay the same, are changed in place, so
that a working directory stays one.  (2) A file whose bytes change, and that the kernel knows, comes back under a new
inode number, as one does that changed in the base: the kernel keeps its own idea of a size.  Who has the old one
open keeps it as it was before the rewind, as after an unlink.  (3) What was not there then is gone; open handles keep
it in the same way.
"""

import os
import stat
from collections.abc import Callable

import msgspec

from goexfs.overlay.content import FrozenSpool, Inline, Sealed, Spool
from goexfs.overlay.nodes import WHITEOUT, Dir, File, Node, Symlink, new_node
from goexfs.overlay.outside import Invalidation
from goexfs.overlay.restore import dir_at, fill
from goexfs.overlay.view import View
from snapshots.entries import ROOT_INO, Checkpoint, Entry, Link
from snapshots.entries import WHITEOUT as WHITEOUT_INO
from snapshots.layers.base import BaseDir


class Rewinding:
    """Applies differences to one view."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._replaced: list[Node] = []
        """nodes that come back under another number"""

    def prepare(self, change: Checkpoint) -> Checkpoint:
        """The same difference, with new inode numbers for files that the kernel must not take for the old ones."""
        numbers: dict[int, int] = {}
        self._replaced = []
        entries: list[Entry] = []
        for entry in change.entries:
            node = self._view.nodes.get(entry.ino)
            if isinstance(node, File) and node.lookups and not _same_bytes(node, entry):
                numbers[entry.ino] = self._view.new_number()
                self._replaced.append(node)
                entry = msgspec.structs.replace(entry, ino=numbers[entry.ino])
            entries.append(entry)
        links = {(link.parent, link.name): link for link in change.links}
        dropped = {*links, *change.unlinked}
        for ino in numbers:
            for directory, name in self._view.nodes[ino].names():
                if (directory.ino, name) not in dropped and name not in (directory.aliases or ()):
                    links[directory.ino, name] = Link(directory.ino, name, ino, directory.hidden_at(name))
        return Checkpoint(
            tuple(entries),
            (*change.gone, *(ino for ino in numbers if self._view.nodes[ino].stored)),
            tuple(msgspec.structs.replace(link, ino=numbers.get(link.ino, link.ino)) for link in links.values()),
            change.unlinked,
            max(self._view.next_ino, change.next_ino),
            change.journal,
        )

    def apply(self, change: Checkpoint, record: Callable[[], object], now_ns: int) -> list[Invalidation]:
        """Become what the difference (from ``prepare``) says; what the kernel must forget.

        *record* writes the journal; when it raises, nothing has changed.
        """
        record()
        with self._view.directly():
            return self._become(change, now_ns)

    def _become(self, change: Checkpoint, now_ns: int) -> list[Invalidation]:
        view = self._view
        view.next_ino = max(view.next_ino, change.next_ino)
        view.elsewhere = True
        stale: list[Invalidation] = []
        touched: set[tuple[int, bytes]] = {(link.parent, link.name) for link in change.links} | set(change.unlinked)
        for parent, name in touched:
            self._take_away(parent, name)
        dirs = {path: directory.base for path, directory in view.loaded_dirs() if directory.base is not None}
        dirs[b""] = view.base.root
        for entry in change.entries:
            self._put(entry, dirs)
            stale.append(Invalidation(entry.ino, None))
        for link in change.links:
            self._link(link)
        gone = [node for ino in change.gone if (node := view.nodes.get(ino)) is not None]
        for node in sorted(gone, key=lambda node: len(node.base_dir.path) if node.base_dir is not None else 0):
            stale.append(Invalidation(node.ino, None))
            if not self._revert(node):
                stale += [Invalidation(directory.ino, name) for directory, name in self._vanish(node)]
        for parent, name in touched:
            stale.append(Invalidation(parent, name))
            directory = view.nodes.get(parent)
            if isinstance(directory, Dir):
                view.changes.links.add((directory, name))
        view.changes.count += 1
        view.changes.last_ns = now_ns
        for node in self._replaced:
            if node.nlink:  # not of the upper until now
                stale += [Invalidation(directory.ino, name) for directory, name in self._vanish(node)]
        for node in {*gone, *self._replaced}:
            view.release_if_unused(node)
        self._replaced = []
        if view.meter is not None:
            view.meter.recount(view.nodes.values(), view.root)
        return stale

    def _take_away(self, parent: int, name: bytes) -> None:
        directory = self._view.nodes.get(parent)
        if not isinstance(directory, Dir):
            return
        child = directory.children.pop(name, None)
        directory.hide(name, None)
        if directory.aliases is not None:
            directory.aliases.discard(name)
        if isinstance(child, Node):
            child.drop_name(directory, name)

    def _put(self, entry: Entry, dirs: dict[bytes, BaseDir]) -> None:
        """One node as it was."""
        view = self._view
        node = view.nodes.get(entry.ino)
        if node is not None and stat.S_IFMT(node.mode) != stat.S_IFMT(entry.mode):
            view.unregister(node)  # the base gave its number to something else since
            node = None
        stored = node is not None and node.stored
        if node is None:
            node = view.root if entry.ino == ROOT_INO else new_node(entry.ino, entry.mode)
        else:
            self._clear(node)
        fill(view, node, entry, dirs)
        node.stored = stored
        if node is not view.root:
            view.register(node)
        if isinstance(node, Dir) and node is not view.root:
            base = None
            if entry.origin is not None and not entry.opaque:
                base = dir_at(view.base, entry.origin.path, dirs)
            if node.base is not base:
                view.detach_base(node)
                view.attach_base(node, base)
        view.changes.nodes[node.ino] = node

    def _clear(self, node: Node) -> None:
        """Forget what is about to be said anew."""
        view = self._view
        if node is not view.root:
            view.forget_alias(node)
        if isinstance(node, Symlink):
            node.target = None
        if not isinstance(node, File):
            return
        view.orphans.discard(node)
        node.ancestor = None
        content = node.content
        if isinstance(content, Inline):
            view.changes.inline_bytes -= content.size
        elif isinstance(content, Spool) or (isinstance(content, FrozenSpool) and content.given_back):
            content.discard()
        node.content = None
        view.trust_no_longer(node)
        if node.base_file is not None:
            node.base_file.close()
            node.base_file = None
        node.pushed = node.timed = False

    def _link(self, link: Link) -> None:
        directory = self._view.nodes.get(link.parent)
        child = WHITEOUT if link.ino == WHITEOUT_INO else self._view.nodes.get(link.ino)
        if isinstance(directory, Dir) and child is not None:
            directory.children[link.name] = child
            directory.hide(link.name, link.hides)
            if isinstance(child, Node):
                child.add_name(directory, link.name)

    def _revert(self, node: Node) -> bool:
        """Make a node what its base is, at the place it came from; False when that is not possible."""
        view = self._view
        view.changes.nodes[node.ino] = node
        if node is view.root:
            node.take(view.base.stat_dir(view.base.root))
            node.changed, node.xattrs = 0, None
            return True
        parent = view.dir_over(node.base_dir.path) if node.base_dir is not None else None
        if parent is None or parent.base is None or node.base_name in parent.hidden:
            return False
        if isinstance(node, File) and node.lookups and node.content is not None:
            return False
        st = self._stat(parent, node)
        if st is None or parent.children.get(node.base_name) not in (None, node):
            return False
        self._clear(node)
        node.take(st)
        node.changed, node.kept, node.xattrs, node.identity = 0, False, None, None
        node.dev, node.base_ino, node.base_dir = st.st_dev, st.st_ino, parent.base
        view.register(node)
        parent.children[node.base_name] = node
        node.add_name(parent, node.base_name)
        view.changes.links.add((parent, node.base_name))
        if isinstance(node, Dir) and node.base is None:
            view.attach_base(node, view.base.child(parent.base, node.base_name))
        return True

    def _stat(self, parent: Dir, node: Node) -> os.stat_result | None:
        assert parent.base is not None
        try:
            st = self._view.base.stat(parent.base, node.base_name)
        except OSError:
            return None
        identity = node.identity
        same = identity is not None and (st.st_dev, st.st_ino) == (identity.dev, identity.ino)
        return st if same and stat.S_IFMT(st.st_mode) == stat.S_IFMT(node.mode) else None

    def _vanish(self, node: Node) -> list[tuple[Dir, bytes]]:
        """Take a node out of the view, as an unlink does; the names that the kernel may know it by."""
        view = self._view
        names = node.names()
        for directory, name in names:
            if directory.children.get(name) is node:
                del directory.children[name]
            if directory.aliases is not None:
                directory.aliases.discard(name)
            node.drop_name(directory, name)
        node.nlink = 0
        if isinstance(node, Dir):
            for name, child in list(node.children.items()):
                if isinstance(child, Node):
                    child.drop_name(node, name)
                    if not child.kept:
                        view.release_if_unused(child)
            node.children.clear()
            view.detach_base(node)
        elif isinstance(node, File):
            if node.opens and node.content is None:
                view.base_file(node).open()
            view.orphans.add(node)
        view.forget_alias(node)
        node.base_ino = 0
        return names


def _same_bytes(node: File, entry: Entry) -> bool:
    """Whether a sealed file has the content that an entry says."""
    record = node.content.record if isinstance(node.content, Sealed) else None
    return record == entry.content and node.size == entry.size
