"""SIGKILL at every step of a merge and of an undo: after the recovery the base is the old tree or the new one."""

import os
import signal
import traceback
from pathlib import Path

import pytest

from snapshots.merging.merge import merge
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.undo import undo
from snapshots.storage import durable
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.sessions import every_kind_of_base, every_kind_of_change
from tests.store.work import Work
from tests.support.trees import differences, picture


class Scene:
    """A store with a run over a base, made anew for every death."""

    def __init__(self, place: Path) -> None:
        self.base, self.store = place / "base", place / "store"
        self.base.mkdir(parents=True)
        every_kind_of_base(self.base)
        with Store.open(self.store) as store:
            work = Work(store, os.fsencode(self.base), place / "there", every_kind_of_change, style="ranges")
            self.run = work.run
            work.mirror.close()
        self.old, self.new = work.before, work.expected

    def merge(self):
        with Store.open(self.store) as store:
            merge(store, self.run)

    def merge_a_part(self):
        with Store.open(self.store) as store:
            part = (b"edited", b"deleted", b"b", b"b/deep", b"link")
            merge(store, self.run, choose=lambda change: change.path in part)

    def undo(self):
        with Store.open(self.store) as store:
            undo(store, MergeLog(store).records()[-1].number)

    def recover(self):
        with Store.open(self.store) as store:
            recover_merges(store)

    def state(self):
        with Store.open(self.store) as store:
            return store.runs.get(self.run.id).state

    def check_recovered(self, where: str) -> str:
        """``old`` or ``new``, and nothing else."""
        now = picture(self.base)
        which = "old" if not differences(self.old, now) else "new"
        assert which == "old" or differences(self.new, now) == [], where
        with Store.open(self.store) as store:
            assert list(MergeLog(store).interrupted()) == [], where
            gc(store)  # what a dead process left of its own
            assert fsck(store).findings == (), where
        return which


def die_at(number, action):
    """Do it in a child that is killed before its step ``number``; the name of that step, None when there is none."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def seam(name, where):
            nonlocal count
            count += 1
            if count == number:
                os.write(writer, f"{name} {where}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

        durable.seam = seam
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as file:
        step = file.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return step if status else None


every_step = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="every"), pytest.param(11, id="some")]
)


@every_step
def test_a_merge_killed_at_every_step(tmp_path, capsys, stride):
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        step = die_at(number, scene.merge)
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None
        which = scene.check_recovered(where)
        assert scene.state() == {"old": "kept", "new": "merged"}[which], where
        outcomes.append(which)
        if number % 10 == 1:  # what was brought back is as good as what never died
            if which == "old":
                scene.merge()
                assert scene.check_recovered(where) == "new"
            scene.undo()
            assert scene.check_recovered(where) == "old"
        if step is None:
            break
    assert outcomes == sorted(outcomes, reverse=True)  # one commit point
    assert {"old", "new"} == set(outcomes)
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points of a merge: {outcomes.count('old')} old, {outcomes.count('new')} new")


@every_step
def test_a_merge_of_a_part_killed_at_every_step(tmp_path, capsys, stride):
    points = 0
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        step = die_at(number, scene.merge_a_part)
        assert die_at(0, scene.recover) is None
        where = f"killed before step {number}: {step}"
        edited = (scene.base / "edited").read_text() != "content of edited"
        assert edited != (scene.base / "deleted").exists(), where
        assert scene.state() == "kept", where
        scene.merge()  # whatever is left of it, and all of it is there
        assert scene.check_recovered(where) == "new"
        points += 1
        if step is None:
            break
    assert edited
    with capsys.disabled():
        print(f"\n{points - 1} points of a merge of a part")


@every_step
@pytest.mark.parametrize("again", [False, True], ids=["undo", "undo of an undo"])
def test_an_undo_killed_at_every_step(tmp_path, capsys, again, stride):
    start, end = ("old", "new") if again else ("new", "old")
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = Scene(tmp_path / str(number))
        scene.merge()
        if again:
            scene.undo()
        step = die_at(number, scene.undo)
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None
        outcomes.append(scene.check_recovered(where))
        assert scene.state() == {"old": "kept", "new": "merged"}[outcomes[-1]], where
        if number % 10 == 1 and outcomes[-1] == "old":  # the run has all that it had
            scene.merge()
            assert scene.check_recovered(where) == "new"
            scene.undo()
        if number % 10 == 1 and outcomes[-1] == start:
            scene.undo()
            assert scene.check_recovered(where) == end
        if step is None:
            break
    assert outcomes == [start] * outcomes.count(start) + [end] * outcomes.count(end)
    assert outcomes[0] == start
    assert outcomes[-1] == end
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points: {outcomes.count('old')} old, {outcomes.count('new')} new")


@every_step
def test_a_recovery_killed_at_every_step(tmp_path, capsys, stride):
    points = 0
    for first in (40, 90, 125):
        for number in range(1, 10_000, 2 * stride):
            scene = Scene(tmp_path / f"{first}-{number}")
            assert die_at(first, scene.merge) is not None
            step = die_at(number, scene.recover)
            assert die_at(0, scene.recover) is None
            scene.check_recovered(f"killed at {first}, and before step {number} of the recovery: {step}")
            points += 1
            if step is None:
                break
    with capsys.disabled():
        print(f"\n{points} points of recoveries")
