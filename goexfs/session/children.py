"""How a command of a run is started, found again, signalled and killed: in bubblewrap or plainly.

Owns the process tree below goexfs.  Knows no run and no store, and decides nothing: ``process`` does.  A child belongs
to the thread that made it.

Bubblewrap and signals: a terminal sends them to the whole foreground group, and bubblewrap, dying of one, would take
the command along before it could react.  So bubblewrap is started with these signals ignored, and the command gets
back what goexfs itself had.  ``env`` does both in a millisecond; where it cannot, a few lines of Python do.
"""

import contextlib
import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec

from goexfs.session import limits, namespaces, processes
from goexfs.session import sandbox as sandboxes
from goexfs.session.cgroups import Group
from goexfs.session.confinement import Host
from goexfs.session.errors import CommandNotExecutable, CommandNotFound, SandboxError, SocketGone
from goexfs.session.roster import Running
from goexfs.session.sandbox import Sandbox
from goexfs.session.syscalls import Filter, compile_filter
from goexfs.session.terminal import has_foreground
from snapshots.names import readable

if TYPE_CHECKING:
    from goexfs.session.outlet import Outlet

Stream = int | IO[Any] | None

SHIELDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that do not end bubblewrap."""

_START_SECONDS = 2.0
"""How long a signal waits for the command to exist."""

_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Command:
    """What to run.  ``cwd`` is a path of the command's view; the streams are as for ``subprocess``."""

    argv: tuple[bytes, ...]
    cwd: bytes
    env: Mapping[bytes, bytes]
    run_id: str
    sandbox: Sandbox | None
    stdin: Stream = None
    stdout: Stream = None
    stderr: Stream = None
    hosts: tuple[Host, ...] = ()
    """what a sandbox without the host's network may reach all the same"""
    processes: int | None = None
    """see ``limits``; only in a sandbox"""
    memory: int | None = None
    """likewise"""
    directory: Path | None = None
    """where ``roster`` notes what is at work; None: nowhere"""


class Child(Protocol):
    """A started command."""

    popen: "subprocess.Popen[bytes]"
    """the process started here, which need not be the command itself"""

    def send(self, number: int) -> None:
        """Signal the command."""

    def group(self) -> int | None:
        """The process group of a command that has one of its own in the terminal; None otherwise."""

    def stopped(self) -> int | None:
        """The same, of a command that is stopped now."""

    def note(self) -> Running | None:
        """What there is to say of the command while it is at work; None when it has ended already."""

    def kill_all(self) -> None:
        """Kill whatever is left of the command and wait until it is gone; repeatable."""

    def status(self, returncode: int) -> int:
        """The command's exit status, from how ``popen`` ended; ``SandboxError`` when it never started, ``SocketGone``
        when it is worth another try."""


