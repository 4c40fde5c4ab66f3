"""Undo in every order: what does not conflict gives the exact tree, what does is refused untouched, and at the end the
runs have everything again."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from snapshots.errors import Conflict
from snapshots.layers.basepaths import is_below
from snapshots.merging.choosing import Chosen
from snapshots.merging.merge import merge
from snapshots.merging.settle import Resolution
from snapshots.merging.undo import undo
from snapshots.upkeep.fsck import fsck
from tests.store.sessions import every_kind_of_base, write
from tests.store.test_merge_hunks import OLD, edited, offered
from tests.store.work import Work, keep_elsewhere
from tests.support.trees import differences, picture

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def one(there):
    write(there / "text", edited(OLD, 3, 20))
    write(there / "edited", "edited by the run")
    (there / "deleted").unlink()
    (there / "renamed").rename(there / "dir" / "now")
    (there / "new").mkdir(mode=0o2750)
    write(there / "new" / "f", "new")
    write(there / "new" / "g", "new too")
    shutil.rmtree(there / "doomed")
    (there / "mode").chmod(0o4711)
    os.setxattr(there / "attributes", "user.new", b"2")
    write(there / "new.tmp", "saved by an editor")
    (there / "new.tmp").rename(there / "three")
    (there / "retyped").unlink()
    (there / "retyped").symlink_to("elsewhere")
    with (there / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end" * 70_000)


def two(there):
    write(there / "edited", "edited by the other run")
    write(there / "added", "by the other run")
    (there / "swap1").rename(there / "t")
    (there / "swap2").rename(there / "swap1")
    (there / "t").rename(there / "swap2")


def chosen(*paths):
    return lambda change: change.path in paths


@pytest.fixture
def runs(store, base, tmp_path):
    every_kind_of_base(Path(os.fsdecode(base)))
    write(Path(os.fsdecode(base)) / "text", OLD)
    made = [Work(store, base, tmp_path / "one", one), Work(store, base, tmp_path / "two", two)]
    yield made
    for w in made:
        w.mirror.close()
    assert fsck(store).findings == ()


def facts(base):
    """Without the times of directories: in which order they change is what is tried here."""
    found = picture(base)
    for each in found.values():
        if each["mode"].startswith("0o4"):
            del each["mtime_ns"]
    return found


def merges(store, runs):
    first, second = runs
    hunk = next(ids[0] for group in offered(first) for path, ids in group if path == b"text")
    yield lambda: merge(store, second.run, choose=chosen(b"edited", b"added"))
    yield lambda: merge(store, first.run, hunks={b"text": Chosen(frozenset({hunk}))})
    yield lambda: merge(store, first.run, choose=chosen(b"new/f", b"deleted", b"mode", b"sparse", b"three", b"dir/now",
                                                         b"retyped", b"doomed", b"doomed/saved", b"doomed/sub",
                                                         b"doomed/sub/f"))  # fmt: skip
    yield lambda: merge(store, first.run, resolve=lambda _: Resolution.MARKERS)
    yield lambda: merge(store, second.run)


def touched(before, after):
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def is_in_the_way(mine, later):
    return any(p == q or is_below(q, p) for p in mine for q in later)


def check_order(store, runs, base, order):
    """Merge all, undo them in this order (what is refused again at the end of it), and all is as it was."""
    start = facts(base)
    trees, numbers = [start], []
    for act in [*merges(store, runs)][: len(order)]:
        numbers.append(act().number)
        trees.append(facts(base))
    changes = [touched(*pair) for pair in itertools.pairwise(trees)]
    waiting, done = list(order), 0
    in_effect = set(order)
    while waiting:
        each = waiting.pop(0)
        before = picture(base)
        refused = any(is_in_the_way(changes[each], changes[later]) for later in in_effect if later > each)
        if refused:
            with pytest.raises(Conflict):
                undo(store, numbers[each])
            assert differences(before, picture(base)) == []
            waiting.append(each)
            continue
        result = undo(store, numbers[each])
        assert result.returning is not None
        in_effect.discard(each)
        expected = {}
        for path in set().union(*trees):
            last = max((at for at in in_effect if path in changes[at]), default=-1)
            if path in trees[last + 1]:
                expected[path] = trees[last + 1][path]
        assert differences(without_counts(expected), without_counts(facts(base))) == [], (order, each)
        done += 1
    assert differences(start, facts(base)) == []
    return done


def without_counts(found):
    """How many names a node has is not known of one path alone."""
    return {path: {k: v for k, v in each.items() if k not in ("nlink", "same_as")} for path, each in found.items()}


@pytest.mark.parametrize("filesystems", ["one", "two"])
def test_every_order(runs, store, base, filesystems, monkeypatch):
    if filesystems == "two":
        keep_elsewhere(monkeypatch)
    length = 5 if LONG else 4
    orders = list(itertools.permutations(range(length)))
    if not LONG:  # the last ones are those that conflict least
        orders = orders[::-5] if filesystems == "two" else orders[::-2]
    offers = [offered(w) for w in runs]
    for order in orders:
        check_order(store, runs, base, order)
        assert [offered(w) for w in runs] == offers, "the runs have everything again"
        assert [w.state for w in runs] == ["kept", "kept"]
    merge(store, runs[0].run)
    # What was replaced is another name of the base's node, in the log of merges.
    expected, now = without_counts(runs[0].expected), without_counts(picture(base))
    assert [line for line in differences(expected, now) if not line.startswith("b'.':")] == []
