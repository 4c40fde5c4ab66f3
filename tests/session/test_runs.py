"""Runs through the Python API: mounted, worked in, judged."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import goexfs
from goexfs.fuse import device
from goexfs.fuse.errors import MountpointUnusable
from goexfs.session import Confinement, RunStore
from goexfs.session.errors import (
    BaseReplaced,
    CommandNotExecutable,
    CommandNotFound,
    MountBusy,
    MountpointInsideBase,
    NestedStore,
    SandboxError,
)
from snapshots.errors import BaseError, RunBusy, RunExists, RunState, RunUnknown
from tests.support import trees
from tests.support.commands import eventually

EDIT = "echo more >> src/pkg/core.py; echo new > made; rm src/tool.sh"


def edited(run: goexfs.RunHandle) -> dict[bytes, str]:
    return {change.path: str(change.status) for change in run.diff()}


def test_the_command_sees_the_run_at_the_bases_own_path(store: RunStore, fresh_base: Path) -> None:
    before = trees.picture(fresh_base)
    with store.start(fresh_base, name="one") as run:
        done = run.exec(["sh", "-c", "pwd; echo $GOEXFS_RUN; echo $GOEXFS_BASE; echo x > made; ls"], capture=True)
        pwd, run_id, base, *names = done.stdout.decode().splitlines()
        assert (pwd, run_id, base) == (str(fresh_base), run.id, str(fresh_base))
        assert set(names) == {*os.listdir(fresh_base)} - {n for n in os.listdir(fresh_base) if n[0] == "."} | {"made"}
        assert trees.differences(before, trees.picture(fresh_base)) == []
        assert run.state == "active"
        assert (run.name, run.base) == ("one", os.fsencode(fresh_base))
        run.keep()
    assert run.state == "kept"
    assert edited(run) == {b"made": "A"}
    assert run.number_of_changes == 1
    assert run.record.exit_status == 0
    assert trees.differences(before, trees.picture(fresh_base)) == []


def test_a_block_discards_unless_told_otherwise(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["touch", "made"])
    assert run.state == "discarded"
    with pytest.raises(RunState):
        run.diff()
    with pytest.raises(ZeroDivisionError), store.start(fresh_base) as run:
        raise ZeroDivisionError
    assert run.state == "discarded"
    assert device.mounted_at(os.fsencode(run.mountpoint)) is None


def test_forgetting_leaves_nothing(store: RunStore, fresh_base: Path, goexfs_home: Path) -> None:
    with store.start(fresh_base, on_exit="forget") as run:
        run.exec(["sh", "-c", "head -c 3000000 /dev/urandom > big; echo x > small"])
        assert run.seal() is None
    assert store.runs(all=True) == []
    with pytest.raises(RunUnknown):
        store.run(run.id)
    assert os.listdir(goexfs_home / "runs") == []
    assert [name for _, _, names in os.walk(goexfs_home / "objects") for name in names] == []


def test_diff_of_a_mounted_run_is_of_this_moment(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        assert run.diff() == []
        with open(run.mountpoint / "open", "wb", buffering=0) as file:
            for count in range(1, 4):
                file.write(b"x" * 100_000)
                (change,) = run.diff()
                assert change.after.size == 100_000 * count
                with change.after.open() as content:
                    assert content.read(0, content.size) == b"x" * 100_000 * count


def test_a_kept_run_goes_on(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", EDIT])
        run.keep()
    changes = edited(run)
    with store.resume(run.id, command=("sh",)) as again:
        assert again.id == run.id
        assert again.exec(["cat", "made"], capture=True).stdout == b"new\n"
        again.exec(["sh", "-c", "echo 2 > second"])
    assert again.state == "kept", "what was kept before is not thrown away for want of a word"
    assert again.record.command == ("sh",)
    assert edited(run) == {**changes, b"second": "A"}


def test_merge(store: RunStore, fresh_base: Path) -> None:
    pytest.importorskip("snapshots.merging.merge")
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", EDIT])
        shown = trees.picture(run.mountpoint)
        run.merge(dry_run=True)
        assert run.state == "active"
        run.merge()
    assert run.state == "merged"
    assert trees.differences(shown, trees.picture(fresh_base)) == []
    with pytest.raises(RunState):
        run.merge()
    with pytest.raises(RunState):
        store.resume(run)


def test_exit_statuses(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        assert run.exec(["sh", "-c", "exit 127"]).returncode == 127
        assert run.exec(["sh", "-c", "kill -9 $$"]).returncode == 137
        with pytest.raises(CommandNotFound) as missing:
            run.exec(["no-such-program"])
        assert missing.value.status == 127
        with pytest.raises(CommandNotExecutable) as refused:
            run.exec(["src/pkg/core.py"])
        assert refused.value.status == 126
        run.exec(["sh", "-c", "printf '#!/bin/sh\\nexit 5\\n' > script; chmod +x script"])
        assert run.exec(["./script"]).returncode == 5
        assert run.exec(["./script"], sandbox=False).returncode == 5


def test_what_is_closed_inside(store: RunStore, fresh_base: Path, goexfs_home: Path, area: Path) -> None:
    """The host is read-only, /tmp private, the store not there, root without the power to unmount."""
    probe = f"""
