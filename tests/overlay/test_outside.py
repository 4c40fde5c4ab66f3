"""The base changes behind the overlay's back: what is shown is what a new mount would show, and the kernel is told."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import Invalidation
from snapshots.layers.base import BaseDir, BaseTree
from snapshots.storage.store import Store
from tests.overlay.scene import Scene
from tests.support.outsider import Outsider

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs no permission checks"),
    pytest.mark.timeout(7200 if LONG else 300),
    pytest.mark.logs("the base file of a partly copied file changed"),
]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spools from 33 bytes on, partly copied files from 65 on."""
    monkeypatch.setattr("goexfs.overlay.files.INLINE_LIMIT", 32)
    monkeypatch.setattr("goexfs.overlay.files.COPY_WHOLE_LIMIT", 64)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("watched", [True, False])
def test_what_is_shown_is_what_a_new_mount_shows(fast_area: Path, store: Store, watched: bool) -> None:
    for seed in range(5000 if LONG else 120):
        area = fast_area / f"outside-{watched}-{seed}"
        area.mkdir()
        source = random.Random(seed)
        outsider = Outsider(area, store, seed=seed, watched=watched)
        try:
            for _ in range(source.randrange(5, 40)):
                (outsider.disturb if source.random() < 0.3 else outsider.step)()
                if source.random() < 0.1:
                    outsider.compare()
            outsider.compare()
        except BaseException as e:
            e.add_note(f"seed {seed}:\n" + "\n".join(outsider.log))
            raise
        finally:
            outsider.close()
            shutil.rmtree(area)


@pytest.fixture
def scene(area: Path, store: Store) -> Iterator[Scene]:
    base = area / "base"
    (base / "d" / "e").mkdir(parents=True)
    (base / "d" / "file").write_bytes(b"file")
    (base / "d" / "e" / "deep").write_bytes(b"deep")
    (base / "large").write_bytes(b"L" * 1000)
    os.link(base / "d" / "file", base / "hard")
    os.symlink("file", base / "d" / "link")
    made = Scene(area, store)
    yield made
    made.close()


def test_a_changed_file_comes_back_as_a_new_inode(scene: Scene) -> None:
    held = scene.mount.open(b"large", os.O_RDONLY, 0)
    (scene.base / "large").write_bytes(b"other")
    scene.tell(b"large")
    assert scene.read(b"large") == b"other"
    assert scene.mount.stat(b"large", follow=False).ino != held.ino
    scene.mount.close(held)


def test_a_hard_link_changes_under_all_of_its_names(scene: Scene) -> None:
    assert scene.read(b"hard") == b"file"
    (scene.base / "d" / "file").write_bytes(b"changed")
    stale = scene.tell(b"d/file")  # under the one name; the other is the one that was looked at
    assert Invalidation(1, b"hard") in stale
    assert scene.read(b"hard") == scene.read(b"d/file") == b"changed"
    nodes = {scene.mount.stat(path, follow=False).ino for path in (b"hard", b"d/file")}
    assert len(nodes) == 1


