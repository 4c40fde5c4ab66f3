"""Renaming directories of the base, whatever is in them, was in them, and is open in them; and many programs at once.

What union filesystems get wrong: directories that come from below, are whited out, opaque, merged, moved over each
other and back, with programs at work in them.  The native filesystem is the oracle.
"""

import itertools
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.posix.conftest import Ground
from tests.posix.test_names import EXCHANGE, renameat2
from tests.support import trees
from tests.support.mounts import mounted

Step = Callable[[Path], object]

BEFORE: dict[str, Step] = {
    "as it is": lambda top: None,
    "with a file changed": lambda top: (top / "dir" / "inner").write_text("changed"),
    "with a file added": lambda top: (top / "dir" / "new").write_text("new"),
    "with a file removed": lambda top: (top / "dir" / "inner").unlink(),
    "emptied": lambda top: (shutil.rmtree(top / "dir"), (top / "dir").mkdir()),
    "made anew with the same names": lambda top: (
        shutil.rmtree(top / "dir"), (top / "dir").mkdir(), (top / "dir" / "inner").write_text("mine")
    ),
    "moved once": lambda top: ((top / "dir").rename(top / "once"), (top / "once").rename(top / "dir")),
    "with its own attributes": lambda top: ((top / "dir").chmod(0o700), os.utime(top / "dir", ns=(1, 2))),
    "with something moved in": lambda top: (top / "big").rename(top / "dir" / "big"),
    "with something moved out": lambda top: (top / "dir" / "sub").rename(top / "sub"),
}  # fmt: skip
RENAMES: dict[str, Step] = {
    "to a new name": lambda top: (top / "dir").rename(top / "moved"),
    "to a removed name": lambda top: ((top / "file").unlink(), (top / "dir").rename(top / "file")),
    "over an empty one": lambda top: ((top / "other").mkdir(), (top / "dir").rename(top / "other")),
    "over one of the base that was emptied": lambda top: (
        (top / "second" / "inner").unlink(), (top / "dir").rename(top / "second")
    ),
    "over a full one": lambda top: (top / "dir").rename(top / "second"),
    "into another": lambda top: (top / "dir").rename(top / "second" / "moved"),
    "into itself": lambda top: (top / "dir").rename(top / "dir" / "below"),
    "there and back": lambda top: ((top / "dir").rename(top / "away"), (top / "away").rename(top / "dir")),
    "away, with another in its place": lambda top: (
        (top / "dir").rename(top / "away"), (top / "dir").mkdir(), (top / "dir" / "inner").write_text("in its place")
    ),
    "around in a ring": lambda top: (
        (top / "dir").rename(top / "x"), (top / "second").rename(top / "dir"), (top / "x").rename(top / "second")
    ),
    "exchanged": lambda top: renameat2(top / "dir", top / "second", EXCHANGE),
    "exchanged with a file": lambda top: renameat2(top / "dir", top / "file", EXCHANGE),
    "and removed": lambda top: ((top / "dir").rename(top / "moved"), shutil.rmtree(top / "moved")),
    "and its parent": lambda top: ((top / "dir").rename(top / "second" / "in"), (top / "second").rename(top / "deep")),
}  # fmt: skip


def outcome(top: Path, before: Step, rename: Step) -> object:
    """What can be seen afterwards, also by whoever was in there."""
    (top / "second").mkdir(exist_ok=True)
    (top / "second" / "inner").write_text("second")
    before(top)
    inside = os.open(top / "dir", os.O_RDONLY)
    held = os.open(b"inner", os.O_RDWR, dir_fd=inside) if (top / "dir" / "inner").exists() else -1
    try:
        rename(top)
        failed = 0
    except OSError as e:
        failed = e.errno or -1
    seen: list[object] = [failed, sorted(os.listdir(inside)), os.fstat(inside).st_nlink]
    if held >= 0:
        os.pwrite(held, b"by its holder", 3)
        seen += [os.pread(held, 100, 0), os.fstat(held).st_nlink]
        os.close(held)
    try:
        os.close(os.open(b"by the one inside", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=inside))
    except OSError as e:
        seen.append(e.errno)
    os.close(inside)
    picture = trees.picture(top)
    for facts in picture.values():
        facts.pop("mtime_ns", None)
    return seen, picture