class Sandboxed:
    """The command in bubblewrap: ``popen`` (its monitor) > process 1 of a PID namespace > the command."""

    def __init__(self, command: Command) -> None:
        assert command.sandbox is not None
        sandboxes.program()
        self._status_fd, write_fd = os.pipe()
        block_fd, self._release_fd = os.pipe()
        self._said = b""
        self._init_fd = -1
        self._command_fd = -1
        self._killed = False
        self._outlet: Outlet | None = None
        self._group: Group | None = None
        # A process group of goexfs does not exist in the PID namespace: a shell that wants to give the terminal back to
        # the group it was started in would fail.  So a command in the terminal begins with a group of its own.
        self._own_group = command.stdin is None and has_foreground()
        refused: Filter | None = None
        try:
            refused = compile_filter(
                user_namespaces=command.sandbox.user_namespaces, network=command.sandbox.network
            )
            self._sockets = command.sandbox.listening()
            argv = [
                *_launcher("ignore", SHIELDED),
                *command.sandbox.arguments(
                    cwd=command.cwd, status_fd=write_fd, filter_fd=refused.fd, block_fd=block_fd, sockets=self._sockets
                ),
                *_launcher(
                    "foreground" if self._own_group else "default",
                    [n for n in SHIELDED if signal.getsignal(n) != signal.SIG_IGN],
                    command.argv[0],
                ),
                *command.argv,
            ]
            self.popen = subprocess.Popen(
                argv, stdin=command.stdin, stdout=command.stdout, stderr=command.stderr, env=command.env,
                pass_fds=(write_fd, refused.fd, block_fd), cwd="/",
            )  # fmt: skip
        except BaseException:
            os.close(self._status_fd)
            os.close(self._release_fd)
            raise
        finally:
            os.close(write_fd)
            os.close(block_fd)
            if refused is not None:
                refused.close()
        try:
            self._await_init()
            self._set_bounds(command)
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                os.write(self._release_fd, b"\n")
        except BaseException:
            self.kill_all()
            raise
        finally:
            os.close(self._release_fd)

    def _set_bounds(self, command: Command) -> None:
        """While nothing but bubblewrap itself is at work inside."""
        init = self._init_pid()
        if init is None:
            return  # it ends, and ``status`` says why
        assert command.sandbox is not None
        namespaces.seclude(init, command.sandbox.shown_of)
        self._group = limits.bound(init, command.run_id, command.processes, command.memory)
        if command.hosts:
            from goexfs.session.outlet import Outlet

            self._outlet = Outlet(init, command.hosts)

    def _await_init(self) -> None:
        """Wait for bubblewrap to name process 1 inside: while it is surely not another process of the same number."""
        poll = select.poll()
        poll.register(self._status_fd, select.POLLIN)
        deadline = time.monotonic() + _START_SECONDS
        while (remaining := deadline - time.monotonic()) > 0 and poll.poll(remaining * 1000):
            data = os.read(self._status_fd, 4096)
            self._said += data
            if not data or self._init_pid() is not None:
                break
        os.set_blocking(self._status_fd, False)
        pid = self._init_pid()
        if pid is not None:
            self._init_fd = processes.open_pid(pid)

    def _report(self) -> dict[str, Any]:
        """What bubblewrap said, its JSON lines merged."""
        merged: dict[str, Any] = {}
        for line in self._said.splitlines(keepends=True):
            if line.endswith(b"\n"):
                merged.update(msgspec.json.decode(line, type=dict[str, Any]))
        return merged

    def _init_pid(self) -> int | None:
        return self._report().get("child-pid")

    def send(self, number: int) -> None:
        """Signal the command itself; waits for it to exist and to have left the launcher, which ignores signals."""
        deadline = time.monotonic() + _START_SECONDS
        while self._command_fd < 0 and self.popen.poll() is None:
            pid = self._command_pid()
            if time.monotonic() > deadline or (pid is not None and not processes.ignores_all(pid, SHIELDED)):
                self._command_fd = processes.open_pid(pid) if pid is not None else -1
                break
            time.sleep(0.002)
        if self._command_fd >= 0:
            processes.signal_pidfd(self._command_fd, number)

    def _command_pid(self) -> int | None:
        init = self._init_pid()
        return processes.first_child(init, inner_pid=2) if init is not None else None

    def group(self) -> int | None:
        """See `Child`: the command leads its group."""
        return self._command_pid() if self._own_group else None

    def stopped(self) -> int | None:
        """See `Child`."""
        pid = self.group()
        return pid if pid is not None and (processes.status_field(pid, "State") or "").startswith("T") else None

    def note(self) -> Running | None:
        """See `Child`."""
        init = self._init_pid()
        born = None if init is None else processes.born(init)
        if init is None or born is None:
            return None
        freezer = self._group.freezer if self._group is not None else None
        return Running(os.getpid(), init, born, True, None if freezer is None else str(freezer))

    def kill_all(self) -> None:
        """Kill process 1, and with it the whole PID namespace, and wait until all of it is gone."""
        if self._init_fd >= 0:
            processes.signal_pidfd(self._init_fd, signal.SIGKILL)
            processes.wait_pidfd(self._init_fd, _KILL_SECONDS)
        if self.popen.poll() is None:
            self._killed = True
            if self._init_fd < 0:
                self.popen.kill()  # takes process 1 along (--die-with-parent)
            try:
                self.popen.wait(_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self._status_fd >= 0:
            while data := _read_ready(self._status_fd):
                self._said += data
            os.close(self._status_fd)
            self._status_fd = -1
        for name in ("_init_fd", "_command_fd"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        if self._outlet is not None:
            self._outlet.close()
            self._outlet = None
        if self._group is not None:
            self._group.remove()
            self._group = None

    def status(self, returncode: int) -> int:
        """What bubblewrap reported of the command; a failure of its own is a ``SandboxError``.

        It reports a status of every command that it started, and of no other.
        """
        self.kill_all()
        reported = self._report().get("exit-code")
        if reported is not None:
            return int(reported)
        if self._killed or returncode < 0:
            return 128 + (-returncode if returncode < 0 else signal.SIGKILL)
        if not all(map(os.path.lexists, self._sockets)):
            raise SocketGone("a socket of the host went away each time that the sandbox was made; try again")
        raise SandboxError(
            sandboxes.diagnose() or "bubblewrap could not set up the sandbox of this run; its own message is above"
        )


class Plain:
    """The command without a sandbox: its descendants are found by parentage and by ``GOEXFS_RUN``."""

    def __init__(self, command: Command) -> None:
        self._run_id = command.run_id
        self._adopting_before: bool | None = processes.adopt_orphans()
        try:
            self.popen = subprocess.Popen(
                command.argv, stdin=command.stdin, stdout=command.stdout, stderr=command.stderr,
                env=command.env, cwd=command.cwd,
            )  # fmt: skip
        except OSError as error:
            processes.stop_adopting(bool(self._adopting_before))
            name = readable(command.argv[0])
            if isinstance(error, FileNotFoundError):
                raise CommandNotFound(f"{name}: command not found; check its name, PATH and interpreter") from None
            raise CommandNotExecutable(f"{name} cannot be executed: {error.strerror}") from None
        processes.register_plain(self.popen.pid)

    def send(self, number: int) -> None:
        """Signal the command."""
        self.popen.send_signal(number)

    def group(self) -> int | None:
        """See `stopped`."""
        return None

    def stopped(self) -> int | None:
        """It shares the group of goexfs: the terminal stops both at once."""
        return None

    def note(self) -> Running | None:
        """See `Child`."""
        born = processes.born(self.popen.pid)
        return None if born is None else Running(os.getpid(), self.popen.pid, born, False, None)

    def kill_all(self) -> None:
        """Kill the command, its descendants, and those of them that were orphaned meanwhile."""
        if self._adopting_before is not None:
            processes.kill_descendants(self.popen, self._run_id, _KILL_SECONDS)
            processes.stop_adopting(self._adopting_before)
            self._adopting_before = None

    def status(self, returncode: int) -> int:
        """As shells count."""
        return 128 - returncode if returncode < 0 else returncode


def _read_ready(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""


_SET_SIGNALS = """\
import os, signal, sys
how, numbers, argv = sys.argv[1], sys.argv[2], [os.fsencode(word) for word in sys.argv[3:]]
if how == "foreground":
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC), os.getpgrp())
    except OSError:
        pass
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
for number in filter(None, numbers.split(",")):
    signal.signal(int(number), signal.SIG_IGN if how == "ignore" else signal.SIG_DFL)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
try:
    os.execvp(argv[0], argv)
except OSError as error:
    print("goexfs: " + os.fsdecode(argv[0]) + ": " + error.strerror, file=sys.stderr)
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


def _launcher(how: str, signals: Sequence[int], program: bytes = b"") -> list[bytes]:
    """What stands before a command to have it start with ``signals`` ignored (``ignore``) or not (``default``).

    ``foreground``: not ignored, and in a process group of its own that has the terminal.
    """
    env = shutil.which("env")
    if how != "foreground" and env is not None and b"=" not in program and _env_sets_signals(env):
        names = ",".join(signal.Signals(number).name.removeprefix("SIG") for number in signals)
        return [os.fsencode(env), *([f"--{how}-signal={names}".encode()] if names else []), b"--"]
    numbers = ",".join(str(int(number)) for number in signals)
    python = os.path.realpath(sys.executable)  # not a virtual environment's link, which the sandbox may hide
    return [os.fsencode(python), b"-I", b"-S", b"-c", _SET_SIGNALS.encode(), how.encode(), numbers.encode()]


def probe() -> None:
    """Find out what starting a child depends on, before there is one to be started."""
    env = shutil.which("env")
    if env is not None:
        _env_sets_signals(env)


@functools.cache
def _env_sets_signals(env: str) -> bool:
    """GNU ``env`` can since 8.31 (2019); others cannot."""
    argv = [env, "--default-signal=INT", "true"]
    null = subprocess.DEVNULL
    return subprocess.run(argv, stdin=null, stdout=null, stderr=null, check=False).returncode == 0
