"""Where a sandbox cannot be had goexfs says what is missing and refuses; where it can, in containers too, it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.containers import in_user_namespace
from tests.support.users import OrdinaryUser

RUN = [sys.executable, "-m", "goexfs", "run", "--discard"]
BWRAP_4 = """#!/bin/sh
case "$1" in --version) echo "bubblewrap 0.4.1";; *) echo "bwrap: Unknown option --perms" >&2; exit 1;; esac
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root maps more than itself into a user namespace")


@pytest.fixture
def base(area: Path, user: OrdinaryUser) -> Path:
    (area / "base").mkdir()
    os.chown(area / "base", user.uid, user.gid)
    return area / "base"


def last(done: "subprocess.CompletedProcess[str]") -> str:
    """The line of goexfs; bubblewrap's own may be above it."""
    return [line for line in done.stderr.splitlines() if line.startswith("goexfs: ")][-1]


def refused(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.startswith("goexfs: ")]) == 1, done.stderr
    return last(done)


def test_inside_of_a_run(base: Path, user: OrdinaryUser) -> None:
    """It is the run's own goexfs there; one that does not know where it is finds no FUSE."""
    outsider = "env -u GOEXFS_CHANNEL -u GOEXFS_RUN HOME=/tmp"
    inner = f"mkdir /tmp/b; cd /tmp/b; exec {outsider} {sys.executable} -m goexfs run --discard -- id"
    script = f"goexfs run -- id; echo $?; {inner}"
    done = user.run([*RUN, "--", "sh", "-c", script], cwd=base)
    assert (done.returncode, done.stdout) == (87, "101\n")
    own, other = (line for line in done.stderr.splitlines() if line.startswith("goexfs: "))
    assert own.startswith("goexfs: run is the user's: inside a run there are diff, snapshot,")
    assert other.startswith("goexfs: there is no /dev/fuse here; ")


@needs_root
def test_in_a_container_of_an_ordinary_user(base: Path, user: OrdinaryUser) -> None:
    """Root inside is nobody outside, with nothing but that one user."""
    script = "mount --make-rprivate /; id -u > made; " + " ".join(RUN) + " -- sh -c 'id -u; rm made; ls'; ls"
    wrapped = user.wrap(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script])
    done = subprocess.run(wrapped, cwd=base, env=user.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\nmade\n"), done.stderr


@needs_root
def test_in_a_container_that_may_not_mount(base: Path, user: OrdinaryUser) -> None:
    wrapped = user.wrap(["unshare", "--user", "--map-root-user", *RUN, "--", "id"])
    done = subprocess.run(wrapped, cwd=base, env=user.environ, capture_output=True, text=True, check=False)
    assert "is not permitted: root here has no CAP_SYS_ADMIN over its mounts" in refused(done, 89)


def test_in_another_sandbox_of_bubblewrap(base: Path, user: OrdinaryUser) -> None:
    """It takes the right to gain privileges, without which fusermount3 is nobody."""
    outer = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", *RUN, "--", "id"]
    assert "may gain no privileges (no_new_privs, " in refused(user.run(outer, cwd=base), 89)


@needs_root
def test_user_namespaces_are_switched_off(base: Path, user: OrdinaryUser) -> None:
    """In a namespace whose setting is its own; without a sandbox it works there."""
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    options = {"cwd": base, "env": user.environ}
    done = in_user_namespace(["sh", "-c", off, "sh", *user.wrap([*RUN, "--", "id", "-u"])], **options)
    said = refused(done, 93)
    assert "allow user namespaces: sudo sysctl -w user.max_user_namespaces=" in said
    assert said.endswith("--no-sandbox runs without confinement")
    done = in_user_namespace(["sh", "-c", off, "sh", *user.wrap([*RUN, "--no-sandbox", "--", "id", "-u"])], **options)
    assert (done.returncode, done.stdout) == (0, f"{user.uid}\n"), done.stderr


@pytest.mark.parametrize(
    ("bwrap", "said"),
    [
        (None, "bubblewrap is not installed; install the package bubblewrap, or run without confinement: --no-sandbox"),
        (BWRAP_4, "bubblewrap 0.4 is too old: goexfs needs 0.5 or later; --no-sandbox runs without confinement"),
    ],
)  # fmt: skip
def test_bubblewrap_is_missing_or_old(
    base: Path, area: Path, user: OrdinaryUser, bwrap: str | None, said: str
) -> None:
    programs = area / "bin"
    programs.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in ("fusermount3", "true", "env", "sh"):
            if os.access(os.path.join(directory, program), os.X_OK) and not (programs / program).exists():
                (programs / program).symlink_to(os.path.join(directory, program))
    if bwrap is not None:
        (programs / "bwrap").write_text(bwrap)
        (programs / "bwrap").chmod(0o755)

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        argv = user.wrap([*RUN, *options, "--", "/bin/true"])  # with the usual path
        at = argv.index(sys.executable)
        argv = [*argv[:at], "/usr/bin/env", f"PATH={programs}", *argv[at:]]
        return subprocess.run(argv, cwd=base, env=user.environ, capture_output=True, text=True, check=False)

    assert refused(run(), 93) == f"goexfs: {said}"
    done = run("--no-sandbox")
    assert done.returncode == 0, done.stderr
