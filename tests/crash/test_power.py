"""Power is cut: what was not synced is gone, and what an fsync in the mount promised is there (rules 9 to 12).

A disk is simulated by what it must have: of a file, what was in it at its last fsync; of the database, any commit since
the last sync, so the earliest; of what was removed, nothing.  In between anything may have arrived: each cut is made
twice, once with nothing more than promised and once with random parts of the rest.
"""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.history.retention import set_limit
from snapshots.storage import durable
from snapshots.storage.store import Store
from snapshots.upkeep.findings import Kind
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.crash.sequence import Sequence, make_base, make_store, pictures, recovered, small_limits

STEPS = 44
LEFTOVERS = {Kind.ORPHAN_FILE, Kind.RUN_DIRECTORY}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((files_module, "INLINE_LIMIT"), (files_module, "COPY_WHOLE_LIMIT"),
                         (content_module, "COPY_WHOLE_LIMIT")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    small_limits()


class Disk:
    """Notes what is synced."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.promised: dict[Path, bytes] = {}
        """contents at the last fsync"""
        self.names: set[Path] = set()
        """names that are durable: those that were in a directory when it was synced"""
        self.sync = os.fsync

    def fsync(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.is_dir():
            here = {each for each in self.names if each.parent == path}
            self.names = (self.names - here) | {path / name for name in os.listdir(path)}
        elif path.name.startswith("store.db"):
            self.note_database()
        elif self.store in path.parents:
            self.promised[path] = path.read_bytes()

    def note_database(self) -> None:
        """All commits so far are safe."""
        for path in self.store.glob("store.db*"):
            self.promised[path] = path.read_bytes()
            self.names.add(path)

    def cut(self, to: Path, chance: random.Random | None) -> None:
        """Make *to* what is found after the power comes back."""
        shutil.copytree(self.store, to)
        for path in sorted(to.rglob("*")):
            origin = self.store / path.relative_to(to)
            if not path.is_file() or not (path.parent.name in ("journal", "spool") or path.name.startswith("store.db")):
                continue  # objects and the rest are synced where they are made
            known = self.promised.get(origin) if origin in self.names else None
            if path.name.startswith("store.db"):
                if known is None:
                    path.unlink()
                else:
                    path.write_bytes(known)
                continue
            now = path.read_bytes()
            if chance is not None and chance.random() < 0.7:
                least = len(known or b"") if now.startswith(known or b"") else 0
                if least or known is None:
                    path.write_bytes(now[: chance.randint(least, len(now))])
                    continue
            if known is None:
                path.unlink()
            else:
                path.write_bytes(known)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    noted = Disk(tmp_path / "store")
    monkeypatch.setattr(os, "fsync", noted.fsync)
    yield noted
    assert durable.seam is None


@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize("seed", range(4))
def test_what_was_synced_survives_a_power_cut(tmp_path: Path, disk: Disk, seed: int, limit: int | None) -> None:
    check_cuts(tmp_path, disk, seed, limit, every=3)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("limit", [None, 0])
@pytest.mark.parametrize("seed", range(100, 130))
def test_power_cuts_after_every_operation(tmp_path: Path, disk: Disk, seed: int, limit: int | None) -> None:
    check_cuts(tmp_path, disk, seed, limit, every=1)


def check_cuts(area: Path, disk: Disk, seed: int, limit: int | None, *, every: int) -> None:
    base = area / "base"
    make_base(base)
    expected = pictures(area, base, seed, STEPS)
    run_id = make_store(disk.store, base)
    chance = random.Random(seed)
    promised = 0
    with Store.open(disk.store) as store:
        if limit is not None:
            set_limit(store, run_id, limit)
        store.sync()
        disk.note_database()
        sequence = Sequence(store, run_id, base, seed)

        def synced(done: int) -> None:
            nonlocal promised
            promised = done

        def stepped(done: int) -> None:
            if done % every == 0:
                for luck in (None, chance):
                    check_cut(area, disk, run_id, base, luck, expected[promised : done + 1])

        sequence.run(STEPS, stepped=stepped, synced=synced)
        sequence.close()


def check_cut(
    area: Path, disk: Disk, run_id: str, base: Path, chance: random.Random | None, allowed: list[object]
) -> None:
    found = area / "found"
    disk.cut(found, chance)
    seen, recovery, lost = recovered(found, run_id, base)
    with Store.open(found) as store:
        gc(store)
        assert {finding.kind for finding in fsck(store).findings} <= LEFTOVERS
    shutil.rmtree(found)
    if recovery is not None and recovery.lost:
        # Written since the last fsync, to a large file: its bytes may be gone, but nothing else may.
        assert any(without(seen, lost) == without(each, lost) for each in allowed[1:]), recovery
        return
    assert any(seen == each for each in allowed), f"not a state since the last fsync: {recovery}"


def without(picture: object, lost: set[bytes]) -> object:
    assert isinstance(picture, dict)
    return {path: value[:-1] if value[0] in lost else value for path, value in picture.items()}
