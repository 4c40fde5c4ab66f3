"""How much a run uses of what it has a limit for.

Owns the counts: bytes that it holds, files that it made, names of the base that it deleted, and files that it has open;
and how much more the store has room for, which it is told.
They are counted from the state when a run is mounted, so a limit survives a remount.  Says when an operation would go
over a limit; what becomes of the operation then is decided by whoever catches `OverLimit`.  Event-loop thread only.

What counts: the bytes of the objects and working files that hold what the run wrote (a copy-up of a small file holds
all of it); files and directories that are the run's own; names of the base that are gone (one that comes back, as when
a program saves by deleting and creating, is gone no more).
"""

import errno
import os
from collections.abc import Iterable, Mapping

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.content import COPY_WHOLE_LIMIT, FrozenInline, FrozenSpool, Inline, Sealed, Spool
from goexfs.overlay.nodes import Dir, File, Node, Whiteout
from goexfs.policy.files import BUILT_IN
from goexfs.policy.rules import LIMITS, Limit, Policy
from snapshots.entries import INLINE_LIMIT

STORE = "store"
"""not a limit of the run's own, but of the store that it is in"""
ERRNO = {
    "bytes": errno.EDQUOT, "files": errno.EDQUOT, "deletions": errno.EPERM, "open_files": errno.ENFILE,
    STORE: errno.ENOSPC,
}  # fmt: skip


class OverLimit(WouldBlock):
    """The operation would go over a limit whose answer is not a plain refusal.

    Whoever knows nobody to ask calls ``prepare``, which refuses.
    """

    def __init__(self, name: str, more: int = 1) -> None:
        super().__init__(self._refuse)
        self.name = name
        self.more = more
        """how much it needs"""

    def _refuse(self) -> None:
        raise refusal(self.name)


def refusal(name: str) -> OSError:
    """How an operation fails that goes over a limit."""
    return OSError(ERRNO[name], os.strerror(ERRNO[name]))


_NO_LIMIT = 1 << 62


class Meter:
    """The counts and limits of one run.

    The counts are plain attributes, which the operations change and compare themselves: these are on the way of every
    request.
    """

    __slots__ = (
        "_gone", "_limits", "_until", "bytes", "counts_names", "deletions", "files", "most_bytes", "most_files",
        "most_open_files", "open_files", "strict",
    )  # fmt: skip

    def __init__(self, policy: Policy, deleted: Iterable[bytes] = ()) -> None:
        """*deleted* are the paths of the base that the run has deleted before."""
        self.bytes = 0
        """held for the run"""
        self.files = 0
        """and directories that are its own"""
        self.open_files = 0
        self.most_bytes = self.most_files = self.most_open_files = self._until = _NO_LIMIT
        self.strict = False
        """whether somebody cares for the limit of bytes: then every write has to be seen before it is acknowledged"""
        self._limits: dict[str, Limit] = {}
        for name in LIMITS:
            found = policy.limit(name)
            if found is not None:
                self.set_limit(name, found[0])
                self.strict |= name == "bytes" and found[1].name != BUILT_IN
        self._gone = set(deleted)
        self.counts_names = "deletions" in self._limits
        """whether it wants to be told of names that go and come"""

    @property
    def limits(self) -> Mapping[str, Limit]:
        """By name."""
        return self._limits

    def set_limit(self, name: str, limit: Limit) -> None:
        """From now on this one holds."""
        self._limits[name] = limit
        if name == "bytes":
            self.most_bytes = min(limit.most, self._until)
        elif name != "deletions":
            setattr(self, f"most_{name}", limit.most)

    @property
    def room(self) -> int:
        """How many more bytes the store has room for, as far as is known."""
        return max(self._until - self.bytes, 0)

    def changed(self, bytes_: int) -> None:
        """So many bytes more are held, or less: what is given back the store still has, as a former version."""
        self.bytes += bytes_
        if bytes_ < 0 and self._until < _NO_LIMIT:
            self.set_room(self._until - self.bytes + bytes_)

    def set_room(self, room: int) -> None:
        """The store has room for this many bytes more."""
        self._until = self.bytes + room
        limit = self._limits.get("bytes")
        self.most_bytes = self._until if limit is None else min(limit.most, self._until)

    def used(self, name: str) -> int:
        """How much there is of something."""
        count: int = len(self._gone) if name == "deletions" else getattr(self, name)
        return count

    def check(self, name: str, more: int = 1) -> None:
        """Raise when this much more would be too much."""
        limit = self._limits.get(name)
        if limit is not None and more > 0 and self.used(name) + more > limit.most:
            raise refusal(name) if limit.then == "deny" else OverLimit(name)
        if name == "bytes" and more > 0 and self.bytes + more > self._until:
            raise OverLimit(STORE, more)

    def check_new(self) -> None:
        """Raise when one more file would be too much, or has no room for a content.

        (What will be written to it could not be refused any more once the kernel has it.)
        """
        self.check("files")
        self.check("bytes")

    # -- counting

    def check_deletion(self, node: Node) -> None:
        """Raise when one more name of the base would be too much."""
        if self.counts_names and node.base_dir is not None:
            self.check("deletions")

    def deleted(self, path: bytes) -> None:
        """A name of the base is gone."""
        self._gone.add(path)

    def came_back(self, path: bytes) -> None:
        """There is something at a name again."""
        self._gone.discard(path)

    def growth(self, node: File, start: int, end: int) -> int:
        """How many more bytes are held when these are written; raises when that would be too much."""
        content = node.content
        if isinstance(content, Inline):
            more = end - len(content.buffer) - _gap(len(content.buffer), start, end)
        elif isinstance(content, Spool):
            more = sum(stop - at for at, stop, inside in content.ranges.pieces(start, end) if not inside)
        elif node.size <= COPY_WHOLE_LIMIT:
            more = max(end, node.size) - held(content) - _gap(node.size, start, end)
        else:
            more = end - start
        if more <= 0:
            return 0
        if self.bytes + more > self.most_bytes:
            self.check("bytes", more)
        return more

    def recount(self, nodes: Iterable[Node], root: Dir) -> None:
        """Count everything again that the nodes tell."""
        room = self._until - self.bytes
        self.bytes = self.files = 0
        for node in nodes:
            if node.kept and node.base_dir is None and node.nlink:
                self.files += 1
            if isinstance(node, File):
                self.bytes += held(node.content)
        if self._until < _NO_LIMIT:
            self.set_room(room)
        self._gone = {path for path in self._gone if _is_gone(root, path)}


def _gap(size: int, start: int, end: int) -> int:
    """What nobody writes between the end of a small file and the beginning of a write that makes it a large one.

    (The kernel writes back in any order.)
    """
    return max(start - size, 0) if end > INLINE_LIMIT else 0


def held(content: object) -> int:
    """The bytes of the run's own that a content holds."""
    if isinstance(content, Inline | FrozenInline):
        return content.size
    if isinstance(content, Sealed):
        return content.held
    if isinstance(content, FrozenSpool):
        return content.ranges.total + held(content.source)
    return 0


def _is_gone(root: Dir, path: bytes) -> bool:
    at: Node = root
    for name in path.split(b"/"):
        child = at.children.get(name) if isinstance(at, Dir) else None
        if isinstance(child, Whiteout):
            return True
        if not isinstance(child, Node):
            return isinstance(at, Dir) and at.base is None  # an unlisted name of what shows the base is there
        at = child
    return False
