"""What a policy hides or masks, attacked in real mounts: sandboxed or not, as root and as an ordinary user."""

import json
import os
import sys
from pathlib import Path

import pytest

import goexfs
from goexfs import PolicyWishes, RunStore
from tests.policy import attacks
from tests.support.users import OrdinaryUser

SECRET = attacks.SECRET.decode()
PYTHON = os.path.realpath(sys.executable)


def fill(base: Path) -> list[str]:
    """A base with secrets; the inode numbers of those that are hidden."""
    for directory in ("config", ".ssh", "renamed/deep", "only"):
        (base / directory).mkdir(parents=True)
    for name in (".env", "config/key.pem", ".ssh/id_rsa", "renamed/deep/key.pem", "masked.json", "only/a.pem"):
        (base / name).write_text(SECRET)
    (base / "script.key").write_text(f"#!/bin/sh\necho {SECRET}\n")
    (base / "script.key").chmod(0o755)
    os.setxattr(base / "masked.json", "user.secret", SECRET.encode())
    os.link(base / ".env", base / "config" / "innocent")
    os.link(base / "masked.json", base / "config" / "alias")
    (base / "readme").write_text("hello")
    hidden = (".env", "config/key.pem", ".ssh/id_rsa", ".ssh", "script.key", "renamed/deep/key.pem")
    return [str((base / name).stat().st_ino) for name in hidden]


def judged(output: str) -> None:
    found = json.loads(output)
    assert found["tried"] > 180
    assert found["leaks"] == []
    assert found["unexpected"] == []
    assert not set(found["names"]) & {".env", ".ssh", "key.pem", "id_rsa", "innocent", "script.key", "a.pem"}
    assert {"readme", "alias", "masked.json"} <= set(found["names"])
    assert found["inodes"] == [], "a listing must not number what is hidden"


@pytest.fixture
def wishes(tmp_path: Path) -> PolicyWishes:
    (tmp_path / "policy.toml").write_text('hide = ["*.pem", "script.key"]\nmask = ["masked.json"]\n')
    return PolicyWishes(files=(tmp_path / "policy.toml",))


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "mount"])
def test_attacks(store: RunStore, fresh_base: Path, wishes: PolicyWishes, sandbox: bool) -> None:
    inodes = fill(fresh_base)
    with store.start(fresh_base, policy=wishes) as run:
        root = fresh_base if sandbox else run.mountpoint
        program = Path(attacks.__file__).read_text()
        done = run.exec([PYTHON, "-c", program, root, *inodes], sandbox=sandbox, capture=True)
        assert done.returncode == 0, (done.stderr or b"").decode()[-3000:]
        judged((done.stdout or b"").decode())
        judged_again(run)


def judged_again(run: goexfs.Session) -> None:
    """The same after the run has gone back, and in a fork of it."""
    run.snapshot("here")
    run.rewind("here")
    assert not os.path.lexists(run.mountpoint / ".env")
    assert (run.mountpoint / "masked.json").read_bytes() == b""
    assert not [change.path for change in run.diff() if b"env" in change.path or b"pem" in change.path]


def test_attacks_as_an_ordinary_user(user: OrdinaryUser, tmp_path: Path) -> None:
    text = """
import json, os, sys
from pathlib import Path
import goexfs
from tests.policy import attacks
from tests.policy.test_attacks import fill
base = Path(os.environ["HOME"]) / "base"
base.mkdir()
inodes = fill(base)
policy = Path(os.environ["HOME"]) / "policy.toml"
policy.write_text('hide = ["*.pem", "script.key"]\\nmask = ["masked.json"]\\n')
with goexfs.open_store() as store, store.start(base, policy=goexfs.PolicyWishes(files=(policy,))) as run:
    program = Path(attacks.__file__).read_text()
    done = run.exec([os.path.realpath(sys.executable), "-c", program, base, *inodes], capture=True)
    sys.stderr.buffer.write(done.stderr)
    sys.stdout.buffer.write(done.stdout)
"""
    done = user.run([sys.executable, "-c", text])
    assert done.returncode == 0, done.stderr[-3000:]
    judged(done.stdout)


def test_another_mount_shows_no_more(store: RunStore, fresh_base: Path, wishes: PolicyWishes, tmp_path: Path) -> None:
    fill(fresh_base)
    with store.start(fresh_base, policy=wishes, on_exit="keep") as run:
        (run.mountpoint / "made").write_text("x")
    with store.resume(run) as again:
        assert not os.path.lexists(again.mountpoint / ".env")
        with pytest.raises(PermissionError):
            (again.mountpoint / ".env").write_text("mine")
    fork = store.run(run.id).fork("fork")
    with store.resume(fork) as forked:
        assert not os.path.lexists(forked.mountpoint / "config" / "key.pem")
        assert (forked.mountpoint / "config" / "alias").read_bytes() == b""


def test_what_is_hidden_survives_a_merge_of_everything(store: RunStore, fresh_base: Path, wishes: PolicyWishes) -> None:
    fill(fresh_base)
    with store.start(fresh_base, policy=wishes) as run:
        run.exec(["sh", "-c", "rm -rf ./* ./.[!.]*; mkdir -p made/config; mv config moved; true"])
        run.merge()
    left = {path for path in fresh_base.rglob("*") if path.is_file() and path.read_bytes().find(attacks.SECRET) >= 0}
    names = {".env", ".ssh/id_rsa", "script.key", "only/a.pem", "renamed/deep/key.pem", "masked.json"}
    assert {fresh_base / name for name in names} <= left
    assert {path.name for path in left} >= {"innocent", "key.pem", "alias"}
    assert not (fresh_base / "readme").exists()


def test_the_attacks_are_real(store: RunStore, fresh_base: Path) -> None:
    """Where nothing is hidden they find the secret in nearly every way."""
    inodes = fill(fresh_base)
    with store.start(fresh_base, policy=PolicyWishes(defaults=False)) as run:
        program = Path(attacks.__file__).read_text()
        done = run.exec([PYTHON, "-c", program, run.mountpoint, *inodes], sandbox=False, capture=True)
    found = json.loads(done.stdout or b"")
    assert {"race 0", "by a program 0", "by a program 1", "by a program 2"} <= set(found["leaks"])
    assert len(found["leaks"]) > 50
