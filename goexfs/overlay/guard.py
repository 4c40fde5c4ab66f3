"""What the policy of a run means for names and nodes.

Owns the decision for a name or a node, and the memory of it: which base inodes are hidden or masked under another
name, what stands in their place, and which errno a refusal has.  Knows no patterns (``goexfs.policy.matching``) and
changes no node.  Event-loop thread, except for the search that `WouldBlock` runs in another.

A rule holds for a path as it is now *and* as it was in the base, so moving a directory takes nobody out of a rule.  It
holds for an inode: whatever other names the base has for it, they are treated alike.

Refusals: what is hidden is not there (ENOENT), and nothing can be made in its place (EPERM: to succeed would replace
it at the merge, and EEXIST would say that it is there).  What is read-only or masked answers EROFS.  A name that must
not be deleted answers EPERM to its removal; it may be replaced by a rename, as programs do that save a file.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.given import Given
from goexfs.overlay.nodes import Dir, File, Node, new_node
from goexfs.overlay.records import path_of
from goexfs.policy.matching import FIXED, HIDDEN, MASKED, NO_DELETE, READ_ONLY, Matcher
from goexfs.policy.rules import Canary, Kind, Policy
from snapshots.layers.base import BaseDir

_STEP = 16  # more than any set of flags


class Concealed(FileNotFoundError):
    """The name is there and hidden: as good as not there, but nothing can take its place."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT))


