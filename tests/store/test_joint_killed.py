"""SIGKILL at every step of a merge into two bases, and of its undo: afterwards both bases are old, or both are new."""

import pytest

from tests.store.joints import JointScene
from tests.store.test_merge_killed import die_at

pytestmark = pytest.mark.timeout(1800)
every_step = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="every"), pytest.param(17, id="some")]
)


@pytest.fixture
def scenes(tmp_path):
    made = []

    def make(name, **kwargs):
        made.append(JointScene(tmp_path / str(name), **kwargs))
        return made[-1]

    yield make
    for scene in made:
        scene.remove()


def kill_at_every_step(scenes, stride, before, act, start, end, **kwargs):
    """Outcomes of ``act`` killed before each step, after ``before``."""
    outcomes = []
    for number in range(1, 10_000, stride):
        scene = scenes(number, **kwargs)
        for each in before:
            getattr(scene, each)()
        step = die_at(number, getattr(scene, act))
        where = f"killed before step {number}: {step}"
        assert die_at(0, scene.recover) is None
        which = scene.check_recovered(where)
        outcomes.append(which)
        if not before:
            assert scene.states() == {"old": {"kept"}, "new": {"merged"}}[which], where
        if number % 10 == 1:  # what was brought back is as good as what never died
            if which == start:
                getattr(scene, act)()
                assert scene.check_recovered(where) == end
            scene.undo()
            assert scene.check_recovered(where) == start
        if step is None:
            break
    assert outcomes == [start] * outcomes.count(start) + [end] * outcomes.count(end)  # one commit point
    assert {start, end} == set(outcomes)
    return len(outcomes) - 1


@every_step
def test_a_joint_merge_killed_at_every_step(scenes, capsys, stride):
    points = kill_at_every_step(scenes, stride, (), "merge", "old", "new", everything=stride == 1)
    with capsys.disabled():
        print(f"\n{points} points of a merge into two bases")


@every_step
@pytest.mark.parametrize("again", [False, True], ids=["undo", "undo of an undo"])
def test_a_joint_undo_killed_at_every_step(scenes, capsys, again, stride):
    before, start, end = (("merge", "undo"), "old", "new") if again else (("merge",), "new", "old")
    points = kill_at_every_step(scenes, stride, before, "undo", start, end)
    with capsys.disabled():
        print(f"\n{points} points")


@every_step
def test_a_joint_recovery_killed_at_every_step(scenes, capsys, stride):
    points = 0
    whole = JointSteps(scenes)
    for first in whole.some():
        for number in range(1, 10_000, 2 * stride):
            scene = scenes(f"{first}-{number}")
            assert die_at(first, scene.merge) is not None
            step = die_at(number, scene.recover)
            assert die_at(0, scene.recover) is None
            scene.check_recovered(f"killed at {first}, and before step {number} of the recovery: {step}")
            points += 1
            if step is None:
                break
    with capsys.disabled():
        print(f"\n{points} points of recoveries")


class JointSteps:
    """How many steps a merge has, and some that matter: around the decision and on both sides of it."""

    def __init__(self, scenes):
        self._scenes = scenes

    def some(self):
        decided = next(
            number for number in range(1, 10_000)
            if "joint-" in (die_at(number, self._scenes(f"find-{number}").merge) or "")
        )  # fmt: skip
        return decided + 1, decided + 10, decided + 20
