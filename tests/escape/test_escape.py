"""The promises of docs/security.md, by trying to break them from inside a run, as root and as an ordinary user."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.escape.conftest import PYTHON, Run, goexfs_json, handle_of
from tests.support.mounts import eventually
from tests.support.users import OrdinaryUser

PROBE = (Path(__file__).parent / "probe.py").read_text()
FORKS = """
import os, time
made = 0
try:
    while made < 400:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        made += 1
except OSError:
    pass
print(made)
os.kill(-1, 9)
"""


@pytest.fixture
def other(run: Run, who: str, user: OrdinaryUser, area: Path, place: Path, world: dict[str, Any]) -> Any:
    """Another run, mounted all the while, whose store, server and mount are tried."""
    (area / "other").mkdir()
    (area / "other/file").touch()
    (place / "mnt").mkdir()  # where a sandbox has what the host has
    argv = [sys.executable, "-m", "goexfs", "mount", str(area / "other"), str(place / "mnt"), "--json"]
    if who == "user":
        for path in (area / "other", place / "mnt"):
            os.chown(path, user.uid, user.gid)
        done = user.run(argv)
    else:
        done = subprocess.run(argv, env=user.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mounted = json.loads(done.stdout)
    directory = f"{world['store']}/runs/{mounted['id']}"
    yield {
        **world, "other": str(place / "mnt"), "control": f"{directory}/control", "server": mounted["pid"],
        "handle": handle_of(Path(world["store"], "store.db")),
    }  # fmt: skip
    argv = [sys.executable, "-m", "goexfs", "umount", mounted["id"]]
    if who == "user":
        user.run(argv)
    else:
        subprocess.run(argv, env=user.environ, capture_output=True, check=True)


def tried(run: Run, world: dict[str, Any], *options: str) -> dict[str, Any]:
    done = run(
        PYTHON, "-I", "-S", "-c", PROBE, json.dumps(world), options=options,
        HOME=world["home"], X_TOKEN="secret", SSH_AUTH_SOCK=world["socket"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert len(found) > 50
    return {name: got for name, got in found.items() if got is not None}


@pytest.mark.parametrize("network", ["host", "off", "192.0.2.1:80"])
def test_nothing_gets_out(run: Run, other: dict[str, Any], network: str, who: str) -> None:
    got = tried(run, {**other, "network": network}, "--net", network)
    assert got == {}
    assert Path(other["file"]).read_text() == "of the host\n"


HARMLESS = (
    "store_by_path", "control_socket", "other_run", "server_signalled", "host_file_written", "host_file_made",
    "host_file_removed", "socket_in_a_readable_place", "key_file", "secrets_of_the_environment", "shared_memory",
    "privileges_by_setuid", "abstract_socket", "network", "store_by_the_roots_of_processes",
)  # fmt: skip
"""Attempts that change nothing but what the test has made.  The others must never be made outside of a sandbox: mounts
and settings of the machine would be everybody's."""


