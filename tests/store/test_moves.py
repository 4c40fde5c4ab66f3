"""Renames and copies by content: only what is equal, at a bounded cost, and as patches that git takes."""

import os

import pytest

from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import UpperTree
from snapshots.review import moves
from snapshots.review.compare import Sides
from snapshots.review.diff import as_json, diff
from snapshots.review.moves import with_moves
from tests.store.mirror import DictObjects, Mirror


class Scene:
    """A base in ``base``, and a mirror of it in ``run`` to change."""

    def __init__(self, area):
        self.base, self.there = area / "base", area / "run"
        self.base.mkdir()
        self.mirror = None

    def begin(self):
        self.mirror = Mirror(self.base, self.there)

    def changes(self, sources=(), **kwargs):
        objects = DictObjects()
        tree = BaseTree(self.mirror.base)
        paths = BasePaths(tree)
        sides = [Sides(paths, objects).of_base(path, paths.stat(path)) for path in sources]
        return with_moves(diff(UpperTree(self.mirror.state(objects)), tree, objects), sides, **kwargs)

    def short(self, sources=()):
        return [
            f"{c.status} {(c.old_path + b' -> ').decode() if c.old_path else ''}{c.path.decode()}"
            for c in self.changes(sources)
        ]


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    if made.mirror is not None:
        made.mirror.close()


def anew(path, data):
    """A file with this content and an inode of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_deleted_here_and_created_there_is_a_rename(scene):
    anew(scene.base / "old", b"content\n")
    (scene.base / "old").chmod(0o644)
    scene.begin()
    (scene.there / "old").unlink()
    anew(scene.there / "dir" / "new", b"content\n")
    (scene.there / "dir" / "new").chmod(0o755)
    assert scene.short() == ["A dir", "R old -> dir/new"]
    change = scene.changes()[1]
    assert change.by_content
    assert change.attrs == ("mode",)
    assert not change.content_changed
    assert as_json(change)["found_by"] == "content"


def test_similar_is_not_equal(scene):
    anew(scene.base / "old", b"content\n" * 1000)
    scene.begin()
    (scene.there / "old").unlink()
    anew(scene.there / "new", b"content\n" * 999 + b"Content\n")
    assert scene.short() == ["A new", "D old"]


def test_identity_comes_before_content(scene):
    anew(scene.base / "a", b"same\n")
    anew(scene.base / "b", b"same\n")
    scene.begin()
    (scene.there / "a").rename(scene.there / "c")
    (scene.there / "b").unlink()
    anew(scene.there / "d", b"same\n")
    assert scene.short() == ["R a -> c", "R b -> d"]
    assert [c.by_content for c in scene.changes()] == [False, True]


def test_one_deletion_is_one_rename_and_more_are_copies(scene):
    anew(scene.base / "x" / "one", b"content\n")
    scene.begin()
    (scene.there / "x" / "one").unlink()
    anew(scene.there / "a", b"content\n")
    anew(scene.there / "y" / "one", b"content\n")
    assert scene.short() == ["R x/one -> a", "A y", "C x/one -> y/one"]


def test_the_same_name_is_paired_first(scene):
    for folder in ("a", "b", "c"):
        anew(scene.base / folder / f"name-{folder}", b"equal\n")
    scene.begin()
    for folder in ("a", "b", "c"):
        (scene.there / folder / f"name-{folder}").unlink()
        anew(scene.there / "new" / f"name-{folder}", b"equal\n")
    assert [line for line in scene.short() if line[0] == "R"] == [
        f"R {folder}/name-{folder} -> new/name-{folder}" for folder in "abc"
    ]


def test_a_copy_of_what_was_changed_meanwhile(scene):
    anew(scene.base / "source", b"before\n")
    scene.begin()
    anew(scene.there / "copy", b"before\n")
    anew(scene.there / "source", b"after\n")
    os.utime(scene.there / "source", ns=(1, 1))
    assert scene.short() == ["C source -> copy", "M source"]


def test_a_copy_of_an_unchanged_file_only_if_it_is_named(scene):
    anew(scene.base / "source", b"before\n")
    scene.begin()
    anew(scene.there / "copy", b"before\n")
    assert scene.short() == ["A copy"]
    assert scene.short([b"source"]) == ["C source -> copy"]


def test_empty_files_and_hard_links_are_left_alone(scene):
    anew(scene.base / "gone", b"")
    anew(scene.base / "kept", b"kept\n")
    scene.begin()
    (scene.there / "gone").unlink()
    anew(scene.there / "new", b"")
    os.link(scene.there / "kept", scene.there / "link")
    assert scene.short([b"kept"]) == ["D gone", "A link", "A new"]


def test_what_is_read_is_bounded(scene, monkeypatch):
    for number in range(20):
        anew(scene.base / f"old{number}", b"x" * 5000 + b"%02d" % number)
    anew(scene.base / "large", b"y" * 9000)
    scene.begin()
    for number in range(20):
        (scene.there / f"old{number}").unlink()
    (scene.there / "large").unlink()
    anew(scene.there / "new", b"x" * 5000 + b"19")
    anew(scene.there / "moved", b"y" * 9000)
    assert "R large -> moved" in scene.short()
    assert "A new" in scene.short(), "more alike than are compared"
    monkeypatch.setattr(moves, "LARGEST", 8000)
    assert "A moved" in scene.short()
    monkeypatch.undo()
    monkeypatch.setattr(moves, "MOST_BYTES", 4000)
    assert not [line for line in scene.short() if line[0] in "RC"]
