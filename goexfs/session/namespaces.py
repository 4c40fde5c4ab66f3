"""Going into the namespaces of a sandbox from outside, and closing it against what is not to be seen in it.

Owns these system calls.  bubblewrap makes the mounts that a sandbox begins with; it leaves out two things, which are
done here, when it has made them and before the command starts:

* where the host's mounts are shared (systemd shares them all), a filesystem that somebody mounts later would appear
  inside, and writable: the mounts of the sandbox are made private;
* the mounts of other runs, wherever they are, get an empty directory in their place.

Knows no run.  Any thread: who goes into another namespace is a process of its own.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn

from goexfs.session import processes
from goexfs.session.errors import SandboxError
from snapshots.names import readable

_KINDS = {"user": 0x10000000, "net": 0x40000000, "mnt": 0x00020000}
_NS_GET_USERNS = 0xB701
_CAP_SYS_ADMIN = 21
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 1, 2, 4, 0x4000, 1 << 18
_SETUP_SECONDS = 60.0
"""How long bubblewrap may take for its mounts: it looks at every path that it is given."""
_ENTER_SECONDS = 30.0
_DUMPABLE_SECONDS = 2.0


def enter(pid: int, kind: Literal["net", "mnt"]) -> None:
    """Go into a namespace of a process, through the user namespace that owns it.  Raises ``OSError``."""
    namespace = _opened(f"/proc/{pid}/ns/{kind}")
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    if os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino:
        _set(owner, "user")
    _set(namespace, kind)


def _opened(path: str) -> int:
    """bubblewrap gives up its rights first, and lets its user look at it a moment later."""
    deadline = time.monotonic() + _DUMPABLE_SECONDS
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _set(fd: int, kind: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is there from Python 3.12 on
    if libc.setns(fd, _KINDS[kind]) != 0:
        raise OSError(ctypes.get_errno(), f"entering the sandbox: {os.strerror(ctypes.get_errno())}")


def seclude(init: int, shown_of: Callable[[list[bytes]], list[bytes]]) -> None:
    """Close the sandbox of process ``init``, whose command has not started, as is said above.

    ``shown_of`` tells which of the host's directories can be seen inside at their paths, and are not meant to be.
    Returns at once when ``init`` ends meanwhile.  Raises ``SandboxError``.
    """
    if not _is_set_up(init):
        return
    receives, others = _mounts(init)
    covered = shown_of(others) if others else []
    if not receives and not covered:
        return
    words = [str(init), *map(os.fsdecode, covered)]
    said = _fork(words) if threading.active_count() == 1 else _spawn(words)
    if said and processes.born(init) is not None:
        raise SandboxError(
            f"the sandbox cannot be closed against what is mounted on the host ({readable(said)}); "
            "--no-sandbox runs without confinement"
        )


def _is_set_up(init: int) -> bool:
    """Wait until bubblewrap has made all mounts and given up the right to make more; False when it is gone."""
    deadline = time.monotonic() + _SETUP_SECONDS
    while True:
        held = processes.status_field(init, "CapPrm")
        if held is None or (processes.status_field(init, "State") or "Z").startswith(("Z", "X")):
            return False
        if not int(held, 16) >> _CAP_SYS_ADMIN & 1:
            return True
        if time.monotonic() > deadline:
            raise SandboxError(f"bubblewrap did not make the sandbox within {_SETUP_SECONDS:.0f} s")
        time.sleep(0.001)


def _mounts(pid: int) -> tuple[bool, list[bytes]]:
    """Whether a process sees what is mounted elsewhere later, and where runs are mounted for it."""
    from goexfs.fuse import device

    found = device.mounts(pid)
    return any(each.receives for each in found), [each.point for each in found if each.type == device.TYPE]


def _fork(words: Sequence[str]) -> bytes:
    """What goes wrong, in a forked child."""
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for this process
    child = os.fork()
    if not child:
        os.close(reading)
        _report(writing, words)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    try:
        with open(reading, "rb") as file:
            return file.read()
    finally:
        os.waitpid(child, 0)


def _spawn(words: Sequence[str]) -> bytes:
    """The same, in a fresh interpreter: a process with threads must not go on with Python after forking."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from goexfs.session.namespaces import main; main(sys.argv[1:])"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True, timeout=_ENTER_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return b"it takes too long"
    return done.stdout or (b"" if done.returncode == 0 else b"it ended")


def main(words: Sequence[str]) -> NoReturn:
    """The beginning of that interpreter."""
    _report(1, words)


def _report(fd: int, words: Sequence[str]) -> NoReturn:
    try:
        _close(int(words[0]), [os.fsencode(word) for word in words[1:]])
    except BaseException as error:
        os.write(fd, str(getattr(error, "strerror", None) or error).encode()[:500] or b"?")
        os._exit(1)
    os._exit(0)


def _close(init: int, covered: Sequence[bytes]) -> None:
    """Inside: make the mounts private, and cover these."""
    libc = ctypes.CDLL(None, use_errno=True)
    enter(init, "mnt")
    _mount(libc, None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    for path in covered:
        try:
            _mount(libc, b"none", path, b"tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, b"mode=0700,size=4k")
        except FileNotFoundError:
            pass  # it has been unmounted, or is below something else


def _mount(
    libc: ctypes.CDLL, source: bytes | None, path: bytes, kind: bytes | None, flags: int, data: bytes | None
) -> None:
    if libc.mount(source, path, kind, ctypes.c_ulong(flags), data) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
