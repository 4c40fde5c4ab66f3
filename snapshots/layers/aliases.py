"""Names in the base of files that the run changed under another name.

A base file with several hard links is one node.  When the run changes it, it is changed under every name, also under
those that nobody looked at while the run was mounted and that no link of the upper mentions.  ``with_aliases``
finds them, by walking what shows through of the base, and adds their links, so that diff and merge see complete nodes.
It costs nothing when no changed file misses a link.  Pure; belongs to the thread of its ``BaseTree``.
"""

import os
import stat
from dataclasses import dataclass

from snapshots.entries import ROOT_INO, Entry, Identity, Origin, UpperState
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import Place, UpperTree


@dataclass(slots=True)
class _Dir:
    place: Place
    name: bytes
    above: "_Dir | None"
    ino: int | None
    """None until the upper needs an entry of it"""


def with_aliases(tree: UpperTree, base: BasePaths) -> UpperTree:
    """The same tree, or one in which the unmentioned base names of changed hard-linked files are links."""
    missing = {
        (entry.origin.identity.dev, entry.origin.identity.ino): entry
        for entry in tree.state.entries.values()
        if entry.origin is not None
        and entry.changed
        and not entry.is_dir
        and entry.nlink > tree.number_of_links(entry.ino)
    }
    if not missing:
        return tree
    growth = _Growth(tree.state)
    root = _Dir(tree.root, b"", None, ROOT_INO if tree.root.entry is not None else None)
    waiting = [root]
    while waiting:
        d = waiting.pop()
        links = tree.links(d.place)
        shown = base.list(d.place.lower) if d.place.lower is not None else []
        for name in {*shown, *links}:
            child = tree.child(d.place, name)
            if child is None:
                continue
            if child.entry is not None:
                if child.entry.is_dir:
                    waiting.append(_Dir(child, name, d, child.entry.ino))
                continue
            st = base.stat(child.base or b"")
            if st is None:
                continue
            if stat.S_ISDIR(st.st_mode):
                waiting.append(_Dir(child, name, d, None))
            elif st.st_nlink > 1:
                entry = missing.get((st.st_dev, st.st_ino))
                if entry is not None and stat.S_IFMT(entry.mode) == stat.S_IFMT(st.st_mode):
                    growth.links[growth.number(d, base)][name] = entry.ino
    return UpperTree(growth.state()) if growth.grown else tree


class _Growth:
    """A copy of a state to which directories and links are added."""

    def __init__(self, state: UpperState) -> None:
        self.entries = dict(state.entries)
        self.links = {ino: dict(names) for ino, names in state.links.items()}
        self._hides = state.hides
        self.next_ino = max(state.next_ino, max(state.entries, default=0) + 1)
        self.grown = False

    def state(self) -> UpperState:
        return UpperState(self.entries, self.links, self.next_ino, hides=self._hides)

    def number(self, d: _Dir, base: BasePaths) -> int:
        """The inode number of a directory, which gets an unchanged entry if it has none."""
        self.grown = True
        missing: list[_Dir] = []
        step: _Dir | None = d
        while step is not None and step.ino is None:
            missing.append(step)
            step = step.above
        for step in reversed(missing):
            path = step.place.base or b""
            st = base.stat(path)
            assert st is not None, "the directory was listed a moment ago"
            if step.above is None:
                step.ino = ROOT_INO
            else:
                assert step.above.ino is not None
                step.ino, self.next_ino = self.next_ino, self.next_ino + 1
                self.links.setdefault(step.above.ino, {})[step.name] = step.ino
            self.entries[step.ino] = unchanged_directory(step.ino, path, st)
            self.links.setdefault(step.ino, {})
        assert d.ino is not None
        self.links.setdefault(d.ino, {})
        return d.ino


def unchanged_directory(ino: int, path: bytes, st: os.stat_result) -> Entry:
    """The entry of a base directory that is only on the way to something changed."""
    return Entry(
        ino=ino, mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, rdev=0, nlink=st.st_nlink, size=st.st_size,
        atime_ns=st.st_atime_ns, mtime_ns=st.st_mtime_ns, ctime_ns=st.st_ctime_ns, changed=0,
        origin=Origin(path, Identity.of(st)), content=None, target=None, xattrs=None, opaque=False,
    )

