"""The server dies at every step that it takes in the store and the journal: rules 6 and 7 of docs/crash-safety.md."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.history import journal
from snapshots.history.recovery import recover
from snapshots.history.retention import set_limit
from snapshots.storage import durable
from snapshots.storage.store import Store
from snapshots.upkeep.findings import Kind
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.crash.sequence import (
    Sequence,
    check_forks,
    is_between,
    make_base,
    make_store,
    pictures,
    recovered,
    small_limits,
)

STEPS = 40
LEFTOVERS = {Kind.ORPHAN_FILE, Kind.RUN_DIRECTORY}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in ((files_module, "INLINE_LIMIT"), (files_module, "COPY_WHOLE_LIMIT"),
                         (content_module, "COPY_WHOLE_LIMIT")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    small_limits()
    yield
    assert durable.seam is None


class Bomb:
    """Kills this process at the Nth step of the store, or of the journal; counts them if N is out of reach."""

    def __init__(self, fuse: int, *, torn: bool = False) -> None:
        self.steps = 0
        self._fuse = fuse
        self._torn = torn

    def plant(self) -> None:
        durable.seam = lambda step, where: self.tick()
        write = os.write

        def written(fd: int, data: bytes) -> int:
            if self.tick(kill=not self._torn):
                write(fd, bytes(data)[: max(1, len(data) // 2)])  # a record of which a part has arrived
                os.kill(os.getpid(), signal.SIGKILL)
            return write(fd, data)

        journal.os = _Os(written)  # type: ignore[attr-defined, assignment]

    def tick(self, *, kill: bool = True) -> bool:
        self.steps += 1
        if self.steps == self._fuse and kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.steps == self._fuse


class _Os:
    """The module ``os`` with another ``write``."""

    def __init__(self, write: Callable[[int, bytes], int]) -> None:
        self.write = write

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def in_child(work: Callable[[Callable[[int], None]], int]) -> tuple[int, int, bool]:
    """Do *work* in a forked child: (the last number that it acknowledged, what it answered, whether it was killed)."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = work(lambda number: os.write(theirs, b"%d\n" % number) and None)
            os.write(theirs, b"=%d\n" % answer)
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as lines:
        said = lines.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answer = int(said.pop()[1:]) if said and said[-1].startswith("=") else 0
    return int(said[-1]) if said else 0, answer, status == -signal.SIGKILL


def until(fuse: int, path: Path, run_id: str, base: Path, seed: int, *, torn: bool) -> tuple[int, int, bool]:
    def work(acknowledge: Callable[[int], None]) -> int:
        bomb = Bomb(fuse, torn=torn)
        with Store.open(path) as store:
            sequence = Sequence(store, run_id, base, seed)
            bomb.plant()
            sequence.run(STEPS, stepped=acknowledge)
        return bomb.steps

    return in_child(work)


def check_kills(area: Path, seed: int, which: Callable[[int], range], *, limit: int | None = None) -> int:
    base = area / "base"
    make_base(base)
    expected = pictures(area, base, seed, STEPS)
    path = area / "store"
    run_id = make_store(path, base)
    if limit is not None:
        with Store.open(path) as store:
            set_limit(store, run_id, limit)
    fresh = area / "fresh"
    shutil.copytree(path, fresh)
    _, total, killed = until(0, path, run_id, base, seed, torn=False)
    assert not killed
    assert total > 100
    kills = 0
    for fuse in which(total):
        shutil.rmtree(path)
        shutil.copytree(fresh, path)
        done, _, killed = until(fuse, path, run_id, base, seed, torn=bool(fuse % 2))
        assert killed, fuse
        seen, recovery, _ = recovered(path, run_id, base)
        assert is_between(seen, *expected[done : done + 2]), f"step {fuse} of {total}, operation {done}: {recovery}"
        assert recovery is None or not recovery.lost
        check_forks(path, base, expected, done)
        with Store.open(path) as store:
            gc(store)
            assert {finding.kind for finding in fsck(store).findings} <= LEFTOVERS
        check_forks(path, base, expected, done)
        kills += 1
    return kills


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_step_of_the_store_or_the_journal(tmp_path: Path, seed: int) -> None:
    """Some of the steps; ``--long`` has all of them, for more seeds."""
    assert check_kills(tmp_path, seed, lambda total: range(1 + seed * 2, total, 6)) > 10


def test_killed_without_a_history(tmp_path: Path) -> None:
    """Segments go as soon as a checkpoint has replaced them."""
    check_kills(tmp_path, 50, lambda total: range(2, total, 10), limit=0)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("limit", [None, 0, 8000])
@pytest.mark.parametrize("seed", range(100, 106))
def test_killed_at_every_step(tmp_path: Path, seed: int, limit: int | None) -> None:
    check_kills(tmp_path, seed, lambda total: range(1, total), limit=limit)


def test_killed_while_recovering(tmp_path: Path) -> None:
    """Recovery that dies anywhere and is done again comes to the same."""
    base = tmp_path / "base"
    make_base(base)
    crashed = tmp_path / "crashed"
    run_id = make_store(crashed, base)
    seed, last = 3, 20
    expected = pictures(tmp_path, base, seed, last)

    def crash(acknowledge: Callable[[int], None]) -> int:
        with Store.open(crashed) as store:
            sequence = Sequence(store, run_id, base, seed)
            sequence.run(last, stepped=acknowledge)
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert in_child(crash) == (last, 0, True)
    path = tmp_path / "store"

    def recovering(fuse: int) -> tuple[int, bool]:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(crashed, path)

        def work(acknowledge: Callable[[int], None]) -> int:
            bomb = Bomb(fuse)
            with Store.open(path) as store, store.runs.lock(run_id):
                bomb.plant()
                recover(store, run_id)
            return bomb.steps

        _, total, killed = in_child(work)
        return total, killed

    total, killed = recovering(0)
    assert not killed
    assert total > 5
    for fuse in range(1, total + 1):
        assert recovering(fuse)[1], fuse
        seen, *_ = recovered(path, run_id, base)
        assert seen == expected[last], fuse
        assert recovered(path, run_id, base) == (seen, None, set())
