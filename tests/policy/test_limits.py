"""Limits: what counts, what happens beyond, and that a wait for the user costs nobody else anything."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfs import Policy, RunStore
from goexfs.fuse.referee import MOST_WAITING
from goexfs.overlay.meter import Meter
from goexfs.policy.rules import Limit, Source
from snapshots.storage.store import Store
from tests.overlay.scene import Scene
from tests.policy.test_guard import refused
from tests.support.mounts import eventually

MB = 1 << 20


def limited(**limits: Limit) -> Policy:
    return Policy((Source("test", limits=limits),))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []
    with Store.open(tmp_path / "store") as store:
        (tmp_path / "base" / "many").mkdir(parents=True)
        for name in "abcdef":
            (tmp_path / "base" / "many" / name).write_text("x" * 1000)

        def make(**limits: int) -> Scene:
            policy = limited(**{name: Limit(most) for name, most in limits.items()})
            scenes.append(Scene(tmp_path, store, meter=lambda: Meter(policy)))
            return scenes[-1]

        yield make
        for each in scenes:
            each.close()


def test_bytes(scene: Callable[..., Scene]) -> None:
    run = scene(bytes=100_000)
    run.write(b"one", 0, b"x" * 60_000)
    run.write(b"one", 0, b"y" * 60_000)  # nothing more is held
    refused(errno.EDQUOT, run.write, b"two", 0, b"x" * 60_000)
    assert run.node(b"two").size == 0
    run.write(b"many/a", 500, b"y")  # a copy-up counts whole
    meter = run.overlay.meter
    assert meter is not None
    assert meter.bytes == 61_000
    run.seal()
    run.write(b"one", 59_999, b"z")
    assert meter.bytes == 61_000
    run.mount.truncate(b"one", 10)
    assert meter.bytes == 1_010
    run.mount.unlink(b"one")
    run.mount.forget(1.0)
    assert meter.bytes == 1_000
    run.write(b"many/b", 0, b"y" * 99_000)
    refused(errno.EDQUOT, run.mount.open, b"many/c", os.O_WRONLY, 0)
    before = meter.bytes
    run.remount()
    assert run.overlay.meter is not None
    assert run.overlay.meter.bytes == before


def test_large_files_count_what_was_written(scene: Callable[..., Scene]) -> None:
    run = scene(bytes=3 * MB)
    (run.base / "huge").write_bytes(b"\0")
    os.truncate(run.base / "huge", 100 * MB)
    for at in range(5):
        run.write(b"huge", at * 10 * MB, b"x" * 100_000)
        run.write(b"huge", at * 10 * MB, b"y" * 100_000)
    assert run.overlay.meter is not None
    assert run.overlay.meter.bytes == 500_000
    run.remount()
    assert run.overlay.meter.bytes == 500_000
    refused(errno.EDQUOT, run.write, b"huge", 60 * MB, b"x" * 3 * MB)


def test_files(scene: Callable[..., Scene]) -> None:
    run = scene(files=3)
    run.write(b"one", 0, b"")
    run.mount.mkdir(b"two", 0o755)
    run.mount.symlink(b"three", b"one")
    refused(errno.EDQUOT, run.write, b"four", 0, b"")
    refused(errno.EDQUOT, run.mount.mkdir, b"four", 0o755)
    run.write(b"many/a", 0, b"changing is not making")
    run.mount.unlink(b"one")
    run.remount()
    run.write(b"four", 0, b"")
    refused(errno.EDQUOT, run.write, b"five", 0, b"")
    run.mount.unlink(b"many/a")
    refused(errno.EDQUOT, run.write, b"five", 0, b"")


def test_deletions(scene: Callable[..., Scene]) -> None:
    run = scene(deletions=2)
    for _ in range(5):  # as a program saves that deletes first
        run.mount.unlink(b"many/a")
        run.write(b"many/a", 0, b"y")
    run.write(b"own", 0, b"")
    run.mount.unlink(b"own")
    run.mount.rename(b"many/b", b"moved", 0)
    run.mount.unlink(b"many/c")
    run.mount.unlink(b"many/d")
    refused(errno.EPERM, run.mount.unlink, b"many/e")
    run.write(b"many/c", 0, b"back")
    run.mount.unlink(b"many/e")
    refused(errno.EPERM, run.mount.unlink, b"many/f")


def test_open_files(scene: Callable[..., Scene]) -> None:
    run = scene(open_files=2)
    held = [run.mount.open(b"many/a", os.O_RDONLY, 0) for _ in range(2)]
    refused(errno.ENFILE, run.mount.open, b"many/b", os.O_RDONLY, 0)
    refused(errno.ENFILE, run.mount.open, b"new", os.O_WRONLY | os.O_CREAT, 0o644)
    run.mount.close(held.pop())
    run.mount.close(run.mount.open(b"many/b", os.O_RDONLY, 0))
    run.mount.close(held.pop())


# -- mounted


@pytest.fixture
def base(fresh_base: Path) -> Path:
    (fresh_base / "sub").mkdir()
    for number in range(6):
        (fresh_base / "sub" / f"f{number}").write_text("x")
    for number in range(40):
        (fresh_base / "elsewhere" / str(number)).mkdir(parents=True)
    return fresh_base


def doing(script: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "import os, sys\n" + script], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_write_beyond_the_limit_fails_at_once(store: RunStore, base: Path) -> None:
    with store.start(base, policy=limited(bytes=Limit(100_000))) as run:
        fd = os.open(run.mountpoint / "new", os.O_WRONLY | os.O_CREAT)
        assert os.write(fd, b"x" * 65_536) == 65_536
        with pytest.raises(OSError) as caught:
            for _ in range(3):
                os.write(fd, b"x" * 65_536)
        assert caught.value.errno == errno.EDQUOT
        os.close(fd)
        assert (run.mountpoint / "sub" / "f0").read_text() == "x"
        time_before = os.stat(run.mountpoint / "sub" / "f1").st_mtime_ns
        (run.mountpoint / "sub" / "f1").write_text("y")
        assert os.stat(run.mountpoint / "sub" / "f1").st_mtime_ns > time_before


def test_an_operation_waits_and_the_others_go_on(store: RunStore, base: Path) -> None:
    with store.start(base, policy=limited(deletions=Limit(1, "pause")), on_exit="keep") as run:
        os.unlink(run.mountpoint / "sub" / "f0")
        script = "os.unlink('f1'); os.unlink('f2'); print('done', flush=True); os.unlink('f3')"
        waiting = doing(script, run.mountpoint / "sub")
        try:
            eventually(lambda: bool(run.waiting), 10)
            assert [(one.limit, one.most, one.used, one.operation, one.pid) for one in run.waiting] == [
                ("deletions", 1, 1, "unlink", waiting.pid)
            ]
            # Not in the same directory: the kernel has locked that for the removal.
            (run.mountpoint / "elsewhere" / "other").write_text("goes on")
            assert len(run.diff()) == 2, "sealing does not wait for it"
            run.snapshot("meanwhile")
            assert run.allow(most=3) == (("deletions", Limit(3, "pause")),)
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "done\n"
            eventually(lambda: bool(run.waiting), 10)
            assert run.deny("deletions") == (("deletions", Limit(3, "deny")),)
            assert "PermissionError" in waiting.stdout.read()
        finally:
            waiting.kill()
            waiting.communicate()
    assert run.policy.limit("deletions") == (Limit(3, "deny"), run.policy.sources[-1])
    with store.resume(run.id) as again, pytest.raises(PermissionError):
        os.unlink(again.mountpoint / "sub" / "f4")
    run.discard()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_wait(store: RunStore, base: Path, number: signal.Signals) -> None:
    with store.start(base, policy=limited(deletions=Limit(0, "pause"))) as run:
        waiting = doing("os.unlink('f1')", run.mountpoint / "sub")
        eventually(lambda: bool(run.waiting), 10)
        waiting.send_signal(number)
        began = time.monotonic()
        said, _ = waiting.communicate(timeout=10)
        assert time.monotonic() - began < 5
        assert waiting.returncode in (-number, 1, 130)
        assert "KeyboardInterrupt" in said or number is signal.SIGKILL
        eventually(lambda: not run.waiting, 5)
        assert (run.mountpoint / "sub" / "f1").exists()


THREADS = """
import threading
def make(number):
    try: open(f"elsewhere/{number}/new", "w")
    except OSError as e: print(e.strerror)
