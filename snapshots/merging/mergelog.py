"""The log of merges: what was merged and undone, what is needed to take it back, and what is under way.

Owns ``merges/`` in the store: ``N/record`` (a summary), ``N/course`` (plan and trail), ``N/kept/`` (the slots: what the
merge replaced or removed), ``N/run`` (see ``returning``), ``N/nodes`` and ``N/moved`` (which nodes the pre-images were
copied from, and became, where the log is on another filesystem than the base) and ``pending-N`` (a merge that is under
way, locked by the process that does it).  Knows nothing of how a plan is carried out, nor of several that are one
(``snapshots.merging.joint``).  Belongs to the thread of its store.

Kept are the last ``KEEP_RECORDS`` records, and the pre-images of the latest merges up to ``KEEP_BYTES``: the oldest go
first, and the very latest never goes.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from snapshots.errors import MergeError, StoreDamaged
from snapshots.merging.copies import Nodes, Number
from snapshots.merging.course import Times, Trail
from snapshots.merging.plan import Plan
from snapshots.merging.staging import remove_tree
from snapshots.storage import durable
from snapshots.storage.store import Store

KEEP_RECORDS = 200
KEEP_BYTES = 2 << 30
KEPT = b"kept"
RETURNING = "run"
_PENDING = "pending-"
_NODES = "nodes"
_MOVED = "moved"
T = TypeVar("T")


class Pending(msgspec.Struct, frozen=True):
    """A merge or an undo that is under way; written before anything is done."""

    number: int
    run_id: str | None
    """the run that is merged; None for an undo"""
    label: str
    base: bytes
    base_identity: tuple[int, int]
    staging: bytes
    """name of the staging directory in the base"""
    undoes: int | None
    """the merge that is taken back"""
    root_times: Times
    """of the base, before"""
    rest: bytes = b""
    """the encoded checkpoint that drops what is merged from the run; empty when all of it is"""
    token: bytes = b""
    """random bytes that the journal in the base must have, for whoever owns the base could put another one there"""
    joint: int = 0
    """number of the first of those that are done together or not at all; 0 for one that is alone"""


class MergeRecord(msgspec.Struct, frozen=True):
    """A merge or an undo that was completed."""

    number: int
    made_ns: int
    run_id: str | None
    """the run that was merged; None for an undo"""
    label: str
    """of the run, for people"""
    base: bytes
    base_identity: tuple[int, int]
    undoes: int | None
    """the merge or undo that this took back"""
    backward: bool
    """whether it went from a new tree to an old one: an undo, or an undo of an undo of an undo"""
    paths: int
    """how many operations on names there were"""
    kept_bytes: int
    """on the disk, in what it replaced or removed"""
    root_times: Times
    """of the base, afterwards"""
    joint: int = 0
    """see ``Pending``"""


class _Course(msgspec.Struct, frozen=True):
    plan: Plan
    trail: Trail


def _number_now(node: Number, moves: list[tuple[int, int, dict[Number, Number]]]) -> Number:
    """What became of a number in these undos: number of the undo, of what it took back, and which nodes it moved.

    Numbers are used again.  Those in an undo are as of the merge that it took back: when the node had another one then,
    it is not the one that was away.
    """
    had = [(0, node)]
    for at, since, moved in moves:
        then = next(each for began, each in reversed(had) if began < since)
        if then in moved and then == had[-1][1]:
            had.append((at, moved[then]))
    return had[-1][1]


class MergeLog:
    """The merges of one store.  Errors: StoreError."""

    def __init__(self, store: Store) -> None:
        self._path = store.layout.merges

    # -- under way

    @contextmanager
    def begin(self, run_id: str | None, label: str, base: bytes, base_identity: tuple[int, int], staging: bytes, *,
              root_times: Times, undoes: int | None = None, rest: bytes = b"",
              joint: int | None = None) -> Iterator[Pending]:  # fmt: skip
        """Announce a merge, and hold its lock.  What is left of it at the end is for ``finish``, or for a recovery.

        ``joint`` is the number of the first of several that are one, and 0 for that first one itself.
        """
        with durable.reporting(f"cannot write the log of merges in {self._path}"):
            number = max([*self._numbers(), *(int(name) for name in self._pending_numbers())], default=0) + 1
            while True:
                durable.step("mkdir", self.directory(number))
                try:
                    os.mkdir(self.directory(number), 0o700)
                    break
                except FileExistsError:
                    number += 1
            together = 0 if joint is None else joint or number
            pending = Pending(
                number, run_id, label, base, base_identity, staging, undoes, root_times, rest, os.urandom(16), together
            )
            path = f"{self._path}/{_PENDING}{number}"
            fd = durable.create(f"{self.directory(number)}/{_PENDING}", 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                durable.write_all(fd, msgspec.msgpack.encode(pending))
                durable.sync(fd)
                durable.rename(f"{self.directory(number)}/{_PENDING}", path)
                durable.sync_directory(self._path)
            except BaseException:
                os.close(fd)
                self.drop(number)
                raise
        try:
            yield pending
        finally:
            os.close(fd)

    def interrupted(self) -> Iterator[Pending]:
        """Every merge whose process died, locked while it is looked at."""
        for name in self._pending_numbers():
            with self.locked(int(name)) as pending:
                if pending is not None:
                    yield pending

    @contextmanager
    def locked(self, number: int, *, wait: bool = False) -> Iterator[Pending | None]:
        """A merge whose process died, locked in the block; None when it lives (unless it is waited for), or has come to
        its end.
        """
        path = f"{self._path}/{_PENDING}{number}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            yield self._lock(fd, number, wait=wait)
        finally:
            os.close(fd)

    def _lock(self, fd: int, number: int, *, wait: bool) -> Pending | None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return None
        return self.peek(number) if os.fstat(fd).st_nlink else None

    def peek(self, number: int) -> Pending | None:
        """One that is under way or whose process died, not locked; None when it has come to its end."""
        path = f"{self._path}/{_PENDING}{number}"
        try:
            with open(path, "rb") as file:
                return msgspec.msgpack.decode(file.read(), type=Pending)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as e:
            raise StoreDamaged(f"{path} is damaged ({e})") from e

    def pending_numbers(self) -> list[int]:
        """Numbers of those that are under way, or whose process died."""
        return [int(name) for name in self._pending_numbers()]

    def finish(self, pending: Pending) -> None:
        """A merge is over, whatever came of it; of one that came to nothing no record remains."""
        with durable.reporting(f"cannot write the log of merges in {self._path}"):
            durable.unlink(f"{self._path}/{_PENDING}{pending.number}")
            if not os.path.exists(self.directory(pending.number) / "record"):
                self.drop(pending.number)

    # -- records

    def write(self, record: MergeRecord, plan: Plan, trail: Trail) -> None:
        """Record what was done.  The record is written last: where it is, there is the rest."""
        with durable.reporting(f"cannot write the log of merges in {self._path}"):
            directory = self.directory(record.number)
            durable.write_file(directory / "course", msgspec.msgpack.encode(_Course(plan, trail)))
            durable.write_file(directory / "record", msgspec.msgpack.encode(record))

    @property
    def path(self) -> Path:
        """``merges/`` in the store."""
        return self._path

    def unwrite(self, number: int) -> None:
        """It is not done, after all."""
        durable.unlink(self.directory(number) / "record")

    def records(self) -> list[MergeRecord]:
        """All there are, the latest last."""
        found = (self._record(number) for number in sorted(self._numbers()))
        return [record for record in found if record is not None]

    def together(self) -> list[list[MergeRecord]]:
        """All records, those that are one in one list, in the order of their bases; the latest last."""
        found: dict[int, list[MergeRecord]] = {}
        for record in self.records():
            found.setdefault(record.joint or record.number, []).append(record)
        return list(found.values())

    def group(self, number: int) -> list[MergeRecord]:
        """A merge, and all that are one with it, the first one first; MergeError when there is none."""
        record = self.get(number)
        if not record.joint:
            return [record]
        return [each for each in self.records() if each.joint == record.joint]

    def get(self, number: int) -> MergeRecord:
        """One record; MergeError when there is none."""
        record = self._record(number)
        if record is None:
            raise MergeError(f"there is no merge {number}; `goexfs merges` lists them")
        return record

    def course(self, number: int) -> tuple[Plan, Trail]:
        """Plan and trail of a recorded merge."""
        try:
            with open(self.directory(number) / "course", "rb") as file:
                course = msgspec.msgpack.decode(file.read(), type=_Course)
        except (OSError, msgspec.MsgspecError) as e:
            raise StoreDamaged(f"the record of merge {number} is damaged ({e}); it cannot be undone") from e
        return course.plan, self._as_of_now(number, course.trail)

    def _as_of_now(self, number: int, trail: Trail) -> Trail:
        """A trail with the numbers that nodes have since later undos copied them."""
        moves: list[tuple[int, int, dict[Number, Number]]] = []
        for later in sorted(each for each in self._numbers() if each > number):
            moved = self._read(later, _MOVED, dict[Number, Number])
            record = self._record(later) if moved else None
            if moved and record is not None and record.undoes is not None and number < record.undoes:
                moves.append((later, record.undoes, moved))
        return trail.renumbered(lambda node: _number_now(node, moves)) if moves else trail

    def note_nodes(self, number: int, nodes: Nodes) -> None:
        """What the pre-images of a merge are copies of."""
        durable.write_file(self.directory(number) / _NODES, msgspec.msgpack.encode(nodes))

    def nodes(self, number: int) -> Nodes:
        """What was noted of them; empty when they are no copies."""
        return self._read(number, _NODES, Nodes) or {}

    def note_moved(self, number: int, moved: dict[Number, Number]) -> None:
        """Which nodes of the base became others when an undo copied them back."""
        durable.write_file(self.directory(number) / _MOVED, msgspec.msgpack.encode(moved))

    def _read(self, number: int, name: str, kind: type[T]) -> T | None:
        path = self.directory(number) / name
        try:
            return msgspec.msgpack.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as e:
            raise StoreDamaged(f"{path} is damaged ({e}); merge {number} cannot be undone") from e

    def is_kept(self, number: int) -> bool:
        """Whether there is what an undo needs."""
        return os.path.isdir(self.directory(number) / os.fsdecode(KEPT))

    def taken_back(self) -> dict[int, int]:
        """Number of a merge -> number of what took it back."""
        return {record.undoes: record.number for record in self.records() if record.undoes is not None}

    def _record(self, number: int) -> MergeRecord | None:
        try:
            with open(self.directory(number) / "record", "rb") as file:
                return msgspec.msgpack.decode(file.read(), type=MergeRecord)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as e:
            raise StoreDamaged(f"the record of merge {number} is damaged ({e})") from e

    # -- what is kept

    def directory(self, number: int) -> Path:
        """Where everything of a merge is."""
        return self._path / str(number)

    def open(self, number: int) -> int:
        """A descriptor of it; the caller closes."""
        return os.open(self.directory(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def drop(self, number: int) -> None:
        """Remove everything of a merge."""
        self._remove(os.fsencode(self._path), b"%d" % number)

    def prune(self, *, keep_bytes: int = KEEP_BYTES, keep_records: int = KEEP_RECORDS) -> list[int]:
        """Drop what is too much, the oldest first; which merges cannot be undone any more."""
        under_way = {int(name) for name in self._pending_numbers()}
        together = [group for group in reversed(self.together()) if not under_way & {each.number for each in group}]
        total, dropped = 0, []
        with durable.reporting(f"cannot empty {self._path}"):
            for place, group in enumerate(together):
                kept = [record for record in group if self.is_kept(record.number)]
                total += sum(record.kept_bytes for record in kept)
                if place and (total > keep_bytes or place >= keep_records):
                    for record in kept:
                        self._remove(os.fsencode(self.directory(record.number)), KEPT)
                        durable.unlink(self.directory(record.number) / RETURNING)
                        dropped.append(record.number)
                if place >= keep_records:
                    for record in group:
                        self.drop(record.number)
        return dropped

    @staticmethod
    def _remove(directory: bytes, name: bytes) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, name)
        finally:
            os.close(fd)

    def _numbers(self) -> list[int]:
        return [int(name) for name in durable.listdir(self._path) if name.isdigit()]

    def _pending_numbers(self) -> list[str]:
        names = (name.removeprefix(_PENDING) for name in durable.listdir(self._path) if name.startswith(_PENDING))
        return sorted((name for name in names if name.isdigit()), key=int)


