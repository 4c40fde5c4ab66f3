"""The versions of a run's rows: what is seen at a position, what is closed, what may go.

Every row of ``entries``, ``links`` and ``uses`` is true from journal position ``since`` (a use: that of its entry) up
to, and without, ``until``; ``FOREVER`` for what is true now.  A fork has rows only for what it changed itself: below
them it sees its parent's rows as of the position it was forked at, and a tombstone where something of them is gone.

Owns these rules; knows nothing of what a row says.  Inode numbers are those of the database (signed).  Belongs to one
store, so to one thread.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from snapshots.storage.database import Database
from snapshots.storage.objects import Collected, Objects

FOREVER = (1 << 63) - 1
"""``until`` of the rows of the present."""
NOTHING = -1
"""``links.ino`` of a tombstone: the fork has no such link, whatever its parent has.  An entry's is an empty record."""

EntryRows = dict[int, bytes]
LinkRows = dict[tuple[int, bytes], tuple[int, bytes | None]]
"""(inode number, encoded ``Link.hides``) by (parent, name)"""
Link = tuple[int, bytes]


def read(db: Database, key: int, at: int = FOREVER - 1) -> tuple[EntryRows, LinkRows]:
    """What the run of number ``key`` consists of at a position, by default now.

    Answers the records by inode, and what names lead to by (parent, name).
    """
    entries, links = _own(db, key, at)
    origin = parent_of(db, key)
    if origin is None:
        return entries, links
    all_entries, all_links = read(db, *origin)
    all_entries.update(entries)
    all_links.update(links)
    return (
        {ino: data for ino, data in all_entries.items() if data},
        {link: row for link, row in all_links.items() if row[0] != NOTHING},
    )


def _own(db: Database, key: int, at: int) -> tuple[EntryRows, LinkRows]:
    if at >= FOREVER - 1:
        where, args = "run = ? AND until = ?", (key, FOREVER)
    else:
        where, args = "run = ? AND until > ? AND since <= ?", (key, at, at)  # type: ignore[assignment]
    entries: EntryRows = dict(db.all(f"SELECT ino, data FROM entries WHERE {where}", args))
    rows = db.all(f"SELECT parent, name, ino, hides FROM links WHERE {where}", args)
    links = {(parent, name): (ino, hides) for parent, name, ino, hides in rows}
    return entries, links


def changed_since(db: Database, key: int, at: int) -> tuple[tuple[EntryRows, LinkRows], tuple[EntryRows, LinkRows]]:
    """What the run consists of now, and what it consisted of at a position, both without what is the same in both."""
    now, then = "run = ?1 AND until = ?2 AND since > ?3", "run = ?1 AND until > ?3 AND until < ?2 AND since <= ?3"
    args = (key, FOREVER, at)
    entries: list[EntryRows] = []
    links: list[LinkRows] = []
    for where in (now, then):
        entries.append(dict(db.all(f"SELECT ino, data FROM entries WHERE {where}", args)))
        rows = db.all(f"SELECT parent, name, ino, hides FROM links WHERE {where}", args)
        links.append({(parent, name): (ino, hides) for parent, name, ino, hides in rows})
    origin = parent_of(db, key)
    if origin is not None:
        their_entries, their_links = read(db, *origin)
        for ino in entries[0].keys() - entries[1].keys() & their_entries.keys():
            entries[1][ino] = their_entries[ino]
        for link in links[0].keys() - links[1].keys() & their_links.keys():
            links[1][link] = their_links[link]
    kept = [
        (
            {ino: data for ino, data in entries[side].items() if data},
            {link: row for link, row in links[side].items() if row[0] != NOTHING},
        )
        for side in (0, 1)
    ]
    return kept[0], kept[1]


