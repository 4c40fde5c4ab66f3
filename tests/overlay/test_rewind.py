"""A rewound overlay shows what it showed then, goes on from there, and is the same when it is opened again."""

import os
import random
from pathlib import Path

import pytest

from goexfs.fuse.rewinding import carry_out, plan
from goexfs.overlay import Overlay, store_batch
from snapshots.history.journal import JournalWriter
from snapshots.history.recovery import recover
from snapshots.history.rewind import Aim
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.overlay.test_replay import Driver, dump


class Mounted:
    """An overlay with its journal and store, without a mount."""

    def __init__(self, store: Store, run_id: str, tree: BaseTree) -> None:
        self.store, self.run_id = store, run_id
        self.directory = store.runs.directory(run_id)
        state = store.upper(run_id).load()
        self.overlay = Overlay(tree, state, store.objects, self.directory / "spool")
        self.writer = JournalWriter(self.directory / "journal", state.journal, 0)
        self.overlay.record_in(self.writer.append)

    def close(self) -> None:
        self.writer.close()
        self.overlay.close()

    def append(self, change) -> None:  # what `carry_out` asks of a `Recording`
        self.writer.append(change)

    def seal(self) -> int:
        if self.overlay.dirty:
            batch = self.overlay.collect(self.writer.rotate(0))
            assert batch is not None
            self.overlay.finish(batch, store_batch(batch, self.store, self.run_id))
        return self.store.upper(self.run_id).load().journal

    def rewind(self, position: int, *paths: bytes) -> bool:
        self.seal()
        planned = plan(self.overlay, self.run_id, Aim(position, paths), self.store)
        if not planned.snapshot:
            return False
        carry_out(self.overlay, planned, self)  # type: ignore[arg-type]
        return True


def shown(overlay: Overlay) -> dict[bytes, tuple[object, ...]]:
    """What the view shows, but for inode numbers: files whose bytes change get others."""
    return {path: values[1:] for path, values in dump(overlay).items()}


@pytest.fixture
def tree(tmp_path: Path):
    base = tmp_path / "base"
    (base / "d" / "e").mkdir(parents=True)
    for number, size in enumerate([0, 10, 150, 5000]):
        (base / "d" / f"f{number}").write_bytes(random.Random(number).randbytes(size))
    os.symlink("f1", base / "d" / "link")
    with BaseTree(os.fsencode(base)) as opened:
        yield opened


@pytest.mark.parametrize("known", [False, True], ids=["forgotten", "known to the kernel"])
@pytest.mark.parametrize("seed", range(8))
def test_back_and_forth(tmp_path: Path, tree: BaseTree, seed: int, known: bool) -> None:
    choose = random.Random(seed)
    with Store.open(tmp_path / "store") as store:
        run = store.runs.create(base=tree.path)
        mounted = Mounted(store, run.id, tree)
        overlay = mounted.overlay
        driver = Driver(overlay, seed)
        then = {mounted.seal(): shown(overlay)}
        for step in range(60):
            driver.step()
            if step % 4 == 3:
                then[mounted.seal()] = shown(overlay)
            if step % 15 == 14:
                if known:
                    for node in list(overlay.nodes.values()):
                        overlay.remember(node)
                before = mounted.seal()
                then[before] = shown(overlay)
                position = choose.choice(list(then))
                if mounted.rewind(position):
                    assert shown(overlay) == then[position]
                    after = mounted.seal()
                    assert after > before
                    then[after] = shown(overlay)
                    if choose.random() < 0.5:
                        assert mounted.rewind(before)
                        assert shown(overlay) == then[before]
        now = shown(overlay)
        mounted.seal()
        mounted.close()
        again = Mounted(store, run.id, tree)
        assert shown(again.overlay) == now
        again.close()
        assert fsck(store).findings == ()


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_just_after_it(tmp_path: Path, tree: BaseTree, seed: int) -> None:
    with Store.open(tmp_path / "store") as store:
        run = store.runs.create(base=tree.path)
        mounted = Mounted(store, run.id, tree)
        driver = Driver(mounted.overlay, seed)
        for _ in range(20):
            driver.step()
        position = mounted.seal()
        then = shown(mounted.overlay)
        for node in list(mounted.overlay.nodes.values()):
            mounted.overlay.remember(node)
        for _ in range(20):
            driver.step()
        assert mounted.rewind(position)
        assert shown(mounted.overlay) == then
        driver.step()
        now = shown(mounted.overlay)
        mounted.close()  # nothing is sealed
        assert recover(store, run.id) is not None
        again = Mounted(store, run.id, tree)
        assert shown(again.overlay) == now
        again.close()
        assert fsck(store).findings == ()


def test_open_files_and_working_directories(tmp_path: Path, tree: BaseTree) -> None:
    with Store.open(tmp_path / "store") as store:
        mounted = Mounted(store, store.runs.create(base=tree.path).id, tree)
        overlay = mounted.overlay
        directory = overlay.lookup(overlay.root, b"d")
        kept, handle = overlay.create(directory, b"kept", 0o644, os.O_RDWR, 0, 0)
        overlay.write(handle, 0, b"first")
        position = mounted.seal()
        overlay.remember(kept)
        overlay.write(handle, 0, b"second, longer")
        made, other = overlay.create(directory, b"made", 0o644, os.O_RDWR, 0, 0)
        overlay.write(other, 0, b"made")
        overlay.remember(made)
        base = overlay.lookup(directory, b"f1")
        reading = overlay.open(base, os.O_RDONLY)
        overlay.remember(base)
        overlay.setattr(base, mode=0o600)
        assert mounted.rewind(position)
        assert overlay.lookup(overlay.root, b"d") is directory
        again = overlay.lookup(directory, b"kept")
        assert again.ino != kept.ino and again.size == 5
        assert bytes(overlay.read(handle, 0, 99)) == b"second, longer"
        assert overlay.write(handle, 0, b"S") == 1, "as to a file without a name"
        assert bytes(overlay.read(other, 0, 99)) == b"made"
        with pytest.raises(FileNotFoundError):
            overlay.lookup(directory, b"made")
        assert overlay.lookup(directory, b"f1") is base, "only its attributes were changed"
        assert base.mode & 0o777 == 0o644 and len(overlay.read(reading, 0, 99)) == 10
        mounted.seal()
        for each in (handle, other, reading):
            overlay.release(each)
        mounted.seal()
        mounted.close()
        assert fsck(store).findings == ()


def test_only_some_paths(tmp_path: Path, tree: BaseTree) -> None:
    with Store.open(tmp_path / "store") as store:
        mounted = Mounted(store, store.runs.create(base=tree.path).id, tree)
        overlay = mounted.overlay
        driver = Driver(overlay, 3)
        before = shown(overlay)
        d = overlay.lookup(overlay.root, b"d")
        for name in (b"f0", b"f3", b"link"):
            overlay.unlink(d, name)
        overlay.rename(d, b"e", overlay.root, b"moved")
        assert driver.overlay is overlay
        assert mounted.rewind(1, b"d/f3", b"d/link")
        now = shown(overlay)
        assert {path: now.get(path) for path in (b"d/f3", b"d/link")} == {p: before[p] for p in (b"d/f3", b"d/link")}
        assert b"d/f0" not in now and b"moved" in now and b"d/e" not in now
        mounted.seal()
        assert mounted.rewind(1)
        now, before = ({p: v for p, v in each.items() if p not in (b"", b"d")} for each in (shown(overlay), before))
        assert now == before
        mounted.close()
