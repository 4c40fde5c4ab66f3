"""The filesystems that are compared: how each shows a base so that it can be written to.

Owns mounting and unmounting them, each with the options its own manual gives for the ordinary case.  Knows no workload
and no clock.  A filesystem that does not answer is cut off from the kernel, so that the next one can be measured.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

Mounter = Callable[[Path, Path, bool], AbstractContextManager[Path]]
CONNECTIONS = Path("/sys/fs/fuse/connections")
ROOT = Path(__file__).resolve().parents[1]
FLOOR = "pyfuse3 alone"
"""a filesystem on pyfuse3 that has nothing to do"""
PATIENCE = 180
"""seconds for a mount or unmount: sealing what was written may take some"""


@dataclass(frozen=True)
class Subject:
    """One filesystem.  ``mount(base, work, copied)`` yields the directory to work in; ``work`` is a fresh directory.

    With ``copied`` the base itself must not be changed, which matters to the native one alone.
    """

    name: str
    lacks: Callable[[], str | None]
    """why it cannot be measured here, or None"""
    mount: Mounter
    version: tuple[str, ...] = ()
    """prints what it is"""
    reads_only: bool = False
    """whether nothing can be written to it"""


def clean_environment() -> dict[str, str]:
    """Ours, without the switches that change how an interpreter works: a user has none of them set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def goexfs_command() -> list[str]:
    """The installed program where there is one beside our interpreter, as a user starts it."""
    script = Path(sys.executable).with_name("goexfs")
    return [str(script)] if script.exists() else [sys.executable, "-m", "goexfs"]


def compile_goexfs() -> None:
    """Do what pip does at an installation: the first start does not compile."""
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "goexfs", "snapshots"],
        cwd=ROOT, env=clean_environment(), check=True,
    )  # fmt: skip


def _run(*argv: str | Path, cwd: Path | None = None, variables: Mapping[str, str | Path] | None = None) -> None:
    environ = clean_environment() | {name: str(value) for name, value in (variables or {}).items()}
    with contextlib.ExitStack() as stack:
        # Into a file: whoever stays in the background would hold a pipe open for as long as it lives.
        said = stack.enter_context(open(os.memfd_create("said"), "w+b"))
        done = subprocess.run(
            [str(word) for word in argv], env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-300:]
            raise RuntimeError(f"{Path(argv[0]).name} ended with status {done.returncode}: {words}")


def _needs(command: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(command) else f"{command} is not on PATH"


def _unmount(mountpoint: Path, *argv: str | Path, variables: Mapping[str, str | Path] | None = None) -> None:
    """By the command given, else by ``umount``; what does not come off is detached and cut off."""
    try:
        _run(*(argv or ("umount", mountpoint)), variables=variables)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        cut_off(mountpoint)
        subprocess.run(["umount", "-l", mountpoint], check=False, stderr=subprocess.DEVNULL)
        raise RuntimeError(f"it did not unmount: {error}") from None


def cut_off(mountpoint: Path) -> None:
    """Fail all requests of a FUSE filesystem that has stopped answering, so that who waits for it can be killed.

    Without asking the filesystem anything: the device's number is in the kernel's own table of mounts.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(mountpoint) and " fuse" in line:
            abort = CONNECTIONS / fields[2].partition(":")[2] / "abort"
            if not abort.exists():  # nobody has mounted this one
                subprocess.run(["mount", "-t", "fusectl", "fusectl", CONNECTIONS], check=False)
            abort.write_text("1")


@contextlib.contextmanager
def _native(base: Path, work: Path, copied: bool) -> Iterator[Path]:
    """The directory itself, or a copy of it, made before the clock starts."""
    if not copied:
        yield base
        return
    copy = work / "copy"
    _run("cp", "-a", "--reflink=auto", "--sparse=always", base, copy)
    yield copy


def _places(work: Path, *names: str) -> list[Path]:
    places = [work / name for name in names]
    for place in places:
        place.mkdir()
    return places


@contextlib.contextmanager
def _overlayfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    upper, scratch, mountpoint = _places(work, "upper", "scratch", "mnt")
    _run("mount", "-t", "overlay", "-o", f"lowerdir={base},upperdir={upper},workdir={scratch}", "overlay", mountpoint)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint)


@contextlib.contextmanager
def _fuse_overlayfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    upper, scratch, mountpoint = _places(work, "upper", "scratch", "mnt")
    _run("fuse-overlayfs", "-o", f"lowerdir={base},upperdir={upper},workdir={scratch}", mountpoint)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint)


@contextlib.contextmanager
def _unionfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    upper, mountpoint = _places(work, "upper", "mnt")
    _run("unionfs", "-o", "cow", f"{upper}=RW:{base}=RO", mountpoint)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint)


@contextlib.contextmanager
def _agentfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    (mountpoint,) = _places(work, "mnt")
    _run("agentfs", "init", "bench", "--base", base, cwd=work, variables={"HOME": work})
    _run("agentfs", "mount", "bench", mountpoint, cwd=work, variables={"HOME": work})
    try:
        yield _mounted(mountpoint)
    finally:
        _unmount(mountpoint)


@contextlib.contextmanager
def _branchfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    storage, mountpoint = _places(work, "storage", "mnt")
    _run("branchfs", "mount", "--base", base, "--storage", storage, mountpoint)
    try:
        _run("branchfs", "create", "bench", _mounted(mountpoint), "--storage", storage)
        yield mountpoint
    finally:
        _unmount(mountpoint, "branchfs", "unmount", mountpoint, "--storage", storage)


def _mounted(mountpoint: Path) -> Path:
    if not mountpoint.is_mount():
        raise RuntimeError("it said that it was mounted, and was not")
    return mountpoint


@contextlib.contextmanager
def _goexfs(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    """A run with the built-in policy, in a store of its own, as ``goexfs mount`` begins it."""
    (mountpoint,) = _places(work, "mnt")
    store = {"GOEXFS_HOME": work / "store"}
    _run(*goexfs_command(), "mount", base, mountpoint, variables=store)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint, *goexfs_command(), "umount", mountpoint, variables=store)


@contextlib.contextmanager
def _floor(base: Path, work: Path, _copied: bool) -> Iterator[Path]:
    (mountpoint,) = _places(work, "mnt")
    _run(sys.executable, "-m", "bench.floor", base, mountpoint, cwd=ROOT)
    try:
        yield _mounted(mountpoint)
    finally:
        _unmount(mountpoint)


def _root() -> str | None:
    return None if os.geteuid() == 0 else "only root may mount it"


SUBJECTS = (
    Subject("native", lambda: None, _native),
    Subject("overlayfs", _root, _overlayfs),
    Subject("fuse-overlayfs", _needs("fuse-overlayfs"), _fuse_overlayfs, ("fuse-overlayfs", "--version")),
    Subject("unionfs-fuse", _needs("unionfs"), _unionfs, ("unionfs", "--version")),
    Subject("agentfs", _needs("agentfs"), _agentfs, ("agentfs", "--version")),
    Subject("branchfs", _needs("branchfs"), _branchfs, ("branchfs", "--version")),
    Subject(FLOOR, _root, _floor, reads_only=True),
    Subject("goexfs", lambda: None, _goexfs, (*goexfs_command(), "--version")),
)


def version(subject: Subject) -> str:
    """The line of what it prints that names it and has a number; its name when there is none."""
    if not subject.version:
        return subject.name
    done = subprocess.run(subject.version, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    said = (line.strip() for line in (done.stdout + done.stderr).splitlines())
    return next((line for line in said if subject.name in line and any(map(str.isdigit, line))), subject.name)