def inherited_names(db: Database, key: int, directory: int) -> set[bytes]:
    """Names in a directory that a fork, given by number, may have from its parent."""
    origin = parent_of(db, key)
    if origin is None:
        return set()
    key, at = origin
    rows = db.all(
        "SELECT name FROM links WHERE run = ?1 AND until > ?2 AND since <= ?2 AND parent = ?3", (key, at, directory)
    )
    return {name for (name,) in rows} | inherited_names(db, key, directory)


def parent_of(db: Database, key: int) -> tuple[int, int] | None:
    """(number of the parent, position) of a fork; None for a run that is none."""
    row = db.one("SELECT parent, position FROM forks WHERE run = ?", (key,))
    return None if row is None else (int(row[0]), int(row[1]))


def pins(db: Database, key: int) -> list[int]:
    """The positions of a run that snapshots and forks hold, sorted."""
    rows = db.all(
        "SELECT position FROM snapshots WHERE run = ?1 UNION SELECT position FROM forks WHERE parent = ?1", (key,)
    )
    return sorted(position for (position,) in rows)


class Closing:
    """Ends the present versions of rows at ``position``, the position of the checkpoint that replaces them.

    Those that were true at ``keep`` or later can be looked at afterwards; the others are deleted.
    """

    def __init__(self, db: Database, key: int, position: int, keep: int) -> None:
        self._db = db
        self._key = key
        self._position = position
        self._keep = min(keep, position - 1)
        self.dropped: set[int] = set()
        """objects that the present does not use any more, at least not here"""

    def entries(self, inos: Iterable[int]) -> None:
        """End entries, and what they use."""
        if self._db.one("SELECT 1 FROM entries WHERE run = ? AND until = ? LIMIT 1", (self._key, FOREVER)) is None:
            return
        query = "SELECT since FROM entries WHERE run = ? AND until = ? AND ino = ?"
        known = [(ino, row[0]) for ino in inos if (row := self._db.one(query, (self._key, FOREVER, ino))) is not None]
        query = "SELECT object FROM uses WHERE run = ? AND until = ? AND ino = ?"
        self.dropped.update(row[0] for ino, _ in known for row in self._db.all(query, (self._key, FOREVER, ino)))
        past = [ino for ino, since in known if since <= self._keep]
        gone = [ino for ino, since in known if since > self._keep]
        for table in ("entries", "uses"):
            self._db.many(
                f"UPDATE {table} SET until = ? WHERE run = ? AND until = ? AND ino = ?",
                ((self._position, self._key, FOREVER, ino) for ino in past),
            )
            self._db.many(
                f"DELETE FROM {table} WHERE run = ? AND until = ? AND ino = ?",
                ((self._key, FOREVER, ino) for ino in gone),
            )

    def links(self, links: Iterable[Link]) -> None:
        """End links."""
        if self._db.one("SELECT 1 FROM links WHERE run = ? AND until = ? LIMIT 1", (self._key, FOREVER)) is None:
            return
        query = "SELECT since FROM links WHERE run = ? AND until = ? AND parent = ? AND name = ?"
        known = [
            (each, row[0]) for each in links if (row := self._db.one(query, (self._key, FOREVER, *each))) is not None
        ]
        self._db.many(
            "UPDATE links SET until = ? WHERE run = ? AND until = ? AND parent = ? AND name = ?",
            ((self._position, self._key, FOREVER, *each) for each, since in known if since <= self._keep),
        )
        self._db.many(
            "DELETE FROM links WHERE run = ? AND until = ? AND parent = ? AND name = ?",
            ((self._key, FOREVER, *each) for each, since in known if since > self._keep),
        )

    def names(self, directory: int) -> list[bytes]:
        """The present names in a directory, tombstones among them."""
        query = "SELECT name FROM links WHERE run = ? AND until = ? AND parent = ?"
        return [name for (name,) in self._db.all(query, (self._key, FOREVER, directory))]


