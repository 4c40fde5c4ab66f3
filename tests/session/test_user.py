"""The same as an ordinary user: fusermount3, user namespaces, no powers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import OrdinaryUser

PROGRAM = """
import os, signal, sys, time, goexfs
from goexfs.fuse import device
base = os.environ["HOME"] + "/base"
os.makedirs(base + "/src")
for name in ("README", "src/code"):
    with open(base + "/" + name, "w") as file:
        file.write(name)
store = goexfs.open_store()
assert os.geteuid() != 0
"""


def python(user: OrdinaryUser, text: str) -> list[str]:
    done = user.run([sys.executable, "-c", PROGRAM + text])
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()


def test_run_and_merge(user: OrdinaryUser) -> None:
    text = """
with store.start(base) as run:
    done = run.exec(["sh", "-c", "pwd; id -u; cat README; echo; echo more >> src/code; echo x > made"], capture=True)
    print(done.returncode, done.stdout.decode().split())
    print(os.listdir(base), run.exec(["touch", "/usr/x"], capture=True).returncode)
    print(sorted((c.path, str(c.status)) for c in run.diff()))
    run.merge()
print(sorted(os.listdir(base)), open(base + "/src/code").read().split(), run.state)
print(device.mounted_at(os.fsencode(run.mountpoint)), [str(f) for f in store.fsck().findings])
"""
    first, second, third, fourth, fifth = python(user, text)
    assert first == str((0, [f"{user.home}/base", str(user.uid), "README"]))[1:-1].replace(", [", " [", 1)
    assert second.endswith(" 1")
    assert "made" not in second
    assert third == "[(b'made', 'A'), (b'src/code', 'M')]"
    assert fourth == "['README', 'made', 'src'] ['src/codemore'] merged"
    assert fifth == "None []"


def test_mount_crash_and_remount(user: OrdinaryUser) -> None:
    text = """
place = os.environ["HOME"] + "/mnt"; os.mkdir(place)
run = store.mount(base, place)
open(place + "/made", "w").write("x"); run.seal()
os.kill(run.status().pid, signal.SIGKILL)
while run.state != "crashed": time.sleep(0.01)
again = store.mount(run, place)
print(open(place + "/made").read(), again.state)
again.unmount(); print(again.state, device.mounted_at(os.fsencode(place)))
run.discard(forget=True); print(store.runs(all=True))
"""
    assert python(user, text) == ["x active", "kept None", "[]"]


def test_without_a_sandbox_nothing_is_left(user: OrdinaryUser) -> None:
    text = """
with store.start(base, on_exit="forget") as run:
    print(run.exec(["sh", "-c", "sleep 62 & cat README"], sandbox=False, capture=True).stdout)
print(store.runs(all=True), device.mounted_at(os.fsencode(run.mountpoint)))
"""
    assert python(user, text) == ["b'README'", "[] None"]


def test_without_fusermount(user: OrdinaryUser, area: Path) -> None:
    """fusermount3 is found nowhere: neither on PATH nor where it usually is."""
    if os.geteuid() != 0:
        pytest.skip("hiding fusermount3 takes root")
    text = PROGRAM + (
        "\ntry: store.start(base)\nexcept Exception as e: print(type(e).__name__, e)\nprint(store.runs(all=True))"
    )
    hide = 'for d in /usr/bin/fusermount3 /bin/fusermount3; do mount --bind /dev/null $d; done; exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"]
    env = {"PATH": "/usr/bin:/bin", **user.environ}
    done = subprocess.run([*argv, *user.wrap([sys.executable, "-c", text])], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("FusermountMissing fusermount3 is not"), done.stdout + done.stderr
    assert done.stdout.endswith("[]\n")


def test_without_user_namespaces(user: OrdinaryUser) -> None:
    """bubblewrap cannot work: the message says what mends it, and that --no-sandbox goes on without."""
    text = """
import resource
from goexfs.session import sandbox
from goexfs.session.errors import SandboxError
with store.start(base) as run:
    run.exec(["true"])
    real = os.environ["PATH"]; bad = os.environ["HOME"] + "/bad"; os.mkdir(bad)
    with open(bad + "/bwrap", "w") as file:
        file.write("#!/bin/sh\\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\\n")
    os.chmod(bad + "/bwrap", 0o755)
    os.environ["PATH"] = bad + ":" + real
    try: run.exec(["true"], stderr=-3)
    except SandboxError as e: print(e)
    os.environ["PATH"] = "/nowhere"
    try: run.exec(["/bin/true"])
    except SandboxError as e: print(e)
    os.environ["PATH"] = real
"""
    first, second = python(user, text)
    assert "bubblewrap cannot make a sandbox (bwrap: setting up uid map: Permission denied); " in first
    assert first.endswith("--no-sandbox runs without confinement")
    assert second.startswith("bubblewrap is not installed; install the package bubblewrap")
