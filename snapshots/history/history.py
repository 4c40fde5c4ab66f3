"""The snapshots of one run, and what people call a point of its history.

Owns the table ``snapshots`` and the notation of points.  A snapshot is a name for the position of a checkpoint: making
one copies nothing, and the versions it names stay for as long as it does (``snapshots.storage.versions``).  Belongs to
one store, so to one thread.
"""

import re
import time
from typing import Literal

import msgspec

from snapshots.errors import HistoryGone, RunState, RunUnknown, SnapshotExists, SnapshotUnknown
from snapshots.history.moments import parse_time
from snapshots.history.timeline import position_at
from snapshots.storage.database import Row
from snapshots.storage.runrecord import unfit
from snapshots.storage.store import Store

Kind = Literal["user", "exit", "quiet", "every", "limit", "rewind", "rebase"]
"""Who asked for a snapshot: a person (or program), or one of the occasions of automatic ones."""

_SELECT = "SELECT name, position, kind, message, created_ns FROM snapshots"


class Snapshot(msgspec.Struct, frozen=True):
    """A named state of a run."""

    name: str
    position: int
    """in the journal: number of the first record that is not in it"""
    kind: Kind
    message: str
    """what the user said about it; may be empty"""
    created_ns: int

    @property
    def is_automatic(self) -> bool:
        """Whether it goes by itself when it is old, or takes up too much."""
        return self.kind != "user"


class History:
    """The past of the run ``run_id``.  Errors of every method: StoreError, RunUnknown."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._db = store.database
        self.run_id = run_id

    def snapshot(self, name: str | None = None, message: str = "", kind: Kind = "user") -> Snapshot:
        """Name the state of the last checkpoint (of a mounted run: seal it first).

        Without a name it gets one.  An automatic one that would name what it named already is not made again.
        Errors: SnapshotExists, SnapshotUnknown for what cannot be a name, RunState for a run that is over.
        """
        if name is not None:
            problem = unfit(name) or ("it begins like another kind of point" if name[0] in "~#{" else None)
            if problem is not None:
                raise SnapshotUnknown(f"{name!r} cannot name a snapshot: {problem}")
        now = time.time_ns()
        with self._db.transaction():
            key, position = self._run()
            if name is None and kind != "user":
                name = f"{kind}-{position - 1}"
                row = self._db.one(f"{_SELECT} WHERE run = ? AND name = ?", (key, name))
                if row is not None:
                    return _snapshot(row)
            elif name is None:
                name = self._free_name(key)
            elif self._db.one("SELECT 1 FROM snapshots WHERE run = ? AND name = ?", (key, name)) is not None:
                raise SnapshotExists(f"run {self.run_id} has a snapshot {name!r} already; choose another name")
            self._db.insert(
                "INSERT INTO snapshots (run, position, name, kind, message, created_ns) VALUES (?, ?, ?, ?, ?, ?)",
                (key, position, name, kind, message, now),
            )
            # A run that never changed anything has no checkpoint yet.
            self._db.run(
                "INSERT OR IGNORE INTO checkpoints (run, position, time_ns) VALUES (?, ?, ?)", (key, position, now)
            )
        return Snapshot(name, position, kind, message, now)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, the latest last."""
        key, _ = self._run(over=True)
        return [_snapshot(row) for row in self._db.all(f"{_SELECT} WHERE run = ? ORDER BY key", (key,))]

    def drop(self, name: str) -> None:
        """Forget a snapshot; what only it kept goes with the next thinning.  Errors: SnapshotUnknown."""
        with self._db.transaction():
            key, _ = self._run()
            if not self._db.run("DELETE FROM snapshots WHERE run = ? AND name = ?", (key, name)):
                raise self._unknown(name)

    def position(self, point: str) -> int:
        """The position of a point: a snapshot's name, ``~N`` (the Nth latest snapshot; ``~0``: now), ``#SEQ`` (just
        after that record of the journal), or ``{TIME}`` (see ``snapshots.history.moments``).

        Errors: SnapshotUnknown, HistoryGone.
        """
        key, now = self._run()
        if point.startswith("~"):
            return self._latest(point, now)
        if point.startswith("#"):
            if not re.fullmatch(r"#[0-9]{1,18}", point):
                raise SnapshotUnknown(f"{point!r} is no record of a journal; write #123")
            return self._reached(int(point[1:]) + 1, now)
        if point.startswith("{"):
            return position_at(self._store, self.run_id, parse_time(point[1:].removesuffix("}"), time.time_ns()))
        row = self._db.one("SELECT position FROM snapshots WHERE run = ? AND name = ?", (key, point))
        if row is None:
            raise self._unknown(point)
        return int(row[0])

    def _latest(self, point: str, now: int) -> int:
        if not re.fullmatch(r"~[0-9]{0,9}", point):
            raise SnapshotUnknown(f"{point!r} is no number of a snapshot; ~1 is the latest")
        back = int(point[1:] or "1")
        if back == 0:
            return now
        snapshots = self.snapshots()
        if back > len(snapshots):
            found = f"{len(snapshots)} snapshot{'s'[len(snapshots) == 1 :]}" if snapshots else "no snapshots"
            raise SnapshotUnknown(f"run {self.run_id} has {found}, so there is no @{point}")
        return snapshots[-back].position

    def _reached(self, position: int, now: int) -> int:
        if position > now:
            raise HistoryGone(f"the journal of run {self.run_id} ends before record {position - 1}")
        return max(position, 1)

    def _unknown(self, name: str) -> SnapshotUnknown:
        label = self._store.runs.get(self.run_id).label
        return SnapshotUnknown(
            f"run {label} has no snapshot {name!r}; `goexfs snapshots {label}` lists them"
        )

    def _free_name(self, key: int) -> str:
        row = self._db.one(
            "SELECT max(CAST(substr(name, 2) AS INTEGER)) FROM snapshots WHERE run = ? AND length(name) <= 10"
            " AND name GLOB 's[0-9]*' AND NOT substr(name, 2) GLOB '*[^0-9]*'",
            (key,),
        )
        return f"s{1 + ((row and row[0]) or 0)}"

    def _run(self, *, over: bool = False) -> tuple[int, int]:
        """Number of the run, and the position of its last checkpoint."""
        row = self._db.one("SELECT key, journal, state FROM runs WHERE id = ?", (self.run_id,))
        if row is None:
            raise RunUnknown(f"no run {self.run_id}; `goexfs ls --all` lists them")
        if row[2] in ("merged", "discarded") and not over:
            raise RunState(f"run {self.run_id} has been {row[2]}: its history is gone")
        return row[0], row[1]


def _snapshot(row: Row) -> Snapshot:
    return Snapshot(*row)
