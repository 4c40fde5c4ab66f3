"""The processes of a run at work: which there are, signals for them, stopping them and letting them go on.

Owns what these mean, with and without a sandbox, with and without a control group.  Asks ``roster`` which command is at
work; never touches the filesystem's own process, which is none of the command's.  Any thread, any process of the user.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from goexfs.session import cgroups, processes, roster
from goexfs.session.roster import Running
from snapshots.errors import RunState
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

_ROUNDS = 200
_ROUND_SECONDS = 0.005


class Task(msgspec.Struct, frozen=True):
    """One process of a run."""

    pid: int
    inner_pid: int
    """what the run itself calls it"""
    parent: int
    user: str
    state: str
    """as ``ps`` of the system calls it, in a word"""
    started: float
    """seconds since the epoch"""
    cpu_seconds: float
    memory: int
    """bytes that are in memory, shared ones too"""
    command: tuple[str, ...]
    """undecodable bytes as surrogates; empty when it cannot be read"""


class Activity:
    """The processes of a ``RunHandle``, which has the rest."""

    id: str
    _store: Store
    record: Run

    def _directory(self) -> Path:
        return self._store.runs.directory(self.id)

    @property
    def is_paused(self) -> bool:
        """Whether a command is at work in the run that has been stopped by ``pause``."""
        return self.record.state == "active" and is_paused(self._directory())

    def processes(self) -> list[Task]:
        """What ``exec`` has started and is at work now, the oldest first; empty when nothing is."""
        running = roster.read(self._directory()) if self.record.is_live else None
        return [] if running is None else tasks(running, self.id)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the command, and SIGKILL to all that it started.  Raises ``RunState`` if there is none."""
        running = roster.read(self._directory()) if self.record.is_live else None
        if running is None or not send(running, self.id, number):
            raise self._idle()

    def pause(self) -> None:
        """Stop the command and all that it started, but not the filesystem.  Raises ``RunState`` if there is none."""
        if not self.record.is_live or not pause(self._directory(), self.id):
            raise self._idle()

    def resume(self) -> None:
        """Let a paused command go on.  Raises ``RunState`` if there is none."""
        if not self.record.is_live or not resume(self._directory(), self.id):
            if self.record.is_live and roster.read(self._directory()) is not None:
                raise RunState(f"run {self.record.label} is not paused")
            raise self._idle()

    def _idle(self) -> RunState:
        return RunState(f"no command is at work in run {self.record.label}; goexfs ls shows which runs are active")


def has_group(running: Running, run_id: str, group: int) -> bool:
    """Whether a process group of the terminal is one of the command's."""
    for pid in members(running, run_id):
        try:
            if os.getpgid(pid) == group:
                return True
        except ProcessLookupError:
            continue
    return False


def members(running: Running, run_id: str) -> list[int]:
    """The pids of everything the command has started and itself, the oldest first."""
    family = processes.descendants(running.root)[::-1]
    if running.sandboxed:
        return family
    return sorted({running.root, *family, *processes.marked(run_id)} - {running.session})


def tasks(running: Running, run_id: str) -> list[Task]:
    """What ``members`` are doing; those that end meanwhile are left out."""
    import psutil

    found = []
    for pid in members(running, run_id):
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                cpu = process.cpu_times()
                inner = (processes.status_field(pid, "NSpid") or str(pid)).split()[-1]
                found.append(
                    Task(
                        pid, int(inner), process.ppid(), process.username(), process.status(), process.create_time(),
                        cpu.user + cpu.system, process.memory_info().rss, tuple(process.cmdline()) or (process.name(),),
                    )
                )  # fmt: skip
        except psutil.Error:
            continue
    return found


def send(running: Running, run_id: str, number: int) -> bool:
    """Signal the command itself; SIGKILL goes to everything that it started too.  False when it has ended."""
    if number == signal.SIGKILL:
        victims = [running.root] if running.sandboxed else members(running, run_id)
    else:
        command = processes.first_child(running.root, inner_pid=2) if running.sandboxed else running.root
        victims = [] if command is None else [command]
    sent = False
    for pid in victims:
        pidfd = processes.open_pid(pid)
        if pidfd < 0:
            continue
        try:
            # Looked at after the pidfd was opened: from then on the number cannot change its owner unnoticed.
            if processes.born(running.root) == running.born:
                processes.signal_pidfd(pidfd, number)
                sent = True
        finally:
            os.close(pidfd)
    return sent


def pause(directory: Path, run_id: str) -> bool:
    """Stop the command of a run and all it started; False when there is none."""
    running = roster.read(directory)
    if running is None:
        return False
    if running.place is not None and cgroups.freeze(running.place, True):
        return True
    roster.mark_paused(directory, True)
    for _ in range(_ROUNDS):  # what is started meanwhile is met in the next round
        awake = [pid for pid in members(running, run_id) if not _is_stopped(pid)]
        if not awake:
            break
        for pid in awake:
            _signal(pid, signal.SIGSTOP)
        time.sleep(_ROUND_SECONDS)
    return True


def resume(directory: Path, run_id: str) -> bool:
    """Let a paused command go on; False when there is none, or it was not paused."""
    running = roster.read(directory)
    if running is None or not is_paused(directory):
        return False
    if running.place is not None and cgroups.is_frozen(running.place):
        return cgroups.freeze(running.place, False)
    roster.mark_paused(directory, False)
    for pid in members(running, run_id)[::-1]:
        _signal(pid, signal.SIGCONT)
    return True


@contextmanager
def held(directory: Path, run_id: str) -> Iterator[None]:
    """Nothing of the command goes on meanwhile; what was stopped before is stopped after, too.

    Does not wait for what is in the kernel: it stands still once it comes out of there.
    """
    running = roster.read(directory)
    if running is None or is_paused(directory):
        yield
        return
    if running.place is not None and cgroups.freeze(running.place, True, wait=False):
        try:
            yield
        finally:
            cgroups.freeze(running.place, False, wait=False)
        return
    stopped: list[int] = []
    for _ in range(_ROUNDS):  # parents first: a shell must not see its job stop
        awake = [pid for pid in members(running, run_id) if pid not in stopped and not _is_stopped(pid)]
        if not awake:
            break
        for pid in awake:
            _signal(pid, signal.SIGSTOP)
        stopped += awake
    try:
        yield
    finally:
        for pid in reversed(stopped):
            _signal(pid, signal.SIGCONT)


def is_paused(directory: Path) -> bool:
    """Whether a command is at work that has been stopped."""
    running = roster.read(directory)
    if running is None:
        return False
    return roster.is_marked_paused(directory) or (running.place is not None and cgroups.is_frozen(running.place))


def _is_stopped(pid: int) -> bool:
    return (processes.status_field(pid, "State") or "Z").startswith(("T", "t", "Z", "X"))


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or it changed its user
