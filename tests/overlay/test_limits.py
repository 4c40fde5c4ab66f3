"""Many names, long names, deep trees, large files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import Node
from snapshots.storage.store import Store
from tests.overlay.scene import Scene


@pytest.fixture
def scene(area: Path, store: Store) -> Iterator[Scene]:
    made = Scene(area, store)
    yield made
    made.close()


def test_a_hundred_thousand_names_in_one_directory(area: Path, store: Store) -> None:
    (area / "base").mkdir()
    directory = os.open(area / "base", os.O_RDONLY)
    names = {b"base%d" % number for number in range(100_000)}
    for name in names:
        os.mknod(name, dir_fd=directory)
    os.close(directory)
    scene = Scene(area, store)
    root = scene.overlay.root
    made = {b"new%d" % number for number in range(2000)}
    removed = {b"base%d" % number for number in range(0, 100_000, 50)}
    for name in made:
        scene.overlay.mknod(root, name, 0o644, 0, 0, 0)
    for name in removed:
        scene.overlay.unlink(root, name)
    expected = names - removed | made
    for _ in range(2):
        listed = [name for name, _, _ in scene.overlay.readdir(scene.overlay.opendir(scene.overlay.root), 2)]
        assert len(listed) == len(expected)
        assert set(listed) == expected
        scene.remount()
    scene.close()


def test_a_listing_survives_changes_between_its_parts(scene: Scene) -> None:
    for number in range(100):
        (scene.base / f"base{number}").touch()
        scene.write(b"new%d" % number, 0, b"")
    before = set(scene.names(b""))
    file = scene.mount.open(b"", os.O_RDONLY | os.O_DIRECTORY, 0)
    seen: list[bytes] = []
    position = 0
    removed, made = set(), set()
    while True:
        names, position = scene.mount.readdir(file, position, 7)
        seen += names
        if len(names) < 7:
            break
        for name in names[:3]:  # as rm -r does
            scene.mount.unlink(name)
            removed.add(name)
        made.add(b"made%d" % position)
        scene.write(b"made%d" % position, 0, b"")
    scene.mount.close(file)
    assert len(set(seen)) == len(seen)
    assert before <= set(seen) <= before | made
    assert set(scene.names(b"")) == before - removed | made


def test_a_position_stays_valid_after_a_seek(scene: Scene) -> None:
    for number in range(20):
        scene.write(b"%d" % number, 0, b"")
    file = scene.mount.open(b"", os.O_RDONLY | os.O_DIRECTORY, 0)
    first, middle = scene.mount.readdir(file, 0, 10)
    rest, _ = scene.mount.readdir(file, middle, 100)
    scene.mount.unlink(rest[0])
    assert scene.mount.readdir(file, middle, 100)[0] == rest[1:]
    assert set(scene.mount.readdir(file, 0, 100)[0]) == {*first, *rest[1:]}
    scene.mount.close(file)


@pytest.mark.parametrize(
    "name",
    [b"x" * 255, b"\xff" * 255, bytes(range(1, 47)), b"\n", b"\xed\xa0\x80", b"...", b" ", b"-rf", "é".encode() * 127],
)
def test_any_bytes_make_a_name(scene: Scene, name: bytes) -> None:
    (scene.base / "d").mkdir()
    fd = os.open(scene.base / "d", os.O_RDONLY)
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)
    assert scene.names(b"d") == [name]
    scene.write(b"d/" + name, 0, b"changed")
    scene.mount.link(b"d/" + name, name)
    scene.mount.rename(b"d/" + name, b"d/other")
    scene.remount()
    assert scene.names(b"d") == [b"other"]
    assert scene.read(name) == b"changed"
    assert scene.mount.stat(name, follow=False).nlink == 2


def test_names_that_are_too_long(scene: Scene) -> None:
    scene.write(b"file", 0, b"")
    name = b"x" * 256
    for operation in (
        lambda: scene.mount.stat(name, follow=False),
        lambda: scene.mount.mkdir(name, 0o755),
        lambda: scene.mount.symlink(name, b"to"),
        lambda: scene.mount.link(b"file", name),
        lambda: scene.mount.rename(b"file", name),
        lambda: scene.write(name, 0, b""),
    ):
        with pytest.raises(OSError, match="File name too long"):
            operation()


@pytest.mark.parametrize("in_base", [True, False])
def test_a_tree_deeper_than_a_path_may_be_long(scene: Scene, in_base: bool) -> None:
    depth, name = 40, b"d" * 200
    if in_base:
        fd = os.open(scene.base, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
        os.setxattr(b"/proc/self/fd/%d/file" % fd, "user.a", b"deep")
        os.symlink(b"file", b"link", dir_fd=fd)
        os.close(fd)
    node: Node = scene.overlay.root
    for _ in range(depth):
        if not in_base:
            scene.overlay.mkdir(node, name, 0o755, 0, 0)
        node = scene.overlay.lookup(node, name)
    if not in_base:
        scene.overlay.mknod(node, b"file", 0o644, 0, 0, 0)
        scene.overlay.symlink(node, b"link", b"file", 0, 0)
        scene.overlay.setxattr(scene.overlay.lookup(node, b"file"), b"user.a", b"deep")
    path = b"/".join([name] * depth)
    assert len(path) > os.pathconf("/", "PC_PATH_MAX")
    scene.write(path + b"/file", 0, b"written")
    scene.mount.rename(name, b"short")  # everything below comes along
    scene.remount()
    path = b"short/" + b"/".join([name] * (depth - 1))
    assert scene.read(path + b"/link") == b"written"
    assert scene.mount.getxattr(path + b"/file", b"user.a", follow=False) == b"deep"
    assert sorted(scene.names(path)) == [b"file", b"link"]


def test_a_tree_deeper_than_python_recurses(scene: Scene) -> None:
    """Directories are walked up and down in loops."""
    node: Node = scene.overlay.root
    for _ in range(1500):
        node = scene.overlay.mkdir(node, b"d", 0o755, 0, 0)
    scene.overlay.mknod(node, b"file", 0o644, 0, 0, 0)
    scene.remount()
    node, depth = scene.overlay.root, 0
    while node.is_dir:
        [(name, node, _)] = list(scene.overlay.readdir(scene.overlay.opendir(node), 2))
        depth += 1
    assert (depth, name) == (1501, b"file")


def test_a_change_deep_below_in_the_base(area: Path, store: Store) -> None:
    """A deep chain of directories that a change makes part of the upper."""
    (area / "base").mkdir()
    fd = os.open(area / "base", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    scene = Scene(area, store)
    node: Node = scene.overlay.root
    for _ in range(1200):
        node = scene.overlay.lookup(node, b"d")
        scene.overlay.remember(node)
    scene.overlay.setattr(node, mode=0o700)
    scene.remount()
    node = scene.overlay.root
    for _ in range(1200):
        node = scene.overlay.lookup(node, b"d")
    assert node.mode & 0o777 == 0o700
    scene.close()
    _remove_deep(area / "base")


def _remove_deep(top: Path) -> None:
    """As rm -r does; shutil.rmtree recurses."""
    fd = os.open(top, os.O_RDONLY)
    while names := os.listdir(fd):
        below = os.open(names[0], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    while not os.path.samestat(os.fstat(fd), os.stat(top)):
        above = os.open(b"..", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        os.rmdir(b"d", dir_fd=above)
        fd = above
    os.close(fd)


def test_a_sparse_file_beyond_4_gib(scene: Scene) -> None:
    far = 6 << 30
    scene.write(b"sparse", far, b"end")
    assert scene.node(b"sparse").size == far + 3
    assert scene.node(b"sparse").blocks <= 16, "holes take no room"
    file = scene.mount.open(b"sparse", os.O_RDWR, 0)
    assert scene.mount.read(file, far - 5, 100) == bytes(5) + b"end"
    scene.mount.write(file, 1 << 30, b"middle")
    scene.mount.close(file)
    scene.remount()
    file = scene.mount.open(b"sparse", os.O_RDWR, 0)
    assert scene.node(b"sparse").size == far + 3
    assert scene.mount.read(file, (1 << 30) - 1, 8) == b"\0middle\0"
    assert scene.mount.read(file, far - 1, 8) == b"\0end"
    with pytest.raises(OSError, match="too large"):
        scene.mount.write(file, (1 << 63) - 2, b"xx")
    scene.mount.close(file)


def test_the_first_write_to_a_large_base_file_copies_little(area: Path, store: Store) -> None:
    (area / "base").mkdir()
    with open(area / "base" / "large", "wb") as large:
        large.truncate(10 << 30)
        large.seek(5 << 30)
        large.write(b"base")
    scene = Scene(area, store)
    scene.write(b"large", (5 << 30) + 1, b"run")
    used = sum(path.stat().st_blocks * 512 for path in scene.spool.iterdir())
    assert used <= 64 * 1024
    file = scene.mount.open(b"large", os.O_RDONLY, 0)
    assert scene.mount.read(file, (5 << 30) - 1, 6) == b"\0brun\0"
    scene.mount.close(file)
    scene.remount()
    assert store.bytes_held(scene.run) <= 64 * 1024
    file = scene.mount.open(b"large", os.O_RDONLY, 0)
    assert scene.mount.read(file, (5 << 30) - 1, 6) == b"\0brun\0"
    scene.mount.close(file)
    assert list(scene.spool.iterdir()) == []
    scene.close()


def test_a_listing_goes_on_where_another_one_was(scene: Scene) -> None:
    """The kernel may begin a listing with what it kept of another, and ask for the rest when names are gone."""
    for number in range(40):
        scene.write(b"n%d" % number, 0, b"")
    overlay = scene.overlay
    first = list(overlay.readdir(overlay.opendir(overlay.root), 2))
    for name, _, _ in first[:20:2]:
        scene.mount.unlink(name)
    scene.write(b"new", 0, b"")
    whole = [name for name, _, _ in overlay.readdir(overlay.opendir(overlay.root), 0)]
    assert sorted(whole) == sorted([b".", b"..", b"new", *(name for name, _, _ in [*first[1:20:2], *first[20:]])])
    for at in (5, 20, 33):
        rest = [name for name, _, _ in overlay.readdir(overlay.opendir(overlay.root), first[at][2])]
        gone = {name for name, _, _ in first[:20:2]}
        assert rest == [*(name for name, _, _ in first[at + 1 :] if name not in gone), b"new"]
