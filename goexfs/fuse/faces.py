"""What the kernel is told of a node, and for how long it may believe it.

Owns the replies about nodes, the validity they carry, and the memory of names that the kernel believes to be missing.
A reply is made anew for every request: that takes 0.7 us, and one kept ready in every node would be 200 bytes of which
most are never asked for again.

Threading: the event loop's thread.
"""

from collections.abc import Callable, Iterable

from pyfuse3 import EntryAttributes

from goexfs.overlay import Dir, Invalidation, Node, Overlay

FOR_EVER = 10 * 24 * 3600.0
"""validity of what the kernel was told, in seconds, while changes of the base are reported"""
UNWATCHED = 0.9
"""the same while they are not: a change from outside shows within a second, also just before the watch is armed"""
MISSING_LIMIT = 32_768
"""names in base directories that the kernel may remember as missing"""


class Faces:
    """The replies about the nodes of one overlay."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self.watched = False
        """whether changes of the base are reported"""
        self._validity = UNWATCHED
        self._missing: dict[tuple[int, bytes], None] = {}
        """what the kernel may remember as missing for long: a name that appears unreported must be found again"""
        self.stale: Callable[[Iterable[Invalidation]], None] = lambda stale: None
        """to be set: takes what the kernel is to forget"""
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = UNWATCHED

    def watch(self, watched: bool) -> None:
        """The base is watched from now on, or no more."""
        self._overlay.base_watched = self.watched = watched
        self._validity = self._absent.entry_timeout = FOR_EVER if watched else UNWATCHED

    def of(self, node: Node) -> EntryAttributes:
        """The reply about a node."""
        face = EntryAttributes()
        face.st_ino = node.ino
        face.st_mode = node.mode
        face.st_nlink = node.nlink
        face.st_uid = node.uid
        face.st_gid = node.gid
        face.st_rdev = node.rdev
        face.st_size = node.size
        face.st_blocks = node.blocks
        face.st_atime_ns = node.atime_ns
        face.st_mtime_ns = node.mtime_ns
        face.st_ctime_ns = node.ctime_ns
        # What the run made itself cannot change behind its back.
        face.entry_timeout = face.attr_timeout = self._validity if node.base_dir is not None else FOR_EVER
        return face

    def told(self, node: Node) -> EntryAttributes:
        """The reply of a request that lets the kernel know *node* by one more lookup."""
        self._overlay.remember(node)
        return self.of(node)

    def missing(self, directory: Node, name: bytes) -> EntryAttributes:
        """The reply that there is no such name, which the kernel remembers (an ENOENT it would not)."""
        if self.watched and isinstance(directory, Dir) and directory.base is not None:
            self._missing[directory.ino, name] = None
            if len(self._missing) > MISSING_LIMIT:
                oldest = next(iter(self._missing))
                del self._missing[oldest]
                self.stale([Invalidation(*oldest)])
        return self._absent

    def forget_missing(self) -> list[Invalidation]:
        """Everything that the kernel may remember as missing, to be looked up again."""
        missing = [Invalidation(*one) for one in self._missing]
        self._missing.clear()
        return missing
