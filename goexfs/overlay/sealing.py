"""From memory and spool to the store: collect, store, finish.

Owns the hand-over between the event loop and the sealing thread.  `Sealing.collect` and `Sealing.finish` run on the
event loop's thread and cost what is dirty; `store_batch` runs in a worker thread with a `snapshots.Store` of its own,
does all hashing and writing, and touches nothing that the loop may change: contents are frozen when they are
collected, and a later write makes a successor.  One batch is under way at a time.
"""

import os
from typing import NamedTuple

import msgspec

from goexfs.overlay import ancestors
from goexfs.overlay.ancestors import Wanted, wanted
from goexfs.overlay.changes import link_of
from goexfs.overlay.content import FrozenInline, FrozenSpool, Inline, Sealed, Spool
from goexfs.overlay.nodes import Dir, File, Node
from goexfs.overlay.objectcache import ObjectCache
from goexfs.overlay.records import entry_of
from goexfs.overlay.view import View
from snapshots.entries import Ancestor, Checkpoint, Content, Entry, Extent, Link
from snapshots.storage.extents import layered
from snapshots.storage.store import Store


class Job(NamedTuple):
    """One content to be stored for one entry."""

    ino: int
    frozen: FrozenInline | FrozenSpool


class Batch(NamedTuple):
    """Everything that changed up to one moment."""

    entries: list[Entry]
    """without the contents of *jobs*"""
    jobs: list[Job]
    gone: list[int]
    links: list[Link]
    unlinked: list[tuple[int, bytes]]
    next_ino: int
    nodes: dict[int, Node]
    changed_links: set[tuple[Dir, bytes]]
    journal: int
    """number of the first journal record that is not in it"""
    hold: frozenset[bytes]
    """objects that no entry names and open files still read: of files without a name"""
    wanted: list[Wanted]
    """base files whose contents are to be kept too"""
    base_fd: int
    """of the base's root, borrowed from the overlay; -1 when nothing is wanted of it"""
    ancestors: dict[int, Ancestor]
    """by inode number; filled when the batch is stored"""


