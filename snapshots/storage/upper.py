"""One run's upper in the store: reading it whole, now or as it was, and applying checkpoints.

Owns the tables ``entries``, ``links``, ``uses`` and ``checkpoints`` (``snapshots.storage.versions`` has the rules of
their versions).  Knows how records are encoded (msgpack) and nothing of what they mean to the overlay.  Belongs to one
store, so to one thread.
"""

import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec

from snapshots.entries import ROOT_INO, WHITEOUT, Changed, Checkpoint, Entry, Hidden, UpperState
from snapshots.errors import HistoryGone, ObjectMissing, RunState, RunUnknown, StoreDamaged
from snapshots.storage.database import Database
from snapshots.storage.lease import NOBODY, Lease
from snapshots.storage.objects import Collected, Objects, Place
from snapshots.storage.versions import (
    FOREVER,
    NOTHING,
    Closing,
    EntryRows,
    LinkRows,
    changed_since,
    inherited_names,
    is_held,
    parent_of,
    pins,
    prune,
    read,
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_hidden = msgspec.msgpack.Decoder(Hidden).decode

_SIGN = 1 << 63
_WRAP = 1 << 64
_OWN = int(Changed.ATTRS | Changed.DATA | Changed.XATTRS)


GONE = 2
"""``runs.over`` of a run that was given up and of which nothing is left but what forks see."""


class Usage(NamedTuple):
    """What one run holds, cheaply counted."""

    entries: int
    """changed inodes, directories among whose names something changed not counted"""
    whiteouts: int
    """names of the base that the run deleted or moved away"""
    objects: int
    bytes: int
    """sum of the sizes of the objects that its entries use, shared ones and those of former versions too"""


class _Run(NamedTuple):
    """What the record of a run says about its upper."""

    key: int
    next_ino: int
    state: str
    journal: int
    over: int
    horizon: int
    history_limit: int


class Upper:
    """The upper of the run ``run_id``.  Errors of every method: StoreDamaged, StoreFull, StoreUnusable, RunUnknown."""

    def __init__(self, database: Database, objects: Objects, lease: Lease, run_id: str) -> None:
        self._db = database
        self._objects = objects
        self._lease = lease
        self.run_id = run_id

    def load(self, at: int | None = None) -> UpperState:
        """All entries and links as of one instant: now, or of the last checkpoint at journal position ``at`` or before.

        ``UpperState.journal`` is the position of that checkpoint.  Errors: HistoryGone when that version is not kept.
        """
        with self._db.snapshot():
            run = self._run()
            if run.over:
                return UpperState({}, {}, run.next_ino, run.journal)
            if at is None or at == run.journal:
                position = run.journal
                entry_rows, link_rows = read(self._db, run.key)
            else:
                position = self._checkpoint_before(run, at)
                entry_rows, link_rows = read(self._db, run.key, at)
        return self._state(entry_rows, link_rows, run.next_ino, position)

    def load_changed(self, at: int) -> tuple[UpperState, UpperState] | None:
        """What it is now and what it was at ``at``, both without what is the same in both; None when there is no
        checkpoint at that very position.  Costs what differs.  Errors: HistoryGone.
        """
        with self._db.snapshot():
            run = self._run()
            if run.over or self._checkpoint_before(run, at) != at:
                return None
            now, then = changed_since(self._db, run.key, at)
        return self._state(*now, run.next_ino, run.journal), self._state(*then, run.next_ino, at)

    def _state(self, entry_rows: EntryRows, link_rows: LinkRows, next_ino: int, position: int) -> UpperState:
        entries: dict[int, Entry] = {}
        for stored, blob in entry_rows.items():
            ino = from_stored(stored)
            try:
                entries[ino] = _decode(blob)
            except msgspec.MsgspecError as exc:
                raise StoreDamaged(
                    f"the entry of inode {ino} of run {self.run_id} is damaged ({exc}); `goexfs fsck` says what else is"
                ) from exc
        links: dict[int, dict[bytes, int]] = {}
        hides: dict[int, dict[bytes, Hidden]] = {}
        for (parent, name), (stored, hidden) in link_rows.items():
            links.setdefault(from_stored(parent), {})[name] = from_stored(stored)
            if hidden is not None:
                try:
                    hides.setdefault(from_stored(parent), {})[name] = _decode_hidden(hidden)
                except msgspec.MsgspecError as exc:
                    raise StoreDamaged(
                        f"a name of run {self.run_id} is damaged ({exc}); `goexfs fsck` says what else is"
                    ) from exc
        return UpperState(entries, links, next_ino, position, hides)

    def _checkpoint_before(self, run: _Run, at: int) -> int:
        if at > run.journal:
            raise HistoryGone(f"run {self.run_id} has not come to record {at - 1} of its journal yet")
        if at < run.horizon and not is_held(pins(self._db, run.key), at, at + 1):
            raise HistoryGone(
                f"the history of run {self.run_id} is kept from record {run.horizon} on, and of what came before only"
                " its snapshots; `goexfs snapshots` lists them"
            )
        row = self._db.one("SELECT max(position) FROM checkpoints WHERE run = ? AND position <= ?", (run.key, at))
        return int(row[0]) if row is not None and row[0] is not None else 1

    def checkpoint_before(self, at: int) -> int:
        """Position of the last checkpoint at ``at`` or before it.  Errors: HistoryGone when it is not kept."""
        return self._checkpoint_before(self._run(), at)

    def checkpoint_after(self, position: int) -> int:
        """Position of the first checkpoint at ``position`` or after it; 0 when there is none."""
        run = self._run()
        row = self._db.one("SELECT min(position) FROM checkpoints WHERE run = ? AND position >= ?", (run.key, position))
        return int(row[0]) if row is not None and row[0] is not None else 0

    def checkpoints(self) -> list[tuple[int, int]]:
        """(position, time in nanoseconds) of every checkpoint that can be loaded, in order."""
        run = self._run()
        held = pins(self._db, run.key)
        rows = self._db.all("SELECT position, time_ns FROM checkpoints WHERE run = ? ORDER BY position", (run.key,))
        return [(at, made) for at, made in rows if at >= run.horizon or is_held(held, at, at + 1)]

    def retained(self) -> tuple[int, int]:
        """The first position from which on every state is kept, and the position of the present."""
        run = self._run()
        return run.horizon, run.journal

    def commit(self, checkpoint: Checkpoint, *, hold: Collection[bytes] | None = None) -> None:
        """Apply a checkpoint, all or nothing.

        Errors: ObjectMissing if an entry names an object that is not in the store; RunState if the run is discarded.

        Objects that were put and that no entry names, and those that this checkpoint takes out of use, are kept
        only if they are in ``hold``: give the names that open files still read from.  Without ``hold`` all of them are
        kept for as long as this store is open.
        """
        self._objects.sync()  # an entry may name only what a power cut cannot take
        rows = [(to_stored(entry.ino), entry.changed, _encode(entry)) for entry in checkpoint.entries]
        uses = [
            (to_stored(entry.ino), name)
            for entry in checkpoint.entries
            for name in entry.objects
        ]
        gone = [to_stored(ino) for ino in checkpoint.gone]
        links = [
            (to_stored(link.parent), link.name, to_stored(link.ino), _encode(link.hides) if link.hides else None)
            for link in checkpoint.links
        ]
        unlinked = [(to_stored(parent), name) for parent, name in checkpoint.unlinked]
        with self._db.transaction():
            run = self._run()
            key = run.key
            if run.over or run.state in ("merged", "discarded"):
                raise RunState(f"run {self.run_id} has been {run.state}: nothing more can be changed in it")
            held = pins(self._db, key)
            position = max(checkpoint.journal or run.journal, 1)
            if not checkpoint.journal and held and held[-1] >= position:
                position = held[-1] + 1  # nobody counts: the version that is held must stay another one
            is_fork = parent_of(self._db, key) is not None
            # What was true at the position before this one is kept for the history, unless nobody wants one.
            closing = Closing(self._db, key, position, position - 1 if run.history_limit else max(held, default=0))
            closing.entries([ino for ino, _, _ in rows] + gone)
            # A directory that is gone leaves the whiteouts that were in it.  The root never is, without an entry too.
            directories = [ino for ino in gone if ino != ROOT_INO]
            unlinked += [(ino, name) for ino in directories for name in self._names_in(closing, ino, is_fork)]
            closing.links([*unlinked, *(link[:2] for link in links)])
            if is_fork:
                rows += [(ino, 0, b"") for ino in gone]
                known = {link[:2] for link in links}
                links += [(parent, name, NOTHING, None) for parent, name in set(unlinked) - known]
            self._db.many(
                "INSERT INTO entries (run, until, ino, since, changed, data) VALUES (?, ?, ?, ?, ?, ?)",
                ((key, FOREVER, ino, position, changed, blob) for ino, changed, blob in rows),
            )
            self._add_uses(key, uses)
            self._db.many(
                "INSERT OR REPLACE INTO links (run, until, parent, name, since, ino, hides)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((key, FOREVER, parent, name, position, ino, hides) for parent, name, ino, hides in links),
            )
            if checkpoint.next_ino > run.next_ino:
                self._db.run("UPDATE runs SET next_ino = ? WHERE key = ?", (checkpoint.next_ino, key))
            self._note(run, position)
            dropped = closing.dropped
            self._settle_marks(key, dropped, hold)

    def _names_in(self, closing: Closing, ino: int, is_fork: bool) -> set[bytes]:
        names = set(closing.names(ino))
        return names | inherited_names(self._db, self._run().key, ino) if is_fork else names

    def _note(self, run: _Run, position: int) -> None:
        """Record that there is a checkpoint."""
        self._db.run("UPDATE runs SET journal = ? WHERE key = ?", (position, run.key))
        self._db.run(
            "INSERT OR REPLACE INTO checkpoints (run, position, time_ns) VALUES (?, ?, ?)",
            (run.key, position, time.time_ns()),
        )
        if not run.history_limit:
            self._db.run("UPDATE runs SET horizon = ? WHERE key = ?", (position, run.key))

    def give_up(self) -> None:
        """Declare everything in the upper garbage, to be dropped by ``purge``: it reads as empty from here on.

        Whatever open stores still held for this run is given up too: whoever calls has its lock.  What forks see of it
        stays until they are given up themselves.
        """
        with self._db.transaction():
            key = self._run().key
            self._db.run("UPDATE runs SET over = 1 WHERE key = ?", (key,))
            self._db.run("UPDATE OR REPLACE loose SET holder = ? WHERE run = ?", (NOBODY, key))
            for table in ("snapshots", "reads"):
                self._db.run(f"DELETE FROM {table} WHERE run = ?", (key,))
            self._drop_log(key)
            self._let_go_of_parents(key)

    def revive(self) -> bool:
        """Take an upper that was given up for an empty one again; False while rows of what it was are left."""
        with self._db.transaction():
            run = self._run()
            left = "SELECT EXISTS (SELECT 1 FROM entries WHERE run = ?1) OR EXISTS (SELECT 1 FROM links WHERE run = ?1)"
            row = self._db.one(left, (run.key,))
            if run.over != GONE or row is None or row[0]:
                return False
            self._db.run("UPDATE runs SET over = 0, horizon = journal WHERE id = ?", (self.run_id,))
        return True

    def _drop_log(self, key: int) -> None:
        """Forget what a run that is over did, unless forks go on from there."""
        self._db.run(
            "DELETE FROM log WHERE run = ?1 AND (SELECT over FROM runs WHERE key = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM forks WHERE parent = ?1)",
            (key,),
        )

    def _let_go_of_parents(self, key: int) -> None:
        """A run that is over and that no fork needs needs its own parent no more; and so on upwards."""
        while (origin := parent_of(self._db, key)) is not None:
            row = self._db.one(
                "SELECT over, EXISTS (SELECT 1 FROM forks WHERE parent = key) FROM runs WHERE key = ?", (key,)
            )
            if row is not None and (not row[0] or row[1]):
                return
            self._db.run("DELETE FROM forks WHERE run = ?", (key,))
            key = origin[0]
            self._db.run("UPDATE runs SET over = 1 WHERE key = ? AND over", (key,))  # there is more to purge again
            self._drop_log(key)

    def purge(self, *, rows: int) -> Iterator[Collected]:
        """Drop what is left of an upper that was given up (and that no fork sees), and the objects that only it used.

        Yields what was freed between transactions of about ``rows`` rows each: others get their turn, and little log is
        written at once.  A purge that was interrupted goes on where it stopped.
        """
        with self._db.transaction():
            run = self._run()
            if not run.over:
                raise RunState(f"run {self.run_id} has not been given up")
        yield from prune(self._db, self._objects, run.key, FOREVER, rows=rows)
        with self._db.transaction():
            stray = (
                "run = ? AND NOT EXISTS (SELECT 1 FROM entries e"
                " WHERE (e.run, e.until, e.ino) = (uses.run, uses.until, uses.ino))"
            )
            freed = [row[0] for row in self._db.all(f"SELECT object FROM uses WHERE {stray}", (run.key,))]
            self._db.run(f"DELETE FROM uses WHERE {stray}", (run.key,))
            collected = self._objects.free(freed)
            self._db.run("UPDATE runs SET over = ? WHERE key = ? AND over", (GONE, run.key))
        yield collected

    def usage(self) -> Usage:
        """What the run holds; cheap enough for a listing."""
        run = self._run()
        if run.over:
            return Usage(0, 0, 0, 0)
        if parent_of(self._db, run.key) is not None:
            return self._usage_of_fork()
        row = self._db.one(
            "SELECT (SELECT count(*) FROM entries WHERE run = :run AND until = :now AND changed & :own),"
            " (SELECT count(*) FROM links WHERE run = :run AND until = :now AND ino = 0),"
            " count(*), coalesce(sum(size), 0) FROM objects WHERE id IN (SELECT object FROM uses WHERE run = :run)",
            {"run": run.key, "own": _OWN, "now": FOREVER},
        )
        assert row is not None
        return Usage(*row)

    def _usage_of_fork(self) -> Usage:
        state = self.load()
        names = {
            name for entry in state.entries.values() for name in entry.objects
        }
        return Usage(
            sum(bool(entry.changed & _OWN) for entry in state.entries.values()),
            sum(ino == WHITEOUT for inos in state.links.values() for ino in inos.values()),
            len(names),
            sum(self._objects.size(name) for name in names if self._objects.exists(name)),
        )

    def _run(self) -> _Run:
        row = self._db.one(
            "SELECT key, next_ino, state, journal, over, horizon, history_limit FROM runs WHERE id = ?", (self.run_id,)
        )
        if row is None:
            raise RunUnknown(f"no run {self.run_id}; `goexfs ls --all` lists them")
        return _Run(*row)

    def _add_uses(self, key: int, uses: list[tuple[int, bytes]]) -> None:
        found = self._db.many(
            "INSERT INTO uses (run, until, ino, object) SELECT ?, ?, ?, id FROM objects WHERE name = ? AND place != ?",
            ((key, FOREVER, ino, name, Place.QUARANTINE) for ino, name in uses),
        )
        if uses and found != len(uses):
            ino, name = next((ino, name) for ino, name in uses if not self._objects.exists(name))
            raise ObjectMissing(
                f"run {self.run_id} cannot be saved: inode {from_stored(ino)} needs object {name.hex()},"
                " which is not in the store"
            )

    def _settle_marks(self, key: int, dropped: set[int], hold: Collection[bytes] | None) -> None:
        """Give up the marks that the uses have taken over, and mark what went out of use."""
        mine = self._lease.holder
        self._db.run(
            "DELETE FROM loose WHERE holder = ? AND run = 0"
            " AND EXISTS (SELECT 1 FROM uses u WHERE u.object = loose.object AND u.run = ? AND u.until = ?)",
            (mine, key, FOREVER),
        )
        self._db.many(
            "INSERT OR IGNORE INTO loose (object, holder, run) SELECT ?1, ?2, ?3"
            " WHERE NOT EXISTS (SELECT 1 FROM uses WHERE object = ?1 AND run = ?3 AND until = ?4)",
            ((object_id, mine, key, FOREVER) for object_id in dropped),
        )
        self._db.run("UPDATE loose SET run = ? WHERE holder = ? AND run = 0", (key, mine))
        if hold is None:
            return
        held = set(hold)
        marked = self._db.all(
            "SELECT l.object, o.name FROM loose l JOIN objects o ON o.id = l.object WHERE l.holder = ? AND l.run = ?",
            (mine, key),
        )
        self._db.many(
            "UPDATE OR REPLACE loose SET holder = ? WHERE object = ? AND holder = ?",
            ((NOBODY, object_id, mine) for object_id, name in marked if name not in held),
        )


def to_stored(ino: int) -> int:
    """An inode number (64 bits, unsigned) as an integer of SQLite (64 bits, signed)."""
    return ino - _WRAP if ino >= _SIGN else ino


def from_stored(value: int) -> int:
    """The inode number of a stored integer."""
    return value + _WRAP if value < 0 else value
