"""The process that serves a mount: its birth, its deaths, and what is left then."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from goexfs.fuse import device
from goexfs.session import RunStore, birth, control, launch, mounts
from goexfs.session.control import Question
from goexfs.session.errors import ServerError
from snapshots.errors import RunUnknown, StoreMissing
from tests.support.commands import CHECKOUT, eventually
from tests.support.users import OrdinaryUser

Program = Callable[..., "subprocess.Popen[str]"]

HOLD = "touch made; echo more >> docs/data.bin; touch {ready}; trap '' TERM HUP INT; while :; do sleep 0.05; done"


def changes(run) -> dict[bytes, str]:
    return {change.path: str(change.status) for change in run.diff()}


def line(popen: "subprocess.Popen[str]") -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().strip()


# a crash of the server


def test_a_killed_server_is_a_crash_and_the_run_goes_on(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    run = store.mount(fresh_base, area / "mnt")
    (area / "mnt/made").write_text("x" * 10)
    run.seal()
    os.kill(run.status().pid, signal.SIGKILL)
    assert eventually(lambda: run.state == "crashed", within=10)
    assert device.mounted_at(os.fsencode(area / "mnt")) is not None, "the base must not show through"
    with pytest.raises(OSError):
        os.listdir(area / "mnt")
    assert changes(run) == {b"made": "A"}

    again = store.mount(run, area / "mnt")
    assert (area / "mnt/made").read_text() == "x" * 10
    (area / "mnt/second").touch()
    os.kill(again.status().pid, signal.SIGKILL)
    assert eventually(lambda: run.state == "crashed", within=10)
    assert run.unmount() == ()
    assert run.state == "kept"
    assert os.listdir(area / "mnt") == []
    run.discard()


def test_a_diff_while_somebody_else_recovers_the_run(store: RunStore, fresh_base: Path, area: Path) -> None:
    """Who recovers it has the lock that its server had, so it looks mounted for that moment."""
    (area / "mnt").mkdir()
    run = store.mount(fresh_base, area / "mnt")
    (area / "mnt/made").write_text("x" * 10)
    run.seal()
    os.kill(run.status().pid, signal.SIGKILL)
    assert eventually(lambda: run.state == "crashed", within=10)
    lock = store.store.runs.lock(run.id)
    lock.__enter__()
    letting_go = threading.Timer(0.3, lock.__exit__, (None, None, None))
    letting_go.start()
    assert run.state == "active"
    assert changes(run) == {b"made": "A"}
    letting_go.join()
    assert run.state == "kept"
    run.discard()


def test_recovery_leaves_another_mount_at_the_same_place_alone(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    crashed = store.mount(fresh_base, area / "mnt")
    os.kill(crashed.status().pid, signal.SIGKILL)
    assert eventually(lambda: crashed.state == "crashed", within=10)
    subprocess.run(["umount", "-l", area / "mnt"], check=True)
    other = store.mount(fresh_base, area / "mnt")
    crashed.recover()
    assert crashed.state == "kept"
    assert "README" in os.listdir(area / "mnt")
    other.unmount()


def test_a_sandbox_starts_although_a_dead_mount_is_about(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    dead = store.mount(fresh_base, area / "mnt")
    os.kill(dead.status().pid, signal.SIGKILL)
    assert eventually(lambda: dead.state == "crashed", within=10)
    with store.start(fresh_base) as run:
        assert run.exec(["cat", "README"], capture=True).stdout == b"A project.\n"
    dead.unmount()


def test_the_server_dies_while_a_command_runs(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        pid = run.status().pid
        out = run.exec(["sh", "-c", "touch made; sleep 0.5; ls"], capture=True) if os.fork() else None
        if out is None:
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        os.wait()
        assert out.returncode != 0
        run.keep()
    assert run.state == "kept"
    assert device.mounted_at(os.fsencode(run.mountpoint)) is None
    run.discard()


def test_a_server_that_hangs_is_killed_at_the_end(store: RunStore, fresh_base: Path, monkeypatch) -> None:
    monkeypatch.setitem(control.PATIENCE, "ping", 0.5)
    run = store.start(fresh_base)
    (run.mountpoint / "made").touch()
    run.seal()
    os.kill(run.status().pid, signal.SIGSTOP)
    with pytest.raises(ServerError, match="did not answer"):
        super(type(run), run).unmount()
    started = time.monotonic()
    run.keep()
    assert time.monotonic() - started < 20
    assert run.state == "kept"
    assert changes(run) == {b"made": "A"}


def test_sigterm_ends_a_server_orderly(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    run = store.mount(fresh_base, area / "mnt")
    (area / "mnt/made").write_text("x" * 200_000)
    os.kill(run.status().pid, signal.SIGTERM)
    assert eventually(lambda: run.state == "kept", within=10)
    assert changes(run) == {b"made": "A"}
    assert not os.path.ismount(area / "mnt")


# the end of the session process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("on_exit", ["forget", "discard", "keep"])
def test_the_session_process_is_killed(
    program: Program, store: RunStore, area: Path, number: int, on_exit: str
) -> None:
    """No mount, no process; with ``forget`` no run either, otherwise nothing is lost."""
    ready = area / "extra/ready"
    ready.parent.mkdir()
    script = HOLD.format(ready=ready)
    popen = program(
        f"with store.start(base, on_exit={on_exit!r}) as run:\n"
        "  say(run.id, run.mountpoint)\n"
        f"  writable = goexfs.Confinement.of(rw=[{str(ready.parent)!r}])\n"
        f"  run.exec(['sh', '-c', {script!r}], confinement=writable, grace=0.3)\n"
    )
    run_id, mountpoint = line(popen).split(" ", 1)
    assert eventually(ready.exists, within=20)
    popen.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.3)
        assert popen.poll() is None, "a command that ignores Ctrl-C goes on"
        popen.send_signal(signal.SIGTERM)
    popen.wait(30)
    assert eventually(lambda: device.mounted_at(os.fsencode(mountpoint)) is None, within=15)
    if on_exit == "forget":
        assert eventually(lambda: store.runs(all=True) == [], within=15)
        return
    run = store.run(run_id)
    expected = "discarded" if on_exit == "discard" and number != signal.SIGKILL else "kept"
    assert eventually(lambda: run.state == expected, within=15), run.state
    if expected == "kept":
        assert changes(run) == {b"made": "A", b"docs/data.bin": "M"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_between_start_and_command(program: Program, store: RunStore, number: int) -> None:
    popen = program("run = store.start(base, on_exit='forget')\nsay(run.mountpoint)\ntime.sleep(60)\n")
    mountpoint = line(popen)
    popen.send_signal(number)
    popen.wait(30)
    assert eventually(lambda: device.mounted_at(os.fsencode(mountpoint)) is None, within=15)
    assert eventually(lambda: store.runs(all=True) == [], within=15)


def test_without_a_sandbox_nothing_is_left_either(program: Program, store: RunStore, area: Path) -> None:
    script = HOLD.format(ready=area / "ready").replace("touch made", "setsid -f sleep 61; touch made")
    popen = program(
        "with store.start(base, on_exit='forget') as run:\n  say(run.mountpoint)\n"
        f"  run.exec(['sh', '-c', {script!r}], sandbox=False, grace=0.3)\n"
    )
    mountpoint = line(popen)
    assert eventually((area / "ready").exists, within=20)
    popen.terminate()
    popen.wait(30)
    assert device.mounted_at(os.fsencode(mountpoint)) is None
    assert store.runs(all=True) == []
    assert subprocess.run(["pgrep", "-fx", "sleep 61"], capture_output=True).stdout == b""


def test_a_plain_command_of_a_killed_session_loses_the_mount(program: Program, store: RunStore, area: Path) -> None:
    script = f"echo $$ > {area}/pid; touch {area}/ready; while :; do sleep 0.05; done"
    popen = program(
        "with store.start(base, on_exit='forget') as run:\n  say(run.mountpoint)\n"
        f"  run.exec(['sh', '-c', {script!r}], sandbox=False)\n"
    )
    mountpoint = line(popen)
    assert eventually((area / "ready").exists, within=20)
    popen.kill()
    popen.wait(30)
    try:
        assert eventually(lambda: device.mounted_at(os.fsencode(mountpoint)) is None, within=15)
        assert eventually(lambda: store.runs(all=True) == [], within=15)
    finally:
        os.kill(int((area / "pid").read_text()), signal.SIGKILL)


def test_foreground(program: Program, store: RunStore, area: Path) -> None:
    (area / "mnt").mkdir()
    text = f"with store.mount(base, {str(area / 'mnt')!r}, foreground=True) as run:\n  say(run.id)\n  run.wait()\n"
    popen = program(text)
    run = store.run(line(popen))
    (area / "mnt/made").touch()
    run.unmount()
    assert popen.wait(20) == 0
    assert run.state == "kept"
    popen = program(text)
    run = store.run(line(popen))
    popen.send_signal(signal.SIGINT)
    popen.wait(20)
    assert eventually(lambda: run.state == "kept", within=10)


# the birth


def python(program: str, home: Path, **options) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "GOEXFS_HOME": str(home)}
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True, **options)


def test_a_server_prepared_by_a_fork(store: RunStore, goexfs_home: Path, fresh_base: Path) -> None:
    program = (
        "import sys\nfrom goexfs.session import birth\nbirth.prepare()\n"
        "assert birth._ready[1]._starter is None, 'not forked'\n"
        "import goexfs\n"
        f"with goexfs.open_store() as store, store.start({str(fresh_base)!r}) as run:\n"
        "  print(run.exec(['cat', 'README'], capture=True).stdout)\n  run.keep()\n"
    )
    assert python(program, goexfs_home).stdout == "b'A project.\\n'\n"
    assert [run.state for run in store.runs()] == ["kept"]


def test_a_prepared_server_that_is_not_wanted_ends(goexfs_home: Path) -> None:
    program = (
        "from goexfs.session import birth\nbirth.prepare(); birth.prepare()\n"
        "import os; print(os.getpgid(0))"
    )  # fmt: skip
    before = set(os.listdir("/proc"))
    python(program, goexfs_home)

    def command(pid: str) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # ended meanwhile
            return b""

    def ours() -> set[str]:
        new = {name for name in os.listdir("/proc") if name.isdigit()} - before
        return {pid for pid in new if b"birth.prepare" in command(pid)}

    assert eventually(lambda: not ours(), within=10)


def test_a_fork_only_where_it_is_safe(store: RunStore) -> None:
    assert "sqlite3" in sys.modules
    assert not birth._may_fork()


def test_inside_an_event_loop(goexfs_home: Path, fresh_base: Path, store: RunStore) -> None:
    program = (
        "import asyncio, goexfs\nasync def main():\n"
        f"  with goexfs.open_store() as store, store.start({str(fresh_base)!r}) as run:\n"
        "    print(run.exec(['cat', 'README'], capture=True).stdout)\n"
        "asyncio.run(main())\n"
    )
    assert python(program, goexfs_home).stdout == "b'A project.\\n'\n"
    assert python(program.replace("asyncio", "trio").replace("main())", "main)"), goexfs_home).stdout.startswith("b'A")


def test_no_device(store: RunStore, fresh_base: Path, monkeypatch: pytest.MonkeyPatch, goexfs_home: Path) -> None:
    """In a mount namespace without /dev/fuse."""
    program = f"import goexfs; goexfs.open_store().start({str(fresh_base)!r})"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t tmpfs none /dev && exec "$@"', "sh", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FuseMissing: there is no /dev/fuse here" in done.stderr or "/dev/null" in done.stderr
    assert store.runs(all=True) == []


# the control socket


def test_questions(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        directory = store.store.runs.directory(run.id)
        assert os.stat(directory / "control").st_mode & 0o777 == 0o600
        control.ask(directory, "ping", timeout=5)
        status = run.status()
        assert (status.run, status.mountpoint) == (run.id, str(run.mountpoint))
        assert eventually(lambda: run.status().base_watched, within=10)
        (run.mountpoint / "made").touch()
        assert run.status().changes > status.changes
        control.ask(directory, "seal", timeout=30)
        assert store.store.usage(run.id).entries == 1
    with pytest.raises(ServerError, match="does not answer"):
        control.ask(directory, "ping", timeout=5)


def test_nonsense_on_the_socket(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        directory = store.store.runs.directory(run.id)
        for nonsense in (b"\n", b"{}\n", b'{"verb": "explode"}\n', b"x" * 200_000 + b"\n", b"\xff\n"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(directory / "control"))
                try:
                    connection.sendall(nonsense)
                    assert b"fault" in connection.recv(4096)
                except (BrokenPipeError, ConnectionResetError):
                    pass
        silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for connection in silent:
            connection.connect(str(directory / "control"))
        control.ask(directory, "ping", timeout=5)
        for connection in silent:
            connection.close()


def test_a_store_deeper_than_a_socket_address(fresh_base: Path, area: Path) -> None:
    import goexfs

    deep = area.joinpath(*["a-rather-long-name"] * 8)
    with goexfs.open_store(deep) as store, store.start(fresh_base) as run:
        assert run.status().run == run.id
        assert run.exec(["true"]).returncode == 0


def test_another_user_is_not_answered(store: RunStore, fresh_base: Path, area: Path, user: OrdinaryUser) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with store.start(fresh_base) as run:
        directory = store.store.runs.directory(run.id)
        for place in (store.store.path, store.store.path / "runs", directory):
            place.chmod(0o711)
        (directory / "control").chmod(0o666)
        question = control.encode(Question("status"))
        program = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
            f"s.connect({str(directory / 'control')!r})\n"
            f"try: s.sendall({question!r}); print(s.recv(100))\nexcept OSError: print(b'')"
        )
        done = user.run(["/usr/bin/python3", "-c", program])
        for place in (store.store.path, store.store.path / "runs", directory):
            place.chmod(0o700)
        assert done.stdout == "b''\n", done.stderr
        assert run.status().run == run.id


def test_holders_are_found(area: Path) -> None:
    place = os.fsencode(area)
    assert list(mounts.holders(place)) == []
    (area / "file").touch()
    popen = subprocess.Popen(["sleep", "30"], cwd=area)
    try:
        with open(area / "file") as file:
            found = {holder.pid: holder for holder in mounts.holders(place)}
            assert found[popen.pid].how == "working directory"
            assert found[os.getpid()].how == f"open file {file.name}"
    finally:
        popen.kill()
        popen.wait()


def test_forgotten(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base, on_exit="forget") as run:
        pass
    with pytest.raises(RunUnknown):
        run.record  # noqa: B018


def test_a_server_that_cannot_open_the_store_gives_the_lock_back(store: RunStore, fresh_base: Path, area: Path) -> None:
    run = store.start(fresh_base)
    run.keep()
    nowhere, base = os.fsencode(area / "nowhere"), os.fsencode(fresh_base)
    assignment = launch.Assignment(nowhere, run.id, base, nowhere, (), False, True, False)
    server = launch.Server.take()
    lock = store.store.runs.lock(run.id)
    with pytest.raises(StoreMissing):
        server.assign(assignment, lock.fileno(), area / "server.log", lambda: None)
    lock.release()
    server.let_go()
    store.store.runs.lock(run.id).release()
