"""A large object becomes the base's file without being copied, and is never shared for longer than the merge."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.errors import MergeError
from snapshots.layers import large
from snapshots.merging.merge import merge
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.undo import undo
from snapshots.storage import durable
from snapshots.storage.layout import OBJECT_MODE
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.test_merge_killed import die_at
from tests.store.test_merge_run import FailAt, is_of_the_base
from tests.store.work import Work
from tests.support.trees import differences, picture

DATA = random.Random(5).randbytes(1_200_000)  # the mirror puts more than a mebibyte into one object
every_step = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="every"), pytest.param(7, id="some")]
)


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(large, "LARGE", 150_000)
    return


def change(there: Path) -> None:
    (there / "d").mkdir()
    for name in ("large", "d/other"):
        (there / name).write_bytes(DATA + name.encode())
    (there / "large").chmod(0o640)
    os.chown(there / "large", 1000, 1001)
    os.setxattr(there / "large", "user.k", b"v")
    os.utime(there / "large", ns=(10**18, 10**18))


def made(store: Store, base: bytes, there: Path, what: object = change) -> Work:
    work = Work(store, base, there, what)
    work.mirror.close()
    store.objects.release()  # as when the server that stored them has ended
    return work


def files(store: Store) -> set[int]:
    return {os.stat(path).st_ino for path in store.layout.object_files()}


def test_it_is_given_away(store: Store, base: bytes, tmp_path: Path) -> None:
    work = made(store, base, tmp_path / "there")
    before, steps = files(store), []
    durable.seam = lambda name, where: steps.append(name)
    try:
        number = merge(store, work.run).number
    finally:
        durable.seam = None
    assert "base copy" not in steps
    work.assert_merged()
    assert {os.stat(work.base / name).st_ino for name in ("large", "d/other")} == before
    assert files(store) == set()
    assert number is not None
    again = undo(store, number).number
    assert differences(work.before, picture(work.base)) == []
    assert again is not None
    undo(store, again)
    assert differences(work.expected, picture(work.base)) == []


def test_one_that_others_use_is_copied(store: Store, base: bytes, tmp_path: Path) -> None:
    one, two = (made(store, base, tmp_path / name) for name in ("one", "two"))
    before = files(store)
    merge(store, one.run)
    one.assert_merged()
    assert files(store) == before
    (one.base / "large").write_bytes(b"changed")
    assert fsck(store).findings == ()
    assert store.upper(two.run.id).load().entries


@pytest.mark.parametrize("at", ["base link", "base sync", "base rename"])
def test_one_that_somebody_stores_meanwhile(
    store: Store, store_path: Path, base: bytes, tmp_path: Path, at: str
) -> None:
    work = made(store, base, tmp_path / "there")
    names = []
    with Store.open(store_path) as other:
        before = [other.objects.descriptor(name) for name in other.objects]  # known to it from before

        def seam(name: str, where: object) -> None:
            if name == at and not names:
                names.append(b"")
                names[0] = other.objects.put(DATA + b"large")

        durable.seam = seam
        try:
            merge(store, work.run)
        finally:
            durable.seam = None
        assert before
        work.assert_merged()
        (work.base / "large").write_bytes(b"changed")
        assert other.objects.read(names[0]) == DATA + b"large"
        assert other.objects.read(other.objects.put(DATA + b"large")) == DATA + b"large"


def test_a_merge_that_failed_leaves_an_object(store: Store, base: bytes, tmp_path: Path) -> None:
    work = made(store, base, tmp_path / "there")
    for number in (5, 9, 14, 18):
        with FailAt(number, is_of_the_base), pytest.raises(MergeError, match="nothing was changed"):
            merge(store, work.run)
        work.assert_untouched()
        assert {os.stat(path).st_mode & 0o777 for path in store.layout.object_files()} == {OBJECT_MODE}
        assert {os.stat(path).st_nlink for path in store.layout.object_files()} == {1}
    merge(store, work.run)
    work.assert_merged()


@every_step
def test_killed_at_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str], stride: int) -> None:
    outcomes = []
    for number in range(1, 1000, stride):
        base, place = tmp_path / str(number) / "base", tmp_path / str(number) / "store"
        base.mkdir(parents=True)
        with Store.open(place) as store:
            work = made(store, os.fsencode(base), tmp_path / str(number) / "there")

        def do(place: Path = place, work: Work = work) -> None:
            with Store.open(place) as store:
                merge(store, work.run)

        step = die_at(number, do)
        where = f"killed before step {number}: {step}"
        with Store.open(place) as store:
            recover_merges(store)
            now = picture(base)
            which = "old" if not differences(work.before, now) else "new"
            assert which == "old" or differences(work.expected, now) == [], where
            gc(store)
            assert fsck(store).findings == (), where
            if which == "new":
                (base / "large").write_bytes(b"changed")  # which is nothing to the store
                assert fsck(store).findings == (), where
            else:
                merge(store, store.runs.get(work.run.id))
                assert differences(work.expected, picture(base)) == [], where
        outcomes.append(which)
        if step is None:
            break
    assert outcomes == sorted(outcomes, reverse=True)
    assert {"old", "new"} == set(outcomes)
    with capsys.disabled():
        print(f"\n{len(outcomes) - 1} points of a merge that gives objects away")