import os
def fails(do, *args):
    try: do(*args)
    except OSError as e: return e.errno
def make(path): open(path, 'x').close()
import subprocess
print(fails(make, '/etc/x'), fails(make, '/usr/x'), fails(os.listdir, {str(goexfs_home)!r}), os.listdir('/tmp'))
make('/tmp/mine'); make('/dev/shm/mine')
print(subprocess.call(['umount', os.getcwd()], stderr=subprocess.DEVNULL))
print(os.getpid() < 10, 'GOEXFS_HOME' in os.environ)
"""
    with store.start(fresh_base) as run:
        out = run.exec(["/usr/bin/python3", "-c", probe], capture=True)
        assert out.returncode == 0, out.stderr
        first, unmounted, last = out.stdout.decode().splitlines()
        # area lies in /tmp, so the way to the base is there and the store, also below /tmp, is not.
        assert first == f"30 30 2 ['{area.parent.name}']"
        assert unmounted != "0"
        assert last == "True False"
    assert not Path("/tmp/mine").exists() and not Path("/dev/shm/mine").exists()


def test_a_store_outside_tmp_is_empty_inside(fresh_base: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/var/lib") as place, goexfs.open_store(place + "/s") as store:
        with store.start(fresh_base) as run:
            out = run.exec(["sh", "-c", f"ls -A {place}; ls -A {place}/s; touch {place}/s/x"], capture=True)
            assert out.stdout == b"s\n"
            assert out.returncode != 0


def test_writable_paths_and_network(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "extra").mkdir()
    with store.start(fresh_base) as run:
        writable = Confinement.of(rw=[area / "extra"])
        assert run.exec(["touch", str(area / "extra/made")], confinement=writable).returncode == 0
        assert (area / "extra/made").exists()
        with pytest.raises(SandboxError):
            run.exec(["true"], confinement=Confinement.of(rw=[fresh_base / "src"]))
        out = run.exec(["cat", "/proc/net/dev"], confinement=Confinement.of(net="off"), capture=True)
        assert [line.split(b":")[0].strip() for line in out.stdout.splitlines()[2:]] == [b"lo"]


def test_the_working_directory(store: RunStore, fresh_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = next(path for path in sorted(fresh_base.iterdir()) if path.is_dir() and not path.is_symlink())
    with store.start(fresh_base) as run:
        monkeypatch.chdir(inside)
        assert run.exec(["pwd"], capture=True).stdout.decode().strip() == str(inside)
        monkeypatch.chdir("/")
        assert run.exec(["pwd"], capture=True).stdout.decode().strip() == str(fresh_base)
        run.exec(["rm", "-r", str(inside)])
        assert run.exec(["pwd"], cwd=inside, capture=True).stdout.decode().strip() == str(fresh_base)
        assert run.exec(["pwd"], sandbox=False, capture=True).stdout.decode().strip() == str(run.mountpoint)


def test_names_that_are_not_text(store: RunStore, area: Path) -> None:
    base = os.fsencode(area) + b"/ba\xff se\n1"
    os.mkdir(base)
    with store.start(base) as run:
        assert run.exec(["sh", "-c", "pwd; touch here"], capture=True).stdout == base + b"\n"
        assert edited(run) == {b"here": "A"}


def test_ten_runs_at_once(store: RunStore, fresh_base: Path) -> None:
    """They do not see each other, and all succeed, whichever ends first."""
    before = trees.picture(fresh_base)
    runs = [store.start(fresh_base, name=f"run-{number}") for number in range(10)]
    for number, run in enumerate(runs):
        (run.mountpoint / f"made-{number}").write_text(str(number))
        (run.mountpoint / "src/pkg/core.py").write_text(f"run {number}\n")
    for number, run in enumerate(runs):
        assert [name for name in os.listdir(run.mountpoint) if name.startswith("made-")] == [f"made-{number}"]
    # Every sandbox holds copies of all ten mounts; the others end nevertheless.
    out = runs[0].exec(["sleep", "0.1"])
    assert out.returncode == 0
    slow = threading.Thread(target=lambda: subprocess.run(["true"]))
    slow.start()
    slow.join()
    for run in reversed(runs):
        started = time.monotonic()
        run.keep()
        assert time.monotonic() - started < 5
    for number, run in enumerate(runs):
        assert edited(run) == {b"src/pkg/core.py": "M", b"made-%d" % number: "A"}
    assert trees.differences(before, trees.picture(fresh_base)) == []


def test_ten_processes_at_once(program, store: RunStore, fresh_base: Path) -> None:
    text = (
        "with store.start(base) as run:\n"
        "  done = run.exec(['sh', '-c', f'for i in 1 2 3 4 5; do echo {os.getpid()} > f$i; sleep 0.05; done; cat f*'],"
        " capture=True)\n  run.keep()\n"
        "  say(run.id, done.returncode, len(set(done.stdout.split())), [c.path for c in run.diff()])\n"
    )
    started = [program(text) for _ in range(10)]
    said = [popen.communicate(timeout=120)[0].split(" ", 1) for popen in started]
    assert {rest for _, rest in said} == {"0 1 [b'f1', b'f2', b'f3', b'f4', b'f5']\n"}
    assert len({run_id for run_id, _ in said}) == 10
    assert [run.state for run in store.runs()] == ["kept"] * 10


def test_a_run_ends_although_another_sandbox_holds_a_copy_of_its_mount(
    program, store: RunStore, fresh_base: Path, area: Path
) -> None:
    run = store.start(fresh_base)
    other = program(
        "with store.start(base) as run:\n"
        f"  writable = goexfs.Confinement.of(rw=[{str(area)!r}])\n"
        f"  run.exec(['sh', '-c', 'touch {area}/ready; sleep 60'], confinement=writable)\n"
    )  # fmt: skip
    assert eventually((area / "ready").exists, within=20)
    with open(run.mountpoint / "dirty", "wb") as file:
        file.write(b"x" * 1_000_000)
    started = time.monotonic()
    run.keep()
    assert time.monotonic() - started < 5
    assert [change.after.size for change in run.diff()] == [1_000_000]
    other.terminate()
    other.communicate(timeout=30)


# mounts


def test_mount_outlives_the_process_that_made_it(program, store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    popen = program(f"say(store.mount(base, {str(area / 'mnt')!r}, name='work').id)")
    run_id = popen.communicate(timeout=60)[0].strip()
    run = store.run("work")
    assert (run.id, run.state, run.record.mountpoint) == (run_id, "active", os.fsencode(area / "mnt"))
    assert store.mounted_at(area / "mnt").id == run_id
    (area / "mnt/made").write_text("x")
    assert edited(run) == {b"made": "A"}
    with pytest.raises(RunBusy, match="umount"):
        run.discard()
    with pytest.raises(RunBusy):
        store.resume(run)
    assert run.unmount() == ()
    assert run.state == "kept"
    assert os.listdir(area / "mnt") == []
    with pytest.raises(RunState, match="not mounted"):
        run.unmount()
    with pytest.raises(RunUnknown):
        store.mounted_at(area / "mnt")
    assert store.mount(run, area / "mnt").state == "active"
    assert (area / "mnt/made").read_text() == "x"
    run.unmount()
    run.discard()


def test_a_busy_mount_names_who_uses_it(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    run = store.mount(fresh_base, area / "mnt")
    user = subprocess.Popen(["sleep", "60"], cwd=area / "mnt")
    try:
        with pytest.raises(MountBusy, match=f"sleep \\(pid {user.pid}, working directory\\)"):
            run.unmount()
        assert run.state == "active"
        (area / "mnt/still").write_text("there")
        (taken_from,) = run.unmount(force=True)
        assert f"pid {user.pid}" in taken_from
    finally:
        user.kill()
        user.wait()
    assert run.state == "kept"
    assert edited(run) == {b"still": "A"}


def test_an_unmount_by_hand_is_an_orderly_end(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "mnt").mkdir()
    run = store.mount(fresh_base, area / "mnt")
    (area / "mnt/made").write_text("x")
    subprocess.run(["umount", area / "mnt"], check=True)
    assert eventually(lambda: run.state == "kept", within=10)
    assert edited(run) == {b"made": "A"}


def test_mountpoints_that_cannot_be(store: RunStore, fresh_base: Path, area: Path) -> None:
    (area / "full").mkdir()
    (area / "full/x").touch()
    for place in (area / "full", area / "missing", area / "full/x"):
        with pytest.raises(MountpointUnusable):
            store.mount(fresh_base, place)
    for place in (fresh_base, fresh_base / "src"):
        with pytest.raises(MountpointInsideBase):
            store.mount(fresh_base, place)
    assert store.runs(all=True) == [], "a run that could not be mounted never was"


def test_a_mountpoint_inside_the_base_can_be_hidden(store: RunStore, fresh_base: Path) -> None:
    place = fresh_base / "mnt"
    place.mkdir()
    run = store.mount(fresh_base, place, allow_nested=True)
    assert "mnt" not in os.listdir(place)
    assert "README" in os.listdir(place)
    run.unmount()


# stores and bases in each other's way


def test_a_store_inside_the_base(fresh_base: Path) -> None:
    with goexfs.open_store(fresh_base / "deep/store") as store:
        with pytest.raises(NestedStore, match="allow-nested"):
            store.start(fresh_base)
        with store.start(fresh_base, allow_nested=True) as run:
            out = run.exec(["sh", "-c", "find . -name store; ls deep; echo x > made"], capture=True)
            assert (out.stdout, out.returncode) == (b"", 0)
            assert edited(run) == {b"made": "A"}
            run.keep()
        with store.resume(run) as run:
            assert run.exec(["ls", "deep"], capture=True).stdout == b""
        run.discard()
        with pytest.raises(NestedStore):
            store.start(fresh_base / "deep/store/objects", allow_nested=True)


def test_bases_that_cannot_be(store: RunStore, area: Path) -> None:
    (area / "file").touch()
    for base in (area / "missing", area / "file", area / "file/below"):
        with pytest.raises(BaseError):
            store.start(base)
    assert store.runs(all=True) == []


def test_a_base_that_was_removed_or_replaced(store: RunStore, fresh_base: Path, area: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", EDIT])
        run.keep()
    fresh_base.rename(area / "moved")
    for verb in (run.diff, run.merge, lambda: store.resume(run)):
        with pytest.raises(BaseError):
            verb()
    assert run.number_of_changes > 0
    fresh_base.mkdir()
    for verb in (run.diff, run.merge, lambda: store.resume(run)):
        with pytest.raises(BaseReplaced):
            verb()
    assert run.state == "kept"
    fresh_base.rmdir()
    (area / "moved").rename(fresh_base)
    assert len(edited(run)) == 3
    run.discard()


def test_a_name_is_used_once(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base, name="same"), pytest.raises(RunExists):
        store.start(fresh_base, name="same")


def test_slash_as_base(store: RunStore, goexfs_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    with store.start("/", allow_nested=True) as run:
        script = f"pwd; echo x > /etc/goexfs-test; cat /etc/goexfs-test; ls -A /tmp {goexfs_home}"
        out = run.exec(["sh", "-c", script], capture=True)
        assert out.returncode != 0 and b"cannot access" in out.stderr, "the store is not there"
        assert out.stdout == b"/\nx\n/tmp:\n", "and /tmp is private"
        assert not Path("/etc/goexfs-test").exists()


def test_from_a_process_with_threads(store: RunStore, fresh_base: Path) -> None:
    """No fork then: a fresh interpreter serves."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with store.start(fresh_base) as run:
            assert run.exec(["cat", "README"], capture=True).stdout == (fresh_base / "README").read_bytes()
    finally:
        stop.set()
        thread.join()


def test_importing_is_cheap() -> None:
    program = "import sys, goexfs; print(sorted(m for m in sys.modules if m.split('.')[0] in ('goexfs', 'snapshots')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['goexfs']\n"
