"""Workloads that are no command of the system: each runs in a process of its own, in the current directory.

``python programs.py NAME``; the variable SCALE divides the sizes.  Prints the seconds it took, without the start of
the interpreter.  Owns what they do; imports nothing but the standard library, and no module of ours.
"""

import errno
import mmap
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MOST_OPERATIONS, MOST_BYTES = 20_000, 256 * MIB
"""of a random workload: what is reached first ends it"""
MOST_WRITES = 65_536
"""of a sequential one: at 4 KiB they are 256 MiB, since some filesystems take a request for each"""
SCALE = int(os.environ.get("SCALE", "1"))


def npm() -> None:
    """2,400 directories, 4,100 small files, 5,000 existence tests, as a package manager makes them."""
    source = random.Random(3)
    directories = ["node_modules"]
    os.mkdir("node_modules")
    for number in range(2400 // SCALE - 1):
        parent = directories[source.randrange(max(0, len(directories) - 40), len(directories))]
        directories.append(f"{parent}/p{number}" if parent.count("/") < 6 else f"node_modules/p{number}")
        os.mkdir(directories[-1])
    for number in range(4100 // SCALE):
        place = directories[source.randrange(len(directories))]
        if number % 2:
            os.path.exists(f"{place}/package.json")
        temporary = f"{place}/f{number}.tmp" if number % 10 == 0 else f"{place}/f{number}"
        with open(temporary, "wb") as file:
            file.write(b"x" * source.choice((200, 1500, 4000, 12000)))
        if number % 10 == 0:
            os.rename(temporary, f"{place}/f{number}")
    for number in range(2950 // SCALE):
        os.path.exists(f"{directories[source.randrange(len(directories))]}/absent{number % 700}")


def log() -> None:
    """100,000 lines appended without a buffer."""
    fd = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    line = b"2026-01-01 00:00:00 something happened, and this line says what it was\n"
    for _ in range(100_000 // SCALE):
        os.write(fd, line)
    os.close(fd)


def sqlite() -> None:
    """3,000 updates of random rows of 4 KiB in a database of 1 GiB, a commit for every 30."""
    source = random.Random(4)
    db = sqlite3.connect("data.db", isolation_level=None)
    (rows,) = db.execute("select max(n) from t").fetchone()
    for _ in range(max(100 // SCALE, 1)):
        db.execute("begin")
        for _ in range(30):
            db.execute("update t set data = ? where n = ?", (source.randbytes(3900), source.randrange(rows)))
        db.execute("commit")
    db.close()


def _sequential_read(size: int) -> None:
    fd = os.open("large", os.O_RDONLY)
    while os.read(fd, size):
        pass
    os.close(fd)


def _offsets(seed: int, size: int) -> list[int]:
    """Of blocks of the large file, in random order."""
    source = random.Random(seed)
    blocks = max(os.stat("large").st_size // size, 1)
    count = max(min(MOST_OPERATIONS, MOST_BYTES // size) // SCALE, 1)
    return [source.randrange(blocks) * size for _ in range(count)]


def _random_read(size: int) -> None:
    fd = os.open("large", os.O_RDONLY)
    for offset in _offsets(5, size):
        os.pread(fd, size, offset)
    os.close(fd)


def _sequential_write(size: int) -> None:
    data = random.Random(6).randbytes(size)
    fd = os.open("written", os.O_WRONLY | os.O_CREAT, 0o644)
    for _ in range(max(min(GIB // size, MOST_WRITES) // SCALE, 1)):
        os.write(fd, data)
    os.close(fd)


def _random_write(size: int) -> None:
    data = random.Random(7).randbytes(size)
    fd = os.open("large", os.O_WRONLY)
    for offset in _offsets(7, size):
        os.pwrite(fd, data, offset)
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
    """A directory of 10,000 files, moved as mv does it: copied and deleted where the filesystem cannot rename it."""
    try:
        os.rename("wide", "renamed")
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        subprocess.run(["mv", "wide", "renamed"], check=True)


def parallel() -> None:
    """Four processes make, read and delete 1,500 files each."""
    children = []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            os.mkdir(f"w{worker}")
            for number in range(1500 // SCALE):
                path = f"w{worker}/{number}"
                with open(path, "wb") as file:
                    file.write(b"y" * 3000)
            for number in range(1500 // SCALE):
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
    started = time.perf_counter()
    PROGRAMS[sys.argv[1]]()
    print(time.perf_counter() - started)
