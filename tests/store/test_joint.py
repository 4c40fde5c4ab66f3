"""Merges into two bases that are one, and their undo: refused in both, done in both, failed in both."""

import errno
import os

import pytest

from snapshots.errors import Conflict, MergeError, NothingChosen
from snapshots.merging.merge import How
from snapshots.merging.mergelog import MergeLog
from snapshots.storage import durable
from snapshots.storage.store import Store
from tests.store.joints import ALL, JointScene
from tests.store.test_merge_killed import die_at


@pytest.fixture
def scene(tmp_path):
    made = JointScene(tmp_path)
    yield made
    made.remove()


def only(path):
    return How(lambda change: change.path == path, None, None, None, False)


def test_a_merge_and_its_undo_are_one(scene):
    results = scene.merge()
    assert scene.check_recovered() == "new"
    assert scene.states() == {"merged"}
    assert len({result.number for result in results}) == 1
    with Store.open(scene.store) as store:
        assert [len(group) for group in MergeLog(store).together()] == [2]
    taken_back = scene.undo(results[0].number + 1)  # any number of it means all of it
    assert taken_back.bases == tuple(os.fsencode(base) for base in scene.bases)
    assert scene.check_recovered() == "old"
    with pytest.raises(MergeError, match="undone by 3 already"):
        scene.undo(results[0].number)
    scene.undo()
    assert scene.check_recovered() == "new"
    scene.undo()
    assert scene.check_recovered() == "old"


def test_a_conflict_in_one_base_refuses_all(scene):
    (scene.bases[1] / "edited").write_text("by somebody else")
    with pytest.raises(Conflict) as refused:
        scene.merge()
    assert [conflict.path for conflict in refused.value.conflicts] == [os.fsencode(scene.bases[1] / "edited")]
    assert (scene.bases[0] / "edited").read_text() == "before"
    assert scene.states() == {"kept"}


def test_an_undo_is_refused_in_both(scene):
    scene.merge()
    (scene.bases[1] / "new" / "file").write_text("by somebody else")
    with pytest.raises(Conflict) as refused:
        scene.undo()
    assert [conflict.path for conflict in refused.value.conflicts] == [os.fsencode(scene.bases[1] / "new" / "file")]
    assert (scene.bases[0] / "edited").read_text() == "after"


def test_a_part_of_it_leaves_the_run_kept_in_all_bases(scene):
    with pytest.raises(NothingChosen):
        scene.merge(hows=(None, only(b"nothing")))
    scene.merge(hows=(only(b"edited"), None))
    assert scene.states() == {"kept"}
    assert (scene.bases[0] / "edited").read_text() == "after"
    assert (scene.bases[1] / "edited").read_text() == "before"
    scene.merge(hows=(ALL, None))
    assert scene.states() == {"kept"}  # what is left is in the other
    scene.merge()
    assert scene.states() == {"merged"}
    assert scene.check_recovered() == "new"
    for _ in range(3):
        with Store.open(scene.store) as store:
            log = MergeLog(store)
            groups, gone = log.together(), log.taken_back()
            number = next(g[0].number for g in reversed(groups) if not g[0].backward and g[0].number not in gone)
        scene.undo(number)
    assert scene.check_recovered() == "old"


def test_a_merge_whose_second_base_fails_changes_neither(scene, monkeypatch):
    def fail_late(name, where):
        if name == "base rename" and where == "new" and fail_late.calls:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fail_late.calls += name == "base rename" and where == "new"

    fail_late.calls = 0
    monkeypatch.setattr(durable, "seam", fail_late)
    with pytest.raises(MergeError, match="nothing was changed"):
        scene.merge()
    monkeypatch.undo()
    assert scene.check_recovered() == "old"
    assert scene.states() == {"kept"}
    scene.merge()
    assert scene.check_recovered() == "new"


def test_a_base_that_cannot_be_reached_is_brought_to_the_same_end_later(scene):
    number = next(n for n in range(1, 1000) if _decided(scene, n))
    away = scene.bases[1].with_name("away")
    scene.bases[1].rename(away)
    assert scene.recover()
    assert (scene.bases[0] / "edited").read_text() == "after", number
    away.rename(scene.bases[1])
    assert scene.recover()
    assert scene.check_recovered() == "new"
    assert scene.states() == {"merged"}


def _decided(scene, number):
    """Kill a merge before a step; whether it had been decided by then.  Otherwise it is taken back."""
    step = die_at(number, scene.merge)
    assert step is not None
    with Store.open(scene.store) as store:
        if any(name.startswith("joint-") and name.count(".") == 1 for name in os.listdir(MergeLog(store).path)):
            return True
    scene.recover()
    return False
