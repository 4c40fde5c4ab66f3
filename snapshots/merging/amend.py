"""Changing what an upper says, so that it stands on the base as it is now.

Owns the changes themselves: a name dropped, a node made independent of its base or put on another one, a deletion
opened up.  Which of them is wanted is for ``settle`` to say.  Reads the base, writes nothing; belongs to the thread of
the ``BasePaths``.

A change that is not possible without losing something (a content that only the base had) answers False, and has then
changed nothing.
"""

import stat
from collections.abc import Set

from msgspec.structs import replace

from snapshots.entries import FIRST_NEW_INO, ROOT_INO, WHITEOUT, Changed, Hidden, Identity, Origin, UpperState
from snapshots.layers.aliases import unchanged_directory
from snapshots.layers.basepaths import BasePaths, is_below, join, split
from snapshots.layers.content import shows_base
from snapshots.review.hidden import digest_of_base

Name = tuple[int, bytes]
"""Inode number of a directory, and a name in it."""


class Amendment:
    """A copy of an upper that is being changed."""

    def __init__(self, state: UpperState, base: BasePaths) -> None:
        self._base = base
        self._journal = state.journal
        self._next = max(state.next_ino, FIRST_NEW_INO, *(ino + 1 for ino in state.entries))
        self.entries = dict(state.entries)
        self.links = {parent: dict(names) for parent, names in state.links.items()}
        self.hides = {parent: dict(names) for parent, names in state.hides.items()}

    def state(self) -> UpperState:
        """What it came to: without what no name leads to any more."""
        reached, waiting = {ROOT_INO}, [ROOT_INO]
        while waiting:
            new = {ino for ino in self.links.get(waiting.pop(), {}).values() if ino != WHITEOUT} - reached
            reached |= new
            waiting += new
        entries = {ino: entry for ino, entry in self.entries.items() if ino in reached}
        links = {parent: names for parent, names in self.links.items() if parent in reached}
        hides = {parent: names for parent, names in self.hides.items() if parent in reached}
        return UpperState(entries, links, self._next, self._journal, hides)

    # -- names

    def names_of(self, ino: int) -> list[Name]:
        """Every name of a node."""
        return [(above, name) for above, names in self.links.items() for name, each in names.items() if each == ino]

    def base_path(self, link: Name) -> bytes | None:
        """The base path that a name shows or hides."""
        parent, name = link
        entry = self.entries.get(parent)
        if entry is None:
            return name if parent == ROOT_INO else None
        return join(entry.origin.path, name) if entry.origin is not None and not entry.opaque else None

    def forget(self, link: Name) -> None:
        """The base shows through at a name again, or nothing is there."""
        self.links.get(link[0], {}).pop(link[1], None)
        self.hides.get(link[0], {}).pop(link[1], None)

    def put(self, link: Name, ino: int) -> None:
        """A name leads to a node, or hides the base's; what it hides is what the base has there now."""
        self.links.setdefault(link[0], {})[link[1]] = ino
        self.hide_present(link)

    def hide_present(self, link: Name) -> bool:
        """What the base has at a name now may go."""
        path = self.base_path(link)
        st = self._base.stat(path) if path is not None else None
        if st is None or path is None:
            self.hides.get(link[0], {}).pop(link[1], None)
            return False
        below = digest_of_base(self._base, path) if stat.S_ISDIR(st.st_mode) else b""
        self.hides.setdefault(link[0], {})[link[1]] = Hidden(Identity.of(st), below)
        return True

    def drop(self, ino: int) -> bool:
        """Drop all that the run did with a node, and with what is below it; what it moved goes back where it was."""
        inside = self._below(ino)
        moved = [entry.origin.path for each in inside if (entry := self.entries[each]).origin is not None]
        tops = [path for path in moved if not any(is_below(path, other) for other in moved)]
        names = [link for each in inside for link in self.names_of(each) if each == ino or link[0] not in inside]
        freed = {link: path for link in names if (path := self.base_path(link)) is not None}
        back: list[Name] = []
        for path in tops:
            if self._base.stat(path) is None or path in freed.values():
                continue
            hidden_by = self._hider(path)
            if hidden_by is not None and (self.links[hidden_by[0]][hidden_by[1]] != WHITEOUT
                                          or self.base_path(hidden_by) != path):  # fmt: skip
                return False
            if hidden_by is not None:
                back.append(hidden_by)
        for link in (*names, *back):
            self.forget(link)
        for each in inside:
            del self.entries[each]
            self.links.pop(each, None)
            self.hides.pop(each, None)
        return True

    def _below(self, top: int) -> set[int]:
        found: set[int] = set()
        waiting = [top]
        while waiting:
            ino = waiting.pop()
            if ino != WHITEOUT and ino not in found:
                found.add(ino)
                waiting += self.links.get(ino, {}).values()
        return found

    def _hider(self, path: bytes) -> Name | None:
        """The name in the upper that keeps the base path from being seen where it was; None when nothing does."""
        here = ROOT_INO
        above = b""
        for name in path.split(b"/"):
            above = join(above, name)
            ino = self.links.get(here, {}).get(name)
            if ino is None:
                return None
            entry = self.entries.get(ino)
            if entry is None or entry.origin is None or entry.origin.path != above or (entry.opaque and above != path):
                return here, name
            here = ino
        return None

    # -- nodes

    def renew(self, ino: int, **fields: object) -> bool:
        """A node stands on what the base has at its origin now; ``fields`` of the entry change with that."""
        entry = self.entries[ino]
        if entry.origin is None:
            self.entries[ino] = replace(entry, **fields)
            return True
        st = self._base.stat(entry.origin.path)
        if st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if "content" not in fields and entry.content is not None and shows_base(entry.content):
            return False
        self.entries[ino] = replace(entry, origin=Origin(entry.origin.path, Identity.of(st)), **fields)
        return True

    def detach(self, ino: int) -> bool:
        """Make a node, with what the run has below it, one that the run made: nothing of it is in the base."""
        inside = [each for each in self._below(ino) if self.entries[each].origin is not None]
        if not all(map(self._is_complete, inside)):
            return False
        for each in inside:
            entry = self.entries[each]
            changed = entry.changed | Changed.ATTRS
            self.entries[each] = replace(entry, origin=None, opaque=False, changed=int(changed))
            for name in [name for name, child in self.links.get(each, {}).items() if child == WHITEOUT]:
                self.forget((each, name))
            self.hides.pop(each, None)
        return True

    def _is_complete(self, ino: int) -> bool:
        """Whether the upper knows everything about a node that the base may not have any more."""
        entry = self.entries[ino]
        if stat.S_ISREG(entry.mode):
            return entry.content is not None and not shows_base(entry.content)
        return not stat.S_ISLNK(entry.mode) or entry.target is not None

    def adopt_directory(self, link: Name) -> bool:
        """A directory that the run made becomes the one that the base has at that name now."""
        path = self.base_path(link)
        st = self._base.stat(path) if path is not None else None
        if path is None or st is None:
            return False
        ino = self.links[link[0]][link[1]]
        entry = unchanged_directory(ino, path, st)
        times = self.entries[ino]
        self.entries[ino] = replace(
            entry, changed=int(Changed.NAMES), atime_ns=times.atime_ns, mtime_ns=times.mtime_ns
        )
        self.hides.get(link[0], {}).pop(link[1], None)
        return True

    def follow(self, ino: int, link: Name, to: bytes) -> bool:
        """The base moved what a node came from: the node moves there too.

        ``link`` is where the run has it, at its old place.
        """
        there = self.directory_of(split(to)[0])
        if there is None or split(to)[1] in self.links.get(there, {}):
            return False
        self._move_origin(ino, to)
        self.forget(link)
        self.links.setdefault(there, {})[split(to)[1]] = ino
        return True

    def rename_from(self, ino: int, to: bytes) -> bool:
        """The base moved what a node came from, to ``to``: the run's own place for it stays, and hides that."""
        there = self.directory_of(split(to)[0])
        if there is None or split(to)[1] in self.links.get(there, {}):
            return False
        self._move_origin(ino, to)
        self.put((there, split(to)[1]), WHITEOUT)
        return True

    def _move_origin(self, ino: int, to: bytes) -> None:
        top = self.entries[ino].origin
        assert top is not None
        for each, entry in self.entries.items():
            origin = entry.origin
            if origin is None or not (each == ino or is_below(origin.path, top.path)):
                continue
            path = to + origin.path[len(top.path) :]
            st = self._base.stat(path)
            same = st is not None and (st.st_dev, st.st_ino) == (origin.identity.dev, origin.identity.ino)
            identity = replace(origin.identity, ctime_ns=st.st_ctime_ns) if st is not None and same else origin.identity
            self.entries[each] = replace(entry, origin=Origin(path, identity))

    def directory_of(self, path: bytes) -> int | None:
        """The directory of the upper that shows a base directory, which it gets if need be; None when none can."""
        if not path:
            return ROOT_INO
        for ino, entry in self.entries.items():
            if entry.is_dir and entry.origin is not None and entry.origin.path == path and not entry.opaque:
                return ino
        above, name = split(path)
        parent = self.directory_of(above)
        st = self._base.stat(path)
        if parent is None or name in self.links.get(parent, {}) or st is None or not stat.S_ISDIR(st.st_mode):
            return None
        return self._directory(parent, name, path)

    def _directory(self, parent: int, name: bytes, path: bytes) -> int:
        st = self._base.stat(path)
        assert st is not None, "it was there a moment ago"
        ino = st.st_ino
        if not ROOT_INO < ino < FIRST_NEW_INO or ino in self.entries or st.st_dev != self._base.tree.dev:
            ino, self._next = self._next, self._next + 1
        self.entries[ino] = unchanged_directory(ino, path, st)
        self.links.setdefault(parent, {})[name] = ino
        self.links[ino] = {}
        return ino

    def open_deletion(self, link: Name, kept: Set[bytes]) -> bool:
        """Of a directory that the run deleted as a whole some paths stay, and the rest goes as it is now."""
        path = self.base_path(link)
        if path is None or self.links.get(link[0], {}).get(link[1]) != WHITEOUT:
            return False
        self.forget(link)
        self._open(link[0], link[1], path, kept)
        return True

    def _open(self, parent: int, name: bytes, path: bytes, kept: Set[bytes]) -> None:
        ino = self._directory(parent, name, path)
        for inner in self._base.list(path):
            child = join(path, inner)
            if child in kept:
                continue
            if any(is_below(each, child) for each in kept):
                self._open(ino, inner, child, kept)
            else:
                self.put((ino, inner), WHITEOUT)
