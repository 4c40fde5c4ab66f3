"""What must hold inside an overlay at any moment: nodes and names agree, and what is counted is there.

Knows the overlay's tables; knows no plain directory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from goexfs.overlay import Dir, File, Node, Overlay
from goexfs.overlay.content import Inline
from goexfs.overlay.records import entry_of
from snapshots.entries import Identity
from tests.support.vfs import OpenFile


def check_sound(overlay: Overlay, base: Path, files: Sequence[OpenFile]) -> None:
    """The tables agree with each other, with the untouched *base*, and with the open *files*."""
    for ino, node in overlay.nodes.items():
        assert node.ino == ino
        _check_names(overlay, node)
        origin = entry_of(node).origin
        if origin is not None:
            st = os.lstat(os.path.join(os.fsencode(base), origin.path))
            assert origin.identity == Identity.of(st), f"{node} does not remember its base as it is"
        assert node.opens == sum(file.ino == ino for file in files), f"{node} is open {node.opens} times"
        if isinstance(node, File):
            writers = sum(file.ino == ino and file.flags & os.O_ACCMODE != os.O_RDONLY for file in files)
            assert node.writers == writers, f"{node} has {node.writers} writers"
    contents = [node.content for node in overlay.nodes.values() if isinstance(node, File)]
    held = sum(content.size for content in contents if isinstance(content, Inline))
    assert overlay.dirty_bytes == held, f"{overlay.dirty_bytes} dirty bytes are told of, {held} are there"


def _check_names(overlay: Overlay, node: Node) -> None:
    for parent, name in node.names():
        assert parent.children.get(name) is node, f"{node} does not hang at {name!r} in {parent}"
        assert overlay.nodes.get(parent.ino) is parent, f"{node} hangs in {parent}, which is gone"
    if isinstance(node, Dir):
        for name, child in node.children.items():
            if isinstance(child, Node):
                assert (node, name) in child.names(), f"{child} does not know of {name!r}"
                assert overlay.nodes.get(child.ino) is child, f"{child} is not in the table"


def check_nothing_unneeded(overlay: Overlay) -> None:
    """After the kernel forgot everything: only what the run keeps, and the directories on the way to it."""
    needed: set[Node] = set()
    waiting = [node for node in overlay.nodes.values() if node.kept]
    while waiting:
        for parent, _ in waiting.pop().names():  # hard links of the base may hang where nothing else is kept
            if parent not in needed:
                needed.add(parent)
                waiting.append(parent)
    left = [node for node in overlay.nodes.values() if not node.kept and node not in needed]
    assert not left, f"nothing needs {left}"
