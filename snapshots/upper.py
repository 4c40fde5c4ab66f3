"""One run's upper in the store: reading it whole, and applying checkpoints.

Owns the tables ``entries``, ``links`` and ``uses``.  Knows how records are encoded (msgpack) and nothing of what they
mean to the overlay.  Belongs to one store, so to one thread.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec

from snapshots.database import Database
from snapshots.entries import Changed, Checkpoint, Entry, UpperState
from snapshots.errors import ObjectMissing, RunState, RunUnknown, StoreDamaged
from snapshots.lease import NOBODY, Lease
from snapshots.objects import Collected, Objects, Place

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode

_SIGN = 1 << 63
_WRAP = 1 << 64
_OWN = int(Changed.ATTRS | Changed.DATA | Changed.XATTRS)


class Usage(NamedTuple):
    """What one run holds, cheaply counted."""

    entries: int
    """changed inodes, directories among whose names something changed not counted"""
    whiteouts: int
    """names of the base that the run deleted or moved away"""
    objects: int
    bytes: int
    """sum of the sizes of the objects that its entries use, shared ones too"""


class _Run(NamedTuple):
    """What the record of a run says about its upper."""

    key: int
    next_ino: int
    state: str
    journal: int
    over: int


class Upper:
    """The upper of the run ``run_id``.  Errors of every method: StoreDamaged, StoreFull, StoreUnusable, RunUnknown."""

    def __init__(self, database: Database, objects: Objects, lease: Lease, run_id: str) -> None:
        self._db = database
        self._objects = objects
        self._lease = lease
        self.run_id = run_id

    def load(self) -> UpperState:
        """All entries and links, as of one instant."""
        with self._db.snapshot():
            run = self._run()
            if run.over:
                return UpperState({}, {}, run.next_ino, run.journal)
            key = run.key
            entry_rows = self._db.all("SELECT ino, data FROM entries WHERE run = ?", (key,))
            link_rows = self._db.all("SELECT parent, name, ino FROM links WHERE run = ?", (key,))
        entries: dict[int, Entry] = {}
        for stored, blob in entry_rows:
            ino = from_stored(stored)
            try:
                entries[ino] = _decode(blob)
            except msgspec.MsgspecError as exc:
                raise StoreDamaged(
                    f"the entry of inode {ino} of run {self.run_id} is damaged ({exc}); `goexfs fsck` says what else is"
                ) from exc
        links: dict[int, dict[bytes, int]] = {}
        for parent, name, ino in link_rows:
            links.setdefault(from_stored(parent), {})[name] = from_stored(ino)
        return UpperState(entries, links, run.next_ino, run.journal)

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
            if entry.content is not None
            for name in entry.content.objects
        ]
        gone = [to_stored(ino) for ino in checkpoint.gone]
        links = [(to_stored(link.parent), link.name, to_stored(link.ino)) for link in checkpoint.links]
        unlinked = [(to_stored(parent), name) for parent, name in checkpoint.unlinked]
        with self._db.transaction():
            run = self._run()
            key = run.key
            if run.over or run.state in ("merged", "discarded"):
                raise RunState(f"run {self.run_id} has been {run.state}: nothing more can be changed in it")
            touched = [(key, ino) for ino, _, _ in rows] + [(key, ino) for ino in gone]
            dropped = self._drop_uses(touched)
            self._db.many("DELETE FROM entries WHERE run = ? AND ino = ?", ((key, ino) for ino in gone))
            # A directory that is gone leaves the whiteouts that were in it.
            self._db.many("DELETE FROM links WHERE run = ? AND parent = ?", ((key, ino) for ino in gone))
            self._db.many(
                "INSERT OR REPLACE INTO entries (run, ino, changed, data) VALUES (?, ?, ?, ?)",
                ((key, ino, changed, blob) for ino, changed, blob in rows),
            )
            self._add_uses(key, uses)
            self._db.many(
                "DELETE FROM links WHERE run = ? AND parent = ? AND name = ?", ((key, *pair) for pair in unlinked)
            )
            self._db.many(
                "INSERT OR REPLACE INTO links (run, parent, name, ino) VALUES (?, ?, ?, ?)",
                ((key, *link) for link in links),
            )
            if checkpoint.next_ino > run.next_ino:
                self._db.run("UPDATE runs SET next_ino = ? WHERE key = ?", (checkpoint.next_ino, key))
            if checkpoint.journal:
                self._db.run("UPDATE runs SET journal = ? WHERE key = ?", (checkpoint.journal, key))
            self._settle_marks(key, dropped, hold)

    def give_up(self) -> None:
        """Declare everything in the upper garbage, to be dropped by ``purge``: it reads as empty from here on.

        Whatever open stores still held for this run is given up too: whoever calls has its lock.
        """
        with self._db.transaction():
            key = self._run().key
            self._db.run("UPDATE runs SET over = 1 WHERE key = ?", (key,))
            self._db.run("UPDATE OR REPLACE loose SET holder = ? WHERE run = ?", (NOBODY, key))

    def purge(self, *, rows: int) -> Iterator[Collected]:
        """Drop what is left of an upper that was given up, and the objects that only it used.

        Yields what was freed between transactions of about ``rows`` rows each: others get their turn, and little log is
        written at once.  A purge that was interrupted goes on where it stopped.
        """
        while True:
            with self._db.transaction():
                run = self._run()
                if not run.over:
                    raise RunState(f"run {self.run_id} has not been given up")
                freed = self._purge_some(run.key, rows)
            if freed is None:
                return
            yield freed

    def _purge_some(self, key: int, rows: int) -> Collected | None:
        uses = self._db.all("SELECT ino, object FROM uses WHERE run = ? LIMIT ?", (key, rows))
        if uses:
            self._db.many("DELETE FROM uses WHERE run = ? AND ino = ? AND object = ?", ((key, *use) for use in uses))
            return self._objects.free({object_id for _, object_id in uses})
        dropped = self._db.run(
            "DELETE FROM entries WHERE run = ?1 AND ino IN (SELECT ino FROM entries WHERE run = ?1 LIMIT ?2)",
            (key, rows),
        )
        dropped += self._db.run(
            "DELETE FROM links WHERE run = ?1"
            " AND (parent, name) IN (SELECT parent, name FROM links WHERE run = ?1 LIMIT ?2)",
            (key, rows),
        )
        return Collected(0, 0) if dropped else None

    def usage(self) -> Usage:
        """What the run holds; cheap enough for a listing."""
        run = self._run()
        if run.over:
            return Usage(0, 0, 0, 0)
        row = self._db.one(
            "SELECT (SELECT count(*) FROM entries WHERE run = :run AND changed & :own),"
            " (SELECT count(*) FROM links WHERE run = :run AND ino = 0), count(*), coalesce(sum(size), 0)"
            " FROM objects WHERE id IN (SELECT object FROM uses WHERE run = :run)",
            {"run": run.key, "own": _OWN},
        )
        assert row is not None
        return Usage(*row)

    def _run(self) -> _Run:
        row = self._db.one("SELECT key, next_ino, state, journal, over FROM runs WHERE id = ?", (self.run_id,))
        if row is None:
            raise RunUnknown(f"no run {self.run_id}; `goexfs ls --all` lists them")
        return _Run(*row)

    def _drop_uses(self, touched: list[tuple[int, int]]) -> set[int]:
        """Forget what these entries use; the objects they used."""
        if not touched or self._db.one("SELECT 1 FROM uses WHERE run = ? LIMIT 1", touched[0][:1]) is None:
            return set()
        query = "SELECT object FROM uses WHERE run = ? AND ino = ?"
        dropped = {row[0] for pair in touched for row in self._db.all(query, pair)}
        self._db.many("DELETE FROM uses WHERE run = ? AND ino = ?", touched)
        return dropped

    def _add_uses(self, key: int, uses: list[tuple[int, bytes]]) -> None:
        found = self._db.many(
            "INSERT INTO uses (run, ino, object) SELECT ?, ?, id FROM objects WHERE name = ? AND place != ?",
            ((key, ino, name, Place.QUARANTINE) for ino, name in uses),
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
            " AND EXISTS (SELECT 1 FROM uses u WHERE u.object = loose.object AND u.run = ?)",
            (mine, key),
        )
        self._db.many(
            "INSERT OR IGNORE INTO loose (object, holder, run) SELECT ?1, ?2, ?3"
            " WHERE NOT EXISTS (SELECT 1 FROM uses WHERE object = ?1 AND run = ?3)",
            ((object_id, mine, key) for object_id in dropped),
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
