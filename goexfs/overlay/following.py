"""A file of the base that the run knows by attributes of its own, when the base gets another content there.

What is seen is the base's new content with what the run set, as in a new mount: the run did not change the data.  The
kernel keeps its own idea of the size of a file that it knows, so the content comes back as a new inode; whoever has
the old one open keeps it.  Event-loop thread only.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from goexfs.overlay.changes import Op
from goexfs.overlay.nodes import Dir, File
from goexfs.overlay.records import base_path_of
from goexfs.overlay.view import View
from snapshots.entries import Changed, Identity

_TAKEN_ALONG = ("uid", "gid", "rdev", "nlink", "atime_ns", "mtime_ns", "ctime_ns", "base_dir", "base_name", "xattrs")


def has_moved_on(node: File, st: os.stat_result) -> bool:
    """Whether the base has another content than a kept *node* shows, which has none of its own."""
    then = node.identity
    if node.content is not None or node.changed & Changed.DATA or not node.nlink or node.base_dir is None:
        return False
    if then is None or not stat.S_ISREG(st.st_mode):
        return False
    return (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns) != (node.dev, node.base_ino, node.size, then.mtime_ns)


def move_on(node: File, st: os.stat_result) -> None:
    """Let *node* have the content that the base has now.

    That is what the run works on from here, so it is the origin, but for the mode: that two sides set it is a conflict.
    """
    then = node.identity
    assert then is not None
    if node.mtime_ns == then.mtime_ns:
        node.mtime_ns = st.st_mtime_ns  # the run never set it
    node.size, node.blocks = st.st_size, st.st_blocks
    node.dev, node.base_ino = st.st_dev, st.st_ino
    node.identity = Identity(st.st_dev, st.st_ino, then.mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def renew(view: View, old: File, st: os.stat_result, now_ns: Callable[[], int]) -> list[tuple[Dir, bytes]]:
    """A new node with the base's new content takes the names of *old*; which they are.

    Those that lead to it in the base only are to be looked up again.
    """
    new = File(view.new_number(), old.mode)
    for each in _TAKEN_ALONG:
        setattr(new, each, getattr(old, each))
    new.identity = old.identity
    move_on(new, st)
    names = old.names()
    for directory, name in names:
        del directory.children[name]
        old.drop_name(directory, name)
        if directory.is_alias(name):
            assert directory.aliases is not None
            directory.aliases.discard(name)
        else:
            directory.children[name] = new
            new.add_name(directory, name)
    view.forget_alias(old)
    old.base_ino = old.nlink = 0
    view.orphans.add(old)
    view.register(new)
    place = base_path_of(new)
    if view.away.get(place) is old:
        view.away[place] = new
    view.changes.also(old, Changed.ATTRS)
    with suppress(OSError):  # a journal that cannot be written: the next mount finds the same in the base
        view.changes.record(Op.FOLLOW, new, old.changed, now_ns())
    view.release_if_unused(old)
    return names