@pytest.mark.parametrize("rename", RENAMES)
def test_a_directory_is_renamed(ground: Ground, rename: str) -> None:
    for before in BEFORE:
        native, _ = ground.tree("native")
        expected = outcome(native, BEFORE[before], RENAMES[rename])
        for kind in ("base", "copied"):
            top, held = ground.tree(kind)
            got = outcome(top, BEFORE[before], RENAMES[rename])
            assert got == expected, (kind, before)
            for fd in held:
                os.close(fd)


def work(top: Path, worker: int, steps: int) -> None:
    """What one of many programs does: in a directory of its own, and in one that all share."""
    source, other = random.Random(worker), random.Random(-worker)  # what is drawn for the first depends on nobody else
    shared = top / "shared"
    for step in range(steps):
        own = top / f"{worker}" / f"{source.randrange(12)}"
        for action in source.choices(ACTIONS, k=3):
            try:
                action(own, source)
            except OSError:
                pass
        try:
            (shared / f"{other.randrange(20)}").write_text(f"{worker} {step}")
            os.rename(shared / f"{other.randrange(20)}", shared / f"{other.randrange(20)}")
            (shared / f"{other.randrange(20)}").unlink()
            os.listdir(shared)
        except OSError:
            pass


ACTIONS: tuple[Callable[[Path, random.Random], object], ...] = (
    lambda path, source: path.write_bytes(bytes([source.randrange(256)]) * source.choice((0, 10, 5000, 200_000))),
    lambda path, source: path.mkdir(),
    lambda path, source: path.rmdir(),
    lambda path, source: path.unlink(),
    lambda path, source: path.rename(path.with_name(f"{source.randrange(12)}")),
    lambda path, source: path.rename(path.with_name(f"{source.randrange(12)}") / "in"),
    lambda path, source: os.link(path, path.with_name(f"{source.randrange(12)}")),
    lambda path, source: path.symlink_to(f"{source.randrange(12)}"),
    lambda path, source: os.truncate(path, source.choice((0, 7, 9000))),
    lambda path, source: path.chmod(source.choice((0o600, 0o755))),
    lambda path, source: shutil.rmtree(path),
    lambda path, source: path.read_bytes(),
)


def stress(top: Path, workers: int, steps: int) -> None:
    """All of them at once."""
    running = [multiprocessing.get_context("fork").Process(target=work, args=(top, n, steps)) for n in range(workers)]
    for process in running:
        process.start()
    for process in running:
        process.join(1500)
        assert process.exitcode == 0


def check_many_programs(area: Path, workers: int, steps: int) -> None:
    """What a program did in its own directory is what the same program does natively, and the store is sound."""
    for top in (area / "native", area / "base"):
        for name in ("shared", *map(str, range(workers))):
            (top / name).mkdir(parents=True)
            for number in range(0, 12, 2):
                (top / name / f"{number}").write_bytes(b"base" * 3000)
    stress(area / "native", workers, steps)
    with mounted(area / "base", area) as mount:
        mount.wait_watched()
        stress(mount.path, workers, steps)
        for worker in range(workers):
            check_same(area / "native" / f"{worker}", mount.path / f"{worker}")
        there = trees.picture(mount.path)
    with mounted(area / "base", area, run_id=mount.run_id) as mount:
        assert trees.differences(there, trees.picture(mount.path)) == []
    with Store.open(area / "store") as store:
        assert not fsck(store).findings


def check_same(native: Path, top: Path) -> None:
    pictures = [trees.picture(native), trees.picture(top)]
    for facts in itertools.chain.from_iterable(picture.values() for picture in pictures):
        facts.pop("mtime_ns", None)
    assert trees.differences(*pictures) == []


def test_many_programs_at_once(area: Path) -> None:
    check_many_programs(area, workers=4, steps=40)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_many_programs_for_long(area: Path) -> None:
    check_many_programs(area, workers=12, steps=1500)
