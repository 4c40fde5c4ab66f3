"""The filesystems that are compared: how each shows a base so that it can be written to.

Owns mounting and unmounting them.  Knows no workload and no clock.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

Mounter = Callable[[Path, Path, bool], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Subject:
    """One filesystem.  ``mount(base, work, writes)`` yields the directory to work in; ``work`` is a fresh directory."""

    name: str
    lacks: Callable[[], str | None]
    """why it cannot be measured here, or None"""
    mount: Mounter


def _run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def _needs(command: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(command) else f"{command} is not on PATH"


@contextlib.contextmanager
def _native(base: Path, work: Path, writes: bool) -> Iterator[Path]:
    """The directory itself; a copy of it when the workload writes (made before the clock starts)."""
    if not writes:
        yield base
        return
    copy = work / "copy"
    _run("cp", "-a", "--reflink=auto", "--sparse=always", base, copy)
    _run("sync", "-f", copy)
    yield copy


def _places(work: Path, *names: str) -> list[Path]:
    places = [work / name for name in names]
    for place in places:
        place.mkdir()
    return places


@contextlib.contextmanager
def _overlayfs(base: Path, work: Path, _writes: bool) -> Iterator[Path]:
    upper, scratch, mountpoint = _places(work, "upper", "scratch", "mnt")
    _run("mount", "-t", "overlay", "-o", f"lowerdir={base},upperdir={upper},workdir={scratch}", "overlay", mountpoint)
    try:
        yield mountpoint
    finally:
        _run("umount", mountpoint)


@contextlib.contextmanager
def _fuse_overlayfs(base: Path, work: Path, _writes: bool) -> Iterator[Path]:
    upper, scratch, mountpoint = _places(work, "upper", "scratch", "mnt")
    _run("fuse-overlayfs", "-o", f"lowerdir={base},upperdir={upper},workdir={scratch}", mountpoint)
    try:
        yield mountpoint
    finally:
        _run("umount", mountpoint)


@contextlib.contextmanager
def _unionfs(base: Path, work: Path, _writes: bool) -> Iterator[Path]:
    upper, mountpoint = _places(work, "upper", "mnt")
    _run("unionfs", "-o", "cow", f"{upper}=RW:{base}=RO", mountpoint)
    try:
        yield mountpoint
    finally:
        _run("umount", mountpoint)


@contextlib.contextmanager
def _goexfs(base: Path, work: Path, _writes: bool) -> Iterator[Path]:
    (mountpoint,) = _places(work, "mnt")
    environ = {**os.environ, "GOEXFS_HOME": str(work / "store")}

    def goexfs(*words: str | Path) -> None:
        argv = [sys.executable, "-m", "goexfs", *map(str, words)]
        subprocess.run(argv, check=True, env=environ, capture_output=True, stdin=subprocess.DEVNULL)

    goexfs("mount", base, mountpoint)
    try:
        yield mountpoint
    finally:
        goexfs("umount", mountpoint)


def _root() -> str | None:
    return None if os.geteuid() == 0 else "only root may mount it"


SUBJECTS = (
    Subject("native", lambda: None, _native),
    Subject("overlayfs", _root, _overlayfs),
    Subject("fuse-overlayfs", _needs("fuse-overlayfs"), _fuse_overlayfs),
    Subject("unionfs-fuse", _needs("unionfs"), _unionfs),
    Subject("goexfs", lambda: None, _goexfs),
)
