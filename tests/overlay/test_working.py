"""Working files, and what becomes of them when the store's disk has no room, or keeps others waiting."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.content import Spool
from goexfs.overlay.descriptors import DescriptorPool
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.nodes import File
from goexfs.overlay.working import WorkingFiles
from snapshots.storage.store import Store
from tests.overlay.scene import Scene

LARGE = 3 << 20


@pytest.fixture
def files(tmp_path: Path) -> Iterator[WorkingFiles]:
    """Working files of an overlay that is being served."""
    files = WorkingFiles(tmp_path)
    files.waiting = False
    yield files
    files.close()


@pytest.fixture
def scene(area: Path, store: Store) -> Iterator[Scene]:
    """A base with a file that is copied up in part."""
    (area / "base").mkdir()
    (area / "base" / "large").write_bytes(b"L" * LARGE)
    scene = Scene(area, store, tree=LocalBaseTree)
    yield scene
    scene.close()


def content_of(scene: Scene, path: bytes) -> object:
    node = scene.node(path)
    assert isinstance(node, File)
    return node.content


def test_a_file_is_made_by_a_thread_before_it_is_taken(files: WorkingFiles, tmp_path: Path) -> None:
    with pytest.raises(WouldBlock) as blocked:
        files.create()
    assert not os.listdir(tmp_path)
    for _ in range(20):  # as many operations that had no use for theirs in the end
        blocked.value.prepare()
    path, fd = files.create()
    os.close(fd)
    assert path.exists()
    files.close()
    assert os.listdir(tmp_path) == [path.name], "those that nobody took are gone"


def test_an_error_is_that_of_the_operation(files: WorkingFiles, tmp_path: Path) -> None:
    with pytest.raises(WouldBlock) as blocked:
        files.create()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    blocked.value.prepare()
    with pytest.raises(FileNotFoundError):
        files.create()
    with pytest.raises(WouldBlock):
        files.create()
    tmp_path.with_name("elsewhere").rename(tmp_path)


def test_what_is_opened_again_is_looked_up_by_a_thread(
    files: WorkingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_in_memory(name: bytes, flags: int, dir_fd: int) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in memory")

    (tmp_path / "one").write_bytes(b"1")
    os.close(files.open(tmp_path / "one", os.O_RDONLY))
    monkeypatch.setattr("goexfs.overlay.working.open_now", not_in_memory)
    for path in (tmp_path / "one", tmp_path / "missing"):
        with pytest.raises(WouldBlock) as blocked:
            files.open(path, os.O_RDONLY)
        blocked.value.prepare()
        blocked.value.prepare()  # by two operations at once
        if path.exists():
            os.close(files.open(path, os.O_RDONLY))
        else:
            with pytest.raises(FileNotFoundError):
                files.open(path, os.O_RDONLY)


def test_a_write_that_fails_halfway_leaves_nothing_behind_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, pool = WorkingFiles(tmp_path), DescriptorPool()
    spool = Spool.create(files, pool, size=0, source=None, limit=0)
    spool.write(0, b"before")
    real, calls = os.pwrite, iter(range(10))

    def half(fd: int, data: bytes, offset: int) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "no room")
        return real(fd, bytes(data)[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="no room"):
        spool.write(6, b"too much")
    monkeypatch.undo()
    assert spool.size == spool.path.stat().st_size == 6
    spool.truncate(10)
    spool.trim()
    assert spool.read(0, 10) == b"before\0\0\0\0"
    spool.discard()
    files.close()


def test_no_room_for_a_working_file_leaves_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.write(b"new", 0, b"x" * 1000)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no room"):
        scene.write(b"new", 0, b"y" * 500_000)
    monkeypatch.undo()
    assert scene.read(b"new") == b"x" * 1000
    scene.close()
    assert not os.listdir(scene.spool)
    scene.reopen()


def test_a_file_that_lost_its_base_file_is_copied_in_pieces(scene: Scene) -> None:
    scene.write(b"large", LARGE // 2, b"run")
    expected = bytearray(b"L" * LARGE)
    expected[LARGE // 2 : LARGE // 2 + 3] = b"run"
    os.unlink(scene.base / "large")
    scene.overlay.base_changed(b"large")
    steps = 0
    while scene.overlay.rescue.is_needed:
        scene.mount.ask(scene.overlay.rescue.step)
        steps += 1
        if steps == 2:  # others go on meanwhile: they write, and all is stored
            scene.write(b"large", LARGE - 3, b"end")
            expected[LARGE - 3 :] = b"end"
            scene.seal()
        assert scene.read(b"large") == expected
    assert steps > 3
    scene.remount()
    assert scene.read(b"large") == expected


@pytest.mark.parametrize("stored", [False, True])
def test_one_whose_base_file_is_as_it_was_is_not_copied(scene: Scene, stored: bool) -> None:
    scene.write(b"large", 10, b"run")
    if stored:
        scene.remount()
        scene.read(b"large")
    scene.tell(b"large")
    for one in scene.overlay.everything_changed():
        assert one
    assert not scene.overlay.rescue.is_needed
    content = content_of(scene, b"large")
    assert not isinstance(content, Spool) or sum(end - start for start, end in content.ranges) == 3
