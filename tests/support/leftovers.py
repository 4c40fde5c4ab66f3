"""What a test left behind: mounts, and processes that still hold files of the test session.

Knows the session's directories and /proc; knows nothing of goexfs itself, so it finds what goexfs forgot.
"""

import os
import signal
import subprocess
import time
from pathlib import Path


def mounts_below(*roots: Path) -> set[bytes]:
    """Mountpoints at or below any of ``roots``, dead ones included (their names are read, they are not touched)."""
    prefixes = [os.fsencode(root).rstrip(b"/") for root in roots]
    found = set()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = line.split(b" ")[4].decode("unicode_escape").encode("latin-1")
        if any(point == prefix or point.startswith(prefix + b"/") for prefix in prefixes):
            found.add(point)
    return found


def unmount(point: bytes) -> None:
    """Detach one mount by force: what a failed test left must not hang the next one."""
    subprocess.run([b"umount", b"-l", point], capture_output=True, check=False)


def processes_below(*roots: Path) -> dict[int, str]:
    """Processes other than this one with a file open or the working directory below ``roots``: pid to command line."""
    prefixes = tuple(str(root).rstrip("/") + "/" for root in roots)
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid == os.getpid():
            continue
        if _holds(pid, prefixes):
            found[pid] = _command_line(pid)
    return found


def _holds(pid: int, prefixes: tuple[str, ...]) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith(prefixes):
            return True
        with os.scandir(f"/proc/{pid}/fd") as fds:
            return any(_target(fd.path).startswith(prefixes) for fd in fds)
    except OSError:
        return False  # ended meanwhile, or not ours to look at


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def own_files_below(*roots: Path) -> list[str]:
    """Files below ``roots`` that this process has open: a server that is forked would inherit them."""
    prefixes = tuple(str(root).rstrip("/") + "/" for root in roots)
    with os.scandir("/proc/self/fd") as fds:
        return sorted(target for fd in fds if (target := _target(fd.path)).startswith(prefixes))


def settled_processes_below(*roots: Path, within: float = 2.0) -> dict[int, str]:
    """As ``processes_below``, giving what is just ending ``within`` seconds to end."""
    deadline = time.monotonic() + within
    while (found := processes_below(*roots)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def clear(*roots: Path) -> list[str]:
    """Kill and unmount what is left below ``roots``, and say what it was: one line each, empty when all was well."""
    processes = settled_processes_below(*roots)
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    mounts = sorted(mounts_below(*roots), reverse=True)
    for point in mounts:
        unmount(point)
    return [f"mount {point!r}" for point in mounts] + [f"process {pid}: {line}" for pid, line in processes.items()]
