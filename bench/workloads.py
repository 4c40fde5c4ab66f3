"""What is done in each filesystem, and what comes before the clock starts.

Owns the list.  A workload is a shell script or one of ``programs``, run in the root of the filesystem.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROGRAM = f'"{sys.executable}" "{Path(__file__).with_name("programs.py")}"'
GIT = "git -c user.name=b -c user.email=b@example.org -c gc.auto=0 -c core.fsync=none"

Caches = Literal["cold", "warm", "fresh"]
"""``cold``: the machine's caches dropped before; ``warm``: run once before, in the same mount; ``fresh``: neither."""


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    name: str
    tree: str
    script: str
    caches: Caches = "fresh"
    writes: bool = True
    before: str = ""
    """a script whose time does not count"""
    group: str = "files"
    needs: str = ""
    """a Python module without which it is left out"""


def _program(name: str, tree: str, **more: str | bool) -> Workload:
    return Workload(name.replace("_", " "), tree, f"{PROGRAM} {name}", **more)  # type: ignore[arg-type]


def _both(name: str, tree: str, script: str) -> tuple[Workload, Workload]:
    """A reading workload with cold and with warm caches."""
    return (
        Workload(f"{name}, cold", tree, script, caches="cold", writes=False, group="reading"),
        Workload(f"{name}, warm", tree, script, caches="warm", writes=False, group="reading"),
    )


WORKLOADS: tuple[Workload, ...] = (
    *_both("walk and stat", "project", "find . -size +1k > /dev/null"),
    *_both("grep", "project", "grep -rq --exclude-dir=.git 'no such words' . || true"),
    *_both("git status", "project", f"{GIT} --no-optional-locks status --porcelain > /dev/null"),
    Workload("git clone", "project", f"{GIT} clone -q . clone", group="git"),
    Workload("git checkout", "project", f"{GIT} checkout -q HEAD~1", group="git"),
    Workload("git commit", "project", f"{GIT} add -A && {GIT} commit -qm third",
             before="for n in $(seq 300); do echo $n > new$n; done", group="git"),
    Workload("tar extract", "archive", "tar xf library.tar", group="making"),
    Workload("cp -r", "project", "cp -r lib copy", group="making"),
    Workload("rm -rf", "many", "rm -rf d*", group="making"),
    _program("npm", "empty", group="making"),
    Workload("pip install", "project",
             f'"{sys.executable}" -m pip install -q --no-index --no-deps --disable-pip-version-check -t site *.whl',
             group="making"),
    Workload("compileall", "project", f'"{sys.executable}" -m compileall -q lib > /dev/null || true', group="making"),
    Workload("C build", "project", "make -s -j2 -C c", caches="warm", before="make -s -C c clean", group="building"),
    Workload("test suite", "project",
             f'cd lib && "{sys.executable}" -m test -q test_json test_glob test_zipfile > /dev/null',
             caches="warm", group="building", needs="test.test_json"),
    _program("parallel", "empty", group="making"),
    _program("log", "empty", group="large"),
    _program("sqlite", "large", group="large"),
    _program("mapped", "large", group="large"),
    _program("edit", "large", group="large"),
    *(_program(f"{way}_read_{size}", "large", caches="cold", writes=False, group="large")
      for way, size in (("sequential", "4k"), ("sequential", "1m"), ("random", "4k"), ("random", "64k"))),
    *(_program(f"sequential_write_{size}", "large", group="large") for size in ("4k", "64k", "1m")),
    *(_program(f"random_write_{size}", "large", group="large") for size in ("4k", "64k")),
    _program("first_write", "huge", group="constant"),
    _program("rename_directory", "wide", group="constant"),
)  # fmt: skip
