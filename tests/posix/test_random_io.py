"""One file worked on at random, in the manner of fsx: every byte is compared with a copy in memory.

Reads, writes, maps, truncation both ways, copies within the file, holes, appends, closing and opening again, sealing:
over a file of the base, one of the upper, and one that is copied up while others have it open.  A seed does the same
each time.
"""

import mmap
import os
import random
from pathlib import Path

import pytest

from tests.posix.conftest import BIG, Ground
from tests.support.bases import pattern
from tests.support.mounts import Mounted

LARGEST = 1_800_000
"""bytes: beyond what is copied up as a whole"""


class Exerciser:
    """A file and what it must hold."""

    def __init__(self, path: Path, seed: int, mount: Mounted | None) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.expected = bytearray(path.read_bytes())
        self.mount = mount
        self.fds = [os.open(path, os.O_RDWR) for _ in range(3)]
        self.largest = LARGEST if len(self.expected) > 500_000 else 300_000
        self.done: list[object] = []

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def step(self) -> None:
        """One operation, drawn at random, by one of three descriptors."""
        name = self.random.choices(*zip(*STEPS.items(), strict=True))[0]
        fd = self.random.choice(self.fds)
        self.done.append(name)
        getattr(self, name)(fd)

    def range(self) -> tuple[int, int]:
        offset = self.random.randrange(self.largest)
        return offset, min(self.largest - offset, self.random.choice((1, 7, 512, 4096, 5000, 65_536, 150_000)))

    def put(self, offset: int, data: bytes) -> None:
        if offset > len(self.expected):
            self.expected.extend(bytes(offset - len(self.expected)))
        self.expected[offset : offset + len(data)] = data

    def check(self, offset: int, got: bytes) -> None:
        expected = bytes(self.expected[offset : offset + len(got)])
        if got != expected:
            wrong = next(at for at in range(len(got)) if got[at] != expected[at])
            raise AssertionError(f"byte {offset + wrong} of {self.path} is wrong after {self.done[-12:]}")

    def read(self, fd: int) -> None:
        offset, length = self.range()
        got = os.pread(fd, length, offset)
        assert len(got) == max(0, min(length, len(self.expected) - offset)), self.done[-12:]
        self.check(offset, got)

    def write(self, fd: int) -> None:
        offset, length = self.range()
        data = pattern(self.random.randrange(1000), length)
        assert os.pwrite(fd, data, offset) == length
        self.put(offset, data)

    def append(self, fd: int) -> None:
        data = pattern(self.random.randrange(1000), self.random.choice((1, 100, 5000)))
        if len(self.expected) + len(data) <= self.largest:
            own = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            os.write(own, data)
            os.close(own)
            self.put(len(self.expected), data)

    def truncate(self, fd: int) -> None:
        size = self.random.choice((0, self.random.randrange(self.largest), self.random.randrange(self.largest)))
        if self.random.random() < 0.5:
            os.ftruncate(fd, size)
        else:
            os.truncate(self.path, size)
        del self.expected[size:]
        self.expected.extend(bytes(size - len(self.expected)))

    def map_read(self, fd: int) -> None:
        if self.expected:
            with mmap.mmap(fd, len(self.expected), prot=mmap.PROT_READ) as view:
                offset, length = self.range()
                self.check(offset, view[offset : offset + length])

    def map_write(self, fd: int) -> None:
        if self.expected:
            with mmap.mmap(fd, len(self.expected)) as view:
                offset = self.random.randrange(len(self.expected))
                data = pattern(self.random.randrange(1000), min(20_000, len(self.expected) - offset))
                view[offset : offset + len(data)] = data
                self.put(offset, data)
                if self.random.random() < 0.5:
                    view.flush()

    def map_private(self, fd: int) -> None:
        if self.expected:
            with mmap.mmap(fd, len(self.expected), flags=mmap.MAP_PRIVATE) as view:
                view[0] = view[0] ^ 255  # which nobody else sees

    def copy(self, fd: int) -> None:
        """copy_file_range(2) within the file, from one half into the other."""
        half = len(self.expected) // 2
        if half:
            source, length = self.random.randrange(half), self.random.randrange(1, 50_000)
            length = min(length, half - source)
            done = os.copy_file_range(fd, self.random.choice(self.fds), length, source, half)
            self.put(half, bytes(self.expected[source : source + done]))

    def sync(self, fd: int) -> None:
        self.random.choice((os.fsync, os.fdatasync))(fd)

    def reopen(self, fd: int) -> None:
        os.close(fd)
        self.fds[self.fds.index(fd)] = os.open(self.path, os.O_RDWR)

    def drop(self, fd: int) -> None:
        """What is in the page cache is to be read anew."""
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def seal(self, fd: int) -> None:
        if self.mount is not None:
            self.mount.ask("seal")

    def size(self, fd: int) -> None:
        assert os.fstat(fd).st_size == self.path.stat().st_size == len(self.expected), self.done[-12:]

    def everything(self) -> None:
        """The whole file, by a new descriptor."""
        got = self.path.read_bytes()
        assert len(got) == len(self.expected)
        self.check(0, got)


STEPS = {
    "read": 20, "write": 20, "append": 4, "truncate": 5, "map_read": 6, "map_write": 8, "map_private": 2, "copy": 6,
    "sync": 2, "reopen": 4, "drop": 4, "seal": 1, "size": 4,
}  # fmt: skip


def exercise(ground: Ground, kind: str, file: str, seed: int, steps: int) -> None:
    top, held = ground.tree(kind)
    exerciser = Exerciser(top / file, seed, None if kind == "native" else ground.mount)
    try:
        for step in range(steps):
            exerciser.step()
            if step % 200 == 0:
                exerciser.everything()
        exerciser.everything()
    finally:
        exerciser.close()
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("kind", ["native", "base", "upper", "copied"])
@pytest.mark.parametrize("file", ["file", "big", "empty", "hard"])
def test_every_byte_is_where_it_was_put(ground: Ground, kind: str, file: str) -> None:
    assert BIG > 1 << 20
    exercise(ground, kind, file, seed=1, steps=150)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["base", "upper", "copied"])
@pytest.mark.parametrize("seed", range(4))
def test_for_long(ground: Ground, kind: str, seed: int) -> None:
    for file in ("big", "file"):
        exercise(ground, kind, file, seed, steps=10_000)
