"""What single operations cost in requests, in bytes stored and in memory: the targets that are no times.

Owns these measurements.  They are made in a mount whose server is asked over a socket (see ``tests.support.mounts``),
without a sandbox and a journal: neither is in the way of a request that is counted.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.document import Figure
from bench.measure import drop_caches
from bench.trees import Trees
from tests.support.mounts import ASYNCHRONOUS, Mounted, mounted

PATIENCE = 30
"""seconds in which the kernel forgets what it is told to forget"""


def operations(place: Path, trees: Trees) -> Iterator[Figure]:
    """All of them."""
    with tempfile.TemporaryDirectory(dir=place) as work:
        yield from _requests(trees.get("wide") / "wide", _made(work, "files"))
        yield from _first_write(trees.get("huge"), _made(work, "first"))
        yield from _rename(trees.get("wide"), _made(work, "rename"))
        yield from _memory(trees.get("fifty_thousand"), _made(work, "memory"))


def _made(work: str, name: str) -> Path:
    place = Path(work) / name
    place.mkdir()
    return place


def _requests(base: Path, place: Path) -> Iterator[Figure]:
    with mounted(base, place) as mount:
        mount.wait_watched()
        known, new = mount.path / "1", mount.path / "new"
        os.listdir(mount.path)
        known.read_bytes()

        def create() -> None:
            fd = os.open(new, os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(fd, b"some content")
            os.close(fd)

        yield _counted(mount, "stat of a known file", lambda: os.stat(mount.path / "2"))
        yield _counted(mount, "open, read and close of a known file", lambda: _read(known))
        yield _counted(mount, "create, write and close of a small file", create)


def _read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)


def _counted(mount: Mounted, name: str, operation: Callable[[], object]) -> Figure:
    with mount.counting() as counted:
        operation()
    return Figure(name, "requests", [sum(n for kind, n in counted.items() if kind not in ASYNCHRONOUS)])


def _first_write(base: Path, place: Path) -> Iterator[Figure]:
    with mounted(base, place) as mount:
        before = _stored(mount)
        fd = os.open(mount.path / "huge", os.O_RDWR)
        os.pwrite(fd, b"x" * 4096, 3 << 30)
        os.fsync(fd)
        os.close(fd)
        mount.ask("seal")
        yield Figure("first 4 KiB into 4 GiB: stored", "KiB", [(_stored(mount) - before) / 1024])


def _rename(base: Path, place: Path) -> Iterator[Figure]:
    with mounted(base, place) as mount:
        before = _stored(mount)
        os.rename(mount.path / "wide", mount.path / "renamed")
        mount.ask("seal")
        yield Figure("rename of 10,000 files' directory: stored", "KiB", [(_stored(mount) - before) / 1024])


def _stored(mount: Mounted) -> int:
    return sum(path.lstat().st_blocks * 512 for path in mount.store.rglob("*"))


def _memory(base: Path, place: Path) -> Iterator[Figure]:
    """Of the server, by what is resident: before it knows a file, when it knows all, when the kernel forgot them."""
    with mounted(base, place) as mount:
        mount.wait_watched()
        before, few = mount.ask("rss"), mount.ask("nodes")
        subprocess.run(["find", ".", "-size", "+1k"], cwd=mount.path, stdout=subprocess.DEVNULL, check=True)
        known = mount.ask("nodes") - few
        full = mount.ask("rss")
        yield Figure("memory of a file that the kernel knows", "B", [(full - before) / known])
        drop_caches()
        deadline = time.monotonic() + PATIENCE
        while mount.ask("nodes") > few + known / 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield Figure("nodes left when the kernel forgot the files", "nodes", [mount.ask("nodes") - few])
        kept = max(mount.ask("rss") - before, 0)
        yield Figure("share of that memory that stays then", "%", [100 * kept / (full - before)])
