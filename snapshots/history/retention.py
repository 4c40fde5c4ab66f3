"""How much of its past a run keeps.

Owns the rules by which history is thinned.  They are on by default, so that no run grows without a bound:

1. Automatic snapshots are thinned as they age: the newest twenty stay, then one a minute for an hour, one an hour for
   a day, one a day for thirty days.
2. What only the past needs (journal, records and objects of former versions) may take up to the run's *history limit*.
   Above it, the oldest goes first: positions before a new *horizon* can no longer be gone to, but for snapshots.
3. If what automatic snapshots hold before the horizon is too much by itself, the oldest of them go.
4. What a user's snapshot, or a fork, holds stays, and does not count.

Costs what the past holds, not what the run does.  Belongs to one store, so to one thread;
safe while the run is mounted.
"""

import time
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from snapshots.history import journal
from snapshots.history.logbook import fold
from snapshots.storage import durable
from snapshots.storage.store import Store
from snapshots.storage.versions import FOREVER, is_held, pins, prune

HISTORY_LIMIT = 256 << 20
"""Bytes of the past that a run keeps by default."""
MOST_SEGMENTS = 4096
"""Segments of the journal that a run keeps at most: each is a file."""
NEWEST = 20
_AGES = ((3600, 60), (86400, 3600), (30 * 86400, 86400))
"""(up to this age, one in so many), in seconds"""
_ROW_BYTES = 64
"""of a row, apart from what varies"""
_BLOCK = 4096
_ROWS = 1000


class Thinned(NamedTuple):
    """What went."""

    snapshots: int
    objects: int
    object_bytes: int
    segments: int
    segment_bytes: int
    records: int = 0
    """of the journal that one can go back to no more"""


class _Item(NamedTuple):
    """Something that only the past needs."""

    until: int
    """the first position at which nobody sees it"""
    holder: int
    """position of the newest automatic snapshot that sees it, 0 for none"""
    bytes: int


def set_limit(store: Store, run_id: str, limit: int) -> None:
    """Set the history limit of a run, in bytes; 0 keeps what snapshots hold and nothing else."""
    with store.database.transaction():
        store.database.run("UPDATE runs SET history_limit = ? WHERE id = ?", (limit, run_id))


def past_bytes(store: Store, run_id: str) -> int:
    """Bytes that `thin` could free at most.  Errors: StoreError."""
    row = store.database.one("SELECT key FROM runs WHERE id = ?", (run_id,))
    if row is None:
        return 0
    automatic = store.database.all(
        "SELECT position FROM snapshots WHERE run = ? AND kind != 'user' ORDER BY position", row
    )
    items = _items(store, row[0], [position for (position,) in automatic])
    return sum(item.bytes for item in items) + sum(size for *_, size in _segments(store, run_id))


def thin(
    store: Store, run_id: str, *, spare: int = 0, now_ns: int | None = None, rows: int = _ROWS
) -> Thinned:
    """Apply the rules to one run; ``spare`` bytes of its past are to go in any case.  Errors: StoreError."""
    db = store.database
    with db.transaction():
        row = db.one("SELECT key, journal, horizon, history_limit FROM runs WHERE id = ?", (run_id,))
        if row is None:
            return Thinned(0, 0, 0, 0, 0)
        key, present, horizon, limit = row
        old = _too_many(db.all(
            "SELECT key, position, created_ns FROM snapshots WHERE run = ? AND kind != 'user' ORDER BY key DESC", (key,)
        ), time.time_ns() if now_ns is None else now_ns)  # fmt: skip
        db.many("DELETE FROM snapshots WHERE key = ?", [(number,) for number in old])
        sizes = _segments(store, run_id)
        cut, dropped = _decide(store, key, present, horizon, limit, sizes, spare)
        db.many("DELETE FROM snapshots WHERE key = ?", [(number,) for number in dropped])
        if cut != horizon:
            db.run("UPDATE runs SET horizon = ? WHERE key = ?", (cut, key))
    objects = freed = 0
    for step in prune(db, store.objects, key, cut, rows=rows):
        objects += step.objects
        freed += step.bytes
    gone = [size for first, following, size in sizes if following <= cut]
    if gone:
        fold(store, run_id, cut)
        store.sync()  # what the segments had, a checkpoint has; now also after a power cut
        with durable.reporting(f"cannot shorten the journal of run {run_id}"):
            journal.drop_before(store.runs.directory(run_id) / "journal", cut)
    return Thinned(len(old) + len(dropped), objects, freed, len(gone), sum(gone), cut - horizon)


