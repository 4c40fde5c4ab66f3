"""SIGKILL at every step where both sides had changed something: of merges, of rebases, of several merges in a row."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from snapshots.errors import Conflict
from snapshots.history.recovery import recover
from snapshots.merging import merge as merge_module
from snapshots.merging.merge import merge
from snapshots.merging.mergeall import merge_all
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.rebase import rebase
from snapshots.merging.settle import by_pattern
from snapshots.merging.undo import undo
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.sessions import every_kind_of_base, every_kind_of_change, write
from tests.store.test_merge_killed import die_at
from tests.store.work import Work
from tests.support.trees import differences, picture

LINES = [f"line {number}" for number in range(30)]
SIDES = by_pattern(markers=["marked"], ours=["dropped"], theirs=["taken", "unwanted"])
NOW = 2 * 10**18
every_step = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="every"), pytest.param(43, id="some")]
)


def text(**changed: str) -> str:
    return "".join(f"{changed.get(f'l{number}', line)}\n" for number, line in enumerate(LINES))


class Scene:
    """A base that has moved below a run, in every way that can be settled; made anew for every death."""

    def __init__(self, place: Path) -> None:
        self.base, self.store = place / "base", place / "store"
        self.base.mkdir(parents=True)
        every_kind_of_base(self.base)
        for name in ("text", "marked", "dropped", "taken", "unwanted", "followed"):
            write(self.base / name, text())
        (self.base / "folder").mkdir()
        write(self.base / "folder" / "f", text())
        with Store.open(self.store) as store:
            work = Work(store, os.fsencode(self.base), place / "there", self.change)
            work.mirror.close()
            self.run = store.runs.update(work.run.id, name="r")  # which is in the markers
        time.sleep(0.01)
        write(self.base / "text", text(l20="of the base"))
        for name in ("marked", "dropped", "taken", "unwanted"):
            write(self.base / name, text(l3="of the base"))
        (self.base / "both").mkdir()
        write(self.base / "both" / "base", "base")
        (self.base / "followed").rename(self.base / "both" / "followed")
        (self.base / "folder").rename(self.base / "both" / "folder")
        self.old = picture(self.base)

    @staticmethod
    def change(there: Path) -> None:
        every_kind_of_change(there)
        for name in ("text", "marked", "dropped", "taken", "followed", "folder/f"):
            write(there / name, text(l3="of the run"))
        (there / "unwanted").unlink()
        (there / "both").mkdir()
        write(there / "both" / "run", "run")

    def merge(self) -> None:
        merge_module.time = SimpleNamespace(time_ns=lambda: NOW)  # type: ignore[assignment]
        try:
            with Store.open(self.store) as store:
                merge(store, self.run, resolve=SIDES)
        finally:
            merge_module.time = time

    def rebase(self) -> None:
        with Store.open(self.store) as store:
            rebase(store, self.run, resolve=SIDES)

    def undo(self) -> None:
        with Store.open(self.store) as store:
            undo(store, MergeLog(store).records()[-1].number)

    def recover(self) -> None:
        with Store.open(self.store) as store:
            recover_merges(store)

    def check_store(self, where: str) -> None:
        with Store.open(self.store) as store:
            assert list(MergeLog(store).interrupted()) == [], where
            gc(store)
            assert fsck(store).findings == (), where


def facts(scene: Scene) -> dict:  # type: ignore[type-arg]
    """All but the times, which are those of the making."""
    return picture(scene.base, times=False)


@pytest.fixture
def new(tmp_path: Path) -> dict:  # type: ignore[type-arg]
    """What the merge comes to when nothing dies."""
    twin = Scene(tmp_path / "twin")
    twin.merge()
    assert (twin.base / "text").read_text() == text(l3="of the run", l20="of the base")
    assert "<<<<<<<" in (twin.base / "marked").read_text()
    assert (twin.base / "dropped").read_text() == text(l3="of the base")
    assert (twin.base / "taken").read_text() == text(l3="of the run")
    assert not (twin.base / "unwanted").exists()
    assert sorted(os.listdir(twin.base / "both")) == ["base", "folder", "followed", "run"]
    assert (twin.base / "both" / "folder" / "f").read_text() == text(l3="of the run")
    return facts(twin)


@every_step
def test_a_settled_merge_killed_at_every_step(tmp_path, capsys, stride, new):
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        step = die_at(number, scene.merge)
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None
        scene.check_store(where)
        which = "old" if not differences(scene.old, picture(scene.base)) else "new"
        assert which == "old" or differences(new, facts(scene)) == [], where
        outcomes.append(which)
        if number % 10 == 1:
            if which == "old":
                scene.merge()
                assert differences(new, facts(scene)) == [], where
            scene.undo()
            assert differences(scene.old, picture(scene.base)) == [], where
        if step is None:
            break
    assert outcomes == sorted(outcomes, reverse=True)
    assert {"old", "new"} == set(outcomes)
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points of a settled merge: {outcomes.count('old')} old")


@every_step
def test_an_undo_of_a_settled_merge_killed_at_every_step(tmp_path, capsys, stride, new):
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        scene.merge()
        step = die_at(number, scene.undo)
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None
        scene.check_store(where)
        which = "old" if not differences(scene.old, picture(scene.base)) else "new"
        assert which == "old" or differences(new, facts(scene)) == [], where
        outcomes.append(which)
        if step is None:
            break
    assert outcomes == sorted(outcomes)
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points of an undo of a settled merge: {outcomes.count('old')} old")


@every_step
def test_a_rebase_killed_at_every_step(tmp_path, capsys, stride, new):
    points = 0
    for number in range(1, 10_000, max(1, stride // 5)):
        scene = Scene(tmp_path / str(number))
        with Store.open(scene.store) as store:
            before = store.upper(scene.run.id).load().entries
        step = die_at(number, scene.rebase)
        where = f"killed before step {number}: {step}"
        assert differences(scene.old, picture(scene.base)) == [], where
        with Store.open(scene.store) as store:
            recover(store, scene.run.id)
            after = store.upper(scene.run.id).load().entries
            try:
                merge(store, scene.run)
                assert after != before, where
            except Conflict:
                assert after == before, where
                merge(store, scene.run, resolve=SIDES)
        scene.check_store(where)
        assert differences(new, facts(scene)) == [], where
        points += 1
        if step is None:
            break
    with capsys.disabled():
        print(f"\n{points - 1} points of a rebase")


@every_step
def test_several_merges_killed_at_every_step(tmp_path, capsys, stride):
    states = set()
    points = 0
    for number in range(1, 10_000, stride):
        base, place = tmp_path / str(number) / "base", tmp_path / str(number) / "store"
        base.mkdir(parents=True)
        write(base / "f", text())
        runs = []
        with Store.open(place) as store:
            for each, line in enumerate(("l3", "l20")):

                def change(there: Path, line: str = line) -> None:
                    write(there / "f", text(**{line: "changed"}))
                    write(there / line, "new")

                work = Work(store, os.fsencode(base), tmp_path / str(number) / f"there{each}", change)
                work.mirror.close()
                runs.append(work.run)

        def merge_both(place: Path = place, runs: list = runs) -> None:  # type: ignore[type-arg]
            with Store.open(place) as store:
                merge_all(runs, lambda run: merge(store, run))

        step = die_at(number, merge_both)
        with Store.open(place) as store:
            recover_merges(store)
            gc(store)
            assert fsck(store).findings == ()
        found = tuple(sorted(os.listdir(base)))
        expected = text(**{name: "changed" for name in found if name != "f"})
        assert (base / "f").read_text() == expected, f"killed before step {number}: {step}"
        states.add(found)
        points += 1
        if step is None:
            break
    assert found == ("f", "l20", "l3")
    assert states <= {("f",), ("f", "l3"), ("f", "l20", "l3")}
    with capsys.disabled():
        print(f"\n{points - 1} points of two merges")