def _refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Guard:
    """The rules of one run's policy over the base at *base*.

    *untouchable* are paths that not even the search for hard links may enter (the own mountpoint).
    """

    def __init__(self, policy: Policy, base: bytes, *, untouchable: frozenset[bytes] = frozenset()) -> None:
        self.matcher = Matcher(policy)
        self._may_match = self.matcher.may_match
        self._base = base
        self._untouchable = untouchable
        self._epoch = 0
        self._elsewhere: dict[tuple[int, int], tuple[int, bytes]] = {}
        """base inodes that rules match, with flags and path: another name of one is treated alike"""
        # A search of the whole system for other names of hidden files would take minutes: see docs/security.md.
        self._searched = not self.matcher.kinds or base == b"/"
        self._searching = threading.Lock()
        self._canaries: dict[bytes, dict[bytes, Canary]] = {}
        for canary in policy.canaries:
            above, _, name = canary.path.rpartition(b"/")
            self._canaries.setdefault(above, {})[name] = canary
        self._numbers: dict[bytes, int] = {}
        """inode numbers of canaries that the base has no file for"""

    # -- what is

    def admit(self, parent: Dir, name: bytes, st: os.stat_result) -> bool:
        """Whether a base inode found at a name is masked; raises `Concealed` for what the run must not see."""
        if self._canaries and self.canary_at(parent, name) is not None:
            return True
        is_dir = stat.S_ISDIR(st.st_mode)
        if self._may_match(name):
            flags = self.of_name(parent, name, is_dir=is_dir)
        else:
            flags = parent.ruling - self._epoch
            if flags < 0:
                flags = self.of(parent)
        if st.st_nlink > 1 and not is_dir and not flags & HIDDEN:
            if not self._searched:
                raise WouldBlock(self._search)
            flags |= self._elsewhere.get((st.st_dev, st.st_ino), (0, b""))[0]
        if flags & HIDDEN:
            raise Concealed
        return bool(flags & MASKED)

    def of_name(self, parent: Dir, name: bytes, *, is_dir: bool) -> int:
        """What holds for a name, whether or not it is there."""
        flags = self.of(parent) & ~HIDDEN
        if self._canaries and self.canary_at(parent, name) is not None:
            return flags | MASKED
        if not self._may_match(name):
            return flags
        path = path_of((parent, name))
        flags = self._at(path, flags, is_dir)
        if parent.base is not None:
            origin = _join(parent.base, name)
            if origin != path:
                flags |= self._at(origin, 0, is_dir)
        return flags

    def _at(self, path: bytes, inherited: int, is_dir: bool) -> int:
        """What holds for a path whose directory hands *inherited* down: an exception for the path itself counts."""
        for kind in self.matcher.kinds:
            finding = self.matcher.finding(kind, path, is_dir=is_dir)
            if finding is not None:
                flag = _FLAG[kind]
                inherited = inherited | flag if finding.holds else inherited & ~flag
        return inherited

    def of(self, node: Node) -> int:
        """What holds for a node: for any of its names, and for the place in the base that it came from."""
        if node.ruling >= self._epoch:
            return node.ruling - self._epoch
        flags = 0
        links = node.names()
        for parent, name in links:
            flags |= self.of_name(parent, name, is_dir=node.is_dir)
        if node.base_dir is not None and self._may_match(node.base_name):
            flags |= self._at(_join(node.base_dir, node.base_name), 0, node.is_dir)
        if self._elsewhere and node.dev and not node.is_dir:
            flags |= self._elsewhere.get((node.dev, node.base_ino), (0, b""))[0]
        node.ruling = self._epoch + flags
        return flags

    def mask(self, node: File, parent: Dir, name: bytes, st: os.stat_result) -> None:
        """Put something else in the place of a base file's content."""
        canary = self.canary_at(parent, name) if self._canaries else None
        if canary is not None:
            node.give(Given(canary.content, st.st_size, canary))
            return
        path = path_of((parent, name))
        known = self._elsewhere.get((st.st_dev, st.st_ino))
        if known is not None and known[0] & MASKED:
            path = known[1]
        elif parent.base is not None and not self.matcher.flags(path, is_dir=False) & MASKED:
            path = _join(parent.base, name)
        node.give(Given(self.matcher.placeholder(path), st.st_size))

    # -- canaries

    def canary_at(self, parent: Dir, name: bytes) -> Canary | None:
        """The canary of that name."""
        if parent.base is None or not self._canaries:
            return None
        names = self._canaries.get(parent.base.path)
        return None if names is None else names.get(name)

    def canary_names(self, directory: Dir) -> list[bytes]:
        """Names that a directory has although the base may not."""
        if directory.base is None or not self._canaries:
            return []
        return list(self._canaries.get(directory.base.path, ()))

    def hatch(self, parent: Dir, name: bytes, new_number: Callable[[], int]) -> File | None:
        """The file of a canary that the base has nothing for."""
        canary = self.canary_at(parent, name)
        if canary is None:
            return None
        ino = self._numbers.get(canary.path)
        if ino is None:
            ino = self._numbers[canary.path] = new_number()
        node = new_node(ino, stat.S_IFREG | 0o600)
        assert isinstance(node, File)
        node.uid, node.gid = parent.uid, parent.gid
        node.atime_ns = node.mtime_ns = node.ctime_ns = parent.mtime_ns
        node.give(Given(canary.content, 0, canary))
        return node

    # -- what may be done

    def allow_new(self, parent: Dir, name: bytes, *, is_dir: bool) -> int:
        """Raise unless something may be made at a name that is not there; what will hold for it."""
        flags = parent.ruling - self._epoch
        if flags < 0:
            flags = self.of(parent)
        if not self._may_match(name):
            if not flags:
                return self._epoch
        else:
            flags = self.of_name(parent, name, is_dir=is_dir)
        if flags:
            if flags & HIDDEN:
                raise _refuse(errno.EPERM)
            if flags & FIXED:
                raise _refuse(errno.EROFS)
        return self._epoch + flags

    def allow_change(self, node: Node) -> None:
        """Raise unless content and attributes may change."""
        if (node.ruling - self._epoch if node.ruling >= self._epoch else self.of(node)) & FIXED:
            raise _refuse(errno.EROFS)

    def allow_removal(self, parent: Dir, node: Node, *, replaced: bool = False) -> None:
        """Raise unless a name of a node may go; *replaced* when another node takes the name."""
        flags = self.of(node) | (self.of(parent) & FIXED)
        if flags & FIXED:
            raise _refuse(errno.EROFS)
        if flags & NO_DELETE and not replaced:
            raise _refuse(errno.EPERM)

    def allow_rename(self, node: Node, parent: Dir, name: bytes) -> None:
        """Raise unless a node may have this new name, and what is known below it the name that it gets with it.

        That would be hidden otherwise, while programs have it open and the kernel remembers its name.
        """
        self.allow_new(parent, name, is_dir=node.is_dir)
        if not node.is_dir or not self.matcher.depends_on_directories:
            return
        old = path_of(*node.names()[:1])
        new = path_of((parent, name))
        for path, child in _below(node, old):
            there = new + path[len(old) :]
            # (What a rule for a directory above it hides is asked about there.)
            if self._may_match(there.rpartition(b"/")[2]) and self.matcher.flags(there, is_dir=child.is_dir) & HIDDEN:
                raise _refuse(errno.EPERM)

    def moved(self, node: Node) -> None:
        """A node has other names now."""
        if node.is_dir:
            self._epoch += _STEP
        else:
            node.ruling = -1

    def holds_back(self, directory: Dir) -> bool:
        """Whether a directory that seems to be empty is not: it has a canary.  (Hidden names count as names.)"""
        return bool(self._canaries and self.canary_names(directory))

    # -- other names of one inode

    def base_changed(self, path: bytes, st: os.stat_result | None) -> None:
        """The base has something new at a path."""
        if st is not None:
            self._note(path, st)

    def concerns(self, name: bytes) -> bool:
        """Whether some rule may match a path with this last name."""
        return self._may_match(name)

    def _note(self, path: bytes, st: os.stat_result) -> None:
        flags = self.matcher.flags(path, is_dir=False)
        if flags & (HIDDEN | FIXED) and not stat.S_ISDIR(st.st_mode):
            before = self._elsewhere.get((st.st_dev, st.st_ino), (0, path))
            self._elsewhere[st.st_dev, st.st_ino] = before[0] | flags & (HIDDEN | FIXED), path

    def _search(self) -> None:
        """Find every name in the base that a rule matches: asked for when the first hard link turns up."""
        with self._searching:
            if self._searched:
                return
            for path, st in self._matching():
                self._note(path, st)
            self._epoch += _STEP  # what was decided before did not know of them
            self._searched = True

    def _matching(self) -> Iterator[tuple[bytes, os.stat_result]]:
        top = os.fsencode(self._base)
        inside: set[bytes] = set()
        for directory, dirs, files, fd in os.fwalk(top, follow_symlinks=False):
            above = directory[len(top) :].strip(b"/")
            dirs[:] = [name for name in dirs if (above + b"/" + name).lstrip(b"/") not in self._untouchable]
            whole = above in inside
            for name in dirs:
                path = (above + b"/" + name).lstrip(b"/")
                if whole or (self._may_match(name) and self.matcher.flags(path, is_dir=True)):
                    inside.add(path)
            for name in files:
                if whole or self._may_match(name):
                    try:
                        yield (above + b"/" + name).lstrip(b"/"), os.lstat(name, dir_fd=fd)
                    except OSError:
                        continue


_FLAG = {Kind.HIDE: HIDDEN, Kind.MASK: MASKED, Kind.READ_ONLY: READ_ONLY, Kind.NO_DELETE: NO_DELETE}


def _join(directory: BaseDir, name: bytes) -> bytes:
    above = directory.path
    return above + b"/" + name if above else name


def _below(top: Node, path: bytes) -> Iterator[tuple[bytes, Node]]:
    waiting = [(path, top)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        if isinstance(node, Dir):
            waiting += [(path + b"/" + n, c) for n, c in node.children.items() if isinstance(c, Node)]