def test_what_was_tried_works_outside(world: dict[str, Any], area: Path) -> None:
    """A probe that could not succeed anywhere would prove nothing."""
    (area / "user/store").mkdir()
    (area / "user/store/store.db").write_text("x")
    world |= {"network": "none", "server": os.getpid(), "control": world["socket"], "other": "/usr", "only": HARMLESS}
    # In a mount namespace of its own, which the probe insists on: attacks on mounts must not hit this machine.
    # (An ordinary user gets one together with a user namespace.)
    namespaces = ["unshare", "--mount", "--propagation", "private", *(["-r"] if os.geteuid() != 0 else [])]
    marked = 'GOEXFS_PROBE_ROOT=$(readlink /proc/self/ns/mnt) exec "$@"'
    done = subprocess.run(
        [*namespaces, "sh", "-c", marked, "sh", PYTHON, "-I", "-S", "-c", PROBE, json.dumps(world)], cwd=area,
        capture_output=True, text=True, check=True, env={"X_TOKEN": "secret", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    found = {name for name, got in json.loads(done.stdout).items() if got is not None}
    assert found == set(HARMLESS)


def test_the_probe_refuses_to_run_anywhere_else(world: dict[str, Any], area: Path) -> None:
    """Not even what is harmless, unless somebody says in which namespace."""
    for only in ({}, {"only": HARMLESS}):
        words = json.dumps({**world, **only, "server": os.getpid(), "control": "", "other": "/usr"})
        done = subprocess.run(
            [PYTHON, "-I", "-S", "-c", PROBE, words], cwd=area, capture_output=True, text=True, check=False, env={}
        )
        assert "this is no sandbox" in done.stderr
        assert (done.returncode, done.stdout) == (1, "")

def test_what_is_opened_is_open(run: Run, other: dict[str, Any]) -> None:
    got = tried(
        run, other, "--env", "X_TOKEN", "--env", "SSH_AUTH_SOCK", "--ro", f"{other['home']}/.ssh", "--allow-userns",
    )  # fmt: skip
    assert got.pop("secrets_of_the_environment") == ["X_TOKEN", "SSH_AUTH_SOCK"]
    # Capabilities over a user namespace of its own are none over the machine.
    own = {"user_namespace", "user_namespace_by_clone", "capabilities_over_the_machine"}
    assert got.keys() - own == {"socket_in_a_readable_place", "key_file"}


def test_a_fork_bomb_meets_its_limit(run: Run) -> None:
    """It stops at the limit, not before, and all of it is gone when the run ends."""
    mark = f"fork-bomb-of-{os.getpid()}"
    done = run(PYTHON, "-I", "-S", "-c", FORKS, mark, options=("--limit-processes", "25"))
    if done.returncode == 93:
        pytest.skip(done.stderr)
    assert 15 < int(done.stdout) < 25, done.stderr  # the rest are the launcher, process 1 and the program itself
    left = subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False).stdout.split()
    assert left == [], "processes of the run outlived it"


MEMORY = """
import sys
held = []
for number in range(64):
    held.append(bytearray(b"x") * (8 << 20))
    print(number, flush=True)
"""


def test_memory_meets_its_limit(run: Run, who: str) -> None:
    """What goes beyond is killed; where nobody can count it, the limit is refused and the command not started."""
    done = run(PYTHON, "-I", "-S", "-c", MEMORY, options=("--limit-memory", "160M"))
    if done.returncode == 93:
        assert "memory cannot be limited here" in done.stderr
        assert done.stdout == ""
        assert who == "user" or not os.access("/sys/fs/cgroup/memory", os.W_OK)
        return
    assert (done.returncode, 5 < len(done.stdout.split()) < 21) == (137, True), (done.stdout, done.stderr)


MOUNTED = """
set -e
place=$1; shift
mount --make-rshared /
"$@" > "$place/said" 2>&1 &
for turn in $(seq 600); do test -e "$place/shared/ready" && break; sleep 0.05; done
mount -t tmpfs -o mode=1777 none "$place/late"
touch "$place/shared/go"
wait $!
cat "$place/said"
ls "$place/late"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_what_is_mounted_later_is_not_there(who: str, user: OrdinaryUser, area: Path, place: Path) -> None:
    """On a host whose mounts are shared, as systemd's are, a new filesystem would be seen inside, and writable."""
    (area / "base").mkdir()
    for name in ("late", "shared"):
        (place / name).mkdir()
        (place / name).chmod(0o1777)
    if who == "user":
        os.chown(area / "base", user.uid, user.gid)
    script = 'cd "$0"; touch shared/ready; until test -e shared/go; do sleep 0.05; done; echo x > late/file || echo no'
    program = "from goexfs.cli.main import main; main()"
    if who == "user":  # another way for a process that must not fork
        program = f"import threading; threading.Thread(target=threading.Event().wait, daemon=True).start(); {program}"
    argv = [sys.executable, "-c", program, "run", "--discard", "--rw", str(place / "shared"), "--", "sh", "-c", script,
            str(place)]  # fmt: skip
    words = user.wrap(argv) if who == "user" else argv
    words = ["slave" if word == "private" else word for word in words]  # the user's way to the interpreter: see `wrap`
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTED, "sh", str(place), *words],
        cwd=area / "base", env=user.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["no"]), done.stdout + done.stderr
    assert "Read-only file system" in done.stdout or "Permission denied" in done.stdout


LATE = """
import os, socket, sys, time
open("ready", "w").close()
while not os.path.exists(sys.argv[1]): time.sleep(0.02)
for path in sys.argv[2:]:
    with socket.socket(socket.AF_UNIX) as sock:
        try: sock.connect(path); print("connected")
        except OSError as error: print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes sockets of services")
def test_services_that_are_started_later(area: Path, place: Path, user: OrdinaryUser) -> None:
    """Where services have their sockets, later ones are not there either; elsewhere they are, as is documented."""
    (area / "base").mkdir()
    names = [Path(directory, f"goexfs-late-{os.getpid()}") for directory in ("/run", "/tmp", "/dev", place)]
    argv = [sys.executable, "-m", "goexfs", "run", "--keep", "--name", "late", "--", PYTHON, "-I", "-S", "-c", LATE]
    running = subprocess.Popen(
        [*argv, str(place / "go"), *map(str, names)], cwd=area / "base", env=user.environ, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    sockets = [socket.socket(socket.AF_UNIX) for _ in names]
    try:
        mounts = Path(user.environ["GOEXFS_HOME"], "runs")
        eventually(lambda: any((run / "mnt/ready").exists() for run in mounts.glob("*")), 20)
        for late, name in zip(sockets, names, strict=True):
            late.bind(str(name))
            late.listen()
        (place / "go").touch()
        assert running.communicate(timeout=30)[0].split() == [*["FileNotFoundError"] * 3, "connected"]
    finally:
        running.kill()
        running.communicate()
        for late, name in zip(sockets, names, strict=True):
            late.close()
            name.unlink(missing_ok=True)


def test_descriptors_of_the_caller_stay_outside(run: Run, place: Path, who: str, user: OrdinaryUser) -> None:
    argv = [sys.executable, "-m", "goexfs", "run", "--base", str(place), "--discard", "--", "ls", "/proc/self/fd"]
    shell = ["sh", "-c", 'exec 7</etc/passwd; exec "$@"', "sh", *argv]
    if who == "user":
        done = user.run(shell)
    else:
        done = subprocess.run(shell, env=user.environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "1", "2", "3"], done.stderr  # 3 is ls's own


def test_a_variable_that_is_withheld_is_said(run: Run, who: str, user: OrdinaryUser) -> None:
    done = run("true", X_TOKEN="secret")
    assert [line for line in done.stderr.splitlines() if "X_TOKEN" in line] == [
        "goexfs: not given to the command: X_TOKEN (--env NAME gives one)"
    ]
    assert goexfs_json(user, who, "ls")["runs"] == []
