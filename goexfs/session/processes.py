"""Processes as Linux shows them: pidfds, parentage, ignored signals, and the killing of a whole family.

Owns the reading of ``/proc/PID`` and the adoption of orphans (a process-wide switch).  Knows no run but the value of
``GOEXFS_RUN`` by which a descendant is recognised.  Any thread.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

_plain_children: set[int] = set()
"""pids of commands that ``process`` runs without a sandbox at this moment: nobody's orphans"""


def open_pid(pid: int) -> int:
    """A pidfd; -1 when there is no such process any more."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def signal_pidfd(pidfd: int, number: int) -> None:
    """Send a signal; a process that has ended is no error."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def wait_pidfd(pidfd: int, timeout: float) -> bool:
    """Wait until the process has ended; False after ``timeout`` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def children(pid: int) -> list[int]:
    """Direct children of a process, oldest first; empty when it is gone."""
    found: list[int] = []
    try:
        for task in os.scandir(f"/proc/{pid}/task"):
            with open(f"{task.path}/children", "rb") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        if not os.path.exists(f"/proc/{pid}"):
            return []
        return sorted(_children_by_parent(pid))  # a kernel without CONFIG_PROC_CHILDREN
    return sorted(found)


def _children_by_parent(parent: int) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and status_field(int(name), "PPid") == str(parent):
            yield int(name)


def first_child(parent: int, *, inner_pid: int) -> int | None:
    """The child of ``parent`` that is ``inner_pid`` in its own PID namespace; None when there is none (yet)."""
    for pid in children(parent):
        if (status_field(pid, "NSpid") or "").split()[-1:] == [str(inner_pid)]:
            return pid
    return None


def status_field(pid: int, field: str) -> str | None:
    """One field of ``/proc/PID/status``; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == field:
                    return value.strip()
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def born(pid: int) -> int | None:
    """When the process began, in the kernel's ticks since the machine did; None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def ignores_all(pid: int, signals: Iterable[int]) -> bool:
    """Whether the process ignores every one of the signals."""
    mask = int(status_field(pid, "SigIgn") or "0", 16)
    return all(mask >> (number - 1) & 1 for number in signals)


def adopt_orphans() -> bool:
    """Become the parent of descendants whose parent dies; what the switch was before."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return bool(before.value)


def stop_adopting(before: bool) -> None:
    """Put the switch back to what ``adopt_orphans`` returned."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(before))


def register_plain(pid: int) -> None:
    """Say that this child is a command, not somebody's orphan."""
    _plain_children.add(pid)


def kill_descendants(popen: "subprocess.Popen[bytes]", run_id: str, timeout: float) -> None:
    """Kill a command, all its descendants and the orphans that it left to this process; wait until they are gone.

    A process that forks while it is being killed is caught by the next round.
    """
    deadline = time.monotonic() + timeout
    while True:
        family = descendants(popen.pid) if popen.poll() is None else []
        if popen.returncode is None:
            family.append(popen.pid)
        orphans = _orphans(run_id, popen.pid)
        for orphan in orphans:
            family += [*descendants(orphan), orphan]
        for pid in family:
            _kill(pid)
        for orphan in orphans:
            _reap(orphan)
        if not family or time.monotonic() > deadline:
            break
        time.sleep(0.005)
    _plain_children.discard(popen.pid)


def descendants(pid: int) -> list[int]:
    """Every living process below ``pid``, deepest first."""
    found: list[int] = []
    for child in children(pid):
        if status_field(child, "State") not in (None, "Z (zombie)"):
            found += [*descendants(child), child]
    return found


def marked(run_id: str) -> list[int]:
    """Living processes that carry the run's mark in their environment, as far as this user may look."""
    mark = b"GOEXFS_RUN=" + run_id.encode()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and mark in _environment(int(name))]


def _orphans(run_id: str, command: int) -> list[int]:
    """Children of this process that carry the run's mark and that nobody here started."""
    mark = b"GOEXFS_RUN=" + run_id.encode()
    strangers = [pid for pid in children(os.getpid()) if pid != command and pid not in _plain_children]
    return [pid for pid in strangers if mark in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        pass  # it changed its user (sudo): not ours to kill, and the unmount will name it


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
