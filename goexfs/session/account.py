"""What a run did, and which of its processes did it.

Owns what these questions mean for a run in each state: of a mounted run the answer is what has been acknowledged so
far, and a crashed one need not be recovered for them.  The library below does the work (``snapshots.history.log``,
``snapshots.history.logbook``).  Belongs to the thread of its store.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from snapshots.history.journal import Process
    from snapshots.history.log import Author, Log, ReadEvent
    from snapshots.review.changes import Change, Side

POLL_SECONDS = 0.2
MOST_READ = 32 << 20
"""Bytes of a journal that are read to find what was copied."""


class Account:
    """The questions of a ``RunHandle``, which has the rest, about what happened."""

    id: str
    _store: Store
    record: Run
    state: object
    position: "Callable[[str | None], int]"

    def log(self, *, inherited: bool = False, at: str | None = None) -> "Log":
        """Everything the run did, in order, as far as it is kept; with ``inherited`` also what a fork's parents did
        before it, and with ``at`` only up to that point.  Raises ``RunState`` for a run that is over.
        """
        from snapshots.history.logbook import read

        log = read(self._store, self.id, inherited=inherited)
        return log if at is None else log.until(self.position(at))

    def logs(self, *, at: str | None = None) -> "list[Log]":
        """The log of each base of the run."""
        return [self.log(at=at)]

    def follow(self) -> "Iterator[Log]":
        """What the run does from now on, in pieces, each with the processes known so far; ends when it is unmounted."""
        news = self.news()
        while True:
            active = self.state == "active"
            if (piece := news()).events:
                yield piece
            if not active:
                return
            time.sleep(POLL_SECONDS)

    def news(self) -> "Callable[[], Log]":
        """What tells, whenever it is called, what the run did since the last time, with the processes known so far."""
        from snapshots.history.log import Log
        from snapshots.history.logbook import Follower

        known = self.log()
        last = max((event.last for event in known.events), default=0)
        follower = Follower(self._store, self.id)
        follower.begin(last + 1)

        def more() -> Log:
            piece = Log()
            piece.processes = known.processes
            follower.more(piece.add)
            return piece

        return more

    def blame(self, path: bytes, *, at: str | None = None) -> "Author | None":
        """Who wrote a path (relative to the base) last (before the point ``at``): process, parents and event; None when
        nothing is known of it.

        Renames and hard links are followed, and a fork knows what its parents did.
        """
        from snapshots.history.log import blame

        return blame(self.log(inherited=True, at=at), path.strip(b"/"))

    def reads(self, *, at: str | None = None) -> "list[ReadEvent]":
        """Which base files the run read (before the point ``at``), each with its identity then, sorted by path.

        A file that changed meanwhile, and was read again, is there twice.
        """
        from snapshots.history.logbook import reads

        found = reads(self._store, self.id)
        if at is None:
            return found
        position = self.position(at)
        return [read for read in found if read.number < position]

    @property
    def has_effects(self) -> bool:
        """Whether it ever did, or wanted done, anything outside the filesystem."""
        return self._store.runs.has_effects(self.id)

    def paired(
        self, changes: "Sequence[Change]", *, times: bool = False, from_base: bool = True
    ) -> "list[Change]":
        """Changes of this run, with renames and copies that only equal contents tell (see ``snapshots.review.moves``).

        What is copied was read: so the base files that the run read are looked at as sources, too, if its journal is
        not longer than ``MOST_READ``, unless the changes are not ``from_base``.  For people: a merge knows nothing of
        these pairs.
        """
        from snapshots.review.changes import Status
        from snapshots.review.moves import with_moves

        sizes = {c.after.size for c in changes if c.status is Status.ADDED and c.after is not None and c.after.size}
        return with_moves(changes, self._sides_read(sizes) if sizes and from_base else (), times=times)

    def _sides_read(self, sizes: "set[int]") -> "Iterator[Side]":
        """The base files that the run read and that have one of these sizes."""
        from snapshots.layers.base import BaseTree
        from snapshots.layers.basepaths import BasePaths
        from snapshots.review.compare import Sides

        journal = self._store.runs.directory(self.id) / "journal"
        try:
            length = sum(entry.stat().st_size for entry in os.scandir(journal))
        except FileNotFoundError:
            return
        if length > MOST_READ:
            return
        paths = {event.path for event in self.reads() if event.identity.size in sizes}
        base = BasePaths(BaseTree(self.record.base))
        sides = Sides(base, self._store.objects)
        for path in sorted(paths):
            if (st := base.stat(path)) is not None:
                yield sides.of_base(path, st)

    def paths_written_by(self, pattern: str) -> frozenset[bytes]:
        """Paths that were written by processes, or descendants of such, whose command line matches a pattern.

        A pattern with ``*``, ``?`` or ``[`` is a glob over the whole command line, any other is a part of it.
        """
        from snapshots.history.log import paths_written_by

        return paths_written_by(self.log(inherited=True), pattern)

    def written_by(self, pattern: str) -> "Callable[[Change], bool]":
        """Which changes these processes had a part in, for ``merge(choose=…)``; see ``paths_written_by``."""
        written = self.paths_written_by(pattern)
        return lambda change: change.path in written or change.old_path in written

    def by_process(self, changes: "list[Change]") -> "list[tuple[tuple[Process, ...], list[Change]]]":
        """Changes by who made them last: (the process, its parent, and so on; changes), in order of first appearance.

        Processes with one command line are one; the changes of whom nobody knows come last, with no process.
        """
        from snapshots.history.log import Authors

        authors = Authors(self.log(inherited=True))
        groups: dict[tuple[bytes, ...], tuple[tuple[Process, ...], list[Change]]] = {}
        for change in changes:
            author = authors.last(change.path)
            if author is None and change.old_path is not None:
                author = authors.last(change.old_path)
            lineage = author.lineage if author is not None else ()
            key = (lineage[0].command or (lineage[0].executable,)) if lineage else ()
            groups.setdefault(key, (lineage, []))[1].append(change)
        return sorted(groups.values(), key=lambda group: not group[0])
