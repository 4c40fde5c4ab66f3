"""What a run hides of the base is known by identity: changed before is not in conflict, changed since always is."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.entries import ROOT_INO, Hidden, Identity
from snapshots.errors import Conflict
from snapshots.layers.basepaths import BasePaths
from snapshots.merging.merge import merge
from snapshots.review.hidden import digest_of_base
from snapshots.storage.store import Store
from tests.overlay.scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An overlay over a base with a few files."""
    base = tmp_path / "base"
    (base / "d" / "sub" / "empty").mkdir(parents=True)
    for path in ("f", "g", "h", "d/a", "d/sub/b"):
        (base / path).write_text(path)
    with Store.open(tmp_path / "store") as store:
        made = Scene(tmp_path, store)
        yield made
        made.close()


def remove_tree(scene: Scene, path: bytes) -> None:
    for name in scene.names(path):
        if name not in (b".", b".."):
            child = path + b"/" + name
            if scene.node(child).is_dir:
                remove_tree(scene, child)
            else:
                scene.mount.unlink(child)
    scene.mount.rmdir(path)


def hides(scene: Scene) -> dict[bytes, Hidden]:
    return scene.store.upper(scene.run).load().hides.get(ROOT_INO, {})


def identity(scene: Scene, path: str) -> Identity:
    return Identity.of(os.lstat(scene.base / path))


def changed_in_base(scene: Scene, path: str, text: str = "by the user") -> None:
    time.sleep(0.01)
    (scene.base / path).write_text(text)
    scene.tell(os.fsencode(path))


def conflicts(scene: Scene) -> list[tuple[bytes, str]]:
    scene.seal()
    try:
        merge(scene.store, scene.store.runs.get(scene.run), dry_run=True)
    except Conflict as e:
        return [(c.path, c.kind.name) for c in e.conflicts]  # type: ignore[attr-defined]
    return []


def test_every_way_to_hide_a_name_records_what_was_there(scene: Scene) -> None:
    mount = scene.mount
    mount.unlink(b"f")
    scene.write(b"new", 0, b"new")
    mount.rename(b"new", b"g")
    mount.rename(b"h", b"elsewhere")
    scene.seal()
    expected = {name.encode(): Hidden(identity(scene, name), b"") for name in ("f", "g", "h")}
    assert hides(scene) == expected
    mount.rename(b"elsewhere", b"h")
    scene.remount()
    del expected[b"h"]
    assert hides(scene) == expected
    scene.write(b"f", 0, b"again")  # still hides what was there first
    scene.seal()
    assert hides(scene) == expected


def test_an_emptied_directory_stands_for_all_that_was_in_it(scene: Scene) -> None:
    remove_tree(scene, b"d")
    scene.seal()
    assert hides(scene)[b"d"].below == digest_of_base(base_paths(scene), b"d")
    assert conflicts(scene) == []
    changed_in_base(scene, "d/sub/b")
    assert conflicts(scene) == [(b"d/sub/b", "MODIFIED_IN_BASE")]


def base_paths(scene: Scene) -> BasePaths:
    return BasePaths(scene.tree)


def test_changed_in_the_base_before_the_run_hid_it(scene: Scene) -> None:
    for path in ("f", "g", "d/a", "d/sub/b"):
        changed_in_base(scene, path)
    scene.mount.unlink(b"f")
    scene.write(b"new", 0, b"new")
    scene.mount.rename(b"new", b"g")
    remove_tree(scene, b"d")
    assert conflicts(scene) == []
    assert merge(scene.store, scene.store.runs.get(scene.run)).merged
    assert sorted(os.listdir(scene.base)) == ["g", "h"]


def test_an_old_file_that_was_moved_into_the_place_of_a_hidden_one(scene: Scene) -> None:
    """Its times are older than the run; only the inode tells (a directory's children do not change with it)."""
    old = scene.base.parent / "old"
    shutil.copytree(scene.base / "d", old)
    time.sleep(0.01)
    scene.close()
    scene.reopen()
    remove_tree(scene, b"d")
    scene.seal()
    shutil.rmtree(scene.base / "d")
    old.rename(scene.base / "d")
    assert conflicts(scene) == [(b"d", "MODIFIED_IN_BASE")]


def test_replaced_by_the_run_and_deleted_in_the_base(scene: Scene) -> None:
    scene.write(b"new", 0, b"new")
    scene.mount.rename(b"new", b"g")
    (scene.base / "g").unlink()
    assert conflicts(scene) == [(b"g", "DELETED_IN_BASE")]


def test_a_name_that_both_deleted(scene: Scene) -> None:
    scene.mount.unlink(b"f")
    (scene.base / "f").unlink()
    assert conflicts(scene) == []
    assert merge(scene.store, scene.store.runs.get(scene.run)).merged
    assert sorted(os.listdir(scene.base)) == ["d", "g", "h"]