def _too_many(snapshots: list[tuple[int, int, int]], now_ns: int) -> list[int]:
    """Numbers of the automatic snapshots (the latest first) that are too old or too close together."""
    seen: set[tuple[int, int]] = set()
    old = []
    for number, _, made_ns in snapshots[NEWEST:]:
        age = max(now_ns - made_ns, 0) // 10**9
        every = next((every for limit, every in _AGES if age < limit), 0)
        bucket = (every, made_ns // 10**9 // every) if every else (0, 0)
        if not every or bucket in seen:
            old.append(number)
        seen.add(bucket)
    return old


def _segments(store: Store, run_id: str) -> list[tuple[int, int, int]]:
    """(first record, first record of the next one, bytes) of every segment but the last."""
    known = journal.segments(store.runs.directory(run_id) / "journal")
    found = []
    for (first, path), (following, _) in pairwise(known):
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            continue
        found.append((first, following, -(-size // _BLOCK) * _BLOCK))
    return found


def _decide(
    store: Store, key: int, present: int, horizon: int, limit: int, segments: list[tuple[int, int, int]], spare: int
) -> tuple[int, list[int]]:
    """The new horizon, and the numbers of automatic snapshots that have to go."""
    db = store.database
    cut = max(horizon, segments[-MOST_SEGMENTS][0] if len(segments) > MOST_SEGMENTS else 1)
    if not limit:
        cut = present
    elif not spare and _at_most(store, key) + sum(size for *_, size in segments) <= limit:
        return cut, []
    automatic = db.all("SELECT position, key FROM snapshots WHERE run = ? AND kind != 'user' ORDER BY position", (key,))
    items = _items(store, key, [position for position, _ in automatic])
    items += [_Item(following, 0, size) for _, following, size in segments if following <= present]
    left = sum(item.bytes for item in items if item.until > cut or item.holder)
    limit = min(limit, max(left - spare, 0)) if spare else limit
    for item in sorted(items):
        if left <= limit:
            break
        if item.until > cut:
            cut = item.until
            left -= 0 if item.holder else item.bytes
        elif not item.holder:
            continue
    # Several items end at one position: all of them went with it.
    left = sum(item.bytes for item in items if item.until > cut or item.holder)
    dropped: list[int] = []
    for position, number in automatic:
        if left <= limit:
            break
        dropped.append(number)
        left -= sum(item.bytes for item in items if item.holder == position and item.until <= cut)
    return min(cut, present), dropped


def _at_most(store: Store, key: int) -> int:
    """Bytes that the past holds, counting also what the present shares with it: quickly known, and usually enough."""
    row = store.database.one(
        "SELECT (SELECT coalesce(sum(size), 0) FROM objects WHERE id IN"
        " (SELECT object FROM uses WHERE run = ?1 AND until < ?2)),"
        " (SELECT coalesce(sum(length(data) + ?3), 0) FROM entries WHERE run = ?1 AND until < ?2),"
        " (SELECT coalesce(sum(length(name) + coalesce(length(hides), 0) + ?3), 0) FROM links"
        " WHERE run = ?1 AND until < ?2)",
        (key, FOREVER, _ROW_BYTES),
    )
    return sum(row) if row is not None else 0


def _items(store: Store, key: int, automatic: list[int]) -> list[_Item]:
    """What only the past needs, and no user's snapshot and no fork holds."""
    db = store.database
    asked = set(automatic)
    kept = [position for position in pins(db, key) if position not in asked or _is_users(store, key, position)]
    items = []
    rows = db.all(
        "SELECT until, since, length(data) + ? FROM entries WHERE run = ? AND until < ?", (_ROW_BYTES, key, FOREVER)
    ) + db.all(
        "SELECT until, since, length(name) + coalesce(length(hides), 0) + ?"
        " FROM links WHERE run = ? AND until < ?", (_ROW_BYTES, key, FOREVER)
    )
    for until, since, size in rows:
        if not is_held(kept, since, until):
            items.append(_Item(until, _newest(automatic, since, until), size))
    versions: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for object_id, size, since, until in db.all(
        "SELECT u.object, o.size, e.since, u.until FROM uses u JOIN objects o ON o.id = u.object"
        " JOIN entries e ON (e.run, e.until, e.ino) = (u.run, u.until, u.ino) WHERE u.run = ? AND u.until < ?"
        " AND NOT EXISTS (SELECT 1 FROM uses n WHERE n.object = u.object AND n.run = u.run AND n.until = ?)",
        (key, FOREVER, FOREVER),
    ):
        versions[object_id, size].append((since, until))
    for (_, size), ranges in versions.items():
        if not any(is_held(kept, *each) for each in ranges):
            items.append(
                _Item(max(until for _, until in ranges), max(_newest(automatic, *each) for each in ranges), size)
            )
    return items


def _is_users(store: Store, key: int, position: int) -> bool:
    row = store.database.one(
        "SELECT EXISTS (SELECT 1 FROM snapshots WHERE run = ?1 AND position = ?2 AND kind = 'user')"
        " OR EXISTS (SELECT 1 FROM forks WHERE parent = ?1 AND position = ?2)",
        (key, position),
    )
    return row is not None and bool(row[0])


def _newest(automatic: list[int], since: int, until: int) -> int:
    return max((position for position in automatic if since <= position < until), default=0)
