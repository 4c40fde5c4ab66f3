"""What is done in each filesystem, and what comes before the clock starts.

Owns the list.  A workload is a shell script or one of ``programs``, run in the root of the filesystem; ``$SCALE`` is
what its sizes are divided by, ``$INTERPRETER`` a Python with its test suite.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PROGRAM = f'"{sys.executable}" "{Path(__file__).with_name("programs.py")}"'
GIT = "git -c user.name=b -c user.email=b@example.org -c gc.auto=0 -c core.fsync=none"
PIP = f'"{sys.executable}" -m pip install -q --no-index --no-deps --disable-pip-version-check -t site *.whl'
TESTS = "test_glob test_fileio test_dbm_dumb test_shelve test_zipimport test_py_compile"
"""of the interpreter's suite: those that work with files, and not with a clock or a network"""

Caches = Literal["cold", "warm", "fresh"]
"""``cold``: the machine's caches dropped before; ``warm``: run once before, in the same mount; ``fresh``: neither."""
Writes = Literal["no", "yes", "in place"]
"""``in place``: what it leaves is as good a base as before, so that the native one needs no copy"""


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    name: str
    tree: str
    script: str
    caches: Caches = "fresh"
    writes: Writes = "yes"
    before: str = ""
    """a script whose time does not count"""
    group: str = "files"
    clocked: bool = False
    """its last line says how many seconds it took: less than a process takes to start can be told apart then"""
    limit: float = 120
    """seconds after which a repetition is given up"""


def _program(name: str, program: str, tree: str, **more: Any) -> Workload:
    return Workload(name, tree, f"{PROGRAM} {program}", clocked=True, **more)


def _both(name: str, tree: str, script: str) -> tuple[Workload, Workload]:
    """A reading workload with cold and with warm caches."""
    return (
        Workload(f"{name}, cold", tree, script, caches="cold", writes="no", group="reading"),
        Workload(f"{name}, warm", tree, script, caches="warm", writes="no", group="reading"),
    )


SIZES = {"4k": "4 KiB", "64k": "64 KiB", "1m": "1 MiB"}
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
    _program("npm-like tree", "npm", "empty", group="making"),
    _program("4 processes at once", "parallel", "empty", group="making"),
    Workload("pip install", "project", PIP, group="building"),
    Workload("compileall", "project", f'"{sys.executable}" -m compileall -q lib > /dev/null || true', group="building"),
    Workload("C build", "project", "make -s -j2 -C c", before="make -s -C c clean", group="building"),
    Workload("C build, warm", "project", "make -s -j2 -C c", caches="warm", before="make -s -C c clean",
             group="building"),
    Workload("test suite, warm", "interpreter", f'cd lib && "$INTERPRETER" -m test -q --tempdir .. {TESTS}',
             caches="warm", group="building"),
    _program("100,000 lines to a log", "log", "empty", group="large"),
    _program("SQLite, random updates", "sqlite", "database", writes="in place", group="large"),
    _program("edit of 50 MiB", "edit", "fifty", group="large"),
    *(_program(f"sequential write, {shown}", f"sequential_write_{size}", "empty", group="large")
      for size, shown in SIZES.items()),
    _program("mmap, read and write", "mapped", "large", writes="in place", group="large"),
    *(_program(f"random write, {shown}", f"random_write_{size}", "large", writes="in place", group="large")
      for size, shown in SIZES.items()),
    *(_program(f"{way} read, {shown}, cold", f"{way}_read_{size}", "large", caches="cold", writes="no", group="large")
      for way in ("sequential", "random") for size, shown in SIZES.items()),
    _program("first 4 KiB into 4 GiB", "first_write", "huge", group="constant"),
    _program("rename of 10,000 files' directory", "rename_directory", "wide", group="constant"),
)  # fmt: skip
