"""What is kept in memory: nothing that nobody needs, and little for what is needed."""

import gc
import os
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import Node
from snapshots.storage.store import Store
from tests.overlay.scene import Scene

FILES = 5000
BYTES_PER_FILE = 1024
"""the limit"""


@pytest.fixture
def scene(area: Path, store: Store) -> Iterator[Scene]:
    (area / "base").mkdir()
    for directory in range(10):
        (area / "base" / str(directory)).mkdir()
        for number in range(20):
            (area / "base" / str(directory) / f"file{number}").write_bytes(b"x")
    made = Scene(area, store)
    yield made
    made.close()


def look_at_everything(scene: Scene) -> list[bytes]:
    paths = []
    for directory in scene.names(b""):
        for name in scene.names(directory):
            paths.append(directory + b"/" + name)
            scene.read(paths[-1])
    return paths


def test_what_the_kernel_forgets_is_gone(scene: Scene) -> None:
    look_at_everything(scene)
    assert len(scene.overlay.nodes) == 211
    gone = [weakref.ref(node) for node in scene.overlay.nodes.values() if node is not scene.overlay.root]
    assert len(scene.overlay.view.pool) == 0, "nothing is open"
    scene.mount.forget_everything()
    assert list(scene.overlay.nodes.values()) == [scene.overlay.root]
    assert not scene.overlay.root.children
    gc.collect()
    assert not any(ref() for ref in gone)


def test_only_what_changed_stays(scene: Scene) -> None:
    look_at_everything(scene)
    scene.mount.chmod(b"3/file3", 0o600)
    scene.write(b"new", 0, b"new")
    scene.mount.unlink(b"4/file4")
    scene.mount.forget_everything()
    kept = {b"/".join(name for _, name in reversed(_way_up(node))) for node in scene.overlay.nodes.values()}
    assert kept == {b"", b"3", b"3/file3", b"4", b"new"}
    scene.seal()
    scene.mount.unlink(b"new")
    scene.mount.forget_everything()
    scene.seal()
    assert len(scene.overlay.nodes) == 4


def _way_up(node: Node) -> list[tuple[Node, bytes]]:
    way = []
    while node.parent is not None:
        way.append((node, node.name))
        node = node.parent
    return way


def test_an_open_file_is_kept_until_it_is_closed(scene: Scene) -> None:
    file = scene.mount.open(b"1/file1", os.O_RDONLY, 0)
    unlinked = scene.mount.open(b"2/new", os.O_RDWR | os.O_CREAT, 0o600)
    scene.mount.unlink(b"2/new")
    scene.mount.forget_everything()
    assert scene.mount.read(file, 0, 10) == b"x"
    scene.mount.write(unlinked, 0, b"still here")
    assert scene.mount.read(unlinked, 0, 10) == b"still here"
    scene.mount.close(file)
    scene.mount.close(unlinked)
    scene.mount.forget_everything()
    assert scene.overlay.dirty_bytes == 0
    assert {node.ino for node in scene.overlay.nodes.values() if not node.kept} == set()
    assert len(scene.overlay.view.pool) == 0


def test_a_temporary_file_is_never_stored(scene: Scene) -> None:
    for number in range(50):
        file = scene.mount.open(b"temporary%d" % number, os.O_RDWR | os.O_CREAT, 0o600)
        scene.mount.write(file, 0, os.urandom(300_000))
        scene.mount.close(file)
        scene.mount.unlink(b"temporary%d" % number)
    assert list(scene.spool.iterdir()) == []
    scene.seal()
    assert scene.store.bytes_held(scene.run) == 0
    scene.mount.forget_everything()
    assert len(scene.overlay.nodes) == 1


def test_descriptors_are_bounded_and_given_back(scene: Scene) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    files = [scene.mount.open(path, os.O_RDONLY, 0) for path in look_at_everything(scene)]
    files += [scene.mount.open(path, os.O_RDONLY, 0) for path in look_at_everything(scene)]
    for number in range(500):
        scene.write(b"large%d" % number, 200_000, b"x")
    assert count() <= before + 400 + 256 + 2
    for file in files:
        scene.mount.close(file)
    scene.remount()
    assert count() <= before


def _per_file(scene: Scene, paths: list[bytes], touch: bool) -> float:
    overlay, root = scene.overlay, scene.overlay.root
    gc.collect()
    tracemalloc.start()
    for path in paths:
        directory, _, name = path.rpartition(b"/")
        node = overlay.lookup(overlay.lookup(root, directory), name)
        overlay.remember(node)
        if touch:
            overlay.setattr(node, mode=0o600)
    if touch:
        scene.seal()
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(paths)


@pytest.mark.parametrize("kind", ["looked at", "changed", "restored"])
def test_a_file_costs_less_than_a_kibibyte(area: Path, store: Store, kind: str) -> None:
    (area / "base").mkdir()
    paths = []
    for directory in range(FILES // 100):
        (area / "base" / f"directory{directory}").mkdir()
        for number in range(100):
            paths.append(b"directory%d/a-file-with-a-name-%d" % (directory, number))
            (area / "base" / os.fsdecode(paths[-1])).touch()
    scene = Scene(area, store)
    cost = _per_file(scene, paths, touch=kind != "looked at")
    if kind == "restored":
        scene.close()
        gc.collect()
        tracemalloc.start()
        scene.reopen()
        gc.collect()
        cost = tracemalloc.get_traced_memory()[0] / len(paths)
        tracemalloc.stop()
    print(f"{kind}: {cost:.0f} bytes per file")
    assert cost < BYTES_PER_FILE
    scene.close()
