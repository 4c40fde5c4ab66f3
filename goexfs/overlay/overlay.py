"""The overlay as its callers see it: one object with every operation.

Owns the composition and the few operations that need two of its parts.  Everything is synchronous, belongs to one
thread, takes and gives nodes (never paths), and raises `OSError` with the errno that the kernel is to see, or
`WouldBlock`.
"""

from collections.abc import Callable
from pathlib import Path

from goexfs.overlay.attributes import Attributes
from goexfs.overlay.changes import Journal
from goexfs.overlay.clock import KernelClock
from goexfs.overlay.content import FrozenSpool, ObjectReader, Spool
from goexfs.overlay.files import Files, Handle
from goexfs.overlay.guard import Guard
from goexfs.overlay.listing import Listings
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.meter import Meter
from goexfs.overlay.names import Names
from goexfs.overlay.nodes import File, Node
from goexfs.overlay.outside import Outside
from goexfs.overlay.rescue import Rescue
from goexfs.overlay.restore import restore
from goexfs.overlay.rewind import Rewinding
from goexfs.overlay.sealing import Sealing
from goexfs.overlay.slowbase import SlowBaseTree
from goexfs.overlay.view import View
from snapshots.entries import UpperState
from snapshots.layers.base import BaseTree


class Overlay:
    """The merged view of *base* and an upper that starts as *state*.

    *objects* reads sealed contents, *spool* is a directory for large dirty ones, *hidden* are paths below the base
    that the run must neither see nor touch, *guard* and *meter* hold what the policy says, *now_ns* is another clock
    than the kernel's.
    """

    def __init__(
        self,
        base: BaseTree,
        state: UpperState,
        objects: ObjectReader,
        spool: Path,
        *,
        hidden: frozenset[bytes] = frozenset(),
        guard: Guard | None = None,
        meter: Meter | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        clock = KernelClock()
        now_ns = now_ns or clock
        self.stamped_by_kernel = clock.saw
        self.view = view = View(base, objects, spool, hidden=hidden, next_ino=state.next_ino, guard=guard)
        restore(view, state)
        self.meter = view.meter = meter
        if meter is not None:
            meter.recount(view.nodes.values(), view.root)
        if isinstance(base, SlowBaseTree | LocalBaseTree):
            base.waiting = view.working.waiting = False  # from now on there is an event loop
        self.root = view.root
        self.nodes = view.nodes
        names = Names(view, now_ns)
        self._files = files = Files(view, now_ns)
        attributes = Attributes(view, files, now_ns)
        listings = Listings(view)
        sealing = Sealing(view)
        self.rescue = rescue = Rescue(view, files, now_ns)
        outside = Outside(view, rescue, now_ns)
        rewinding = Rewinding(view)
        # Bound once: a request reaches its operation without a frame in between.
        self.lookup = view.lookup
        self.remember = view.remember
        self.forget = view.forget
        self.refresh = view.refresh
        self.mknod = names.mknod
        self.mkdir = names.mkdir
        self.symlink = names.symlink
        self.link = names.link
        self.unlink = names.unlink
        self.rmdir = names.rmdir
        self.rename = names.rename
        self.open = files.open
        self.read = files.read
        self.write = files.write
        self.release = files.release
        self.kill_privileges = files.kill_privileges
        self.setattr = attributes.setattr
        self.readlink = attributes.readlink
        self.getxattr = attributes.getxattr
        self.listxattr = attributes.listxattr
        self.setxattr = attributes.setxattr
        self.removexattr = attributes.removexattr
        self.statvfs = attributes.statvfs
        self.opendir = listings.opendir
        self.readdir = listings.readdir
        self.releasedir = listings.releasedir
        self.fetching = listings.fetching
        self.collect = sealing.collect
        self.finish = sealing.finish
        self.give_back = sealing.give_back
        self.base_changed = outside.base_changed
        self.in_memory = outside.in_memory
        self.everything_in_memory = outside.everything_in_memory
        self.everything_changed = outside.everything_changed
        self.prepare_rewind = rewinding.prepare
        self.rewind = rewinding.apply

    @property
    def base_watched(self) -> bool:
        """Whether changes of the base are reported; if not, lookups of unchanged nodes ask the base again."""
        return self.view.base_watched

    @base_watched.setter
    def base_watched(self, watched: bool) -> None:
        self.view.base_watched = watched

    @property
    def next_ino(self) -> int:
        """The first inode number that no node of this run ever had."""
        return self.view.next_ino

    @property
    def dirty(self) -> bool:
        """Whether something is not in the store yet."""
        return bool(self.view.changes)

    @property
    def dirty_bytes(self) -> int:
        """Dirty contents held in memory, in bytes."""
        return self.view.changes.inline_bytes

    @property
    def is_writing_large(self) -> bool:
        """Whether a large file is still being written: one that is sealed in the middle becomes several objects."""
        dirty = self.view.changes.nodes.values()
        return any(isinstance(node, File) and node.writers and isinstance(node.content, Spool) for node in dirty)

    @property
    def last_change_ns(self) -> int:
        """When the run last changed something (since the mount); 0 when it has not."""
        return self.view.changes.last_ns

    @property
    def change_count(self) -> int:
        """How many changes there were since the mount."""
        return self.view.changes.count

    def record_in(self, journal: Journal) -> None:
        """From now on, tell *journal* of every change before it is acknowledged."""
        self.view.changes.journal = journal

    def on_behalf_of(self, process: int) -> None:
        """The next changes are due to this process (its number in the journal);

        a write, to the one that opened the file.
        """
        self.view.changes.process = process

    def create(
        self, parent: Node, name: bytes, mode: int, flags: int, uid: int, gid: int, *, umask: int = 0
    ) -> tuple[Node, Handle]:
        """Create a regular file and open it; EEXIST when there is one (the kernel has looked before it asks)."""
        meter = self.meter
        if meter is not None and meter.open_files >= meter.most_open_files:
            meter.check("open_files")
        node = self.mknod(parent, name, mode, 0, uid, gid, umask=umask)
        assert isinstance(node, File)
        return node, self._files.opened(node, flags)

    def spool_to_sync(self, handle: Handle) -> int | None:
        """For fsync of a large dirty file:

        a descriptor to sync and close in a worker thread; None when the content is in memory.
        """
        content = handle.node.content
        if isinstance(content, Spool):
            return content.sync()
        return None

    def close(self) -> None:
        """Close every descriptor.  What is still dirty and not collected is lost."""
        for node in self.nodes.values():
            if isinstance(node, File):
                if isinstance(node.content, FrozenSpool):
                    node.content.close()
                if node.base_file is not None:
                    node.base_file.close()
        self.view.pool.close()
        self.view.working.close()
