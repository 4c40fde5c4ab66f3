"""Random sequences of system calls on a plain directory and in a mount, which must answer alike, errno included.

The thousands of sequences are those without a mount (``tests/overlay``); here the real kernel stands in between.
"""

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import trees
from tests.support.bases import fill, pattern, traces
from tests.support.mounts import mounted
from tests.support.native import Native, OpenFile
from tests.support.strategies import Operation, random_operations

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SEQUENCES = 1000 if LONG else 60
SET_BY_HAND = 10**12
"""times below were set with utime, or when the base was made; later ones come from two clocks"""

PLAIN = ("mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "truncate", "chmod", "readlink")
FOLLOWING = ("chown", "utime", "setxattr", "getxattr", "removexattr")
"""operations whose last argument is whether to follow a symlink"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs trusted xattrs and other owners")


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    """The modes that are asked for are the modes that are given."""
    before = os.umask(0)
    yield
    os.umask(before)


class Both:
    """The same calls on two directories."""

    def __init__(self, plain: Path, over: Path) -> None:
        self._sides = (Native(plain), Native(over))
        self._files: dict[int, tuple[OpenFile, OpenFile]] = {}

    def close_all(self) -> None:
        """Close every descriptor."""
        for slot in list(self._files):
            self.close(slot)
        for side in self._sides:
            side.finish()

    def apply(self, operation: Operation) -> None:
        """One operation of ``strategies``; those that are about an overlay without a mount do nothing."""
        name, *arguments = operation
        name = {"rename_dir": "rename", "chmod_dir": "chmod"}.get(name, name)
        if method := getattr(self, name, None):
            method(*arguments)
        elif name in PLAIN:
            self._same(name, *arguments)
        elif name in FOLLOWING:
            self._same(name, *arguments[:-1], follow=arguments[-1])

    def _both(self, *calls: Callable[[], Any]) -> tuple[Any, Any]:
        answers = []
        for call in calls:
            try:
                answers.append((call(), 0))
            except OSError as e:
                answers.append((None, e.errno))
        (expected, failed), (got, over_failed) = answers
        told = [os.strerror(number or 0) for number in (failed, over_failed)]
        assert failed == over_failed, f"{told[0]} on the plain directory, {told[1]} in the mount"
        return expected, got

    def _same(self, name: str, *arguments: Any, **options: Any) -> None:
        if name == "truncate" and self._is_special(arguments[0]):
            return
        plain, over = (getattr(side, name) for side in self._sides)
        expected, got = self._both(lambda: plain(*arguments, **options), lambda: over(*arguments, **options))
        assert expected == got, f"{expected!r} on the plain directory, {got!r} in the mount"

    def _is_special(self, path: bytes) -> bool:
        try:
            mode = self._sides[0].stat(path, follow=True).st_mode
        except OSError:
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    def _agree(self, expected: os.stat_result | None, got: os.stat_result | None) -> None:
        if expected is None or got is None:
            return

        def facts(st: os.stat_result) -> tuple[int, ...]:
            size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
            time = min(st.st_mtime_ns, SET_BY_HAND)
            return st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, size, time

        assert facts(expected) == facts(got), f"{facts(expected)} on the plain directory, {facts(got)} in the mount"

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        if self._is_special(path):
            return
        self.close(slot)
        plain, over = self._sides
        files = self._both(lambda: plain.open(path, flags, mode), lambda: over.open(path, flags, mode))
        if files[0] is not None:
            self._files[slot] = files
            self.fstat(slot)

    def close(self, slot: int) -> None:
        for side, file in zip(self._sides, self._files.pop(slot, ()), strict=False):
            side.close(file)

    def _on_file(self, name: str, slot: int, *arguments: Any) -> tuple[Any, Any]:
        plain, over = self._sides
        a, b = self._files[slot]
        return self._both(lambda: getattr(plain, name)(a, *arguments), lambda: getattr(over, name)(b, *arguments))

    def read(self, slot: int, offset: int, size: int) -> None:
        if slot in self._files:
            expected, got = self._on_file("read", slot, offset, size)
            assert expected == got

    def write(self, slot: int, offset: int, size: int, seed: int) -> None:
        if slot in self._files:
            expected, got = self._on_file("write", slot, offset, pattern(seed, size))
            assert expected == got

    def ftruncate(self, slot: int, size: int) -> None:
        if slot in self._files:
            self._on_file("ftruncate", slot, size)

    def fstat(self, slot: int) -> None:
        if slot in self._files:
            self._agree(*self._on_file("fstat", slot))

    def stat(self, path: bytes, follow: bool) -> None:
        plain, over = self._sides
        self._agree(*self._both(lambda: plain.stat(path, follow=follow), lambda: over.stat(path, follow=follow)))

    def listxattr(self, path: bytes, follow: bool) -> None:
        plain, over = (side.listxattr for side in self._sides)
        expected, got = self._both(lambda: set(plain(path, follow=follow)), lambda: set(over(path, follow=follow)))
        assert expected == got


def pictures(*tops: Path) -> list[Any]:
    """What can be seen of each, with the times that were set."""
    found = []
    for top in tops:
        picture = trees.picture(top)
        for facts in picture.values():
            facts["mtime_ns"] = min(facts["mtime_ns"], SET_BY_HAND)
        found.append(picture)
    return found


@pytest.mark.timeout(3000 if LONG else 180)
def test_random_sequences(area: Path) -> None:
    base, plain = area / "base", area / "plain"
    for top in (base, plain):
        top.mkdir()
        for seed in range(SEQUENCES):
            (top / f"{seed}").mkdir()
            fill(top / f"{seed}", seed)
    before = traces(base)
    with mounted(base, area) as mount:
        mount.wait_watched()
        for seed in range(SEQUENCES):
            source = random.Random(seed)
            both = Both(plain / f"{seed}", mount.path / f"{seed}")
            try:
                for operation in random_operations(source, source.randrange(5, 150)):
                    last = operation
                    both.apply(operation)
                    if source.random() < 0.01:
                        mount.ask("seal")
            except AssertionError as e:
                e.add_note(f"seed {seed}, at {last}")
                raise
            finally:
                both.close_all()
            a, b = pictures(plain / f"{seed}", mount.path / f"{seed}")
            assert trees.differences(a, b) == [], f"seed {seed}"
        run = mount.run_id
    assert traces(base) == before, "the base was changed"
    with mounted(base, area, run_id=run) as mount:
        for seed in range(SEQUENCES):
            a, b = pictures(plain / f"{seed}", mount.path / f"{seed}")
            assert trees.differences(a, b) == [], f"seed {seed}, in the next mount"
