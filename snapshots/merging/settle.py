"""Bringing a run onto the base as it is now: what merges by itself, and what somebody has to choose.

Owns the rules by which a conflict is settled.  ``planner`` finds the conflicts, ``amend`` changes the upper; here it is
decided what becomes of each, until the planner finds no more or nothing helps.  Reads base and objects, and stores
merged texts as objects.  Belongs to the thread of the store.

*ours* is the base (into which is merged), *theirs* the run: as when git merges a branch.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from snapshots.entries import (
    ROOT_INO,
    WHITEOUT,
    Ancestor,
    Changed,
    Content,
    Entry,
    Extent,
    Identity,
    UpperState,
)
from snapshots.errors import BaseChanged, MergeError
from snapshots.layers.aliases import with_aliases
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join
from snapshots.layers.content import open_base, open_entry, same_bytes
from snapshots.layers.tree import UpperTree
from snapshots.merging.amend import Amendment, Name
from snapshots.merging.plan import ConflictKind, PathConflict, Plan
from snapshots.merging.planner import plan_merge
from snapshots.merging.text import is_text, merge_texts
from snapshots.names import readable
from snapshots.review.compare import Sides, carried
from snapshots.storage.objects import Objects

TEXT_LIMIT = 4 << 20
"""Bytes of a text that is merged."""
_ROUNDS = 1000  # a directory that both made takes one for each level
_SEARCHED = 1_000_000
_MOVED_HERE = "the run moved here what the base would lose with it; choose --theirs, or discard the run"


class Resolution(StrEnum):
    """What becomes of a conflict."""

    OURS = "ours"
    """the base's version stays, the run's change there is dropped"""
    THEIRS = "theirs"
    """the run's version replaces what the base has"""
    MARKERS = "markers"
    """both, in a text with conflict markers"""


Resolve = Callable[[bytes], Resolution | None]
"""What the user wants at a path that is in conflict; None: to be told."""


class Settled(msgspec.Struct, frozen=True):
    """What became of one path that both sides changed."""

    path: bytes
    how: str
    """``merged`` (a text, or attributes), ``combined`` (a directory that both made), ``followed`` (renamed by the
    base), or the ``Resolution`` that was asked for"""


class Outcome(NamedTuple):
    """The upper on the present base."""

    state: UpperState
    plan: Plan
    """with the conflicts that are left, if any"""
    settled: tuple[Settled, ...]
    """sorted by path"""


def settle(
    state: UpperState, base: BaseTree, objects: Objects, *, since_ns: int | None, resolve: Resolve | None = None,
    label: bytes = b"the run", now_ns: int = 0, tree: UpperTree | None = None, sides: Sides | None = None,
) -> Outcome:  # fmt: skip
    """Settle all conflicts that can be.

    ``label`` names the run in conflict markers, ``now_ns`` is the time of merged texts (0: now).  ``tree``: that of the
    state, if there is one already; ``sides``: those of a diff, which know what was compared already.
    """
    settled: dict[bytes, Settled] = {}
    for _ in range(_ROUNDS):
        tree = tree if tree is not None and tree.state is state else UpperTree(state)
        plan = plan_merge(tree, base, objects, since_ns=since_ns, sides=sides)
        if not plan.conflicts:
            break
        work = _Settling(state, base, objects, resolve or (lambda _: None), label, now_ns)
        work.settle(plan.conflicts)
        if not work.settled:
            plan = msgspec.structs.replace(plan, conflicts=tuple(sorted(work.left, key=lambda each: each.path)))
            break
        settled.update((each.path, each) for each in work.settled)
        state = work.amendment.state()
    return Outcome(state, plan, tuple(settled[path] for path in sorted(settled)))


