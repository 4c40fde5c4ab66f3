"""Bringing back what a run had acknowledged when its filesystem process died.

Owns the step from a journal that is longer than the last checkpoint to a checkpoint that holds all of it, and the
removal of what the checkpoint made superfluous.  Whoever calls holds the run's lock.  Doing it twice, or dying in the
middle and doing it again, is the same as doing it once: nothing is removed before the checkpoint that replaces it is
committed.
"""

import os
from pathlib import Path
from typing import NamedTuple

from snapshots.history import journal
from snapshots.history.replay import Replay
from snapshots.storage import durable
from snapshots.storage.states import difference
from snapshots.storage.store import Store


class Recovery(NamedTuple):
    """What a recovery found."""

    records: int
    """applied"""
    damage: journal.Damage | None
    """the end of the journal that had to be cut off; None when it was whole"""
    lost: tuple[tuple[int, str], ...]
    """(inode number, reason) of contents that could not be brought back"""


def recover(store: Store, run_id: str) -> Recovery | None:
    """Fold what the journal has beyond the last checkpoint into a new one; None when there was nothing.

    Errors: RunUnknown, RunState, StoreError.
    """
    directory = store.runs.directory(run_id)
    upper = store.upper(run_id)
    before = upper.load()
    replay = Replay(before)
    records, damage, number = 0, None, before.journal
    for found in journal.read(directory / "journal", before.journal):
        if isinstance(found, journal.Damage):
            damage = found
            break
        replay.apply(found)
        records += 1
        number = found.number + 1
    if records or damage is not None:
        after = replay.state(replay.contents(store.objects, directory / "spool"))
        upper.commit(difference(before, after, number))
        store.sync()
    tidy(directory, number)
    if not records and damage is None:
        return None
    return Recovery(records, damage, tuple(replay.lost))


def tidy(directory: Path, position: int) -> None:
    """Remove what a checkpoint at journal *position* does not need:

    working files, and the damaged end of the journal.
    """
    for name in durable.listdir(directory / "spool"):
        durable.unlink(directory / "spool" / name)
    for name in durable.listdir(directory / "journal"):
        if name.endswith(journal.UNFINISHED):
            durable.unlink(directory / "journal" / name)
    known = journal.segments(directory / "journal")
    last = max((first for first, _ in known if first < position), default=position)
    for first, path in known:
        if first >= position:
            durable.unlink(path)
        elif first == last:  # those before it stay as they are: to read all of them costs what the history holds
            records, damage = journal.read_segment(path)
            if damage is not None and not records:
                durable.unlink(path)
            elif damage is not None:
                os.truncate(path, damage.offset)
