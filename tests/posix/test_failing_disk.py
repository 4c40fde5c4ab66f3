"""The disk of the store fails: every call that writes there, with EIO or without quota, once or for a while.

What is asked of the mount meanwhile is answered with that error or done; afterwards the mount serves on, what was
acknowledged is there, in the mount and in the next one after the server was killed, and the checker has nothing to say.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import goexfs
from snapshots.errors import GoexfsError
from snapshots.storage.runrecord import Run
from tests.posix.conftest import BIG, written
from tests.support import faults, trees
from tests.support.commands import Goexfs
from tests.support.mounts import eventually

pytestmark = [
    pytest.mark.skipif(bool(faults.why_not()), reason=faults.why_not()),
    pytest.mark.skipif(os.geteuid() != 0, reason="some of the changes are root's"),
    pytest.mark.timeout(300),
]
ALLOWED = (errno.EIO, errno.EDQUOT, errno.ENOSPC)


def holds(path: Path, data: bytes, offset: int = 0) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(data)) == data


def own(top: Path) -> bytes:
    """A large content that no other tree has: it becomes an object of its own."""
    return (os.fsencode(top) * 10_000)[:400_000]


Change = tuple[Callable[[Path], object], Callable[[Path], bool]]
CHANGES: dict[str, Change] = {
    # how, and whether it has been done; each in a tree of its own
    "small": (lambda top: written(top / "small", b"s" * 3000), lambda top: holds(top / "small", b"s" * 3000)),
    "large": (lambda top: written(top / "large", own(top)), lambda top: holds(top / "large", own(top))),
    "into a file": (lambda top: written(top / "file", b"CHANGED", 3), lambda top: holds(top / "file", b"conCHANGED")),
    "into a large one": (
        lambda top: written(top / "big", b"CHANGED", BIG // 2), lambda top: holds(top / "big", b"CHANGED", BIG // 2)
    ),
    "longer": (lambda top: os.truncate(top / "empty", 300_000), lambda top: (top / "empty").stat().st_size == 300_000),
    "shorter": (lambda top: os.truncate(top / "big", 9000), lambda top: (top / "big").stat().st_size == 9000),
    "mkdir": (lambda top: (top / "new").mkdir(), lambda top: (top / "new").is_dir()),
    "symlink": (lambda top: (top / "new").symlink_to("x"), lambda top: (top / "new").is_symlink()),
    "link": (lambda top: os.link(top / "file", top / "new"), lambda top: (top / "file").stat().st_nlink == 2),
    "unlink": (lambda top: (top / "file").unlink(), lambda top: not (top / "file").exists()),
    "rename": (lambda top: (top / "dir").rename(top / "new"), lambda top: (top / "new" / "sub" / "deep").exists()),
    "chmod": (lambda top: (top / "file").chmod(0o600), lambda top: (top / "file").stat().st_mode & 0o777 == 0o600),
    "setxattr": (
        lambda top: os.setxattr(top / "file", "user.x", b"v" * 5000), lambda top: "user.x" in os.listxattr(top / "file")
    ),
}  # fmt: skip


def plant(top: Path, what: str) -> None:
    """The tree in which a change is to be made."""
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "dir" / "sub" / "deep").write_text("deep")
    (top / "file").write_bytes(b"content\n" * 100)
    (top / "empty").touch()
    if what in ("into a large one", "shorter"):
        (top / "big").write_bytes(b"b" * BIG)


class Case(NamedTuple):
    """How the disk fails."""

    call: str
    number: int = errno.EIO
    skip: int = 0
    times: int = faults.EVER
    below: str = ""
    """only what is below this directory of the store (``RUN`` is that of the run)"""

    def __str__(self) -> str:
        often = "" if self.times == faults.EVER else f" {self.times} times"
        where = f" in {self.below}" if self.below else ""
        return f"{self.call}{where}, {errno.errorcode[self.number]} after {self.skip}{often}"


CASES = [Case("write"), Case("write", below="RUN/spool"), Case("write", below="RUN/journal"), Case("sync")]
OTHERS = [
    *(Case(call, skip=at, times=often) for call in faults.CALLS[1:] for at in (0, 1, 4) for often in (1, 2, 1 << 20)),
    *(Case("write", skip=skip, below=f"RUN/{where}") for where in ("spool", "journal") for skip in (1, 2, 5)),
    *(Case("truncate", below=f"RUN/{where}") for where in ("spool", "journal")),
    *(Case("open", skip=skip, below=f"RUN/{where}") for where in ("spool", "journal") for skip in (0, 2)),
    *(Case("rename", below="RUN/journal", times=times) for times in (1, 2)),
    *(Case("write", errno.EDQUOT, skip=skip) for skip in (0, 7)),
]


class Machine:
    """A run over trees of the base, one for each change, on a disk that can fail."""

    def __init__(self, area: Path) -> None:
        self.top = area / "mnt"
        self.store = area / "store"
        self.faults = faults.Faults(area, self.store)
        self.goexfs = Goexfs(self.store)
        self.goexfs.environ.update(self.faults.environ)
        self.acknowledged: set[str] = set()

    @property
    def record(self) -> Run:
        with goexfs.open_store(self.store) as store:
            return store.run("run").record

    def attempt(self, what: str) -> bool:
        """Make one change, perhaps once more; whether it was acknowledged."""
        try:
            CHANGES[what][0](self.top / what)
        except (FileExistsError, FileNotFoundError):
            assert CHANGES[what][1](self.top / what)  # it had happened although it was refused
        except OSError as e:
            assert e.errno in ALLOWED, (what, e)
            return False
        self.acknowledged.add(what)
        return True

    def check(self) -> None:
        """Nothing that was acknowledged is lost."""
        assert [what for what in self.acknowledged if not CHANGES[what][1](self.top / what)] == []

    def seal(self) -> bool:
        """Whether all that is dirty could be stored."""
        with goexfs.open_store(self.store) as store:
            try:
                store.run("run").seal()
            except GoexfsError:
                return False
        return True

    def kill(self) -> None:
        """End the server without a word."""
        pid = self.record.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(each, marks=pytest.mark.long) for each in OTHERS)], ids=str)
def test_a_failing_disk_loses_nothing(area: Path, case: Case) -> None:
    machine = Machine(area)
    for what in CHANGES:
        plant(area / "base" / what, what)
    machine.top.mkdir()
    machine.goexfs("mount", "--name", "run", area / "base", machine.top)
    try:
        below = case.below.replace("RUN", f"runs/{machine.record.id}")
        (machine.top / "before").write_text("before")
        with machine.faults.striking(case.call, case.number, skip=case.skip, times=case.times, below=below):
            for what in CHANGES:
                machine.attempt(what)
            if not case.below:
                machine.seal()
            machine.check()
        for what in CHANGES:  # the disk has recovered, and the mount does
            if what not in machine.acknowledged:
                eventually(lambda what=what: machine.attempt(what), 20)  # type: ignore[misc]
        machine.check()
        shown = trees.picture(machine.top)
        machine.kill()
    finally:
        machine.goexfs("umount", machine.top, status=None)
    with machine.goexfs.mounted(machine.top, "--run", "run"):
        machine.check()
        different = trees.differences(shown, trees.picture(machine.top))
        assert not different, "\n".join(different[:20])
    machine.goexfs("fsck")