class _Settling:
    """One round."""

    def __init__(
        self, state: UpperState, base: BaseTree, objects: Objects, resolve: Resolve, label: bytes, now_ns: int
    ) -> None:
        self._base = BasePaths(base)
        state = with_aliases(UpperTree(state), self._base).state
        self.amendment = Amendment(state, self._base)
        self._objects = objects
        self._resolve = resolve
        self._sides = Sides(self._base, objects)
        self._label = label
        self._now_ns = now_ns or time.time_ns()
        self.settled: list[Settled] = []
        self.left: list[PathConflict] = []
        self._moved: dict[tuple[int, int], bytes] | None = None

    def settle(self, conflicts: Iterable[PathConflict]) -> None:
        """Do what can be done about each."""
        deletions: dict[Name | None, list[PathConflict]] = {}
        for conflict in conflicts:
            if conflict.kind is ConflictKind.MODIFIED_IN_BASE:
                deletions.setdefault(conflict.link, []).append(conflict)
            elif conflict.node and conflict.node not in self.amendment.entries:
                continue  # it went with another one; the next round tells
            elif (how := self._automatic(conflict) or self._chosen(conflict)) is not None:
                self.settled.append(Settled(conflict.path, how))
        for link, group in deletions.items():
            self._deletion(link, group)

    def _refuse(self, conflict: PathConflict, kind: ConflictKind | None = None, advice: str = "") -> None:
        self.left.append(replace(conflict, kind=kind or conflict.kind, advice=advice or conflict.advice))

    # -- what needs nobody

    def _automatic(self, conflict: PathConflict) -> str | None:
        entry = self.amendment.entries.get(conflict.node)
        if entry is None or conflict.link is None:
            return None
        if conflict.kind is ConflictKind.DELETED_IN_BASE and entry.origin is not None:
            return self._follow(conflict, entry, conflict.link)
        if conflict.kind is ConflictKind.BOTH_ADDED and entry.is_dir and entry.origin is None:
            now = self._base.stat(conflict.base) if conflict.base is not None else None
            if now is not None and stat.S_ISDIR(now.st_mode) and self.amendment.adopt_directory(conflict.link):
                return "combined"
        if conflict.kind in (ConflictKind.BOTH_MODIFIED, ConflictKind.BOTH_ADDED) and stat.S_ISREG(entry.mode):
            if _is_moved_over(conflict, entry):
                return None  # its ancestor is another file's
            return "merged" if self._merge_files(conflict, entry, conflict.link, marked=False) else None
        return None

    def _follow(self, conflict: PathConflict, entry: Entry, link: Name) -> str | None:
        """The base may have renamed it."""
        assert entry.origin is not None
        to = self._found_elsewhere(entry)
        if to is None:
            return None
        if self.amendment.base_path(link) == entry.origin.path:
            return "followed" if self.amendment.follow(entry.ino, link, to) else None
        wanted = self._resolve(conflict.path)
        if wanted is Resolution.THEIRS and self.amendment.rename_from(entry.ino, to):
            return wanted
        if wanted is Resolution.OURS and self.amendment.follow(entry.ino, link, to):
            return wanted
        advice = f"the base has it at {readable(to)}; choose a name with --ours (the base's) or --theirs (the run's)"
        self._refuse(conflict, ConflictKind.RENAMED_IN_BOTH, advice)
        return None

    def _found_elsewhere(self, entry: Entry) -> bytes | None:
        """Where in the base the origin of an entry is now, if it was only renamed."""
        assert entry.origin is not None
        if self._moved is None:
            self._moved = self._find_moved()
        identity = entry.origin.identity
        path = self._moved.get((identity.dev, identity.ino))
        st = self._base.stat(path) if path is not None else None
        if path is None or st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(identity.mode):
            return None
        if not stat.S_ISDIR(st.st_mode):
            return path if same_bytes(identity, Identity.of(st)) else None
        # The number of a deleted directory may be another one's by now: something in it must be the same, too.
        for inner in self.amendment.entries.values():
            if inner.origin is not None and inner.origin.path.startswith(entry.origin.path + b"/"):
                now = self._base.stat(path + inner.origin.path[len(entry.origin.path) :])
                if now is not None and same_bytes(inner.origin.identity, Identity.of(now)):
                    return path
        return None

    def _find_moved(self) -> dict[tuple[int, int], bytes]:
        """Where the origins that are gone from their places are now; one walk through the base."""
        wanted = {
            (entry.origin.identity.dev, entry.origin.identity.ino)
            for entry in self.amendment.entries.values()
            if entry.origin is not None and entry.origin.path and self._base.stat(entry.origin.path) is None
        }
        found: dict[tuple[int, int], bytes] = {}
        waiting, looked_at = [b""], 0
        while waiting and wanted and looked_at < _SEARCHED:
            above = waiting.pop()
            for name in self._base.list(above):
                path = join(above, name)
                st = self._base.stat(path)
                looked_at += 1
                if st is None or st.st_dev != self._base.tree.dev:
                    continue
                if (node := (st.st_dev, st.st_ino)) in wanted:
                    wanted.discard(node)
                    found[node] = path
                if stat.S_ISDIR(st.st_mode):
                    waiting.append(path)
        return found

    # -- two files

    def _merge_files(self, conflict: PathConflict, entry: Entry, link: Name, *, marked: bool) -> bool:
        """Put both sides' changes of a file together; with ``marked`` also where they meet."""
        st = self._base.stat(conflict.base) if conflict.base is not None else None
        if conflict.base is None or st is None or not stat.S_ISREG(st.st_mode):
            return False
        then = self._identity_then(entry, link)
        attrs = self._merged_attrs(entry, then, conflict.base, st, marked=marked)
        if attrs is None:
            return False
        now = Identity.of(st)
        if entry.origin is not None and then is not None:
            if entry.content is None:  # only the base wrote to it
                return self.amendment.renew(entry.ino, **attrs, size=st.st_size)
            if same_bytes(then, now) and self._sides.is_ancestor(entry, conflict.base):
                return self._renew_patched(entry, attrs)
        texts = self._texts(conflict.base, entry, then)
        if texts is None:
            return False
        ancestor, ours, theirs = texts
        merged = merge_texts(ancestor, ours, theirs, our_label=b"base", their_label=self._label)
        if not merged.clean and not marked:
            return False
        content = Content(len(merged.data), 0, self._extents(merged.data))
        kept = Ancestor(now, self._objects.put(ours) if ours else b"")
        self.amendment.renew(
            entry.ino, **attrs, content=content, size=len(merged.data), mtime_ns=self._now_ns, ancestor=kept,
            changed=int(entry.changed | Changed.DATA | Changed.ATTRS),
        )  # fmt: skip
        if entry.origin is None:
            self.amendment.hide_present(link)
        return True

    def _extents(self, data: bytes) -> tuple[Extent, ...]:
        return (Extent(0, len(data), self._objects.put(data), 0),) if data else ()

    def _identity_then(self, entry: Entry, link: Name) -> Identity | None:
        if entry.origin is not None:
            return entry.origin.identity
        hidden = self.amendment.hides.get(link[0], {}).get(link[1])
        return hidden.identity if hidden is not None else None

    def _renew_patched(self, entry: Entry, attrs: dict[str, object]) -> bool:
        """The base has the same bytes: a content that takes some of them from there still is what it was."""
        return self.amendment.renew(entry.ino, **attrs, content=entry.content)

    def _merged_attrs(
        self, entry: Entry, then: Identity | None, path: bytes, st: os.stat_result, *, marked: bool
    ) -> dict[str, object] | None:
        """Mode and owner of both; None when they are in conflict.  ``marked``: then the run's."""
        mode_now, owner_now = st.st_mode, (st.st_uid, st.st_gid)
        mode: int = entry.mode
        if mode != mode_now and then is not None:
            if mode == then.mode:
                mode = mode_now
            elif mode_now != then.mode and not marked:
                return None
        elif mode != mode_now and not marked:
            return None
        fields: dict[str, object] = {"mode": mode}
        if entry.origin is not None and (entry.uid, entry.gid) != owner_now:
            if not entry.changed & Changed.ATTRS:
                fields.update(uid=owner_now[0], gid=owner_now[1])
            elif not marked:
                return None  # nobody knows who of the two changed it
        if entry.origin is None and (entry.uid, entry.gid) != owner_now and not marked:
            return None  # a new file in the old one's place: all of its attributes are the run's
        if (entry.origin is None or entry.changed & Changed.XATTRS) and not marked:
            return fields if carried(entry.xattrs or {}) == carried(self._base.xattrs(path)) else None
        return fields

    def _texts(self, path: bytes, entry: Entry, then: Identity | None) -> tuple[bytes | None, bytes, bytes] | None:
        """Ancestor, the base's and the run's content, if they are texts."""
        ancestor: bytes | None = None
        if then is not None:
            kept = entry.ancestor
            if kept is not None and kept.identity == then:
                ancestor = self._objects.read(kept.object) if kept.object else b""
        try:
            with open_base(self._base, path) as ours, open_entry(entry, self._base, self._objects) as theirs:
                if max(ours.size, theirs.size) > TEXT_LIMIT:
                    return None
                both = ours.read(0, ours.size), theirs.read(0, theirs.size)
        except BaseChanged:
            return None
        return (ancestor, *both) if all(map(is_text, both)) else None

    # -- what somebody has chosen

    def _chosen(self, conflict: PathConflict) -> str | None:
        if any(each.path == conflict.path for each in self.left):
            return None
        wanted = self._resolve(conflict.path)
        if wanted is None or conflict.kind is ConflictKind.OTHER_FILESYSTEM:
            self._refuse(conflict)
            return None
        if wanted is Resolution.OURS:
            done = self._ours(conflict)
            advice = _MOVED_HERE
        elif wanted is Resolution.THEIRS:
            done = self._theirs(conflict)
            advice = "the run does not have all of it, and the base has it no more; choose --ours"
        else:
            done = self._marked(conflict)
            advice = "it cannot be written with markers; choose --ours or --theirs"
        if not done:
            self._refuse(conflict, advice=advice)
        return wanted if done else None

    def _ours(self, conflict: PathConflict) -> bool:
        entry = self.amendment.entries.get(conflict.node)
        if entry is None:
            return False
        if conflict.kind is ConflictKind.ATTRIBUTES:
            bits = entry.changed & ~(Changed.ATTRS | Changed.XATTRS)
            return self.amendment.renew(entry.ino, changed=int(bits))
        return entry.ino != ROOT_INO and self.amendment.drop(entry.ino)

    def _theirs(self, conflict: PathConflict) -> bool:
        entry = self.amendment.entries.get(conflict.node)
        if entry is None:
            return False
        is_own = entry.origin is not None and not _is_moved_over(conflict, entry)
        if is_own and conflict.kind in (ConflictKind.BOTH_MODIFIED, ConflictKind.ATTRIBUTES):
            return self.amendment.renew(entry.ino)
        if conflict.kind in (ConflictKind.DELETED_IN_BASE, ConflictKind.KIND) and not self.amendment.detach(entry.ino):
            return False
        for link in self.amendment.names_of(entry.ino):
            self.amendment.hide_present(link)
        return True

    def _marked(self, conflict: PathConflict) -> bool:
        entry = self.amendment.entries.get(conflict.node)
        if entry is None or conflict.link is None or not stat.S_ISREG(entry.mode) or _is_moved_over(conflict, entry):
            return False
        if conflict.kind not in (ConflictKind.BOTH_MODIFIED, ConflictKind.BOTH_ADDED):
            return False
        return self._merge_files(conflict, entry, conflict.link, marked=True)

    def _deletion(self, link: Name | None, group: list[PathConflict]) -> None:
        """What the run deleted under one name, or replaced by something else, and the base changed since."""
        wanted = {conflict.path: self._resolve(conflict.path) for conflict in group}
        unsettled = [each for each in group if wanted[each.path] not in (Resolution.OURS, Resolution.THEIRS)]
        ino = self.amendment.links.get(link[0], {}).get(link[1]) if link is not None else None
        if link is None or ino is None or unsettled:
            for conflict in unsettled or group:
                advice = "there is nothing to put markers around; choose --ours or --theirs"
                self._refuse(conflict, advice=advice if wanted[conflict.path] else "")
            return
        kept = {conflict.base or b"" for conflict in group if wanted[conflict.path] is Resolution.OURS}
        if kept and ino != WHITEOUT:
            if not self.amendment.drop(ino):
                for conflict in group:
                    self._refuse(conflict, advice=_MOVED_HERE)
                return
        elif self.amendment.base_path(link) in kept:
            self.amendment.forget(link)
        elif kept:
            self.amendment.open_deletion(link, kept)
        else:
            self.amendment.hide_present(link)
        self.settled += [Settled(conflict.path, str(wanted[conflict.path])) for conflict in group]