def prune(db: Database, objects: Objects, key: int, before: int, *, rows: int) -> Iterator[Collected]:
    """Drop the rows of a run that nobody can look at any more, and the objects that only they used.

    Those are the rows that ended at ``before`` or earlier and that no snapshot and no fork holds (all rows that none
    holds, with ``FOREVER``).  Yields what was freed, between transactions of about ``rows`` rows each.
    """
    last: tuple[int, int] = (0, -(1 << 63))
    while True:
        with db.transaction():
            held = pins(db, key)
            found = db.all(
                "SELECT until, ino, since FROM entries WHERE run = ? AND (until, ino) > (?, ?) AND until <= ?"
                " ORDER BY until, ino LIMIT ?",
                (key, *last, before, rows),
            )
            if held:
                freed = _drop_entries(db, objects, key, [row for row in found if not is_held(held, row[2], row[0])])
            else:
                freed = _drop_range(db, objects, key, last, found[-1][:2]) if found else None
        if freed is not None:
            yield freed
        if not found:
            break
        last = found[-1][0], found[-1][1]
    after: tuple[int, int, bytes] = (0, -(1 << 63), b"")
    while True:
        with db.transaction():
            held = pins(db, key)
            links = db.all(
                "SELECT until, parent, name, since FROM links WHERE run = ? AND (until, parent, name) > (?, ?, ?)"
                " AND until <= ? ORDER BY until, parent, name LIMIT ?",
                (key, *after, before, rows),
            )
            if held:
                db.many(
                    "DELETE FROM links WHERE run = ? AND until = ? AND parent = ? AND name = ?",
                    [(key, *row[:3]) for row in links if not is_held(held, row[3], row[0])],
                )
            elif links:
                db.run(
                    "DELETE FROM links WHERE run = ? AND (until, parent, name) > (?, ?, ?)"
                    " AND (until, parent, name) <= (?, ?, ?)",
                    (key, *after, *links[-1][:3]),
                )
        if not links:
            break
        after = links[-1][0], links[-1][1], links[-1][2]
    with db.transaction():
        held = pins(db, key)
        points = [
            p for (p,) in db.all("SELECT position FROM checkpoints WHERE run = ? AND position < ?", (key, before))
        ]
        newest = max(points, default=0) if before < FOREVER else 0  # ``before`` itself may lie between two checkpoints
        db.many(
            "DELETE FROM checkpoints WHERE run = ? AND position = ?",
            [(key, point) for point in points if point != newest and not is_held(held, point, point + 1)],
        )


def _drop_entries(db: Database, objects: Objects, key: int, dead: list[tuple[int, int, int]]) -> Collected | None:
    if not dead:
        return None
    gone = {(until, ino) for until, ino, _ in dead}
    query = "SELECT until, ino, object FROM uses WHERE run = ? AND (until, ino) >= (?, ?) AND (until, ino) <= (?, ?)"
    used = {name for until, ino, name in db.all(query, (key, *min(gone), *max(gone))) if (until, ino) in gone}
    for table in ("uses", "entries"):
        db.many(
            f"DELETE FROM {table} WHERE run = ? AND until = ? AND ino = ?",
            [(key, until, ino) for until, ino, _ in dead],
        )
    return objects.free(used)


def _drop_range(
    db: Database, objects: Objects, key: int, after: tuple[int, int], last: tuple[int, int]
) -> Collected:
    """Drop all entries after one (until, ino), up to another: one statement each for what nobody holds."""
    where, args = "run = ? AND (until, ino) > (?, ?) AND (until, ino) <= (?, ?)", (key, *after, *last)
    used = {name for (name,) in db.all(f"SELECT object FROM uses WHERE {where}", args)}
    for table in ("uses", "entries"):
        db.run(f"DELETE FROM {table} WHERE {where}", args)
    return objects.free(used)


def is_held(held: list[int], since: int, until: int) -> bool:
    """Whether one of the sorted positions ``held`` is in the range."""
    at = bisect_left(held, since)
    return at < len(held) and held[at] < until
