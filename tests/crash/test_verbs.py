"""The verbs of history die at every step that they take in the store: done, or not done, and nothing else."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfs.overlay import Overlay
from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.errors import RunExists, RunState, SnapshotExists, SnapshotUnknown
from snapshots.history.forks import fork
from snapshots.history.history import History
from snapshots.history.recovery import recover
from snapshots.history.retention import set_limit, thin
from snapshots.history.rewind import rewind
from snapshots.layers.base import BaseTree
from snapshots.storage import durable
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.crash.sequence import Picture, Sequence, make_base, make_store, small_limits
from tests.crash.test_every_step import Bomb, in_child
from tests.overlay.test_replay import dump

STEPS = 45
Verb = Callable[[Store, str], object]


def snapshot(store: Store, run_id: str) -> None:
    History(store, run_id).snapshot("new")


def drop(store: Store, run_id: str) -> None:
    History(store, run_id).drop("s14")
    thin(store, run_id)


def fork_of_a_snapshot(store: Store, run_id: str) -> None:
    fork(store, run_id, History(store, run_id).position("s14"), name="new")


def fork_between_checkpoints(store: Store, run_id: str) -> None:
    fork(store, run_id, store.upper(run_id).retained()[1] - 3, name="new")


def rewind_all(store: Store, run_id: str) -> None:
    with store.runs.lock(run_id):
        rewind(store, run_id, History(store, run_id).position("s14"))


def rewind_a_path(store: Store, run_id: str) -> None:
    with store.runs.lock(run_id):
        rewind(store, run_id, 1, (b"d",))


def shorten(store: Store, run_id: str) -> None:
    set_limit(store, run_id, 0)
    thin(store, run_id)


def discard(store: Store, run_id: str) -> None:
    """The parent of two forks."""
    store.discard(run_id)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in ((files_module, "INLINE_LIMIT"), (files_module, "COPY_WHOLE_LIMIT"),
                         (content_module, "COPY_WHOLE_LIMIT")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    small_limits()
    yield
    assert durable.seam is None


def seen_of(store: Store, run_id: str, base: Path) -> Picture:
    """What a run shows, but for what depends on when a verb was done: times, and numbers of copies."""
    with BaseTree(os.fsencode(base)) as tree:
        overlay = Overlay(tree, store.upper(run_id).load(), store.objects, store.path)
        seen = dump(overlay)
        overlay.close()
    return {path: (*known[1:6], *known[8:]) for path, known in seen.items()}


def everything(path: Path, base: Path) -> dict[str, Picture | str]:
    """Every run by name."""
    with Store.open(path) as store:
        found: dict[str, Picture | str] = {}
        for run in store.runs.list(all=True):
            if run.is_live:
                with store.runs.lock(run.id):
                    recover(store, run.id)
            found[run.name or run.id] = seen_of(store, run.id, base) if run.is_live else run.state
        return found


def check_verb(area: Path, verb: Verb) -> int:
    base, made, path = area / "base", area / "made", area / "store"
    make_base(base)
    run_id = make_store(made, base)
    with Store.open(made) as store:
        sequence = Sequence(store, run_id, base, 5)
        sequence.run(STEPS)
        sequence.seal()
        sequence.close()
        store.runs.update(run_id, state="kept")

    def attempt(fuse: int) -> tuple[int, bool]:
        def work(acknowledge: Callable[[int], None]) -> int:
            bomb = Bomb(fuse)
            with Store.open(path) as store:
                bomb.plant()
                verb(store, run_id)
            return bomb.steps

        _, total, killed = in_child(work)
        return total, killed

    def fresh() -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(made, path)

    fresh()
    before = everything(path, base)
    total, killed = attempt(0)
    assert not killed
    assert total
    after = everything(path, base)
    kills = 0
    for fuse in range(1, total + 1):
        fresh()
        _, killed = attempt(fuse)
        assert killed
        kills += 1
        seen = everything(path, base)
        assert seen in (before, after), f"step {fuse} of {total}"
        with Store.open(path) as store:
            gc(store)
            assert fsck(store).findings == (), f"step {fuse} of {total}"
            assert everything(path, base) == seen
            try:
                verb(store, run_id)
            except (SnapshotExists, SnapshotUnknown, RunExists, RunState):
                pass  # it was done, or leaves nothing to do
        assert everything(path, base) == after, f"again after step {fuse} of {total}"
    return kills


VERBS = [snapshot, drop, fork_of_a_snapshot, fork_between_checkpoints, rewind_all, rewind_a_path, shorten, discard]


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_every_step_of_a_verb(tmp_path: Path, verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    kills = check_verb(tmp_path, verb)
    with capsys.disabled():
        print(f" {verb.__name__}: {kills} deaths", end="")
