"""The text that the base had where the run wrote is kept, if it still is what the run saw."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import ancestors
from snapshots.entries import ANCESTOR_LIMIT, Entry, Identity
from snapshots.storage.store import Store
from tests.overlay.scene import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    base = tmp_path / "base"
    (base / "d").mkdir(parents=True)
    for path in ("f", "g", "d/h", "empty"):
        (base / path).write_text(f"text of {path}" if path != "empty" else "")
    (base / "binary").write_bytes(b"\0\1\2")
    (base / "large").write_bytes(b"line\n" * (ANCESTOR_LIMIT // 4))
    with Store.open(tmp_path / "store") as store:
        made = Scene(tmp_path, store)
        yield made
        made.close()


def entry_at(scene: Scene, path: bytes) -> Entry:
    return scene.store.upper(scene.run).load().entries[scene.node(path).ino]


def ancestor(scene: Scene, path: bytes) -> bytes | None:
    found = entry_at(scene, path).ancestor
    if found is None:
        return None
    return scene.store.objects.read(found.object) if found.object else b""


def test_written_truncated_and_replaced(scene: Scene) -> None:
    identities = {path: Identity.of(os.lstat(scene.base / path)) for path in ("f", "g", "d/h")}
    scene.write(b"f", 0, b"TEXT")
    scene.mount.truncate(b"d/h", 0)
    scene.write(b"tmp", 0, b"new")
    scene.mount.rename(b"tmp", b"g")
    scene.write(b"empty", 0, b"more")
    scene.seal()
    for path, identity in identities.items():
        assert ancestor(scene, path.encode()) == f"text of {path}".encode()
        found = entry_at(scene, path.encode()).ancestor
        assert found is not None
        assert found.identity == identity
    assert ancestor(scene, b"empty") == b""
    scene.write(b"f", 0, b"again")
    scene.remount()
    assert ancestor(scene, b"f") == b"text of f"


def test_what_is_not_kept(scene: Scene) -> None:
    for path in (b"binary", b"large", b"new"):
        scene.write(path, 0, b"x")
    scene.mount.chmod(b"f", 0o600)
    scene.write(b"g", 0, b"x")
    time.sleep(0.01)
    (scene.base / "g").write_text("changed before it was sealed")
    scene.seal()
    assert [ancestor(scene, path) for path in (b"binary", b"large", b"new", b"f", b"g")] == [None] * 5


def test_another_file_that_is_replaced_later(scene: Scene) -> None:
    scene.write(b"tmp", 0, b"new")
    scene.mount.rename(b"tmp", b"g")
    scene.seal()
    scene.mount.rename(b"g", b"f")
    scene.seal()
    assert ancestor(scene, b"f") == b"text of f"


def test_a_base_that_does_not_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ancestors, "PATIENCE_S", 0.05)
    asked = threading.Semaphore(0)
    answer = threading.Event()

    def content(*_: object) -> None:
        reader = threading.current_thread()
        readers.append(reader)
        asked.release()
        answer.wait()

    readers: list[threading.Thread] = []
    monkeypatch.setattr(ancestors, "_content", content)
    scene.write(b"f", 0, b"x")
    scene.seal()  # comes to an end, though nobody has answered
    assert ancestor(scene, b"f") is None and asked.acquire(timeout=60)
    answer.set()
    for reader in readers:
        reader.join()


def test_it_goes_with_the_run(scene: Scene) -> None:
    scene.write(b"f", 0, b"x")
    scene.seal()
    found = entry_at(scene, b"f").ancestor
    assert found is not None
    scene.store.discard(scene.run)
    assert not scene.store.objects.exists(found.object)
