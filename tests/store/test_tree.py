"""The tree that entries and links make, and the damage it refuses."""

import os
import stat

import msgspec
import pytest

from snapshots.entries import ROOT_INO, WHITEOUT, Changed, Identity, Origin, UpperState
from snapshots.errors import StoreDamaged
from snapshots.layers.aliases import with_aliases
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import UpperTree
from snapshots.names import is_inside
from tests.store.uppers import entry

DIR = stat.S_IFDIR | 0o755
NOWHERE = Identity(0, 0, DIR, 0, 0, 0)


def from_base(ino, path, mode=DIR, **fields):
    return entry(ino, mode=mode, origin=Origin(path, NOWHERE), **fields)


@pytest.fixture
def tree():
    """``old`` is renamed to ``new``, has lost ``gone`` and gained ``added``; ``other`` is as it was."""
    entries = {
        ROOT_INO: from_base(ROOT_INO, b""),
        10: from_base(10, b"old"),
        11: entry(11),
        12: from_base(12, b"old/sub/deep"),
        13: from_base(13, b"opaque", opaque=True),
    }
    links = {
        ROOT_INO: {b"old": WHITEOUT, b"new": 10, b"moved": 12, b"opaque": 13, b"hard": 11},
        10: {b"gone": WHITEOUT, b"added": 11},
    }
    return UpperTree(UpperState(entries, links, 100))


def test_what_shows_through_where(tree):
    expected = {
        b"": b"", b"other": b"other", b"other/below": b"other/below", b"new": b"old", b"new/kept": b"old/kept",
        b"new/sub/file": b"old/sub/file", b"new/gone": None, b"new/added": None, b"old": None, b"old/x": None,
        b"moved": b"old/sub/deep", b"moved/x": b"old/sub/deep/x", b"opaque": b"opaque", b"opaque/x": None,
        b"hard/x": None,
    }  # fmt: skip
    assert {path: tree.base_path(path) for path in expected} == expected


def test_walking_and_paths(tree):
    assert [place.path for place in tree.walk()] == [b"", b"hard", b"moved", b"new", b"new/added", b"opaque"]
    assert tree.paths(11) == [b"hard", b"new/added"]
    assert tree.number_of_links(11) == 2
    assert tree.paths(12) == [b"moved"]
    assert tree.paths(99) == []


def test_merged_listing(tree, tmp_path):
    for path in ("old/sub/deep", "old/gone", "other", "opaque/hidden"):
        (tmp_path / path).mkdir(parents=True)
    with BaseTree(os.fsencode(tmp_path)) as base:
        paths = BasePaths(base)

        def names(place):
            return [child.path for child in tree.children(place, paths)]

        assert names(tree.root) == [b"hard", b"moved", b"new", b"opaque", b"other"]
        assert names(tree.resolve(b"new")) == [b"new/added", b"new/sub"]
        assert names(tree.resolve(b"opaque")) == []


def test_an_upper_without_entries():
    tree = UpperTree(UpperState({}, {}, 2))
    assert tree.base_path(b"a/b") == b"a/b"
    assert [place.path for place in tree.walk()] == [b""]


@pytest.mark.parametrize(
    ("entries", "links"),
    [
        ({}, {ROOT_INO: {b"..": WHITEOUT}}),
        ({}, {ROOT_INO: {b"a/b": WHITEOUT}}),
        ({}, {ROOT_INO: {b"a": 10}}),
        ({}, {10: {b"a": WHITEOUT}}),
        ({10: entry(10)}, {10: {b"a": WHITEOUT}}),
        ({10: entry(10, mode=DIR)}, {ROOT_INO: {b"a": 10, b"b": 10}}),
        ({10: entry(10, mode=DIR)}, {ROOT_INO: {b"a": ROOT_INO}}),
        ({10: from_base(10, b"../outside")}, {ROOT_INO: {b"a": 10}}),
        ({10: from_base(10, b"/etc")}, {ROOT_INO: {b"a": 10}}),
    ],
    ids=["dotdot", "slash", "no entry", "no directory", "file", "two names", "root again", "origin above", "absolute"],
)  # fmt: skip
def test_what_is_no_tree_is_damage(entries, links):
    with pytest.raises(StoreDamaged, match="fsck"):
        UpperTree(UpperState(entries, links, 100))


def test_a_circle_beside_the_tree_is_not_walked():
    entries = {10: entry(10, mode=DIR), 11: entry(11, mode=DIR), 12: entry(12)}
    tree = UpperTree(UpperState(entries, {10: {b"a": 11, b"f": 12}, 11: {b"b": 10}}, 100))
    assert [place.path for place in tree.walk()] == [b""]
    assert tree.paths(12) == []


def test_aliases_are_found_only_where_the_base_shows(tmp_path):
    for folder in ("shown/deep", "hidden", "moved", "opaque"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for folder in ("shown/deep", "hidden", "moved", "opaque"):
        os.link(tmp_path / "file", tmp_path / folder / "alias")
    st = os.stat(tmp_path / "file")
    changed = entry(st.st_ino, origin=Origin(b"file", Identity.of(st)), nlink=3, mode=st.st_mode)
    moved = msgspec.structs.replace(from_base(20, b"moved"), changed=int(Changed.ATTRS))
    entries = {
        ROOT_INO: from_base(ROOT_INO, b""), st.st_ino: changed, 20: moved, 21: from_base(21, b"opaque", opaque=True)
    }  # fmt: skip
    links = {
        ROOT_INO: {b"file": st.st_ino, b"hidden": WHITEOUT, b"moved": WHITEOUT, b"elsewhere": 20, b"opaque": 21}
    }  # fmt: skip
    with BaseTree(os.fsencode(tmp_path)) as base:
        tree = with_aliases(UpperTree(UpperState(entries, links, 100)), BasePaths(base))
    assert tree.paths(st.st_ino) == [b"elsewhere/alias", b"file", b"shown/deep/alias"]
    assert tree.resolve(b"shown").entry.changed == 0
    assert tree.base_path(b"shown/deep") == b"shown/deep"


@pytest.mark.parametrize(
    ("path", "directory", "inside"),
    [
        (b"/a", b"/a", True),
        (b"/a/b", b"/a", True),
        (b"/ab", b"/a", False),
        (b"/a", b"/a/b", False),
        (b"/a", b"/", True),
        (b"/", b"/", True),
    ],
)
def test_what_lies_inside_what(path, directory, inside):
    assert is_inside(path, directory) == inside
