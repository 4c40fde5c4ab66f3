"""Merging a part of a run: the base gets that part, the run keeps the rest, and both together are all of it."""

import os

import pytest

from snapshots.errors import MergeError
from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.merging.merge import merge
from snapshots.merging.undo import undo
from snapshots.review.diff import diff
from tests.store.sessions import write
from tests.support.trees import differences, picture


def several(there):
    write(there / "edited", "edited by the run")
    (there / "deleted").unlink()
    (there / "renamed").rename(there / "dir" / "now")
    (there / "new").mkdir()
    write(there / "new" / "f", "new")
    write(there / "dir" / "f", "edited too")
    write(there / "swap1" / "f", "and this")
    (there / "mode").chmod(0o700)
    write(there / "one", "under three names")


def changed(w):
    with BaseTree(os.fsencode(w.base)) as tree:
        upper = UpperTree(w.store.upper(w.run.id).load())
        return {change.path for change in diff(upper, tree, w.store.objects)}


def chosen(*paths):
    return lambda change: change.path in paths


def test_part_by_part(work, store):
    w = work(several)
    everything = changed(w)
    for part in ({b"edited"}, {b"deleted", b"dir/now"}, {b"new", b"new/f"}, {b"mode"}):
        result = merge(store, w.run, choose=chosen(*part))
        assert result.partly
        assert w.state == "kept"
        everything -= part
        assert changed(w) == everything
    assert (w.base / "edited").read_text() == "edited by the run"
    assert not (w.base / "dir" / "f").exists()
    merge(store, w.run)
    assert w.state == "merged"
    assert differences(w.expected, picture(w.base)) == []


def test_a_part_can_be_undone(work, store):
    w = work(several)
    number = merge(store, w.run, choose=chosen(b"edited", b"new", b"new/f")).number
    undo(store, number)
    assert differences(w.before, picture(w.base)) == []


def test_all_of_it_is_a_merge(work, store):
    w = work(several)
    assert not merge(store, w.run, choose=lambda _: True).partly
    w.assert_merged()


def test_the_directory_of_what_was_chosen_is_added(work, store):
    w = work(several)
    assert merge(store, w.run, choose=chosen(b"new/f"), dry_run=True).completed == (b"new",)
    assert merge(store, w.run, choose=chosen(b"new/f")).completed == (b"new",)
    assert (w.base / "new" / "f").read_text() == "new"
    assert not changed(w) & {b"new", b"new/f"}


@pytest.mark.parametrize(("part", "message"), [({b"one"}, "has another name"), ({b"nothing"}, "nothing of that kind")])
def test_what_makes_no_sense_alone(work, store, part, message):
    w = work(several)
    with pytest.raises(MergeError, match=message):
        merge(store, w.run, choose=chosen(*part))
    w.assert_untouched()
