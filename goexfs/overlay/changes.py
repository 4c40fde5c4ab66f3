"""The one choke point through which every change of a run passes.

Owns what has changed since the last checkpoint, and tells the journal of every change before it is acknowledged.  Every
operation calls `Changes.before` on a node it is about to touch and `Changes.record` once it has done so.  Event-loop
thread only.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from goexfs.overlay.nodes import WHITEOUT, Dir, Node
from goexfs.overlay.records import entry_of, path_of
from snapshots.entries import WHITEOUT as WHITEOUT_INO
from snapshots.entries import Changed, Link
from snapshots.history.journal import Change, Data

Journal = Callable[[Change], object]
"""Writes one change where it survives the death of the process; OSError when there is no room."""


class Op(StrEnum):
    """What kind of change."""

    CREATE = "create"
    LINK = "link"
    UNLINK = "unlink"
    RENAME = "rename"
    WRITE = "write"
    TRUNCATE = "truncate"
    SETATTR = "setattr"
    XATTR = "xattr"
    FOLLOW = "follow"
    """not the run's own doing: a changed node follows its base, which changed from outside"""


Names = set[tuple[Dir, bytes]]


class Changes:
    """What has changed since it was last collected."""

    def __init__(self, ask_base: Callable[[Node], None]) -> None:
        """*ask_base* completes a node with what only the base knows of it, before it is changed."""
        self._ask_base = ask_base
        self.journal: Journal | None = None
        """None while nothing is to be recorded (tests of the view alone)"""
        self.process = 0
        """number, in the journal, of the process whose request is being served"""
        self.nodes: dict[int, Node] = {}
        """changed nodes by inode number, also those that lost their last name"""
        self.links: Names = set()
        """changed names"""
        self.inline_bytes = 0
        """dirty contents in memory, in bytes; to be kept below a limit by whoever seals"""
        self.count = 0
        """of all changes ever recorded by this process"""
        self.last_ns = 0
        """when the last one happened"""
        self._untold: dict[int, Node] = {}
        """nodes that the next record has to describe"""
        self._untold_links: Names = set()

    def before(self, node: Node) -> None:
        """To be called before an operation touches *node*: remembers the base inode as it is.

        May raise `WouldBlock`.
        """
        if not node.changed and node.dev:
            self._ask_base(node)
            node.identity = node.base_identity()

    def record(
        self, op: Op, node: Node, bits: int, now_ns: int, *links: tuple[Dir, bytes], data: Iterable[Data] = ()
    ) -> None:
        """*node* changed in the way of *bits*, and the names *links* with it; *data* is what happened to its content.

        OSError when the journal has no room: the change is made but not to be acknowledged, and a later record tells
        of it.
        """
        self.count += 1
        self.last_ns = now_ns
        if op is not Op.WRITE or bits & Changed.ATTRS:
            self._untold[node.ino] = node
        self.keep(node, bits)
        for directory, name in links:
            self.links.add((directory, name))
            self._untold_links.add((directory, name))
            self._untold[directory.ino] = directory
            self.before(directory)
            directory.mtime_ns = directory.ctime_ns = now_ns
            self.keep(directory, Changed.NAMES)
        if self.journal is None:
            self._told()
            return
        self.journal(
            Change(
                op,
                now_ns,
                0 if op is Op.FOLLOW else self.process,
                node.ino,
                path_of(links[-1]) if links else path_of(*node.names()[:1]),
                tuple(entry_of(each) for each in self._untold.values()),
                tuple(link for each in self._untold_links if (link := link_of(*each)) is not None),
                tuple((parent.ino, name) for parent, name in self._untold_links if link_of(parent, name) is None),
                tuple(data),
                path_of(links[0]) if op is Op.RENAME else b"",
            )
        )
        self._told()

    def also(self, node: Node, bits: int) -> None:
        """One more node that the operation changed; before its `record`, which tells of both."""
        self._untold[node.ino] = node
        self.keep(node, bits)

    def _told(self) -> None:
        if self._untold:
            self._untold = {}
        if self._untold_links:
            self._untold_links = set()

    def keep(self, node: Node, bits: int) -> None:
        """The node belongs to the upper from now on, and so does every directory above it."""
        if node.identity is None:
            self.before(node)
        node.changed |= bits
        self.nodes[node.ino] = node
        new = [] if node.kept else [node]
        while new:
            node = new.pop()
            if node.kept:
                continue
            if node.identity is None:
                self.before(node)
            node.kept = True
            self.nodes[node.ino] = self._untold[node.ino] = node
            for directory, name in node.names():
                self.links.add((directory, name))
                self._untold_links.add((directory, name))
                new.append(directory)

    def take(self) -> tuple[dict[int, Node], Names]:
        """Hand out what changed and start anew."""
        nodes, links = self.nodes, self.links
        self.nodes, self.links = {}, set()
        return nodes, links

    def give_back(self, nodes: dict[int, Node], links: Names) -> None:
        """A checkpoint failed: what it held is still to be written."""
        self.nodes = {**nodes, **self.nodes}
        self.links |= links

    def __bool__(self) -> bool:
        return bool(self.nodes or self.links)


def link_of(directory: Dir, name: bytes) -> Link | None:
    """The record of a name; None when the upper has nothing to say about it."""
    if not directory.nlink:
        return None  # the directory is gone, and what it hid of the base with it
    child = directory.children.get(name)
    if child is WHITEOUT:
        return Link(directory.ino, name, WHITEOUT_INO, directory.hidden_at(name))
    if isinstance(child, Node) and child.kept:
        return Link(directory.ino, name, child.ino, directory.hidden_at(name))
    return None
