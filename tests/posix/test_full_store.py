"""The disk of the store is full: what programs in the mount are told, and that nothing acknowledged is lost.

Every kind of change is tried with no room at all, with little, and with room again; what is seen then is what the next
mount shows, and the checker has nothing to say.
"""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.posix.conftest import BIG, fill, written
from tests.posix.test_bases import kernel_mount
from tests.posix.test_names import EXCHANGE, renameat2
from tests.support import trees
from tests.support.commands import Goexfs

ROOM = 24 << 20
"""bytes that the store's filesystem has"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem")


@pytest.fixture
def small(area: Path) -> Iterator[Path]:
    """A filesystem without much room."""
    with kernel_mount(area / "small", "-t", "tmpfs", "-o", f"size={ROOM}", "small") as place:
        yield place


Call = Callable[[Path], object]

CHANGES: dict[str, Call] = {
    "a small file": lambda top: written(top / "small", b"x" * 3000),
    "a large file": lambda top: written(top / "large", b"x" * (ROOM + 1)),
    "into a small one": lambda top: written(top / "file", b"changed", 3),
    "into a large one": lambda top: written(top / "big", b"changed", BIG // 2),
    "append to a large one": lambda top: written(top / "big", b"y" * 500_000, BIG),
    "truncate": lambda top: os.truncate(top / "dir" / "inner", 2),
    "extend": lambda top: os.truncate(top / "empty", 300_000),
    "mkdir": lambda top: os.mkdir(top / "new"),
    "mkfifo": lambda top: os.mkfifo(top / "pipe"),
    "symlink": lambda top: os.symlink("t/" * 1500, top / "symlink"),
    "link": lambda top: os.link(top / "file", top / "second"),
    "unlink": lambda top: os.unlink(top / "hard"),
    "rename": lambda top: os.rename(top / "dir", top / "moved"),
    "exchange": lambda top: renameat2(top / "file", top / "big", EXCHANGE),
    "chmod": lambda top: os.chmod(top / "big", 0o600),
    "utime": lambda top: os.utime(top / "link", ns=(5, 6), follow_symlinks=False),
    "setxattr": lambda top: os.setxattr(top / "file", "user.large", b"v" * 50_000),
}


def attempt(top: Path) -> dict[str, int]:
    """Every change once; the errors."""
    failed = {}
    for what, change in CHANGES.items():
        try:
            change(top)
        except OSError as e:
            failed[what] = e.errno or 0
    return failed


def hear_of_what_was_lost(top: Path) -> None:
    """The kernel tells whoever closes a file next of what it could not write back before, once."""
    for path in top.rglob("*"):
        if not path.is_symlink() and path.is_file():
            with suppress(OSError):
                path.open("ab").close()


def forget_pages(top: Path) -> None:
    """Have the kernel ask again: it keeps, as for every filesystem, what it could not write back."""
    for path in top.rglob("*"):
        if not path.is_symlink() and path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


@pytest.mark.parametrize("left", [0, *(pytest.param(left, marks=pytest.mark.long) for left in (5000, 70_000, 300_000))])
def test_a_full_store_refuses_and_loses_nothing(area: Path, small: Path, left: int) -> None:
    base = area / "base"
    fill(base)
    before = trees.picture(base)
    goexfs = Goexfs(small / "store")
    with goexfs.mounted(area / "mnt", "--name", "full", base) as top:
        written(top / "acknowledged", b"a" * 1000)
        written(top / "acknowledged too", b"b" * 400_000)
        ballast = small / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError as e:
                assert e.errno == errno.ENOSPC
            file.truncate(file.tell() - file.tell() % 4096 - left)
        refused = attempt(top)
        assert "a large file" in refused
        assert set(refused.values()) <= {errno.ENOSPC, errno.ENOENT}, refused  # ENOENT: of what the one before refused
        if not left:
            assert len(refused) > len(CHANGES) // 2
        assert (top / "acknowledged").read_bytes() == b"a" * 1000
        assert (top / "acknowledged too").read_bytes() == b"b" * 400_000
        assert trees.picture(base) == before
        # The kernel keeps its own idea of the size of what it could not write back.
        for name in ("small", "large"):
            (top / name).unlink(missing_ok=True)
        ballast.unlink()
        hear_of_what_was_lost(top)
        (top / "after").write_text("there is room again\n")
        with (top / "file").open("ab") as file:
            file.write(b"and for this")
        for _ in range(2):  # the first may tell of what was lost before
            synced = subprocess.run(["sync", "-f", top], capture_output=True, check=False)
        assert not synced.returncode, synced.stderr
        forget_pages(top)
        expected = trees.picture(top)
    assert goexfs("fsck").stdout
    with goexfs.mounted(area / "mnt", "--run", "full") as top:
        different = trees.differences(expected, trees.picture(top))
        assert not different, "\n".join([*different, str(refused)])
        assert (top / "after").read_text() == "there is room again\n"
    assert trees.picture(base) == before
