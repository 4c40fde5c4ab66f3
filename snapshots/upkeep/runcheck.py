"""The checks of one run's records: entries, links, uses, and the versions of them that the history keeps.

Owns what must be true of them (see ``Kind`` for the list) and its repair.  A check without repair reads one snapshot of
the database, so a mounted run can be checked while it changes.  A repair holds the run's lock and the database's
write lock.  Belongs to the thread of its store.
"""

import stat
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from snapshots.entries import ROOT_INO, WHITEOUT, Content, Entry, Hidden
from snapshots.errors import RunBusy, RunState, RunUnknown, StoreDamaged
from snapshots.storage import durable
from snapshots.storage.lease import NOBODY
from snapshots.storage.objects import Place
from snapshots.storage.runs import RunLock
from snapshots.storage.store import Store
from snapshots.storage.upper import from_stored, to_stored
from snapshots.storage.versions import FOREVER, NOTHING, parent_of, read
from snapshots.upkeep.findings import Finding, Kind

_decode = msgspec.msgpack.Decoder(Entry).decode
_decode_hidden = msgspec.msgpack.Decoder(Hidden).decode


class RunCheck:
    """One pass over the records of a run, given by its key and id."""

    def __init__(self, store: Store, key: int, run_id: str) -> None:
        self._store = store
        self._db = store.database
        self._key = key
        self._id = run_id
        self._repair = False
        self._findings: list[Finding] = []
        self._objects: dict[bytes, tuple[int, int] | None] = {}
        self._wanted: set[tuple[int, int, int]] = set()
        """(until, inode, object) of what the entries that can be read use, of all versions"""
        self.entries = 0

    def look(self) -> list[Finding]:
        """What is wrong."""
        with self._db.snapshot():
            self._check()
        return self._findings

    def repair(self) -> list[Finding]:
        """What is wrong, mended where possible; a run in use is only looked at."""
        lock: RunLock | None = None
        try:
            lock = self._store.runs.lock(self._id)
        except RunBusy:
            return self.look()
        except (RunState, RunUnknown):
            pass  # over: it has no directory, and nobody else works on it
        try:
            self._repair = True
            with self._db.transaction():
                self._check()
        finally:
            if lock is not None:
                lock.release()
        return self._findings

    def _found(self, kind: Kind, detail: str, *, ino: int | None = None, repaired: bool = False) -> None:
        what = f"run {self._id}" if ino is None else f"run {self._id} inode {ino}"
        self._findings.append(Finding(kind, what, detail, repaired))

    def _check(self) -> None:
        try:
            self._store.runs.get(self._id)
        except RunUnknown:
            return  # forgotten meanwhile
        except StoreDamaged as exc:
            self._found(Kind.RUN_RECORD, str(exc))
        row = self._db.one("SELECT over FROM runs WHERE key = ?", (self._key,))
        if row is not None and row[0] == 1:
            return  # given up: what is left is garbage that is being dropped
        is_over = row is not None and bool(row[0])
        self._check_versions(FOREVER if is_over else FOREVER - 1)
        if is_over:  # there is what forks see of it, and no present
            self._check_uses()
            return
        entries, unreadable = self._load_entries()
        for entry in entries.values():
            self._check_entry(entry)
        inherited: set[tuple[int, bytes]] = set()
        if (origin := parent_of(self._db, self._key)) is not None:
            inherited = self._inherit(origin, entries, unreadable)
        links = self._check_links(entries, unreadable, inherited)
        self._check_reachable(entries, unreadable, links)
        self._check_uses()

    def _check_versions(self, last: int) -> None:
        """Versions that ended at ``last`` or before: can they be read, and what do they use?"""
        rows = self._db.all(
            "SELECT until, ino, since, data FROM entries WHERE run = ? AND until <= ? AND data != x''",
            (self._key, last),
        )
        for until, stored, since, blob in rows:
            ino = from_stored(stored)
            if since >= until:
                self._found(Kind.ENTRY_INVALID, f"a version of it is from {since} to {until}", ino=ino)
            try:
                entry = _decode(blob)
            except msgspec.MsgspecError as exc:
                problem = f"the record of its version of {since} cannot be read: {exc}"
                self._found(Kind.ENTRY_UNDECODABLE, problem, ino=ino, repaired=self._repair)
                if self._repair:
                    self._set_aside(ino, blob, until)
                continue
            self._want(until, entry)
            if entry.ino != ino:
                self._found(Kind.ENTRY_INVALID, f"its version of {since} is that of inode {entry.ino}", ino=ino)
            for name in sorted(entry.objects):
                if self._object(name) is None:
                    problem = f"object {name.hex()} of its version of {since} is missing or damaged"
                    self._found(Kind.ENTRY_CONTENT_LOST, problem, ino=ino)

    def _want(self, until: int, entry: Entry) -> None:
        for name in entry.objects:
            if (found := self._any_object(name)) is not None:
                self._wanted.add((until, to_stored(entry.ino), found[0]))

    def _inherit(
        self, origin: tuple[int, int], entries: dict[int, Entry], unreadable: set[int]
    ) -> set[tuple[int, bytes]]:
        """Add what a fork has from its parent (whose check says what is wrong with it); its names there."""
        rows, links = read(self._db, *origin)
        own = {
            ino for (ino,) in self._db.all("SELECT ino FROM entries WHERE run = ? AND until = ?", (self._key, FOREVER))
        }
        for ino in rows.keys() - own:
            try:
                entries[from_stored(ino)] = _decode(rows[ino])
            except msgspec.MsgspecError:
                unreadable.add(from_stored(ino))
        return set(links)

    def _load_entries(self) -> tuple[dict[int, Entry], set[int]]:
        """The entries that can be read, and the inode numbers of those that cannot and still are there."""
        entries: dict[int, Entry] = {}
        unreadable: set[int] = set()
        rows = self._db.all("SELECT ino, changed, data FROM entries WHERE run = ? AND until = ?", (self._key, FOREVER))
        is_fork = parent_of(self._db, self._key) is not None
        for stored, changed, blob in rows:
            if is_fork and not blob:
                continue  # a tombstone
            self.entries += 1
            ino = from_stored(stored)
            try:
                entry = _decode(blob)
            except msgspec.MsgspecError as exc:
                self._found(Kind.ENTRY_UNDECODABLE, f"its record cannot be read: {exc}", ino=ino, repaired=self._repair)
                if self._repair:
                    self._set_aside(ino, blob)
                else:
                    unreadable.add(ino)
                continue
            if entry.ino != ino or entry.changed != changed:
                self._found(Kind.ENTRY_INVALID, f"its record is that of inode {entry.ino}", ino=ino)
            entries[ino] = entry
            self._want(FOREVER, entry if entry.ino == ino else msgspec.structs.replace(entry, ino=ino))
        return entries, unreadable

    def _set_aside(self, ino: int, blob: bytes, until: int = FOREVER) -> None:
        path = self._store.layout.quarantine_path(f"entry-{self._id}-{ino}" + ("" if until == FOREVER else f"-{until}"))
        with durable.reporting(f"cannot write {path}"):
            durable.write_file(path, blob)
        where = "run = ? AND until = ? AND ino = ?"
        self._db.run(f"DELETE FROM entries WHERE {where}", (self._key, until, to_stored(ino)))

    # one entry

    def _check_entry(self, entry: Entry) -> None:
        for problem in self._invalid(entry):
            self._found(Kind.ENTRY_INVALID, problem, ino=entry.ino)
        for name in sorted(entry.objects):
            if self._object(name) is None:
                self._found(Kind.ENTRY_CONTENT_LOST, f"its object {name.hex()} is missing or damaged", ino=entry.ino)

    def _invalid(self, entry: Entry) -> Iterator[str]:
        if entry.target is not None and not stat.S_ISLNK(entry.mode):
            yield "it has a target and is not a symlink"
        if entry.target is None and stat.S_ISLNK(entry.mode) and entry.origin is None:
            yield "it is a symlink without a target"
        content = entry.content
        if content is None:
            return
        if not stat.S_ISREG(entry.mode):
            yield "it has content and is not a regular file"
        if content.size != entry.size:
            yield f"its content has {content.size} bytes and its attributes say {entry.size}"
        if content.base_limit and entry.origin is None:
            yield "it needs a base file and has none"
        yield from self._invalid_extents(content)

    def _invalid_extents(self, content: Content) -> Iterator[str]:
        for extent in content.extents:
            file_end = extent.offset + extent.length
            end = extent.start + extent.length
            found = self._object(extent.object)
            if extent.length < 1 or extent.offset < 0 or extent.start < 0 or file_end > content.size:
                yield f"the extent at {extent.offset} lies outside the file"
            elif found is not None and end > found[1]:
                yield f"the extent at {extent.offset} ends at {end} in an object of {found[1]} bytes"
        for before, after in pairwise(content.extents):
            if before.offset + before.length > after.offset:
                yield f"the extents at {before.offset} and {after.offset} overlap or are out of order"

    def _object(self, name: bytes) -> tuple[int, int] | None:
        """Id and size in bytes of a usable object."""
        if name not in self._objects:
            row = self._db.one("SELECT id, size FROM objects WHERE name = ? AND place != ?", (name, Place.QUARANTINE))
            self._objects[name] = None if row is None else (row[0], row[1])
        return self._objects[name]

    # names

    def _check_links(
        self, entries: dict[int, Entry], unreadable: set[int], inherited: set[tuple[int, bytes]]
    ) -> dict[int, list[int]]:
        """Check every link; inode numbers by directory of those that are good."""
        good: dict[int, list[int]] = {}
        for (parent, name), (ino, hides) in read(self._db, self._key)[1].items():
            if ino == NOTHING:
                continue
            directory, target = from_stored(parent), from_stored(ino)
            holder = entries.get(directory)
            if directory != ROOT_INO and directory not in unreadable and (holder is None or not holder.is_dir):
                problem = f"{name!r} is a name in what is no directory of the run"
            elif target != WHITEOUT and target not in entries and target not in unreadable:
                problem = f"{name!r} leads to inode {target}, which has no entry"
            elif not _is_hidden_record(hides):
                problem = f"what {name!r} hides of the base cannot be read"
            else:
                good.setdefault(directory, []).append(target)
                continue
            if self._repair:
                self._drop_link(parent, name, tombstone=(parent, name) in inherited)
            self._found(Kind.LINK_DANGLING, problem, ino=directory, repaired=self._repair)
        return good

    def _drop_link(self, parent: int, name: bytes, *, tombstone: bool) -> None:
        where = (self._key, FOREVER, parent, name)
        self._db.run("DELETE FROM links WHERE run = ? AND until = ? AND parent = ? AND name = ?", where)
        if tombstone:
            position = self._db.one("SELECT journal FROM runs WHERE key = ?", (self._key,))
            self._db.run(
                "INSERT INTO links (run, until, parent, name, since, ino) VALUES (?, ?, ?, ?, ?, ?)",
                (*where, position[0] if position else 1, NOTHING),
            )

    def _check_reachable(self, entries: dict[int, Entry], unreadable: set[int], links: dict[int, list[int]]) -> None:
        reached = {ROOT_INO, WHITEOUT} | unreadable
        # A hard link of the base that the run changed by another name, which it then removed: the names that are left
        # are in the base only.
        reached |= {ino for ino, e in entries.items() if e.origin is not None and e.nlink and not e.is_dir}
        to_visit = [ROOT_INO, *unreadable]
        while to_visit:
            for ino in links.get(to_visit.pop(), ()):
                if ino not in reached:
                    reached.add(ino)
                    to_visit.append(ino)
        for ino in sorted(entries.keys() - reached):
            repaired = False
            if self._repair:
                stored = (self._key, FOREVER, to_stored(ino))
                repaired = bool(self._db.run("DELETE FROM entries WHERE run = ? AND until = ? AND ino = ?", stored))
                self._db.run("DELETE FROM links WHERE run = ? AND until = ? AND parent = ?", stored)
                self._wanted = {use for use in self._wanted if use[:2] != (FOREVER, to_stored(ino))}
            self._found(Kind.ENTRY_UNREACHABLE, "no name leads to it", ino=ino, repaired=repaired)

    # uses

    def _check_uses(self) -> None:
        wanted = self._wanted
        actual = set(self._db.all("SELECT until, ino, object FROM uses WHERE run = ?", (self._key,)))
        if wanted == actual:
            return
        for until, ino, object_id in sorted(wanted ^ actual):
            what = "not noted" if (until, ino, object_id) in wanted else "noted and not true"
            dropped = self._repair and any(f.repaired and f.kind in _DROPS for f in self._findings)
            if not (dropped and (until, ino, object_id) in actual):
                detail = f"that it uses object number {object_id} is {what}"
                self._found(Kind.USES, detail, ino=from_stored(ino), repaired=self._repair)
        if self._repair:
            self._db.many(
                "INSERT OR IGNORE INTO loose (object, holder, run) VALUES (?, ?, 0)",
                [(object_id, NOBODY) for _, _, object_id in actual],
            )
            self._db.run("DELETE FROM uses WHERE run = ?", (self._key,))
            self._db.many(
                "INSERT INTO uses (run, until, ino, object) VALUES (?, ?, ?, ?)", [(self._key, *use) for use in wanted]
            )

    def _any_object(self, name: bytes) -> tuple[int] | None:
        """Id of an object, also a damaged one: what needs it keeps its record."""
        return self._db.one("SELECT id FROM objects WHERE name = ?", (name,))


def _is_hidden_record(blob: bytes | None) -> bool:
    try:
        return blob is None or bool(_decode_hidden(blob))
    except msgspec.MsgspecError:
        return False


_DROPS = frozenset({Kind.ENTRY_UNDECODABLE, Kind.ENTRY_UNREACHABLE})