threads = [threading.Thread(target=make, args=(number,)) for number in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_unmounting_does_not_wait(store: RunStore, base: Path) -> None:
    """And only so many wait: the others are refused."""
    with store.start(base, policy=limited(files=Limit(0, "pause")), on_exit="keep") as run:
        waiting = doing(THREADS, run.mountpoint)
        eventually(lambda: sum(one.requests for one in run.waiting) == MOST_WAITING, 30)
        began = time.monotonic()
        run.keep()
        assert time.monotonic() - began < 20
        assert run.state == "kept"
        assert run.waiting == ()
        said, _ = waiting.communicate(timeout=10)
        assert len(said.splitlines()) == 40
    run.discard()


def test_a_snapshot_is_made_and_the_limit_counts_from_there(store: RunStore, base: Path) -> None:
    with store.start(base, policy=limited(deletions=Limit(2, "snapshot"))) as run:
        for number in range(6):
            os.unlink(run.mountpoint / "sub" / f"f{number}")
        made = [snapshot for snapshot in run.snapshots() if snapshot.kind == "limit"]
        assert len(made) == 2
        run.rewind(made[0].name)
        left = {name for name in os.listdir(run.mountpoint / "sub") if name.startswith("f") and len(name) == 2}
        assert left == {"f2", "f3", "f4", "f5"}
        os.unlink(run.mountpoint / "sub" / "f2")
