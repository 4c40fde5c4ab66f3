"""SIGKILL at every step of a merge of hunks: the base has them or has not, and the run shows the same in both cases."""

import os
from pathlib import Path

import pytest

from snapshots.merging.choosing import Chosen
from snapshots.merging.merge import merge
from snapshots.merging.mergerecovery import recover_merges
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.sessions import write
from tests.store.test_merge_hunks import OLD, edited, offered, view
from tests.store.test_merge_killed import die_at, every_step
from tests.store.work import Work
from tests.support.trees import differences, picture


class Scene:
    """A run with two hunks in a file, and two files in a new directory."""

    def __init__(self, place: Path) -> None:
        self.base, self.there, self.path = place / "base", place / "there", place / "store"
        self.base.mkdir(parents=True)
        write(self.base / "text", OLD)
        with Store.open(self.path) as store:
            work = self.work(store)
            self.run = work.run
            self.shown = view(work)
            self.first = dict(offered(work)[-1])[b"text"][0]
            work.mirror.close()

    def change(self, there: Path) -> None:
        (there / "new").mkdir()
        write(there / "new" / "a", "a")
        write(there / "new" / "b", "b\n" * 5)
        write(there / "text", edited(OLD, 3, 20))

    def work(self, store: Store) -> Work:
        return Work(store, os.fsencode(self.base), self.there, self.change)

    def part(self) -> None:
        with Store.open(self.path) as store:
            hunks = {b"text": Chosen(frozenset({self.first})), b"new/b": Chosen(frozenset(), b"b\n")}
            merge(store, self.run, hunks=hunks)

    def recover(self) -> None:
        with Store.open(self.path) as store:
            gc(store)  # whoever comes first: what is needed must not be garbage
            recover_merges(store)

    def all(self) -> None:
        with Store.open(self.path) as store:
            merge(store, self.run)
            gc(store)
            assert fsck(store).findings == ()


class Look:
    """What ``view`` needs of a ``Work``."""

    def __init__(self, scene: Scene, store: Store) -> None:
        self.base, self.run, self.store = scene.base, scene.run, store


@every_step
def test_a_merge_of_hunks_killed_at_every_step(tmp_path, capsys, stride):
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        step = die_at(number, scene.part)
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None, where
        merged = (scene.base / "text").read_text() == edited(OLD, 3)
        assert merged or (scene.base / "text").read_text() == OLD, where
        assert merged == (scene.base / "new" / "b").exists(), where
        with Store.open(scene.path) as store:
            assert view(Look(scene, store)) == scene.shown, where
        scene.all()
        assert differences(picture(scene.there, times=False), picture(scene.base, times=False)) == [], where
        outcomes.append(merged)
        if step is None:
            break
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points of a merge of hunks")


@pytest.mark.parametrize("content", [b"", b"b\n" * 5])
def test_nothing_and_all_of_a_new_file(tmp_path, content):
    scene = Scene(tmp_path)
    with Store.open(scene.path) as store:
        merge(store, scene.run, hunks={b"new/b": Chosen(frozenset(), content)})
        assert (scene.base / "new" / "b").read_bytes() == content
        assert view(Look(scene, store)) == scene.shown
    scene.all()
    assert differences(picture(scene.there, times=False), picture(scene.base, times=False)) == []