class Sealing:
    """Collects dirty nodes of one view and takes back what was stored."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self, journal: int = 0) -> Batch | None:
        """Freeze all that is dirty; None when nothing is.  *journal*: number of the first record not in it."""
        changes = self._view.changes
        if not changes:
            return None
        nodes, changed_links = changes.take()
        entries: list[Entry] = []
        jobs: list[Job] = []
        gone: list[int] = []
        for node in nodes.values():
            if node is not self._view.root and not (node.nlink and node.kept):  # gone, or the base's again (a rewind)
                if node.stored:
                    gone.append(node.ino)
                    node.stored = False
                continue
            entries.append(self._entry(node, jobs))
        links: list[Link] = []
        unlinked: list[tuple[int, bytes]] = []
        for directory, name in changed_links:
            link = link_of(directory, name)
            if link is None:
                unlinked.append((directory.ino, name))
            else:
                links.append(link)
        files = (nodes[entry.ino] for entry in entries)
        needed = [each for node in files if isinstance(node, File) and (each := wanted(node)) is not None]
        base_fd = self._base_fd() if needed else -1
        if base_fd < 0:
            needed = []
        return Batch(
            entries, jobs, gone, links, unlinked, self._view.next_ino, nodes, changed_links, journal, self._held(),
            needed, base_fd, {},
        )  # fmt: skip

    def _base_fd(self) -> int:
        try:
            return self._view.base.fd(self._view.base.root)
        except OSError:
            return -1  # what was taken out of the overlay must not be lost for what makes a merge more convenient

    def _held(self) -> frozenset[bytes]:
        held: set[bytes] = set()
        for node in self._view.orphans:
            content = node.content.source if isinstance(node.content, FrozenSpool) else node.content
            if isinstance(content, Sealed):
                held |= content.record.objects
        return frozenset(held)

    def _entry(self, node: Node, jobs: list[Job]) -> Entry:
        content: Content | None = None
        if isinstance(node, File) and node.content is not None:
            if isinstance(node.content, Inline):
                self._view.changes.inline_bytes -= node.content.size
                node.content = node.content.freeze()
            elif isinstance(node.content, Spool):
                node.content = node.content.freeze()
            if isinstance(node.content, FrozenSpool):
                node.content.given_back = False
            if isinstance(node.content, FrozenInline | FrozenSpool):
                jobs.append(Job(node.ino, node.content))
            elif isinstance(node.content, Sealed):
                content = node.content.record
        return entry_of(node, content)

    def finish(self, batch: Batch, stored: dict[int, Content]) -> None:
        """The batch is in the store:

        contents that were not written meanwhile are sealed, the others stand on sealed sources.
        """
        for job in batch.jobs:
            node = batch.nodes[job.ino]
            if isinstance(node, File):
                self._sealed(node, job.frozen, stored[job.ino])
        for entry in batch.entries:
            batch.nodes[entry.ino].stored = True
        for ino, ancestor in batch.ancestors.items():
            node = batch.nodes[ino]
            if isinstance(node, File):
                node.ancestor = ancestor

    def _sealed(self, node: File, frozen: FrozenInline | FrozenSpool, record: Content) -> None:
        base = node.base_file if record.base_limit else None
        objects = self._view.objects
        if isinstance(objects, ObjectCache):
            for name in record.objects:
                objects.sealed(name, frozen.data if isinstance(frozen, FrozenInline) else None)
        sealed = Sealed(record, objects, base)
        if node.content is frozen:
            node.content = sealed
            if not record.base_limit:
                self._view.trust_no_longer(node)
        elif isinstance(node.content, Spool) and node.content.source is frozen:
            node.content.source = sealed
        if isinstance(frozen, FrozenSpool):
            frozen.discard()

    def give_back(self, batch: Batch) -> None:
        """The batch could not be stored (no room, say): all of it stays dirty."""
        self._view.changes.give_back(batch.nodes, batch.changed_links)
        for ino, frozen in batch.jobs:
            if isinstance(frozen, FrozenSpool):
                # It stays frozen: the store may have taken the file for an object before it failed.
                node = batch.nodes[ino]
                content = node.content if isinstance(node, File) else None
                if content is frozen or (isinstance(content, Spool) and content.source is frozen):
                    frozen.given_back = True
                else:
                    frozen.discard()
        for ino in batch.gone:
            batch.nodes[ino].stored = True


def store_batch(batch: Batch, store: Store, run_id: str) -> dict[int, Content]:
    """Store a batch: objects first, then one checkpoint that names them.  Answers the contents by inode number.

    For the sealing thread.  Raises `snapshots.errors.StoreFull` and other store errors; then nothing of the batch is
    visible.
    """
    stored: dict[int, Content] = {}
    small = [
        (job.ino, job.frozen.data) for job in batch.jobs if isinstance(job.frozen, FrozenInline) and job.frozen.data
    ]
    found = list(ancestors.read(batch.base_fd, batch.wanted).items()) if batch.wanted else []
    names = store.objects.put_many([data for _, data in small])
    kept = iter(store.objects.put_many([data for _, data in found if data]))
    identities = {each.ino: each.identity for each in batch.wanted}
    batch.ancestors.update((ino, Ancestor(identities[ino], next(kept) if data else b"")) for ino, data in found)
    for (ino, data), name in zip(small, names, strict=True):
        stored[ino] = Content(len(data), 0, (Extent(0, len(data), name, 0),))
    for job in batch.jobs:
        if isinstance(job.frozen, FrozenSpool):
            stored[job.ino] = _store_spool(job.frozen, store)
        elif not job.frozen.data:
            stored[job.ino] = Content(0, 0, ())
    entries = [
        msgspec.structs.replace(
            entry,
            content=stored.get(entry.ino, entry.content),
            ancestor=batch.ancestors.get(entry.ino, entry.ancestor),
        )
        for entry in batch.entries
    ]
    store.upper(run_id).commit(
        Checkpoint(
            tuple(entries), tuple(batch.gone), tuple(batch.links), tuple(batch.unlinked), batch.next_ino, batch.journal
        ),
        hold=batch.hold,
    )
    return stored


def _store_spool(frozen: FrozenSpool, store: Store) -> Content:
    below: Content | None = None
    if isinstance(frozen.source, Sealed):
        below = frozen.source.record
    elif isinstance(frozen.source, FrozenSpool):  # an earlier batch failed
        below = _store_spool(frozen.source, store)
    ranges = [(start, end - start) for start, end in frozen.ranges]
    if ranges == [(0, frozen.size)]:
        # The loop goes on reading the file under its own name until the batch is finished.
        name = store.objects.put_file(frozen.path, keep=True)
        return Content(frozen.size, 0, (Extent(0, frozen.size, name, 0),))
    fd = os.open(frozen.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        limit = 0 if frozen.source is None else frozen.source_limit
        return layered(frozen.size, limit, frozen.ranges, store.objects.put_ranges(fd, ranges), below)
    finally:
        os.close(fd)
