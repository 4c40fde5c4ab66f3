"""The scripts of the README: quick the second time, one line to type where they may not install."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import CHECKOUT
from tests.support.users import OrdinaryUser

OWN_ENVIRONMENT = pytest.mark.skipif(
    Path(sys.prefix) != CHECKOUT / ".venv", reason="not run by scripts/test, so there may be no environment to check"
)


def copy_of_checkout(place: Path) -> Path:
    """The files that ``scripts/setup`` looks at."""
    place.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, place)
    shutil.copytree(CHECKOUT / "scripts", place / "scripts")
    return place


def path_without(place: Path, *missing: str) -> str:
    """A PATH of one directory with links to every command of this machine except ``missing``."""
    place.mkdir()
    for directory in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
        for name in os.listdir(directory):
            if name not in missing and not (place / name).exists():
                (place / name).symlink_to(os.path.join(directory, name))
    return str(place)


@OWN_ENVIRONMENT
def test_the_second_time_is_quick(area: Path) -> None:
    started = time.monotonic()
    done = subprocess.run([CHECKOUT / "scripts/setup"], cwd=area, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 0.5
    assert done.stdout == f"{CHECKOUT}/.venv/bin\n"
    assert done.stderr == ""


@OWN_ENVIRONMENT
def test_test_passes_its_arguments_on(area: Path) -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts/test", "--collect-only", "-q", "-k", "go_downwards and entries", "tests/test_layers.py"],
        cwd=area, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "test_imports_go_downwards_only[snapshots.entries]" in done.stdout


@OWN_ENVIRONMENT
def test_run_works_in_the_callers_directory(goexfs_home: Path, fresh_base: Path) -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts/run", "--discard", "--", "sh", "-c", 'pwd; cat README; exit "$0"', "5"],
        cwd=fresh_base, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, f"{fresh_base}\nA project.\n"), done.stderr
    assert goexfs_home.exists()


def test_without_permission_it_prints_the_line_to_type(user: OrdinaryUser, area: Path) -> None:
    checkout = copy_of_checkout(area / "checkout")
    if os.geteuid() == 0:
        shutil.chown(checkout, user.uid, user.gid)
    path = path_without(area / "path", "bwrap", "fusermount3", "sudo")
    done = user.run([str(checkout / "scripts/setup")], env={"PATH": path})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "setup: system packages are missing; type: sudo apt-get install -y fuse3 bubblewrap\n"
    assert not (checkout / ".venv").exists()


@pytest.mark.long
def test_two_at_once_in_a_checkout_of_somebody_else(user: OrdinaryUser, area: Path) -> None:
    """The environment goes to the user's cache, once."""
    checkout = copy_of_checkout(area / "checkout")
    for package in ("goexfs", "snapshots"):
        shutil.copytree(CHECKOUT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**user.environ, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ""}
    two = [
        subprocess.Popen(
            user.wrap([str(checkout / "scripts/setup"), "use"]), env=environ, cwd=user.home, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=170) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert sorted("making" in err for _out, err in said) == [False, True]
    bin_directory = Path(said[0][0].strip())
    assert bin_directory.is_relative_to(user.home) or os.geteuid() != 0
    done = user.run([str(bin_directory / "goexfs"), "--version"], env={"PYTHONPATH": ""})
    assert done.stdout.startswith("goexfs ")
