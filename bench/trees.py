"""The bases that workloads begin with; each is built once per invocation.

Owns what is in them.  The sizes are those of the issue's targets, divided by ``scale`` for a quick look.
"""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.interpreter import ABSENT, with_tests
from bench.project import c_project, local_wheel
from tests.support.trees import copy_of_standard_library

FILES_OF_A_DIRECTORY = 100
GIT = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0"]


def _git(base: Path, *words: str) -> None:
    subprocess.run([*GIT, *words], cwd=base, check=True, stdout=subprocess.DEVNULL)


def empty(base: Path, _scale: int) -> None:
    """Nothing."""


def project(base: Path, scale: int) -> None:
    """A repository of two commits over an interpreter's library, a C project, and wheels to install."""
    copy_of_standard_library(base / "lib", enough=2400 // scale)
    c_project(base / "c", files=max(80 // scale, 2))
    for number in range(3):
        local_wheel(base, number, files=max(200 // scale, 2))
    (base / ".gitignore").write_text("*.o\n*.whl\n__pycache__/\n")
    _git(base, "init", "-q", "-b", "main")
    _git(base, "add", ".")
    _git(base, "commit", "-qm", "first")
    source = random.Random(1)
    files = sorted(path for path in (base / "lib").rglob("*.py") if path.is_file())
    for path in source.sample(files, len(files) // 4):
        path.write_bytes(path.read_bytes() + b"\n# changed\n")
    for path in source.sample(files, len(files) // 10):
        path.unlink(missing_ok=True)
    for number in range(200 // scale):
        (base / "lib" / f"added{number}.py").write_text(f"N = {number}\n" * 50)
    _git(base, "add", "-A")
    _git(base, "commit", "-qm", "second")


def interpreter(base: Path, _scale: int) -> None:
    """The whole library of an interpreter, with its tests."""
    found = with_tests()
    if found is None:
        raise ValueError(ABSENT)
    unwanted = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "*.so", "config-*", "idlelib")
    shutil.copytree(found.library, base / "lib", symlinks=True, ignore=unwanted)


def archive(base: Path, scale: int) -> None:
    """A tar of an interpreter's library."""
    copy_of_standard_library(base / "lib", enough=2400 // scale)
    subprocess.run(["tar", "-C", base, "-cf", base / "library.tar", "lib"], check=True)
    shutil.rmtree(base / "lib")


def many(base: Path, scale: int) -> None:
    """30,000 small files in 300 directories."""
    for directory in range(max(300 // scale, 1)):
        place = base / f"d{directory}"
        place.mkdir()
        for number in range(FILES_OF_A_DIRECTORY):
            (place / f"f{number}").write_bytes(b"x" * 200)


def wide(base: Path, scale: int) -> None:
    """One directory of 10,000 files."""
    (base / "wide").mkdir()
    for number in range(10_000 // scale):
        (base / "wide" / f"{number}").touch()


def fifty_thousand(base: Path, scale: int) -> None:
    """50,000 files in 500 directories, for runs that are many at once."""
    _numbered(base, 50_000 // scale)


def hundred_thousand(base: Path, scale: int) -> None:
    """100,000 files in 1,000 directories, for a diff that must not look at them."""
    _numbered(base, 100_000 // scale)


def _numbered(base: Path, files: int) -> None:
    for number in range(files):
        place = base / f"d{number // FILES_OF_A_DIRECTORY}"
        if number % FILES_OF_A_DIRECTORY == 0:
            place.mkdir()
        (place / f"f{number % FILES_OF_A_DIRECTORY}").write_text(f"content of {number}\n")


BLOCK = random.Random(2).randbytes(1 << 20)
"""does not compress, and with its number before it is like no other"""


def _blocks(path: Path, mebibytes: int) -> None:
    with path.open("wb") as file:
        for number in range(mebibytes):
            file.write(number.to_bytes(8, "little") + BLOCK[8:])


def large(base: Path, scale: int) -> None:
    """A file of 1 GiB."""
    _blocks(base / "large", max(1024 // scale, 1))


def fifty(base: Path, scale: int) -> None:
    """A file of 50 MiB."""
    _blocks(base / "fifty", max(50 // scale, 1))


def database(base: Path, scale: int) -> None:
    """An SQLite database of about 1 GiB."""
    with closing(sqlite3.connect(base / "data.db", isolation_level=None)) as db:
        db.execute("pragma page_size=4096")
        db.execute("pragma journal_mode=off")
        db.execute("create table t (n integer primary key, data blob)")
        db.execute("begin")
        rows = 1024 * 256 // scale
        db.executemany("insert into t values (?, ?)", ((n, BLOCK[n % 4096 : n % 4096 + 3900]) for n in range(rows)))
        db.execute("commit")


def huge(base: Path, _scale: int) -> None:
    """A sparse file of 4 GiB."""
    with (base / "huge").open("wb") as file:
        file.truncate(4 << 30)


BUILDERS: dict[str, Callable[[Path, int], None]] = {
    builder.__name__: builder
    for builder in (
        empty, project, interpreter, archive, many, wide, fifty_thousand, hundred_thousand, large, fifty, database,
        huge,
    )
}  # fmt: skip


class Trees:
    """Builds what is asked for, below one directory on the disk that is measured."""

    def __init__(self, place: Path, scale: int) -> None:
        self._place = place
        self.scale = scale
        """divides the large sizes"""

    def drop(self, name: str) -> None:
        """Make room: it is built again when it is asked for again."""
        shutil.rmtree(self._place / "trees" / name, ignore_errors=True)

    def get(self, name: str) -> Path:
        """The base of this name; built when it is asked for the first time."""
        base = self._place / "trees" / name
        if not base.exists():
            making = base.with_suffix(".making")
            making.mkdir(parents=True)
            BUILDERS[name](making, self.scale)
            os.sync()
            making.rename(base)
        return base
