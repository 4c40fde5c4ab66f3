"""The past of a run with several bases.

Owns what a point means for all of its parts: the snapshot of that name where a part has it, and elsewhere what it was
at that moment.  Belongs to the thread of its store.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Self

from goexfs.session.account import POLL_SECONDS
from goexfs.session.history import LATEST, Past, is_now
from snapshots.errors import RunError, SnapshotUnknown

if TYPE_CHECKING:
    from goexfs.session.bases import Bases
    from goexfs.session.handle import RunHandle
    from snapshots.history.history import Kind, Snapshot
    from snapshots.history.log import Author, Event, Log
    from snapshots.history.rewind import Rewound
    from snapshots.layers.content import Readable
    from snapshots.review.changes import Change


def point(position: int) -> str:
    """The point that a position of one part is."""
    return f"#{position - 1}"


class JointPast(Past):
    """The verbs about its past of a ``JointHandle``, which has the rest."""

    _parts: "tuple[RunHandle, ...]"
    _bases: "Bases"

    def positions(self, at: str | None) -> list[int]:
        """The place in the journal of every part that a point means; None: this moment."""
        if at is None or is_now(at):
            return [part.position(None) for part in self._parts]
        if at.startswith("{"):
            return [part.position(at) for part in self._parts]
        if at.startswith("#"):
            first = self._parts[0]
            last = max((event.last_ns for event in first.log(at=at).events), default=first.record.created_ns)
            return [first.position(at), *(self._at_time(part, last) for part in self._parts[1:])]
        snapshot = self._snapshot_at(at)
        return [self._at_snapshot(part, snapshot) for part in self._parts]

    def position(self, point: str | None) -> int:
        """Of the first part; see ``positions``."""
        return self.positions(point)[0]

    def part_at(self, path: bytes, at: str | None) -> "tuple[RunHandle, bytes, str | None]":
        """As ``RunHandle.part_at``."""
        number, below = self._bases.find(path)
        return self._parts[number], below, None if at is None else point(self.positions(at)[number])

    def _snapshot_at(self, at: str) -> "Snapshot":
        snapshots = self.snapshots()
        if at.startswith("~"):
            back = int(at[1:] or "1") if at[1:].isdigit() or at == "~" else 0
            if not 0 < back <= len(snapshots):
                found = f"{len(snapshots)} snapshot{'s'[len(snapshots) == 1 :]}" if snapshots else "no snapshots"
                raise SnapshotUnknown(f"run {self.record.label} has {found}, so there is no @{at}")
            return snapshots[-back]
        for snapshot in snapshots:
            if snapshot.name == at:
                return snapshot
        label = self.record.label
        raise SnapshotUnknown(f"run {label} has no snapshot {at!r}; `goexfs snapshots {label}` lists them")

    def _at_snapshot(self, part: "RunHandle", snapshot: "Snapshot") -> int:
        for own in part.snapshots():
            # The names of automatic ones count records, so that two parts may have one for two moments.
            if own == snapshot or (own.name == snapshot.name and not snapshot.is_automatic):
                return own.position
        return self._at_time(part, snapshot.created_ns)

    def _at_time(self, part: "RunHandle", time_ns: int) -> int:
        from snapshots.history.timeline import position_at

        part.position(None)  # what it was then may not have been sealed yet
        return position_at(self._store, part.id, time_ns)

    # -- snapshots

    def snapshot(self, name: str | None = None, message: str = "") -> "Snapshot":
        """Name what all parts are, one after the other: pause the run where that has to be one moment."""
        if name is not None:
            self._check_free(name)
        made = self._parts[0].snapshot(name or self._free_name(), message)
        for part in self._parts[1:]:
            part.snapshot(made.name, message)
        return made

    def _free_name(self) -> str:
        taken = {each.name for part in self._parts for each in part.snapshots()}
        return next(name for number in range(1, len(taken) + 2) if (name := f"s{number}") not in taken)

    def _check_free(self, name: str) -> None:
        from snapshots.errors import SnapshotExists

        if any(each.name == name for part in self._parts for each in part.snapshots()):
            raise SnapshotExists(f"run {self.record.label} has a snapshot {name!r} already; choose another name")

    def snapshot_now(self, kind: "Kind") -> "Snapshot":
        """An automatic snapshot of all parts."""
        first, *_ = [part.snapshot_now(kind) for part in self._parts]
        return first

    def snapshots(self, *, at: str | None = None) -> "list[Snapshot]":
        """Those of all parts, each name once, the latest last; ``position`` is that in the part it is of."""
        positions = None if at is None else self.positions(at)
        found: dict[str, Snapshot] = {}
        for number, part in enumerate(self._parts):
            for each in part.snapshots():
                if positions is None or each.position <= positions[number]:
                    found.setdefault(each.name, each)
        return sorted(found.values(), key=lambda each: each.created_ns)

    def drop_snapshot(self, name: str) -> None:
        """Forget it in every part that has it."""
        holders = [part for part in self._parts if any(each.name == name for each in part.snapshots())]
        for part in holders or self._parts[:1]:
            part.drop_snapshot(name)

    # -- forks and rewinds

    def _forked(self, name: str | None, at: str | None) -> Self:
        """A new run over the same bases."""
        from snapshots.history.forks import fork

        positions: list[int | None] = [*self.positions(at)]
        first, *others = [None] * len(positions) if is_now(at) else positions
        parts = [(part.id, position) for part, position in zip(self._parts[1:], others, strict=True)]
        return self._of(self._store, fork(self._store, self.id, first, name=name, parts=parts))

    def rewind(self, at: str = LATEST, paths: tuple[bytes, ...] = ()) -> "Rewound":
        """All parts, one after the other, or those that the paths are in; otherwise as ``RunHandle.rewind``."""
        positions = self.positions(at)
        if not paths:
            named = [each for each in self.snapshots() if at in (each.name, LATEST)]
            self.effects.before_rewind(positions[0], named[-1].created_ns if named else 0)
        return self._joined(
            (number, self._parts[number]._rewind(positions[number], below))
            for number, below in sorted(self._bases.divide(paths).items())
        )

    def aims(self, at: str, paths: tuple[bytes, ...] = ()) -> list[tuple[str, int, tuple[bytes, ...]]]:
        """As ``RunHandle.aims``."""
        positions = self.positions(at)
        return [
            (self._parts[number].id, positions[number], below)
            for number, below in sorted(self._bases.divide(paths).items())
        ]

    def take_back(self, process: str, paths: tuple[bytes, ...] = ()) -> "Rewound":
        """As ``RunHandle.take_back``, in all bases."""
        return self._joined(
            (number, self._parts[number].take_back(process, below))
            for number, below in sorted(self._bases.divide(paths).items())
        )

    def _joined(self, done: "Iterable[tuple[int, Rewound]]") -> "Rewound":
        import msgspec

        from snapshots.history.rewind import Rewound

        found = list(done)
        return Rewound(
            sum(each.nodes for _, each in found),
            # The earliest: what it was before is that for every part.
            next((each.before for _, each in found if each.before is not None), None),
            tuple(
                msgspec.structs.replace(left, path=self._bases.place(number, left.path))
                for number, each in found for left in each.left
            ),
        )  # fmt: skip

    # -- looking

    def diff_from(
        self, before: Past, *, before_at: str | None = None, at: str | None = None, paths: Iterable[bytes] = (),
        times: bool = False,
    ) -> "list[Change]":  # fmt: skip
        """As ``RunHandle.diff_from``, of two runs over the same bases."""
        if not isinstance(before, JointPast) or before._bases.all != self._bases.all:
            raise RunError(f"{before.record.label} and {self.record.label} have not the same bases: compare each alone")
        was, now = before.positions(before_at), self.positions(at)
        changes: list[Change] = []
        for number, below in self._bases.divide(paths).items():
            found = self._parts[number].diff_from(
                before._parts[number], before_at=point(was[number]), at=point(now[number]), paths=below, times=times
            )
            changes += self._bases.placed(number, found)
        return changes

    @contextmanager
    def open(self, path: bytes, *, at: str | None = None) -> "Iterator[Readable]":
        """As ``RunHandle.open``, of a file in any of the bases."""
        part, below, then = self.part_at(path, at)
        with part.open(below, at=then) as content:
            yield content

    def logs(self, *, at: str | None = None) -> "list[Log]":
        """The log of each base of the run; records and processes are numbered within each."""
        points = [None] * len(self._parts) if at is None else [point(each) for each in self.positions(at)]
        found = [part.log(at=each) for part, each in zip(self._parts, points, strict=True)]
        for number, log in enumerate(found):
            log.events = [self._placed_event(number, event) for event in log.events]
        return found

    def follow(self) -> "Iterator[Log]":
        """As ``RunHandle.follow``, in all bases: in the order of time, as far as it is known at a moment."""
        from snapshots.history.log import Log

        news = [part.news() for part in self._parts]
        while True:
            active = self.state == "active"
            pieces = [tell() for tell in news]
            happened = [(number, event) for number, piece in enumerate(pieces) for event in piece.events]
            happened.sort(key=lambda each: each[1].time_ns)
            for number, events in groupby(happened, key=lambda each: each[0]):
                piece = Log()
                piece.processes = pieces[number].processes
                piece.events = [self._placed_event(number, event) for _, event in events]
                yield piece
            if not active:
                return
            time.sleep(POLL_SECONDS)

    def _placed_event(self, number: int, event: "Event") -> "Event":
        import msgspec

        names = {name: getattr(event, name) for name in ("path", "old_path")}
        placed = {name: self._bases.place(number, path) for name, path in names.items() if path}
        return msgspec.structs.replace(event, **placed)

    def blame(self, path: bytes, *, at: str | None = None) -> "Author | None":
        """As ``RunHandle.blame``, of a path in any of the bases."""
        part, below, then = self.part_at(path, at)
        return part.blame(below, at=then)
