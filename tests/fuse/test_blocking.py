"""Whoever asks for what is not in memory waits, and nobody else does.

The base is a disk that answers when it is told to (`tests.support.gated`).  While each of its answers is held back,
another request must be answered: it is not if the event loop is what waits.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotAnswered
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.slowbase import SlowBaseTree
from goexfs.overlay.warming import Walk
from tests.support.disks import disk, why_not
from tests.support.gated import Gate, Question, gated
from tests.support.mounts import Mounted, eventually, mounted

BLOCKED_S = 15.0
"""after which a request that is not answered never will be; what is answered takes no time"""
MUTANT_S = 0.5

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount that others may enter"),
    pytest.mark.timeout(120),
]


class Waiting(LocalBaseTree):
    """A base that always waits, which is what the tests here are to find."""

    @property
    def waiting(self) -> bool:
        """Always."""
        return True

    @waiting.setter
    def waiting(self, waiting: bool) -> None:
        pass


class Impatient(LocalBaseTree):
    """One that takes what it does not know for something that is in memory."""

    def _read(self, kind: str, d: Any, name: bytes, directly: Callable[[], Any]) -> Any:
        return directly()


class OldKernel(LocalBaseTree):
    """As before Linux 5.12, which cannot be asked for what it has in memory."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self._can_ask = False


def make(source: Path) -> None:
    """One of each that can be asked for."""
    for number in range(2):
        top = source / f"dir{number}"
        (top / "sub").mkdir(parents=True)
        for name in ("a", "b", "sub/deep"):
            (top / name).write_bytes(b"content " * 20_000)
            os.setxattr(top / name, "user.large", os.urandom(900))
        os.symlink("x" * 300, top / "link")
        os.symlink("short", top / "short")
    (source / "big").write_bytes(os.urandom(3 << 20))
    (source / "small").write_bytes(b"small")


@contextmanager
def probed(gate: Gate, mount: Mounted, seconds: float = BLOCKED_S) -> Iterator[None]:
    """Meanwhile, whenever the disk holds back an answer, a request of somebody else must be answered."""
    with ThreadPoolExecutor() as others:

        def look(question: Question) -> None:
            try:
                others.submit(os.statvfs, mount.path).result(seconds)
            except NotAnswered:
                raise AssertionError(f"the event loop waits for {question}") from None

        with gate.looking(look):
            yield


def shell(script: str, place: Path) -> None:
    """Two programs at once do the same.

    They go there themselves: with ``cwd`` this process would wait for the mount, with all of its threads, while one of
    them is to have the disk answer.
    """
    command = ["sh", "-euc", f'cd "$0"\n{script}', place]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait(60) for each in running] == [0, 0]


LOOKING = "find . -printf '%s %l\\n'; getfattr -h -R -m - . >/dev/null; find . -type f -exec tail -c 5000 {} +"
READING = "cat dir1/sub/deep; readlink dir0/link; getfattr -d dir0/b; ls dir1; test ! -e dir0/nothing; cat big"
CHANGING = """
printf x >> dir0/a; printf x | dd of=big conv=notrunc bs=1 seek=1000 status=none; chmod 600 dir1/b; rm dir0/b
setfattr -n user.new -v 1 dir1/sub/deep; mv dir0/sub dir0/moved; mv dir1 second; ln second/a linked; cat dir0/moved/deep
mkdir new; mv small new; truncate -s 100 dir0/moved/deep; rm -r second; : > dir0/a; ln -s x dir0/new; tail -c 9 big
"""


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        pytest.param(LocalBaseTree, LOOKING, id="looking"),
        pytest.param(LocalBaseTree, READING, id="reading"),
        pytest.param(LocalBaseTree, CHANGING, id="changing"),
        pytest.param(OldKernel, CHANGING, id="changing, old kernel"),
        pytest.param(SlowBaseTree, LOOKING, id="looking, slow"),
        pytest.param(SlowBaseTree, CHANGING, id="changing, slow"),
    ],
)
def test_nobody_else_waits(area: Path, kind: Callable[[bytes], Any], script: str) -> None:
    make(area / "source")
    with (
        gated(area / "source", area / "base") as gate,
        mounted(gate.path, area, watch=False, open_base=kind) as mount,
    ):
        with probed(gate, mount):
            if script is CHANGING:
                command = ["sh", "-euc", f'cd "$0"\n{script}', mount.path]
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            else:
                shell(script, mount.path)
        kinds = {what for what, _, _ in gate.held}
        assert kinds >= {"lookup", "read"}, "nothing had to be waited for"
        assert len(gate.held) > 10


@pytest.mark.parametrize("kind", [Waiting, Impatient])
def test_an_event_loop_that_waits_is_found(area: Path, kind: Callable[[bytes], Any]) -> None:
    make(area / "source")
    with (
        gated(area / "source", area / "base") as gate,
        mounted(gate.path, area, watch=False, open_base=kind) as mount,
        pytest.raises(AssertionError, match="the event loop waits for"),
        probed(gate, mount, MUTANT_S),
    ):
        shell(LOOKING, mount.path)


def test_a_read_that_does_not_ask_for_the_page_cache_is_found(area: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_and_wait(fd: int, offset: int, length: int) -> memoryview:
        return memoryview(os.pread(fd, length, offset))

    make(area / "source")
    with gated(area / "source", area / "base") as gate:
        monkeypatch.setattr("goexfs.overlay.reading.read_now", read_and_wait)  # the server is a fork of this process
        with (
            mounted(gate.path, area, watch=False, open_base=LocalBaseTree) as mount,
            pytest.raises(AssertionError, match=r"the event loop waits for \('read'"),
            probed(gate, mount, MUTANT_S),
        ):
            shell(READING, mount.path)


def test_names_that_were_reported_are_looked_at_elsewhere(area: Path) -> None:
    make(area / "source")
    os.link(area / "source" / "small", area / "source" / "hard")  # so that every name may be one of a known file
    with (
        gated(area / "source", area / "base") as gate,
        mounted(gate.path, area, watch=False, open_base=LocalBaseTree) as mount,
        probed(gate, mount),
    ):
        (mount.path / "hard").stat()
        mount.ask("base_changed", "dir1/b", "dir0/sub/deep")
        eventually(lambda: ("lookup", "dir0/sub", "deep") in gate.held, BLOCKED_S)
        assert ("lookup", "dir1", "b") in gate.held


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_dead_mount_below_is_not_asked_even_where_listings_do_not_tell_what_is_a_directory(area: Path) -> None:
    (area / "source").mkdir()
    with disk(area, 16 << 20, without="filetype") as own:
        (own.path / "file").touch()
        with gated(area / "source", own.path / "mnt") as gate, ThreadPoolExecutor() as others:
            top, walk = os.open(own.path, os.O_RDONLY), Walk()
            os.kill(gate.pid, signal.SIGSTOP)
            try:
                known = others.submit(walk.read, top, attributes=True).result(BLOCKED_S)
            finally:
                os.kill(gate.pid, signal.SIGCONT)
                os.close(top)
                walk.close()
            assert "list" in [what for what, _ in known]
