"""A run without a mount: an overlay whose changes are recorded, sealed and thinned, as a server does it.

What is done follows from the seed alone (the clock counts), so one pass that nothing disturbs says what every moment
has to look like, and another one can be ended anywhere.
"""

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from goexfs.fuse import rewinding
from goexfs.fuse.recording import Recording
from goexfs.overlay import Batch, Overlay, store_batch
from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.history.forks import fork
from snapshots.history.history import History
from snapshots.history.recovery import Recovery, recover
from snapshots.history.retention import thin
from snapshots.history.rewind import Aim
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store
from tests.overlay.test_replay import Driver, dump

SEAL_EVERY = 11
SEAL_LASTS = 4
"""operations that are done between the beginning and the end of a seal"""
SYNC_EVERY = 3
FORKS = (14, 30)
"""operations after which there is a snapshot and a fork of it"""
REWINDS = {24: 14, 37: 30}
"""operations that are a rewind, and to what"""
Picture = dict[bytes, tuple[object, ...]]


def small_limits() -> None:
    """Have contents of some hundred bytes be large ones; for a process of its own, or with a monkeypatch."""
    files_module.INLINE_LIMIT = 64
    files_module.COPY_WHOLE_LIMIT = content_module.COPY_WHOLE_LIMIT = 200


def make_base(base: Path) -> None:
    """A few files of different sizes."""
    (base / "d" / "e").mkdir(parents=True)
    for number, size in enumerate([0, 10, 150, 500]):
        (base / "d" / f"f{number}").write_bytes(random.Random(number).randbytes(size))
    os.link(base / "d" / "f3", base / "linked")


def make_store(path: Path, base: Path) -> str:
    """A store with one run over the base; its id."""
    with Store.open(path) as store:
        return store.runs.create(base=os.fsencode(base), name="r", command=(), options={}).id