def test_a_hard_link_stays_readable_when_its_first_name_goes(scene: Scene) -> None:
    assert scene.read(b"d/file") == scene.read(b"hard") == b"file"
    os.unlink(scene.base / "d" / "file")
    scene.tell(b"d/file")
    assert scene.read(b"hard") == b"file"
    with pytest.raises(FileNotFoundError):
        scene.mount.stat(b"d/file", follow=False)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_file_with_attributes_of_the_runs_own_follows_its_content(scene: Scene, how: str, moved: bool) -> None:
    """As a new inode: the kernel believes its own idea of the size of one that it knows."""
    path = b"d/moved" if moved else b"large"
    if moved:
        scene.mount.rename(b"large", path)
    scene.mount.chmod(path, 0o600)
    held = scene.mount.open(path, os.O_RDONLY, 0)
    for content in (b"short", b"longer than that"):
        if how == "write":
            (scene.base / "large").write_bytes(content)
        else:
            (scene.base / "new").write_bytes(content)
            os.rename(scene.base / "new", scene.base / "large")
        above = scene.mount.stat(b"d", follow=False).ino if moved else 1
        assert Invalidation(above, os.path.basename(path)) in scene.tell(b"large")
        assert scene.read(path) == content
        node = scene.node(path)
        assert (node.size, node.mode & 0o777) == (len(content), 0o600)
        assert node.ino != held.ino
        assert Invalidation(above, os.path.basename(path)) not in scene.tell(b"large"), "it is the same as before"
    scene.mount.close(held)
    scene.remount()
    assert scene.read(path) == b"longer than that"
    assert scene.node(path).mode & 0o777 == 0o600


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("how", ["unlink", "replace"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_partly_copied_file_is_rescued(scene: Scene, how: str, moved: bool) -> None:
    scene.write(b"large", 500, b"run")
    expected = b"L" * 500 + b"run" + b"L" * 497
    path = b"large"
    if moved:
        path = b"d/moved"
        scene.mount.rename(b"large", path)
    if how == "unlink":
        os.unlink(scene.base / "large")
    else:
        (scene.base / "new").write_bytes(b"something else")
        os.rename(scene.base / "new", scene.base / "large")
    scene.tell(b"large")
    assert scene.read(path) == expected
    scene.overlay.view.pool.close()  # nothing depends on the descriptor any more
    assert scene.read(path) == expected


@pytest.mark.usefixtures("small_limits")
def test_a_partly_copied_file_whose_base_is_written_to_fails_rather_than_lies(scene: Scene) -> None:
    scene.write(b"large", 500, b"run")
    (scene.base / "large").write_bytes(b"M" * 999)
    scene.tell(b"large")
    with pytest.raises(OSError, match="changed after this run"):
        scene.read(b"large")


def test_a_directory_that_the_run_moved_follows_its_base(scene: Scene) -> None:
    scene.mount.rename(b"d", b"moved")
    assert scene.read(b"moved/file") == b"file"
    shutil.rmtree(scene.base / "d")
    (scene.base / "d").mkdir()
    (scene.base / "d" / "other").write_bytes(b"other")
    scene.tell(b"d/file", b"d/link", b"d/e/deep", b"d/e", b"d")
    assert scene.read(b"moved/other") == b"other"
    with pytest.raises(FileNotFoundError):
        scene.mount.stat(b"moved/file", follow=False)


def test_a_symlink_that_the_run_moved_keeps_its_target(scene: Scene) -> None:
    scene.mount.rename(b"d/link", b"link")
    os.unlink(scene.base / "d" / "link")
    scene.tell(b"d/link")
    assert scene.mount.readlink(b"link") == b"file"


def test_attributes_of_what_the_base_lost(scene: Scene) -> None:
    os.setxattr(scene.base / "large", "user.a", b"base")
    scene.mount.chmod(b"large", 0o600)
    os.unlink(scene.base / "large")
    scene.tell(b"large")
    assert scene.mount.listxattr(b"large", follow=False) == []
    scene.mount.setxattr(b"large", b"user.b", b"run", follow=False)
    assert scene.mount.listxattr(b"large", follow=False) == [b"user.b"]


def test_what_is_hidden_is_not_even_looked_at(area: Path, store: Store) -> None:
    (area / "base" / "d" / "mnt").mkdir(parents=True)
    (area / "base" / "d" / "file").write_bytes(b"")
    asked: list[bytes] = []

    class Tree(BaseTree):
        def stat(self, d: BaseDir, name: bytes) -> os.stat_result:
            asked.append(name)
            return super().stat(d, name)

    scene = Scene(area, store, tree=Tree, hidden=frozenset({b"d/mnt"}))
    for _ in range(2):
        assert scene.names(b"d") == [b"file"]
        with pytest.raises(FileNotFoundError):
            scene.node(b"d/mnt")
        assert scene.tell(b"d/mnt", b"d/mnt/below") == []
        scene.mount.rename(b"d/file", b"d/moved")  # from here on base files may be known by other names
        scene.mount.rename(b"d/moved", b"d/file")
    with pytest.raises(PermissionError):
        scene.mount.mkdir(b"d/mnt", 0o755)
    assert b"mnt" not in asked
    scene.close()


def test_a_restored_node_still_follows_its_base(scene: Scene) -> None:
    """Also after a remount a file of which only the attributes were changed has the content of the base."""
    scene.mount.chmod(b"d/e/deep", 0o600)
    scene.remount()
    assert scene.node(b"d/e/deep").size == 4
    with open(scene.base / "d" / "e" / "deep", "ab") as file:
        file.write(b" and deeper")
    assert any(one.name == b"deep" for one in scene.tell(b"d/e/deep"))
    node = scene.node(b"d/e/deep")
    assert node.size == 15
    assert node.mode & 0o777 == 0o600
    assert scene.read(b"d/e/deep") == b"deep and deeper"
