"""Workloads that are no command of the system: each runs in a process of its own, in the current directory.

``python programs.py NAME``.  Owns what they do; imports nothing but the standard library, and no module of ours.
"""

import mmap
import os
import random
import sqlite3
import sys
from collections.abc import Callable

KIB, MIB = 1 << 10, 1 << 20


def npm() -> None:
    """2,400 directories, 4,100 small files, 5,000 existence tests, as a package manager makes them."""
    source = random.Random(3)
    directories = ["node_modules"]
    os.mkdir("node_modules")
    for number in range(2399):
        parent = directories[source.randrange(max(0, len(directories) - 40), len(directories))]
        directories.append(f"{parent}/p{number}" if parent.count("/") < 6 else f"node_modules/p{number}")
        os.mkdir(directories[-1])
    for number in range(4100):
        place = directories[source.randrange(len(directories))]
        if number % 2:
            os.path.exists(f"{place}/package.json")
        temporary = f"{place}/f{number}.tmp" if number % 10 == 0 else f"{place}/f{number}"
        with open(temporary, "wb") as file:
            file.write(b"x" * source.choice((200, 1500, 4000, 12000)))
        if number % 10 == 0:
            os.rename(temporary, f"{place}/f{number}")
    for number in range(2950):
        os.path.exists(f"{directories[source.randrange(len(directories))]}/absent{number % 700}")


def log() -> None:
    """100,000 lines appended without a buffer."""
    fd = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    line = b"2026-01-01 00:00:00 something happened, and this line says what it was\n"
    for _ in range(100_000):
        os.write(fd, line)
    os.close(fd)


def sqlite() -> None:
    """3,000 updates of random rows of 4 KiB, a commit for every 30."""
    source = random.Random(4)
    db = sqlite3.connect("data.db", isolation_level=None)
    (rows,) = db.execute("select max(n) from t").fetchone()
    for _ in range(100):
        db.execute("begin")
        for _ in range(30):
            db.execute("update t set data = ? where n = ?", (source.randbytes(3900), source.randrange(rows)))
        db.execute("commit")
    db.close()


def _blocks(size: int) -> tuple[int, int]:
    length = os.stat("large").st_size
    return length, min(length // size, 20_000)


def _sequential_read(size: int) -> None:
    fd = os.open("large", os.O_RDONLY)
    while os.read(fd, size):
        pass
    os.close(fd)


def _random_read(size: int) -> None:
    length, count = _blocks(size)
    source = random.Random(5)
    fd = os.open("large", os.O_RDONLY)
    for _ in range(count):
        os.pread(fd, size, source.randrange(length // size) * size)
    os.close(fd)


def _sequential_write(size: int) -> None:
    length, _ = _blocks(size)
    data = random.Random(6).randbytes(size)
    fd = os.open("written", os.O_WRONLY | os.O_CREAT, 0o644)
    for _ in range(length // size):
        os.write(fd, data)
    os.close(fd)


def _random_write(size: int) -> None:
    length, count = _blocks(size)
    source = random.Random(7)
    data = source.randbytes(size)
    fd = os.open("large", os.O_WRONLY)
    for _ in range(count):
        os.pwrite(fd, data, source.randrange(length // size) * size)
    os.close(fd)


def mapped() -> None:
    """Every page of the large file read through a mapping, one in 64 changed."""
    with open("large", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        total = 0
        for offset in range(0, len(memory), mmap.PAGESIZE):
            total += memory[offset]
            if offset % (64 * mmap.PAGESIZE) == 0:
                memory[offset : offset + 8] = b"changed!"
        memory.flush()


def edit() -> None:
    """A 50 MiB file saved by an editor: read, written beside it, renamed over it."""
    with open("fifty", "rb") as file:
        data = file.read()
    with open("fifty~", "wb") as file:
        file.write(data[: 25 * MIB] + b"an edit" + data[25 * MIB :])
    os.rename("fifty~", "fifty")


def first_write() -> None:
    """4 KiB into a file of 4 GiB."""
    fd = os.open("huge", os.O_RDWR)
    os.pwrite(fd, b"x" * 4096, 3 << 30)
    os.fsync(fd)
    os.close(fd)


def rename_directory() -> None:
    """A directory of 10,000 files."""
    os.rename("wide", "renamed")


def parallel() -> None:
    """Four processes make, read and delete 1,500 files each."""
    children = []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            os.mkdir(f"w{worker}")
            for number in range(1500):
                path = f"w{worker}/{number}"
                with open(path, "wb") as file:
                    file.write(b"y" * 3000)
            for number in range(1500):
                path = f"w{worker}/{number}"
                with open(path, "rb") as file:
                    file.read()
                if number % 2:
                    os.unlink(path)
            os._exit(0)
        children.append(pid)
    for pid in children:
        if os.waitpid(pid, 0)[1]:
            sys.exit("a worker failed")


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program for program in (npm, log, sqlite, mapped, edit, first_write, rename_directory, parallel)
}
for _size, _label in ((4 * KIB, "4k"), (64 * KIB, "64k"), (MIB, "1m")):
    PROGRAMS[f"sequential_read_{_label}"] = lambda size=_size: _sequential_read(size)  # type: ignore[misc]
    PROGRAMS[f"random_read_{_label}"] = lambda size=_size: _random_read(size)  # type: ignore[misc]
    PROGRAMS[f"sequential_write_{_label}"] = lambda size=_size: _sequential_write(size)  # type: ignore[misc]
    PROGRAMS[f"random_write_{_label}"] = lambda size=_size: _random_write(size)  # type: ignore[misc]

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