class Sequence:
    """*steps* operations on a run; sealed now and then, and synced."""

    def __init__(self, store: Store, run_id: str, base: Path, seed: int) -> None:
        self.store = store
        self.run_id = run_id
        self.directory = store.runs.directory(run_id)
        state = store.upper(run_id).load()
        clock = itertools.count(10**18, 1000)
        self.tree = BaseTree(os.fsencode(base))
        self.overlay = Overlay(
            self.tree, state, store.objects, self.directory / "spool", now_ns=lambda: next(clock)
        )
        self.recording = Recording(self.directory / "journal", state.journal)
        self.overlay.record_in(self.recording.append)
        self.driver = Driver(self.overlay, seed)
        self.batch: Batch | None = None
        """being sealed"""

    def run(
        self,
        steps: int,
        *,
        stepped: Callable[[int], None] = lambda done: None,
        synced: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Call *stepped* after every operation is acknowledged, *synced* after an fsync."""
        for number in range(1, steps + 1):
            if number in REWINDS:
                self.rewind(f"s{REWINDS[number]}")
            else:
                self.driver.step()
            if number % SYNC_EVERY == 0:
                self.recording.syncer()()
                synced(number)
            stepped(number)
            if number % SEAL_EVERY == SEAL_LASTS:
                self.finish_sealing()
            if number % SEAL_EVERY == 0:
                self.batch = self.overlay.collect(self.recording.rotate())
            if number in FORKS:
                self.seal()
                at = History(self.store, self.run_id).snapshot(f"s{number}").position
                fork(self.store, self.run_id, at, name=fork_after(number))

    def seal(self) -> None:
        """Have everything in the store."""
        self.finish_sealing()
        self.batch = self.overlay.collect(self.recording.rotate()) if self.overlay.dirty else None
        self.finish_sealing()

    def rewind(self, snapshot: str) -> None:
        """What ``goexfs.fuse.service`` does while requests wait."""
        self.seal()
        position = History(self.store, self.run_id).position(snapshot)
        planned = rewinding.plan(self.overlay, self.run_id, Aim(position), self.store)
        if planned.snapshot:
            rewinding.carry_out(self.overlay, planned, self.recording)
        self.seal()

    def finish_sealing(self) -> None:
        """What ``goexfs.fuse.seal`` does in a thread of its own, while the run goes on."""
        batch, self.batch = self.batch, None
        if batch is not None:
            stored = store_batch(batch, self.store, self.run_id)
            self.store.sync()
            thin(self.store, self.run_id)
            self.overlay.finish(batch, stored)
            self.recording.sealed(batch.journal)

    def close(self) -> None:
        """Let go of everything, without sealing."""
        self.overlay.close()
        self.recording.close()
        self.tree.close()


def fork_after(number: int) -> str:
    """The name of the fork of what was there after an operation."""
    return f"fork{number}"


def first_names(found: Picture) -> dict[object, bytes]:
    """The first of its names for the number of every inode."""
    first: dict[object, bytes] = {}
    for path in sorted(found):
        first.setdefault(found[path][0], path)
    return first


def picture(overlay: Overlay) -> Picture:
    """What is seen; in place of its number every inode has the first of its names.

    In a live mount a base file that came back has a number of its own, because the kernel knows the old one.
    """
    found: Picture = dump(overlay)
    first = first_names(found)
    return {path: (first[number], *rest) for path, (number, *rest) in sorted(found.items())}


def pictures(area: Path, base: Path, seed: int, steps: int) -> list[Picture]:
    """What is seen before the first operation and after every one."""
    path = area / "undisturbed"
    run_id = make_store(path, base)
    with Store.open(path) as store:
        sequence = Sequence(store, run_id, base, seed)
        seen = [picture(sequence.overlay)]
        sequence.run(steps, stepped=lambda done: seen.append(picture(sequence.overlay)))
        sequence.close()
    shutil.rmtree(path)
    return seen


def is_between(seen: Picture, before: Picture, after: Picture | None = None) -> bool:
    """Whether this is what was acknowledged, or also what was being done, or that done in part.

    In part can be done only a write: to a large file, whose bytes are there before the record of it is.
    """
    if seen in (before, after):
        return True
    different = [path for path in seen if seen[path] != before.get(path)]
    if after is None or seen.keys() != before.keys() or len({seen[path][0] for path in different}) != 1:
        return False  # not one inode, under whatever names
    (*rest, data), (*rest_before, old) = seen[different[0]], before[different[0]]
    new = after[different[0]][-1]
    if rest != rest_before or not (isinstance(data, bytes) and isinstance(old, bytes) and isinstance(new, bytes)):
        return False
    return len(data) == len(old) and all(
        byte in (old[at], new[at] if at < len(new) else None) for at, byte in enumerate(data)
    )


def check_forks(path: Path, base: Path, expected: list[Picture], done: int) -> None:
    """Every fork that should be there is, and shows what was there when it was made, whatever became of its parent."""
    with Store.open(path) as store, BaseTree(os.fsencode(base)) as tree:
        runs = {run.name: run for run in store.runs.list()}
        for number in FORKS:
            run = runs.get(fork_after(number))
            assert run is not None or done <= number
            if run is not None:
                overlay = Overlay(tree, store.upper(run.id).load(), store.objects, path)
                assert picture(overlay) == expected[number]
                overlay.close()


def recovered(path: Path, run_id: str, base: Path) -> tuple[Picture, Recovery | None, set[bytes]]:
    """What the next command on the run finds, what recovery says, and the first name of each file it lost bytes of."""
    with Store.open(path) as store, store.runs.lock(run_id):
        recovery = recover(store, run_id)
        with BaseTree(os.fsencode(base)) as tree:
            overlay = Overlay(tree, store.upper(run_id).load(), store.objects, path)
            first = first_names(dump(overlay))
            seen = picture(overlay)
            overlay.close()
        lost = {ino for ino, _ in recovery.lost} if recovery is not None else set()
        return seen, recovery, {first[ino] for ino in lost if ino in first}
