"""The one choke point through which every change of a run passes.

Owns what has changed since the last checkpoint.  Every operation that changes something calls `Changes.record`
exactly once, after it has changed the nodes and before it returns; whatever wants to know of changes (the checkpoint
today, a journal record before the reply) does so here.  Event-loop thread only.
"""

from enum import Enum

from goexfs.overlay.nodes import Dir, Node
from snapshots.entries import Changed


class Op(Enum):
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


class Changes:
    """What has changed since it was last collected."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        """changed nodes by inode number, also those that lost their last name"""
        self.links: set[tuple[Dir, bytes]] = set()
        """changed names"""
        self.inline_bytes = 0
        """dirty contents in memory, in bytes; to be kept below a limit by whoever seals"""
        self.count = 0
        """of all changes ever recorded by this process"""
        self.last_ns = 0
        """when the last one happened"""

    def before(self, node: Node) -> None:
        """To be called before an operation touches *node*: remembers the base inode as it is."""
        if not node.changed and node.dev:
            node.identity = node.base_identity()

    def record(self, op: Op, node: Node, bits: Changed, now_ns: int, *links: tuple[Dir, bytes]) -> None:
        """*node* changed in the way of *bits*, and the names *links* with it."""
        del op  # the journal's field; the checkpoint needs only what is different, not why
        self.count += 1
        self.last_ns = now_ns
        self.keep(node, bits)
        for directory, name in links:
            self.links.add((directory, name))
            directory.version += 1
            self.before(directory)
            directory.mtime_ns = directory.ctime_ns = now_ns
            self.keep(directory, Changed.NAMES)

    def keep(self, node: Node, bits: Changed | int) -> None:
        """The node belongs to the upper from now on, and so does every directory above it."""
        if node.identity is None:
            self.before(node)
        node.changed |= bits
        node.face = None
        self.nodes[node.ino] = node
        if node.kept:
            return
        node.kept = True
        for directory, name in node.names():
            self.links.add((directory, name))
            if not directory.kept:
                self.keep(directory, 0)

    def forget(self, node: Node) -> None:
        """The node never was in a checkpoint and is gone: nothing to write about it."""
        self.nodes.pop(node.ino, None)

    def take(self) -> tuple[dict[int, Node], set[tuple[Dir, bytes]]]:
        """Hand out what changed and start anew."""
        nodes, links = self.nodes, self.links
        self.nodes, self.links = {}, set()
        return nodes, links

    def give_back(self, nodes: dict[int, Node], links: set[tuple[Dir, bytes]]) -> None:
        """A checkpoint failed: what it held is still to be written."""
        self.nodes = {**nodes, **self.nodes}
        self.links |= links

    def __bool__(self) -> bool:
        return bool(self.nodes or self.links)
