"""Undo: back to the exact tree, or refused with nothing changed."""

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given

from snapshots.errors import Conflict, MergeError
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.plan import ConflictKind
from snapshots.merging.undo import latest, undo
from snapshots.storage.store import Store
from tests.store.operations import base_sequences, perform, sequences
from tests.store.sessions import write
from tests.store.work import Work, keep_elsewhere
from tests.support.trees import differences, picture


def inodes(base):
    return {path: os.lstat(os.path.join(os.fsencode(base), path)).st_ino for path in picture(base) if path != b"."}


def test_undo_and_undo_of_the_undo(work, store):
    w = work()
    before = inodes(w.base)
    number = w.merge().number
    after = inodes(w.base)
    for _ in range(2):
        number = undo(store, number).number
        assert differences(w.before, picture(w.base)) == []
        assert inodes(w.base) == before
        number = undo(store, number).number
        assert differences(w.expected, picture(w.base)) == []
        assert inodes(w.base) == after


def test_what_is_undone_is_not_undone_again(work, store):
    w = work()
    number = w.merge().number
    undo(store, number)
    with pytest.raises(MergeError, match="undone by 2 already"):
        undo(store, number)
    with pytest.raises(MergeError, match="no merge 7"):
        undo(store, 7)


def test_the_latest_one(work, store):
    with pytest.raises(MergeError, match="nothing was merged"):
        latest(store, b"/")
    first = work(lambda there: write(there / "edited", "once"))
    first.merge()
    second = work(lambda there: write(there / "edited", "twice"))
    second.merge()
    here = os.fsencode(first.base)
    for tree in (second.before, first.before):
        undo(store, latest(store, here + b"/dir"))
        assert differences(tree, picture(first.base)) == []
    with pytest.raises(MergeError):
        latest(store, here)


def test_undo_in_another_order(work, store):
    first = work(lambda there: write(there / "edited", "once"))
    one = first.merge().number
    second = work(lambda there: shutil.rmtree(there / "doomed"))
    two = second.merge().number
    undo(store, one)
    assert (first.base / "edited").read_text() == "content of edited"
    assert not (first.base / "doomed").exists()
    undo(store, two)
    # The time of the directory in which both changed names is that of the last change.
    without_times = {path: {k: v for k, v in facts.items() if k != "mtime_ns"} for path, facts in first.before.items()}
    assert differences(without_times, picture(first.base, times=False)) == []


@pytest.mark.parametrize(
    ("change", "path", "kind"),
    [
        (lambda base: write(base / "edited", "by the user"), b"edited", ConflictKind.MODIFIED_SINCE),
        (lambda base: (base / "new" / "tree" / "f").unlink(), b"new/tree/f", ConflictKind.DELETED_SINCE),
        (lambda base: write(base / "new" / "more", "x"), b"new/more", ConflictKind.ADDED_SINCE),
        (lambda base: write(base / "deleted", "again"), b"deleted", ConflictKind.ADDED_SINCE),
        (lambda base: (base / "doomed").mkdir(), b"doomed", ConflictKind.ADDED_SINCE),
        (lambda base: (base / "mode").chmod(0o600), b"mode", ConflictKind.ATTRIBUTES_SINCE),
        (lambda base: (base / "saved").unlink(), b"saved", ConflictKind.DELETED_SINCE),
        (lambda base: shutil.copy2(base / "edited", base / "x") and os.replace(base / "x", base / "edited"),
         b"edited", ConflictKind.REPLACED_SINCE),
    ],
)  # fmt: skip
def test_a_base_that_changed_since_is_a_conflict(work, store, change, path, kind):
    w = work()
    number = w.merge().number
    change(w.base)
    now = picture(w.base)
    for dry_run in (True, False):
        with pytest.raises(Conflict) as e:
            undo(store, number, dry_run=dry_run)
        assert (path, kind) in {(c.path, c.kind) for c in e.value.conflicts}
        assert differences(now, picture(w.base)) == []
    assert MergeLog(store).is_kept(number)


