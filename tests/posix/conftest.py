"""Places to work in: the same tree on the native filesystem, in the base, in the upper, and copied up while open.

The native place is the oracle: a test states what Linux does, and first of all it holds there.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bases import pattern
from tests.support.mounts import Mounted, mounted

BIG = 1_300_000
"""bytes of a file that is too large to be copied up as a whole"""
KINDS = ("native", "base", "upper", "copied")


def written(path: Path, data: bytes, offset: int = 0) -> None:
    """With what the kernel has kept back brought out: until then it promises nothing."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def fill(top: Path) -> None:
    """A little of everything, all older than the test."""
    top.mkdir()
    (top / "file").write_bytes(b"content\n" * 100)
    (top / "big").write_bytes((pattern(1, 251) * (BIG // 251 + 1))[:BIG])
    (top / "empty").touch()
    (top / "link").symlink_to("file")
    (top / "dir").mkdir()
    (top / "dir" / "inner").write_text("inner\n")
    (top / "dir" / "sub").mkdir()
    (top / "dir" / "sub" / "deep").write_text("deep\n")
    (top / "hard").write_text("hard\n")
    os.link(top / "hard", top / "dir" / "hard too")
    os.mkfifo(top / "fifo")
    for path in (*top.rglob("*"), top):
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def copy_up(top: Path) -> list[int]:
    """Open every file for reading, then change each with its own content: what is open is copied up under its users."""
    held = []
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink():
            held.append(os.open(path, os.O_RDONLY))
            with path.open("r+b") as file:
                start = file.read(1)
                file.seek(0)
                file.write(start)
            os.utime(path, ns=(10**18, 10**18))
        elif path.is_dir():
            held.append(os.open(path, os.O_RDONLY))
            os.chmod(path, 0o755)
    return held


class Ground:
    """A mount that the tests of a module share, and a native directory beside it; each test gets trees of its own."""

    def __init__(self, area: Path, mount: Mounted) -> None:
        self.area = area
        self.mount = mount
        self.native = area / "native"
        self.native.mkdir()
        self._numbers = itertools.count()

    def tree(self, kind: str) -> tuple[Path, list[int]]:
        """A new tree, and descriptors that are to be closed in the end."""
        name = f"{kind}{next(self._numbers)}"
        if kind == "native":
            fill(self.native / name)
            return self.native / name, []
        top = self.mount.path / name
        if kind == "upper":
            fill(top)
            return top, []
        # Below another directory first: the base is watched, and every change in it would be reported.
        fill(self.area / name)
        (self.area / name).rename(self.mount.base / name)
        return top, copy_up(top) if kind == "copied" else []


@dataclass
class Place:
    """A tree that a test may change."""

    kind: str
    path: Path
    ground: Ground


@pytest.fixture(scope="module")
def own_area() -> Iterator[Path]:
    """A directory outside of what is checked after each test: its mounts live as long as the module."""
    area = Path(tempfile.mkdtemp(prefix="gxp-"))
    area.chmod(0o755)
    yield area
    shutil.rmtree(area)


@pytest.fixture(scope="module")
def ground(own_area: Path) -> Iterator[Ground]:
    """A mount of root's that others may use; what a user's own does is in ``test_own_mount``."""
    if os.geteuid() != 0:
        pytest.skip("the mount is root's, and others may use it")
    (own_area / "base").mkdir()
    with mounted(own_area / "base", own_area, allow_other=True) as mount:
        mount.wait_watched()
        yield Ground(own_area, mount)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, ground: Ground) -> Iterator[Place]:
    """A tree of each kind."""
    top, held = ground.tree(request.param)
    yield Place(request.param, top, ground)
    for fd in held:
        os.close(fd)


@pytest.fixture
def top(place: Place) -> Path:
    """The directory of that tree."""
    return place.path


@pytest.fixture(scope="session")
def forked() -> Callable[[Callable[[], object]], int]:
    """Runs a function in a child and answers its exit status: 0, or 1 when it raised."""

    def run(function: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function()
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run
