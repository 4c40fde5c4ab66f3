"""The log of a run as the store keeps it: the journal's segments, and what is left of those that are gone.

Owns the tables ``log`` and ``reads``.  A segment that the history lets go of is folded into them before it is removed:
events without contents, writes merged, up to `LOG_LIMIT` bytes and `READS_LIMIT` files per run; the oldest events go
first.  Knows nothing of what events mean (``snapshots.history.log``).  Belongs to one store, so to one thread; reading
is safe while the run is mounted, and needs no recovery of a crashed one: what was acknowledged is in the segments.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from snapshots.entries import Identity
from snapshots.errors import RunState, StoreDamaged
from snapshots.history import journal
from snapshots.history.forks import parent_of
from snapshots.history.journal import Numbered, Process
from snapshots.history.log import Event, Log, ReadEvent
from snapshots.storage.store import Store
from snapshots.storage.versions import FOREVER

LOG_LIMIT = 8 << 20
"""Bytes of folded events that a run keeps."""
READS_LIMIT = 200_000
"""Base files read that a run keeps, of segments that are gone."""
_GENERATION = 1 << 48
"""What the records of a parent are set apart by: numbers begin at 1 in every run."""
_ATTEMPTS = 8


class _Chunk(msgspec.Struct, array_like=True):
    """One row: a folded segment."""

    processes: dict[int, Process]
    events: list[Event]


_encode = msgspec.msgpack.Encoder().encode
_decode_chunk = msgspec.msgpack.Decoder(_Chunk).decode
_decode_identity = msgspec.msgpack.Decoder(Identity).decode


def read(store: Store, run_id: str, *, inherited: bool = False, merge: bool = True) -> Log:
    """The log of a run, as far as it is kept; with ``inherited``, of a fork, also that of what it is a fork of.

    The records of a parent have negative numbers.  Errors: RunUnknown, RunState for a run that is over, StoreError.
    """
    record = store.runs.get(run_id)
    if not record.is_live:
        raise RunState(f"run {record.label} has been {record.state}: its log is gone")
    log = Log(merge=merge)
    if inherited:
        _add_parents(store, run_id, log)
    for part in _parts(store, run_id):
        _take(log, part, 0, None)
    return log


def _add_parents(store: Store, run_id: str, log: Log) -> None:
    above = []
    while (origin := parent_of(store, run_id)) is not None:
        above.append(origin)
        run_id = origin[0]
    log.parents = tuple(run for run, _ in above)
    limits: list[int] = []
    for _, position in above:
        limits.append(position)
    for depth in range(len(above), 0, -1):
        parent, position = above[depth - 1]
        for part in _parts(store, parent):
            _take(log, part, -depth * _GENERATION, position)


def own_number(number: int) -> int:
    """The number that a record has in its own run."""
    return number % _GENERATION


def generation(number: int) -> int:
    """Whose record it is: 0 for the run's own, 1 for one of the run that it is a fork of, and so on."""
    return -(number // _GENERATION)


def _take(log: Log, part: Log, shift: int, before: int | None) -> None:
    """Add what was logged before a position, with other numbers."""
    if not shift:
        log.processes.update(part.processes)
        log.reads += part.reads
        for event in part.events:
            log.add_event(event)
        return
    for number, process in part.processes.items():
        parent = process.parent and process.parent + shift
        log.processes[number + shift] = msgspec.structs.replace(process, parent=parent)
    for event in part.events:
        if before is None or event.number < before:
            event.number, event.last = event.number + shift, event.last + shift
            event.process = event.process and event.process + shift
            event.back = tuple(msgspec.structs.replace(back, position=back.position + shift) for back in event.back)
            log.add_event(event)


def _parts(store: Store, run_id: str) -> list[Log]:
    """What the tables have, and every segment."""
    directory = store.runs.directory(run_id) / "journal"
    for _ in range(_ATTEMPTS):
        parts = []
        known = journal.segments(directory)
        try:
            for _, path in known:
                part = Log()
                for numbered in journal.read_on(path, 0, 0)[0]:
                    part.add(numbered)
                parts.append(part)
        except FileNotFoundError:  # thinned meanwhile: then it is in the table now
            continue
        return [_folded(store, run_id, known[0][0] if known else None), *parts]
    return [_folded(store, run_id, None)]


def _folded(store: Store, run_id: str, before: int | None) -> Log:
    """What the tables have of the segments that begin before a record (None: of all)."""
    log = Log()
    rows = store.database.all(
        "SELECT l.data FROM log l JOIN runs r ON r.key = l.run WHERE r.id = ?1 AND (?2 IS NULL OR l.number < ?2)"
        " ORDER BY l.number",
        (run_id, before),
    )
    try:
        for (data,) in rows:
            chunk = _decode_chunk(data)
            log.processes.update(chunk.processes)
            log.events += chunk.events
        rows = store.database.all(
            "SELECT d.path, d.identity, d.number, d.time_ns FROM reads d JOIN runs r ON r.key = d.run WHERE r.id = ?1"
            " AND (?2 IS NULL OR d.number < ?2) ORDER BY d.number",
            (run_id, before),
        )
        log.reads = [ReadEvent(number, made, 0, path, _decode_identity(data)) for path, data, number, made in rows]
    except msgspec.MsgspecError as exc:
        raise StoreDamaged(f"the log of run {run_id} is damaged: {exc}") from exc
    return log


def reads(store: Store, run_id: str) -> list[ReadEvent]:
    """Which base files a run read, each as it was: the first time of every (path, identity), sorted by path."""
    first: dict[tuple[bytes, Identity], ReadEvent] = {}
    for event in read(store, run_id).reads:
        first.setdefault((event.path, event.identity), event)
    return [first[key] for key in sorted(first, key=lambda key: (key[0], first[key].number))]


def fold(store: Store, run_id: str, before: int = FOREVER) -> None:
    """Keep what the segments before record ``before`` tell, since they are about to go.  Doing it twice is doing it
    once.  Errors: StoreError.
    """
    known = [*journal.segments(store.runs.directory(run_id) / "journal"), (FOREVER, Path())]
    rows, read_rows = [], []
    for (first, path), (following, _) in itertools.pairwise(known):
        if following > before:
            break
        try:
            log = _logged(journal.read_on(path, 0, 0)[0])
        except FileNotFoundError:
            continue
        wanted = {process for event in log.events for process in _closure(log, event.process)}
        processes = {number: log.processes[number] for number in wanted}
        if log.events:
            rows.append((first, _encode(_Chunk(processes, log.events))))
        read_rows += [(event.path, _encode(event.identity), event.number, event.time_ns) for event in log.reads]
    if not rows and not read_rows:
        return
    db = store.database
    with db.transaction():
        row = db.one("SELECT key FROM runs WHERE id = ? AND NOT over", (run_id,))
        if row is None:
            return
        (key,) = row
        db.many("INSERT OR REPLACE INTO log (run, number, data) VALUES (?, ?, ?)", ((key, *row) for row in rows))
        room = READS_LIMIT - (db.one("SELECT count(*) FROM reads WHERE run = ?", (key,)) or (0,))[0]
        db.many(
            "INSERT OR IGNORE INTO reads (run, path, identity, number, time_ns) VALUES (?, ?, ?, ?, ?)",
            ((key, *row) for row in read_rows[: max(room, 0)]),
        )
        _bound(store, key)


def _bound(store: Store, key: int) -> None:
    left = LOG_LIMIT
    for number, size in store.database.all(
        "SELECT number, length(data) FROM log WHERE run = ? ORDER BY number DESC", (key,)
    ):
        left -= size
        if left < 0:
            store.database.run("DELETE FROM log WHERE run = ? AND number <= ?", (key, number))
            return


def _logged(records: Iterable[Numbered]) -> Log:
    log = Log()
    for numbered in records:
        log.add(numbered)
    return log


def _closure(log: Log, number: int) -> Iterator[int]:
    while number in log.processes:
        yield number
        above = log.processes[number].parent
        if above >= number:
            return
        number = above


class Follower:
    """What is added to the journal of a run, as it happens.  `begin` at what is there, then ask `more` again and
    again.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._directory: Path = store.runs.directory(run_id) / "journal"
        self._segment = -1
        self._offset = 0
        self._next = 0

    def begin(self, before: int) -> None:
        """Go on at record ``before``: what was read already is not told again."""
        known = journal.segments(self._directory)
        at = max((first for first, _ in known if first <= before), default=known[0][0] if known else -1)
        self._segment, self._offset, self._next = at, 0, max(before, 1)

    def more(self, take: Callable[[Numbered], None]) -> None:
        """Hand over the records that were written since; a torn one is handed over when it is whole."""
        for first, path in journal.segments(self._directory):
            if first < self._segment:
                continue
            if first != self._segment:
                self._segment, self._offset = first, 0
            number = self._next if self._offset else first
            try:
                records, self._offset, _ = journal.read_on(path, self._offset, number)
            except FileNotFoundError:
                continue
            for numbered in records:
                if numbered.number >= self._next or isinstance(numbered.record, Process):
                    take(numbered)
                self._next = max(self._next, numbered.number + 1)
