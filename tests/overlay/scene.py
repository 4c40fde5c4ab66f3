"""A real base and store with an overlay over them, for tests of one behaviour at a time."""

import os
from collections.abc import Callable
from pathlib import Path

from goexfs.overlay import Invalidation, Node, Overlay, store_batch
from goexfs.overlay.guard import Guard
from goexfs.overlay.meter import Meter
from goexfs.policy.rules import Policy
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store
from tests.support.vfs import Mount


class Scene:
    """An overlay over the directory ``base`` below *area*, which is made if need be, and a kernel that asks it."""

    def __init__(
        self,
        area: Path,
        store: Store,
        *,
        watched: bool = True,
        tree: Callable[[bytes], BaseTree] = BaseTree,
        hidden: frozenset[bytes] = frozenset(),
        policy: Policy | None = None,
        meter: Callable[[], Meter | None] = lambda: None,
    ) -> None:
        self.base = area / "base"
        self.base.mkdir(exist_ok=True)
        self.store = store
        self.run = store.runs.create(base=os.fsencode(self.base), name=None, command=(), options={}).id
        self.spool = store.runs.directory(self.run) / "spool"
        self._make_tree, self._watched, self._hidden = tree, watched, hidden
        self._policy, self._meter = policy, meter
        self.reopen()

    def reopen(self) -> None:
        """Mount what is in the store."""
        self.tree = self._make_tree(os.fsencode(self.base))
        state = self.store.upper(self.run).load()
        guard = None if self._policy is None else Guard(self._policy, os.fsencode(self.base), untouchable=self._hidden)
        self.overlay = Overlay(
            self.tree, state, self.store.objects, self.spool, hidden=self._hidden, guard=guard, meter=self._meter(),
        )
        self.mount = Mount(self.overlay, watched=self._watched)

    def close(self) -> None:
        """Close everything; what is not stored is lost."""
        self.overlay.close()
        self.tree.close()

    def seal(self) -> None:
        """Store everything."""
        while (batch := self.overlay.collect()) is not None:
            self.overlay.finish(batch, store_batch(batch, self.store, self.run))

    def remount(self) -> None:
        """Store everything, and mount what is in the store."""
        self.seal()
        self.close()
        self.reopen()

    def node(self, path: bytes) -> Node:
        """The node of a path."""
        return self.mount.stat(path, follow=False)

    def read(self, path: bytes) -> bytes:
        """A whole file."""
        file = self.mount.open(path, os.O_RDONLY, 0)
        try:
            return self.mount.read(file, 0, 1 << 30)
        finally:
            self.mount.close(file)

    def write(self, path: bytes, offset: int, data: bytes) -> None:
        """Into a file, which is made if need be."""
        file = self.mount.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.mount.write(file, offset, data)
        self.mount.close(file)

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, in the order in which they are listed."""
        file = self.mount.open(path, os.O_RDONLY | os.O_DIRECTORY, 0)
        names, _ = self.mount.readdir(file, 0, 1 << 60)
        self.mount.close(file)
        return names

    def tell(self, *paths: bytes) -> list[Invalidation]:
        """The base changed at *paths*: the report, and what the kernel does then."""
        stale = [one for path in paths for one in self.overlay.base_changed(path)]
        for one in stale:
            if one.name is not None:
                self.mount.invalidate(one.ino, one.name)
        self.mount.rescue()
        return stale
