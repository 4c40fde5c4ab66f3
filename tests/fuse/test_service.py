"""The life of a mount: how it ends, what it survives, and what it says when it cannot begin."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from goexfs.fuse import device
from goexfs.fuse.errors import (
    FusermountMissing,
    MountError,
    MountpointBusy,
    MountpointUnusable,
)
from snapshots.storage.store import Store
from tests.support.mounts import Mounted, ServerDied, eventually, mounted, with_force
from tests.support.users import OrdinaryUser


def entries(mount: Mounted) -> list[Any]:
    with Store.open(mount.store, create=False) as store:
        return list(store.upper(mount.run_id).load().entries.values())


def test_unmounting_from_outside_ends_the_server_with_everything_sealed(base: Path, area: Path) -> None:
    with mounted(base, area) as mount:
        (mount.path / "new").write_bytes(b"new")
        device.detach(os.fsencode(mount.path))
        eventually(lambda: os.waitid(os.P_PID, mount.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, 5)
        assert any(entry.content is not None and entry.content.size == 3 for entry in entries(mount))
    assert list((area / "mnt").iterdir()) == []


def test_a_mount_in_use_is_taken_away_with_everything_written(base: Path, area: Path) -> None:
    with mounted(base, area) as mount:
        program = subprocess.Popen(
            [sys.executable, "-c", "f = open('open', 'w'); f.write('half'); f.flush(); print(1, flush=True); input()"],
            cwd=mount.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert program.stdout is not None
        program.stdout.readline()
        os.kill(mount.pid, signal.SIGTERM)
        eventually(lambda: os.waitid(os.P_PID, mount.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, 10)
        assert device.mounted_at(os.fsencode(mount.path)) is None
        program.communicate(b"\n")
        assert any(entry.content is not None and entry.content.size == 4 for entry in entries(mount))


def test_a_killed_server_leaves_a_dead_mount_and_not_the_directory_below(base: Path, area: Path) -> None:
    def look_at_the_remains() -> None:
        with mounted(base, area) as mount:
            assert (mount.path / "small").exists()
            with_force(mount.pid)
            with pytest.raises(OSError, match=r"not connected|aborted"):
                os.listdir(mount.path)
            with pytest.raises(MountpointBusy, match="dead mount"):
                device.attach(os.fsencode(mount.path), allow_other=False, default_permissions=False)

    with pytest.raises(ServerDied, match="was killed"):
        look_at_the_remains()


def test_an_exception_in_a_handler_is_an_error_of_that_request_only(base: Path, area: Path) -> None:
    def break_readlink(service: Any) -> None:
        def broken(node: object) -> bytes:
            raise ZeroDivisionError("a mistake")

        service.overlay.readlink = broken

    with mounted(base, area, prepare=break_readlink, logs="a mistake") as mount:
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                os.readlink(mount.path / "link")
        assert (mount.path / "small").read_text() == "small\n"
        (mount.path / "new").write_text("new")


def test_an_exception_in_a_listing_too(base: Path, area: Path) -> None:
    def break_readdir(service: Any) -> None:
        def broken(handle: object, start: int) -> Any:
            raise ZeroDivisionError("a mistake")

        service.overlay.readdir = broken

    with mounted(base, area, prepare=break_readdir, logs="a mistake") as mount:
        with pytest.raises(OSError, match="Input/output"):
            os.listdir(mount.path)
        assert (mount.path / "small").read_text() == "small\n"


def test_a_request_that_was_taken_back_ends_nothing(mount: Mounted) -> None:
    reading = open(mount.path / "big", "rb")  # noqa: SIM115 - survives what happens in between
    for _ in range(3):
        mount.ask("receive_nothing")
        for name in ("small", "absent", "dir/file3"):
            (mount.path / name).exists()
        (mount.path / "new").write_text("new")
        assert reading.read(1000)
    reading.close()
    assert (mount.path / "new").read_text() == "new"


def test_clients_that_are_killed_in_the_middle_of_requests(mount: Mounted) -> None:
    script = "import os\nwhile True:\n try: os.stat('x' + os.urandom(3).hex())\n except OSError: pass"
    for _ in range(15):
        clients = [subprocess.Popen([sys.executable, "-S", "-c", script], cwd=mount.path) for _ in range(3)]
        time.sleep(0.08)
        for client in clients:
            client.kill()
            client.wait()
    assert (mount.path / "small").read_text() == "small\n"


def test_a_slow_read_stops_nobody_else(base: Path, area: Path) -> None:
    def slow_reads(service: Any) -> None:
        from goexfs.overlay import WouldBlock

        read, waited = service.overlay.read, set()

        def slow(handle: Any, offset: int, size: int) -> Any:
            if handle.node.name == b"big" and not waited:
                waited.add(offset)
                raise WouldBlock(lambda: time.sleep(1.5))
            return read(handle, offset, size)

        service.overlay.read = slow

    with mounted(base, area, prepare=slow_reads) as mount:
        seen: list[bytes] = []
        reader = threading.Thread(target=lambda: seen.append((mount.path / "big").read_bytes()))
        reader.start()
        time.sleep(0.1)
        began = time.monotonic()
        for number in range(20):
            assert (mount.path / "dir" / f"file{number}").read_text() == f"{number}\n" * 100
            (mount.path / f"new{number}").write_text("new")
        assert time.monotonic() - began < 1.2
        assert reader.is_alive()
        reader.join()
        assert seen == [(base / "big").read_bytes()]


def test_the_stock_loop_of_an_unknown_pyfuse3_serves_as_well(base: Path, area: Path) -> None:
    def unknown_version(service: Any) -> None:
        import pyfuse3

        pyfuse3.__version__ = "9.9"

    with mounted(base, area, prepare=unknown_version) as mount:
        assert mount.ask("waits") is None
        (mount.path / "new").write_text("new")
        assert (mount.path / "big").read_bytes() == (base / "big").read_bytes()
        assert sorted(os.listdir(mount.path / "dir")) == sorted(os.listdir(base / "dir"))


def test_a_failure_of_whoever_was_told_of_the_mount_takes_it_down(base: Path, area: Path) -> None:
    def fail_when_told(service: Any) -> None:
        serve = service.serve

        async def serve_and_fail(on_mounted: Any) -> None:
            def failing() -> None:
                raise RuntimeError("no room for the record")

            await serve(failing)

        service.serve = serve_and_fail

    with pytest.raises(ServerDied, match="no room for the record"), mounted(base, area, prepare=fail_when_told):
        pass
    assert device.mounted_at(os.fsencode(area / "mnt")) is None


def test_a_kernel_that_says_something_else_is_a_mount_that_failed(base: Path, area: Path) -> None:
    def deaf(service: Any) -> None:
        from goexfs.fuse import handshake

        handshake._OP_INIT = 99

    with pytest.raises(ServerDied, match=r"MountError.*not a FUSE_INIT"), mounted(base, area, prepare=deaf):
        pass
    assert device.mounted_at(os.fsencode(area / "mnt")) is None


def test_writers_wait_when_memory_is_full_and_go_on_when_it_is_stored(base: Path, area: Path) -> None:
    def little_memory(service: Any) -> None:
        from goexfs.fuse import adapter, seal

        for module in (adapter, seal):
            module.DIRTY_SOFT, module.DIRTY_HARD = 1 << 20, 2 << 20

    with mounted(base, area, prepare=little_memory) as mount:
        for number in range(150):
            (mount.path / f"new{number}").write_bytes(bytes([number]) * 100_000)
        for number in range(150):
            assert (mount.path / f"new{number}").read_bytes() == bytes([number]) * 100_000


def test_a_store_that_is_full_is_told_and_nothing_is_lost_when_it_has_room_again(base: Path, area: Path) -> None:
    def full_at_first(service: Any) -> None:
        from goexfs.fuse import seal
        from snapshots.errors import StoreFull

        store_batch, seal.RETRY_SECONDS = seal.store_batch, 0.2
        failures = iter(range(2))

        def failing(*arguments: Any) -> Any:
            if next(failures, None) is not None:
                raise StoreFull("the disk is full")
            return store_batch(*arguments)

        seal.store_batch = failing

    with mounted(base, area, prepare=full_at_first, logs="the disk is full") as mount:
        (mount.path / "new").write_bytes(b"new")
        with pytest.raises(ServerDied, match="the disk is full"):
            mount.ask("seal")
        with pytest.raises(ServerDied, match="the disk is full"):
            mount.ask("seal")
        (mount.path / "more").write_bytes(b"more!")
        mount.ask("seal")
        assert {entry.content.size for entry in entries(mount) if entry.content} == {3, 5}
        assert (mount.path / "new").read_bytes() == b"new"


def test_a_mountpoint_that_cannot_be_used(area: Path) -> None:
    def attach(path: Path) -> None:
        os.close(device.attach(os.fsencode(path), allow_other=False, default_permissions=False))

    with pytest.raises(MountpointUnusable, match="does not exist"):
        attach(area / "absent")
    (area / "file").write_text("")
    with pytest.raises(MountpointUnusable, match="not a directory"):
        attach(area / "file")
    with pytest.raises(MountpointUnusable, match="not empty"):
        attach(area)
    (area / "mnt").mkdir()
    attach(area / "mnt")
    try:
        with pytest.raises(MountpointBusy):
            attach(area / "mnt")
    finally:
        device.detach(os.fsencode(area / "mnt"), lazy=True)
    device.detach(os.fsencode(area / "mnt"))  # a second time is no error


def test_mountpoints_with_odd_names(area: Path) -> None:
    for name in ("with space", "new\nline", "back\\slash", "ünï"):
        (area / name).mkdir()
        point = os.fsencode(area / name)
        fd = device.attach(point, allow_other=False, default_permissions=False)
        assert device.mounted_at(point) is not None
        os.close(fd)
        device.detach(point, lazy=True)
        assert device.mounted_at(point) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        ("", None),
        ("import os; os.environ['PATH'] = '/nowhere'; device._FUSERMOUNT_PATH = '/nowhere'", FusermountMissing),
        ("point = b'/proc/self'", MountError),
        ("point = b'/usr'", MountError),
    ],
)
def test_what_an_ordinary_user_is_told(
    area: Path, user: OrdinaryUser, prepare: str, error: type[MountError] | None
) -> None:
    point = user.home / "mnt"
    point.mkdir()
    os.chown(point, user.uid, user.gid)
    script = f"""
import os
from goexfs.fuse import device
point = {os.fsencode(point)!r}
{prepare}
try:
    fd = device.attach(point, allow_other=False, default_permissions=True)
except Exception as e:
    print(type(e).__name__, "|", e)
else:
    print("mounted", device.mounted_at(point).type.decode())
    device.detach(point, lazy=True)
    print(device.mounted_at(point))
"""
    done = user.run([sys.executable, "-c", script], env={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert not done.stderr
    if error is None:
        assert done.stdout == "mounted fuse.goexfs\nNone\n"
    else:
        name, _, message = done.stdout.partition(" | ")
        assert issubclass(getattr(sys.modules["goexfs.fuse.errors"], name), error)
        assert message.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_an_ordinary_user_may_let_others_in_only_where_it_is_configured(
    base: Path, area: Path, user: OrdinaryUser
) -> None:
    if "user_allow_other" in Path("/etc/fuse.conf").read_text().split("\n"):
        pytest.skip("it is configured here")
    with (
        pytest.raises(ServerDied, match=r"MountNotPermitted.*user_allow_other"),
        mounted(base, area, user=user, allow_other=True),
    ):
        pass
