"""The table of nodes by inode number.

Inode numbers are the base's own.  A base inode gets a number from the high range instead when its own is taken or
misleading: it is on another device, it is number 1, or the number belongs to a node that the base has since replaced.
Owns which node stands for which base inode.  Event-loop thread only.
"""

import os

from goexfs.overlay.nodes import Node
from snapshots.entries import FIRST_NEW_INO, ROOT_INO


class NodeTable:
    """The nodes over a base on device *dev*; numbers from *next_ino* on are new."""

    def __init__(self, dev: int, next_ino: int) -> None:
        self._dev = dev
        self.next_ino = next_ino
        self.nodes: dict[int, Node] = {}
        self._aliases: dict[tuple[int, int], Node] = {}
        """base inodes whose node does not bear their number"""
        self._numbers: dict[tuple[int, int], int] = {}
        """numbers once given to inodes of other devices, so that they stay the same"""

    def new_number(self) -> int:
        """A number that no node of this run ever had."""
        self.next_ino += 1
        return self.next_ino - 1

    def of_base(self, dev: int, ino: int) -> Node | None:
        """The node of a base inode, if it is loaded."""
        node = self.nodes.get(ino) if dev == self._dev else None
        if node is not None and node.base_ino == ino and node.dev == dev and (dev, ino) not in self._aliases:
            return node
        return self._aliases.get((dev, ino))

    def _number_for(self, st: os.stat_result) -> int:
        ino = st.st_ino
        if st.st_dev == self._dev and ROOT_INO < ino < FIRST_NEW_INO and ino not in self.nodes:
            return ino
        if st.st_dev == self._dev:
            return self.new_number()
        number = self._numbers.get((st.st_dev, ino))
        if number is None or number in self.nodes:
            number = self._numbers[(st.st_dev, ino)] = self.new_number()
        return number

    def register(self, node: Node) -> None:
        """Enter a node into the tables."""
        self.nodes[node.ino] = node
        if node.dev and (node.ino != node.base_ino or node.dev != self._dev):
            self._aliases[(node.dev, node.base_ino)] = node
        elif node.dev:
            self._aliases.pop((node.dev, node.base_ino), None)

    def forget_alias(self, node: Node) -> None:
        """The base inode of *node* is no longer to be taken for it."""
        if self._aliases.get((node.dev, node.base_ino)) is node:
            del self._aliases[(node.dev, node.base_ino)]
