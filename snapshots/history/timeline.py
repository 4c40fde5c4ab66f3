"""The state of a run at any point that its history still holds.

Owns the step from a position to a state: the nearest checkpoint at or before it, and the journal's records from there
on.  Stores contents that only the journal has as objects, which the open store holds until it is closed.  Belongs to
one store, so to one thread.

What the journal does not have are the bytes written to large files (they went to a working file): a state between two
checkpoints has such a content only if nothing was written to it between that state and the next checkpoint.
"""

from pathlib import Path
from typing import NamedTuple

from snapshots.entries import Content, Entry, UpperState
from snapshots.errors import HistoryGone
from snapshots.history import journal
from snapshots.history.journal import Change, Damage, Numbered, Process
from snapshots.history.replay import Replay
from snapshots.names import readable
from snapshots.storage.store import Store


class Moment(NamedTuple):
    """A state, as far as it is kept."""

    state: UpperState
    lost: dict[int, bytes]
    """contents that are not kept: inode number -> path of the file, as far as it is known"""


def state_at(store: Store, run_id: str, position: int, *, before: UpperState | None = None) -> UpperState:
    """The upper after all records before ``position``.  Errors: HistoryGone, also when a content in it is not kept.

    ``before``: the checkpoint to begin at, without what has not changed since; and so is the answer then.
    """
    moment = moment_at(store, run_id, position, before=before)
    if moment.lost:
        raise content_gone(run_id, position, next(iter(moment.lost.values())))
    return moment.state


def content_gone(run_id: str, position: int, path: bytes) -> HistoryGone:
    """The error that says so."""
    return HistoryGone(
        f"run {run_id} at #{position - 1}: the content that {readable(path)} had then is not kept (of large files only"
        " what was sealed is); choose a snapshot, or another record"
    )


def moment_at(store: Store, run_id: str, position: int, *, before: UpperState | None = None) -> Moment:
    """The same, without those contents that are not kept.  Errors: HistoryGone."""
    upper = store.upper(run_id)
    before = upper.load(position) if before is None else before
    if before.journal >= position:
        return Moment(before, {})
    directory = store.runs.directory(run_id) / "journal"
    replay = Replay(before)
    paths: dict[int, bytes] = {}
    expected = before.journal
    later: set[int] = set()
    following = upper.checkpoint_after(position)
    for found in journal.read(directory, before.journal):
        if isinstance(found, Damage) or found.number != expected or (following and found.number >= following):
            break
        expected += 1
        if found.number < position:
            replay.apply(found)
            _note_path(found, paths)
        elif isinstance(found.record, Change) and found.record.data:
            later.add(found.record.ino)
        elif not following:
            break
    if expected < position:
        raise HistoryGone(
            f"the journal of run {run_id} has no record {expected} any more: how it was at #{position - 1} is not known"
        )
    stored = replay.contents(store.objects, None)
    lost = {ino: paths.get(ino, b"?") for ino, _ in replay.lost}
    if lost and following:
        stored |= _from_next(upper.load(following), replay.entries, lost.keys() - later)
    return Moment(replay.state(stored), {ino: path for ino, path in lost.items() if ino not in stored})


def _note_path(found: Numbered, paths: dict[int, bytes]) -> None:
    record = found.record
    if isinstance(record, Change) and record.path:
        paths[record.ino] = record.path


def _from_next(state: UpperState, entries: dict[int, Entry], inos: set[int]) -> dict[int, Content]:
    """Contents that the next checkpoint has as they were."""
    found = {}
    for ino in inos:
        after = state.entries.get(ino)
        if after is not None and after.content is not None and ino in entries and after.size == entries[ino].size:
            found[ino] = after.content
    return found


def position_at(store: Store, run_id: str, time_ns: int) -> int:
    """The position at which a run was at a time: after the last record that is not later, whatever is before it.  So a
    clock that was set back loses nothing: what was recorded while it was ahead counts as done by then.

    Errors: HistoryGone when that is not kept.
    """
    upper = store.upper(run_id)
    horizon, now = upper.retained()
    directory = store.runs.directory(run_id) / "journal"
    ends_ns: int | None = None
    for first, path in reversed(journal.segments(directory)):
        begun = journal.begun_ns(path)
        if first < horizon:
            break
        if begun is None:
            continue
        # One that begins and ends later has nothing of that time; when the last one ends is not written down.
        if ends_ns is None or min(begun, ends_ns) <= time_ns:
            position = _last_until(_records(path), time_ns) or (first if begun <= time_ns else 0)
            if position:
                return min(position, now)
        ends_ns = begun
    return _checkpoint_at(store, run_id, time_ns, horizon)


def _records(segment: Path) -> list[Numbered]:
    try:
        return journal.read_segment(segment)[0]
    except FileNotFoundError:  # thinned meanwhile
        return []


def _last_until(records: list[Numbered], time_ns: int) -> int:
    """The position after the last record that is not later than a time; 0 when all are."""
    position = 0
    for number, record in records:
        if isinstance(record, Process):  # has the time when it was first seen, maybe in another segment
            position += position == number
        elif record.time_ns <= time_ns:
            position = number + 1
    return position


def _checkpoint_at(store: Store, run_id: str, time_ns: int, horizon: int) -> int:
    for position, made_ns in reversed(store.upper(run_id).checkpoints()):
        if made_ns <= time_ns:
            return position
    if horizon == 1:
        return 1  # nothing was ever dropped: that is how it began
    raise HistoryGone(
        f"the history of run {run_id} does not reach back to that time; `goexfs snapshots` lists what is kept"
    )
