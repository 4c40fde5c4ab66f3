"""The verb ``merge``: locks, states and records around a plan that is carried out."""

import errno
import os
import random
import shutil
import sys

import pytest

from snapshots.errors import BaseError, Conflict, MergeError, RunBusy, RunState, StoreError
from snapshots.merging.merge import ConflictKind
from snapshots.storage import durable
from snapshots.storage.store import Store
from tests.store.sessions import write
from tests.support.trees import picture


def test_a_merge(work, store):
    w = work(style="ranges", omit_aliases=True)
    result = w.merge()
    assert result.merged
    assert result.leftover is None
    w.assert_merged()
    store.objects.release()
    store.objects.collect()
    assert len(store.objects) == 0
    with pytest.raises(RunState):
        w.merge()


def test_a_dry_run_does_nothing(work):
    w = work()
    result = w.merge(dry_run=True)
    assert not result.merged
    assert result.plan.operations
    w.assert_untouched()


def test_a_dry_run_of_a_run_that_is_mounted(work, store_path):
    w = work()
    with Store.open(store_path) as other, other.runs.lock(w.run.id):
        assert w.merge(dry_run=True).plan.operations
        with pytest.raises(RunBusy):
            w.merge()
    w.assert_untouched()


def test_a_lock_that_the_caller_holds_is_no_obstacle(work, store):
    w = work()
    with store.runs.lock(w.run.id):
        w.merge()
    w.assert_merged()


def test_conflicts_refuse_the_whole_merge(work):
    w = work()
    write(w.base / "edited", "by the user")
    write(w.base / "deleted", "by the user")
    w.before = picture(w.base)
    for dry_run in (True, False):
        with pytest.raises(Conflict) as e:
            w.merge(dry_run=dry_run)
        assert {(c.path, c.kind) for c in e.value.conflicts} == {
            (b"edited", ConflictKind.BOTH_MODIFIED), (b"deleted", ConflictKind.MODIFIED_IN_BASE),
        }
        assert "and 1 more" in str(e.value)
        assert "\n" not in str(e.value)
        w.assert_untouched()


def test_a_base_that_is_another_directory(work):
    w = work()
    w.base.rename(w.base.parent / "moved")
    with pytest.raises(BaseError, match="does not exist"):
        w.merge()
    shutil.copytree(w.base.parent / "moved", w.base, symlinks=True, ignore=lambda *_: ["pipe"])
    with pytest.raises(BaseError, match="not the directory"):
        w.merge()


def test_two_merges_into_one_base_at_a_time(work):
    import fcntl

    w = work()
    fd = os.open(w.base, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(MergeError, match="under way"):
        w.merge()
    w.assert_untouched()
    os.close(fd)
    w.merge()
    w.assert_merged()


class FailAt:
    """Fails the Nth of the steps that ``counts`` accepts."""

    def __init__(self, number, counts):
        self.number, self.counts, self.count = number, counts, 0

    def __call__(self, name, where):
        self.count += self.counts(name)
        if self.count == self.number and self.counts(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), where)

    def __enter__(self):
        durable.seam = self
        return self

    def __exit__(self, *exc):
        durable.seam = None


def is_of_the_base(name):
    return name.startswith("base ")


def test_a_merge_that_failed_can_be_tried_again(work):
    w = work()
    for number in (1, 20, 40, 60, 75):
        with FailAt(number, is_of_the_base), pytest.raises(MergeError, match="nothing was changed"):
            w.merge()
        w.assert_untouched()
    assert w.store.runs.get(w.run.id).options["kept"] == 1
    w.merge()
    w.assert_merged()


def test_a_store_that_fails_while_the_merge_is_recorded(work):
    w = work()
    outcomes = set()
    for number in range(1, 1000):
        with FailAt(number, lambda name: not name.startswith("base ")) as seam:
            try:
                w.merge()
            except (StoreError, OSError, MergeError):
                outcomes.add("failed")
        if w.state == "merged":
            break
        w.assert_untouched()
    assert outcomes == {"failed"}
    assert seam.number >= number
    w.assert_merged()


def test_large_objects_are_copied_in_the_kernel(work):
    data = random.Random(1).randbytes(20 << 20)

    def change(there):
        (there / "large").write_bytes(data)

    w = work(change)
    w.merge()
    w.assert_merged()


def test_an_ordinary_user_merges_below_directories_that_they_may_not_write_to(area, user):
    code = """
import os, shutil, sys
from pathlib import Path
from tests.store.sessions import Session, write
area = Path(sys.argv[1])
(area / "base").mkdir()
base = area / "base"
for folder in ("locked/sub", "elsewhere"):
    (base / folder).mkdir(parents=True)
    write(base / folder / "f", "f")
(base / "locked" / "sub").chmod(0o555)
(base / "locked").chmod(0o500)
s = Session(area)
there = s.there
(there / "locked").chmod(0o700)
(there / "locked" / "sub").chmod(0o700)
write(there / "locked" / "sub" / "f", "changed")
(there / "locked" / "sub").rename(there / "elsewhere" / "moved")
(there / "elsewhere" / "moved").chmod(0o555)
(there / "locked").chmod(0o500)
(there / "new").mkdir()
write(there / "new" / "f", "f")
(there / "new").chmod(0o555)
s.seal()
s.merge()
s.check()
print("merged")
"""
    os.chown(area, user.uid, user.gid)
    done = user.run([sys.executable, "-c", code, str(area)])
    assert done.stdout == "merged\n", done.stderr
