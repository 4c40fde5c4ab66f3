"""What a node looks like in the store.

Owns the way from nodes to records (``restore`` has the way back).  Pure functions; event-loop thread, since they read
nodes.
"""

from goexfs.overlay.nodes import Dir, File, Node, Symlink
from snapshots.entries import ROOT_INO, Content, Entry, Origin


def entry_of(node: Node, content: Content | None = None) -> Entry:
    """The record of a node, with the content that is given (a node's own may not be sealed)."""
    return Entry(
        node.ino,
        node.mode,
        node.uid,
        node.gid,
        node.rdev,
        node.nlink,
        node.size,
        node.atime_ns,
        node.mtime_ns,
        node.ctime_ns,
        node.changed,
        _origin_of(node),
        content,
        node.target if isinstance(node, Symlink) else None,
        None if node.xattrs is None else dict(node.xattrs),
        isinstance(node, Dir) and node.base is None and node.base_dir is not None,
        node.ancestor if isinstance(node, File) else None,
    )


def base_path_of(node: Node) -> bytes:
    """Where in the base a node came from; for one that did."""
    above = b"" if node.base_dir is None else node.base_dir.path
    return above + b"/" + node.base_name if above else node.base_name


def _origin_of(node: Node) -> Origin | None:
    if node.base_dir is None:
        return None
    identity = node.identity if node.changed and node.identity is not None else node.base_identity()
    if node.ino == ROOT_INO:
        return Origin(b"", identity)
    return Origin(base_path_of(node), identity)


def path_of(*link: tuple[Dir, bytes]) -> bytes:
    """Where a (directory, name) is now, relative to the root; empty for none."""
    names = []
    for step, name in link:
        names.append(name)
        while step.parent is not None:
            names.append(step.name)
            step = step.parent
    return b"/".join(reversed(names))
