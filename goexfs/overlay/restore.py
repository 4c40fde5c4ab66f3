"""The upper of an earlier mount, back in memory.

Owns the way from records to nodes: `restore` runs once, before the first request; a rewind uses the rest.
"""

import stat

from goexfs.overlay.content import BaseFile, Sealed
from goexfs.overlay.following import has_moved_on, move_on
from goexfs.overlay.nodes import WHITEOUT, Dir, File, Node, Symlink, new_node
from goexfs.overlay.view import View
from snapshots.entries import ROOT_INO, Changed, Entry, UpperState
from snapshots.entries import WHITEOUT as WHITEOUT_INO
from snapshots.layers.base import BaseDir, BaseTree


def restore(view: View, state: UpperState) -> None:
    """Put every entry and link of *state* into *view*."""
    dirs: dict[bytes, BaseDir] = {b"": view.base.root}
    view.elsewhere = any(entry.origin is not None for entry in state.entries.values())
    for entry in state.entries.values():
        if entry.ino == ROOT_INO:
            fill(view, view.root, entry, dirs)
        else:
            node = new_node(entry.ino, entry.mode)
            fill(view, node, entry, dirs)
            view.register(node)
            if isinstance(node, Dir) and entry.origin is not None and not entry.opaque:
                view.attach_base(node, dir_at(view.base, entry.origin.path, dirs))
    for parent_ino, names in state.links.items():
        parent = view.nodes.get(parent_ino)
        if not isinstance(parent, Dir):
            continue  # fsck names it; a mount goes on with what is whole
        parent.hides = dict(state.hides.get(parent_ino, {})) or None
        for name, ino in names.items():
            if ino == WHITEOUT_INO:
                parent.children[name] = WHITEOUT
                continue
            child = view.nodes.get(ino)
            if child is not None:
                parent.children[name] = child
                child.add_name(parent, name)
    for entry in state.entries.values():
        file = view.nodes.get(entry.ino)
        if not isinstance(file, File) or file.content is not None or entry.origin is None:
            continue
        if not any(directory.shows(file, name) for directory, name in file.names()):
            view.away[entry.origin.path] = file


def dir_at(base: BaseTree, path: bytes, dirs: dict[bytes, BaseDir]) -> BaseDir:
    """The base directory at *path*: one for all nodes that come from it."""
    missing = []
    while path not in dirs:
        missing.append(path)
        path = path.rpartition(b"/")[0]
    found = dirs[path]
    for path in reversed(missing):
        found = dirs[path] = base.child(found, path.rpartition(b"/")[2])
    return found


def fill(view: View, node: Node, entry: Entry, dirs: dict[bytes, BaseDir]) -> None:
    """Make *node* what *entry* says, but for its names and (of a directory) what shows through."""
    node.mode, node.uid, node.gid, node.rdev = entry.mode, entry.uid, entry.gid, entry.rdev
    node.nlink, node.size = entry.nlink, entry.size
    node.atime_ns, node.mtime_ns, node.ctime_ns = entry.atime_ns, entry.mtime_ns, entry.ctime_ns
    node.changed = entry.changed
    node.xattrs = None if entry.xattrs is None else dict(entry.xattrs)
    node.kept = node.stored = True
    if isinstance(node, Symlink):
        node.target = entry.target
    elif isinstance(node, File):
        node.ancestor = entry.ancestor
    origin = entry.origin
    if origin is not None and node is view.root:
        node.identity = origin.identity
    elif origin is not None:
        above, _, name = origin.path.rpartition(b"/")
        node.base_dir, node.base_name = dir_at(view.base, above, dirs), name
        node.dev, node.base_ino, node.identity = origin.identity.dev, origin.identity.ino, origin.identity
    if isinstance(node, File) and entry.content is not None:
        base: BaseFile | None = None
        if entry.content.base_limit and node.base_dir is not None:
            base = view.trust(node)
        node.content = Sealed(entry.content, view.objects, base)
        node.blocks = node.content.blocks()
    elif origin is not None:
        _follow_base(view, node)


def _follow_base(view: View, node: Node) -> None:
    """Of what the run did not change, the base says how it is today."""
    if node.base_dir is None:
        return
    try:
        st = view.base.stat(node.base_dir, node.base_name)
    except OSError:
        return  # the base lost it: reads answer ESTALE, and a merge calls it a conflict
    if stat.S_IFMT(st.st_mode) != stat.S_IFMT(node.mode):
        return
    if isinstance(node, File) and node.changed and not node.changed & Changed.DATA:
        node.blocks = st.st_blocks
        if has_moved_on(node, st):
            move_on(node, st)
    elif (st.st_dev, st.st_ino) != (node.dev, node.base_ino) and not node.is_dir:
        return
    elif not node.changed:
        node.take(st)
        node.dev, node.base_ino = st.st_dev, st.st_ino
