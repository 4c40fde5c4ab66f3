"""When is the base still what a run saw, and what is said when it is not.

Owns the rules of what conflicts.  Reads base and objects, writes nothing.  Belongs to the thread of its ``BaseTree``.

What the run changed is compared by identity: an entry holds the base inode as it was at copy-up, and a name that hides
one of the base's (deleted, or replaced by something else) holds the inode that the run saw there.  Of what lay below a
directory that was hidden as a whole nothing is known but a time at which all was in order: a file there whose ctime is
later changed under the run's feet.  A difference that makes no difference is no conflict: where the base already is
what the run made of it, nothing is done.
"""

import os
import stat
from collections.abc import Container

from msgspec.structs import replace

from snapshots.entries import Entry, Hidden, Identity
from snapshots.layers.basepaths import BasePaths, join
from snapshots.layers.tree import Place
from snapshots.merging.plan import ConflictKind, PathConflict
from snapshots.review.compare import Sides, carried
from snapshots.review.hidden import digest_of_base, node_of

_PUT_BACK = "choose one side with --ours or --theirs, or put the base's back"


class Conflicts:
    """The conflicts of one merge, as they are found.

    ``since_ns``: a time at which the base was as the run saw it; None: what the run hides is taken to be unchanged.
    """

    def __init__(self, base: BasePaths, sides: Sides, since_ns: int | None) -> None:
        self._base = base
        self._sides = sides
        self._since_ns = since_ns
        self._found: dict[tuple[bytes, ConflictKind], PathConflict] = {}
        self._verified: set[tuple[int, int]] = set()

    def add(
        self, path: bytes, kind: ConflictKind, advice: str, *, base: bytes | None = None, node: int = 0,
        link: tuple[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        """There is a conflict at a path; ``advice`` is one clause on what to do."""
        self._found.setdefault((path, kind), PathConflict(path, kind, advice, base, node, link))

    def found(self) -> tuple[PathConflict, ...]:
        """All conflicts so far, sorted by path."""
        return tuple(self._found[key] for key in sorted(self._found))

    def vouch_for(self, st: os.stat_result) -> None:
        """A base inode is known to be what the run saw, whatever its ctime says."""
        self._verified.add((st.st_dev, st.st_ino))

    def is_late(self, st: os.stat_result) -> bool:
        """Whether an inode changed since all was in order."""
        return self._since_ns is not None and st.st_ctime_ns > self._since_ns

    def is_as_hidden(self, st: os.stat_result, hidden: Hidden | None) -> bool:
        """Whether a base inode is what the run hid; None: it is not known what that was."""
        if hidden is None:
            return not self.is_late(st)
        then, now = hidden.identity, Identity.of(st)
        if stat.S_ISDIR(st.st_mode):
            return node_of(now) == node_of(then)
        return now == then or (now == replace(then, ctime_ns=now.ctime_ns) and not self.is_late(st))

    def is_as_at_copy_up(self, entry: Entry, st: os.stat_result, base_path: bytes) -> bool:
        """Whether a base inode is what it was when the run first changed it.

        A ctime that moved alone says that attributes or names changed, or nothing in the end (a merge that was taken
        back).  Unless that was in order, what the run is going to set must be there already.  The same of another inode
        with the same text and times: a merge was taken back across filesystems, or a backup restored.
        """
        assert entry.origin is not None
        then, now = entry.origin.identity, Identity.of(st)
        if now == then:
            return True
        if now != replace(then, ctime_ns=now.ctime_ns, ino=now.ino):
            return False
        if now.ino != then.ino and (entry.ancestor is None or entry.ancestor.identity != then):
            return False
        if now.ino == then.ino and self._since_ns is not None and st.st_ctime_ns <= self._since_ns:
            return True
        if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
            return False
        if not self._sides.is_ancestor(entry, base_path):
            return False  # written to, and the times set back
        return entry.xattrs is None or carried(entry.xattrs) == carried(self._base.xattrs(base_path))

    def is_already(self, entry: Entry, base_path: bytes, st: os.stat_result) -> bool:
        """Whether a base inode already is what the run made, times apart."""
        before = self._sides.of_base(base_path, st)
        after = self._sides.of_entry(entry, base_path)
        if before.kind != after.kind:
            return False
        place = Place(base_path, entry, entry.origin.path if entry.origin is not None else None, None)
        differs = self._sides.content_differs(before, after, Place(base_path, None, base_path, base_path, st), place)
        attrs = set(self._sides.attrs_that_differ(before, after, place, times=False)) - {"links"}
        return not differs and not attrs

    def has_same_content(self, entry: Entry, base_path: bytes, st: os.stat_result) -> bool:
        """Whether a file that the run wrote to has the bytes that the base file has."""
        before, after = self._sides.of_base(base_path, st), self._sides.of_entry(entry, base_path)
        here = Place(base_path, None, base_path, base_path, st)
        return not self._sides.content_differs(before, after, here, Place(base_path, entry, None, None))

    def check_hidden(
        self, base_path: bytes, st: os.stat_result, moving: Container[bytes], hidden: Hidden | None,
        link: tuple[int, bytes] | None, *, replaced_at: bytes | None = None, node: int = 0,
    ) -> None:  # fmt: skip
        """Add a conflict for all that changed at or below a base path since the run hid it, unless it moves away.

        ``replaced_at`` is the path in the run at which something else, ``node``, is there instead.
        """
        if (st.st_dev, st.st_ino) in self._verified and not stat.S_ISDIR(st.st_mode):
            return
        as_hidden = self.is_as_hidden(st, hidden)
        is_known = not stat.S_ISDIR(st.st_mode) or (hidden is not None and not as_hidden)
        if is_known and st.st_dev == self._base.tree.dev:
            if not as_hidden:
                self._hidden_changed(base_path, hidden, link, replaced_at, node)
            return
        if as_hidden and hidden is not None and hidden.below and hidden.below == digest_of_base(self._base, base_path):
            return
        waiting = [(base_path, st)]
        while waiting:
            path, st = waiting.pop()
            if path in moving and path != base_path:
                continue
            if st.st_dev != self._base.tree.dev:
                advice = "unmount it, or leave it in place in the run"
                self.add(path, ConflictKind.OTHER_FILESYSTEM, advice, base=path, node=node, link=link)
            elif stat.S_ISDIR(st.st_mode):
                children = (join(path, name) for name in self._base.list(path))
                waiting += [(child, inner) for child in children if (inner := self._base.stat(child)) is not None]
            elif self.is_late(st) and (st.st_dev, st.st_ino) not in self._verified:
                self.add(path, ConflictKind.MODIFIED_IN_BASE, _PUT_BACK, base=path, node=node, link=link)

    def _hidden_changed(
        self, base_path: bytes, hidden: Hidden | None, link: tuple[int, bytes] | None, replaced_at: bytes | None,
        node: int,
    ) -> None:  # fmt: skip
        if replaced_at is None:
            self.add(base_path, ConflictKind.MODIFIED_IN_BASE, _PUT_BACK, base=base_path, link=link)
            return
        kind = ConflictKind.BOTH_ADDED if hidden is None else ConflictKind.BOTH_MODIFIED
        self.add(replaced_at, kind, _PUT_BACK, base=base_path, node=node, link=link)