def _is_moved_over(conflict: PathConflict, entry: Entry) -> bool:
    """Whether the conflict is about what a file of the base was renamed over, and not about that file."""
    return entry.origin is not None and conflict.base is not None and conflict.base != entry.origin.path


def by_pattern(*, ours: Iterable[str] = (), theirs: Iterable[str] = (), markers: Iterable[str] = ()) -> Resolve:
    """A choice by patterns as in .gitignore, relative to the base; ``**`` is everything that no other pattern matches.

    It raises MergeError for a path that two of the three match.
    """
    from os import fsdecode

    from pathspec import GitIgnoreSpec

    given = {Resolution.OURS: list(ours), Resolution.THEIRS: list(theirs), Resolution.MARKERS: list(markers)}
    specs = {side: GitIgnoreSpec.from_lines([each for each in lines if each != "**"]) for side, lines in given.items()}
    general = [side for side, lines in given.items() if "**" in lines]

    def resolve(path: bytes) -> Resolution | None:
        matching = [side for side, spec in specs.items() if spec.match_file(fsdecode(path))] or general
        if len(matching) > 1:
            both = " and ".join(f"--{side}" for side in matching)
            raise MergeError(f"{readable(path)} is in conflict, and {both} are asked for there; nothing was changed")
        return matching[0] if matching else None

    return resolve