@pytest.mark.parametrize(
    ("change", "path", "kind"),
    [
        (lambda d: write(d / "deep" / "g", "mine\n"), b"brand/new/deep/g", ConflictKind.MODIFIED_SINCE),
        (lambda d: write(d / "deep" / "more", "mine\n"), b"brand/new/deep/more", ConflictKind.ADDED_SINCE),
        (lambda d: (d / "f").unlink(), b"brand/new/f", ConflictKind.DELETED_SINCE),
        (lambda d: os.chmod(d / "deep", 0o700), b"brand/new/deep", ConflictKind.ATTRIBUTES_SINCE),
        (lambda d: write(d / "f", "mine\n"), b"brand/new/f", ConflictKind.MODIFIED_SINCE),
    ],
)
@pytest.mark.parametrize("times", [0, 2])
def test_what_changed_anywhere_in_a_new_directory_is_a_conflict(work, store, change, path, kind, times):
    """Undoing takes all of a new directory away, however deep: what is in there must be what was merged."""

    def make(there):
        (there / "brand" / "new" / "deep").mkdir(parents=True)
        write(there / "brand" / "new" / "f", "new\n")
        write(there / "brand" / "new" / "deep" / "g", "new\n")

    w = work(make)
    number = w.merge().number
    for _ in range(times):  # and when it was undone, and brought back
        number = undo(store, number).number
    change(w.base / "brand" / "new")
    now = picture(w.base)
    with pytest.raises(Conflict) as refused:
        undo(store, number)
    assert [(each.path, each.kind) for each in refused.value.conflicts] == [(path, kind)]
    assert differences(now, picture(w.base)) == []


def test_what_others_did_elsewhere_stays(work, store):
    w = work()
    number = w.merge().number
    write(w.base / "moved" / "other", "by the user")
    undo(store, number)
    assert (w.base / "dir" / "other").read_text() == "by the user"
    assert (w.base / "edited").read_text() == "content of edited"


def test_the_oldest_pre_images_go_first(work, store):
    numbers = []
    for turn in range(3):
        w = work(lambda there, turn=turn: write(there / "edited", f"{turn}" * 9000))
        numbers.append(w.merge().number)
    log = MergeLog(store)
    sizes = [record.kept_bytes for record in log.records()]
    assert log.prune(keep_bytes=sizes[1] + sizes[2]) == [1]
    assert [log.is_kept(number) for number in numbers] == [False, True, True]
    with pytest.raises(MergeError, match="not kept any more"):
        undo(store, 1)
    assert log.prune(keep_bytes=0) == [2]
    log.prune(keep_records=1)
    assert [record.number for record in log.records()] == [3]
    undo(store, 3)


def test_across_filesystems_it_is_copied(work, store, monkeypatch):
    keep_elsewhere(monkeypatch)
    w = work()
    number = w.merge().number
    assert not [name for name in os.listdir(w.base) if name.startswith(".goexfs")]
    number = undo(store, number).number
    assert differences(w.before, picture(w.base)) == []
    number = undo(store, number).number
    assert differences(w.expected, picture(w.base)) == []
    assert not MergeLog(store).is_kept(1)


@given(base_sequences, sequences)
def test_merge_then_undo_is_identity(base_ops, ops):
    with tempfile.TemporaryDirectory(prefix="gxu-") as name:
        area = Path(name)
        (area / "base").mkdir()
        for op in base_ops:
            perform(os.fsencode(area / "base"), op)
        with Store.open(area / "store") as store:
            def change(there):
                for op in ops:
                    perform(os.fsencode(there), op)

            w = Work(store, os.fsencode(area / "base"), area / "there", change)
            try:
                before = picture(w.base)
                number = w.merge().number
                if number is None:
                    return
                after = picture(w.base)
                time.sleep(0.001)
                again = undo(store, number).number
                assert differences(before, picture(w.base)) == []
                undo(store, again)
                assert differences(after, picture(w.base)) == []
            finally:
                w.mirror.close()
