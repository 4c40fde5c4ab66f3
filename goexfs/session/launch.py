"""Starting the process that serves a mount, and talking to it until the mount is there.

Owns the birth of the server: two forks (or a fresh interpreter), its channel, its first message.  What it does then is
``server``.  Knows no run beyond the assignment that it hands over.

The server takes a fifth of a second to import what it needs.  So it is started first, and told what to serve when the
rest is ready: see ``Server.start``.  A process with more than one thread must not go on working after a fork; there,
and inside an event loop, a fresh interpreter is started instead.

The channel is one socket pair.  Down it go the assignment and the run's lock, up comes the report; after that an
attached server watches it, and its end tells that the session process is gone.
"""

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from goexfs.session.control import Fault, exception_of
from goexfs.session.errors import ServerError

START_SECONDS = 60.0
"""How long a server may take to mount: it has to load the run's entries."""

LOG = "server.log"

_MOST_BYTES = 1 << 20


class Assignment(msgspec.Struct, frozen=True):
    """What a server is to serve."""

    store: bytes
    run_id: str
    base: bytes
    mountpoint: bytes
    hidden: tuple[bytes, ...]
    """paths relative to the base that the run must not see and the server must not touch"""
    allow_other: bool
    attached: bool
    """end when the session process does; otherwise the server outlives it"""
    discard: bool
    """with ``attached``: discard the run, and forget it, when the session process dies without a verdict"""


class Report(msgspec.Struct, frozen=True):
    """What became of the assignment."""

    pid: int
    fault: Fault | None = None
    """None: it is mounted"""


class Server:
    """A server process from the side of whoever started it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = 0
        """known once it is mounted"""

    @classmethod
    def start(cls) -> "Server":
        """Start a server process that waits for its assignment."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                if _may_fork():
                    _fork(theirs)
                else:
                    _spawn(theirs)
        except BaseException:
            ours.close()
            raise
        ours.settimeout(START_SECONDS)
        return cls(ours)

    def assign(self, assignment: Assignment, lock_fd: int, log: Path) -> None:
        """Hand over the assignment and the run's lock, and wait until it is mounted.

        The caller may release its own copy of the lock then.  Raises what the server raised, or ``ServerError``.
        """
        try:
            socket.send_fds(self._channel, [msgspec.msgpack.encode(assignment)], [lock_fd])
            data = self._channel.recv(_MOST_BYTES)
        except TimeoutError:
            raise ServerError(f"the run's server did not mount within {START_SECONDS:.0f} s; see {log}") from None
        except OSError as error:
            raise ServerError(f"the run's server could not be started ({error.strerror}); see {log}") from None
        if not data:
            raise ServerError(f"the run's server ended before it had mounted; see {log}")
        report = msgspec.msgpack.decode(data, type=Report)
        if report.fault is not None:
            raise exception_of(report.fault)
        self.pid = report.pid
        if not assignment.attached:
            self.let_go()

    def let_go(self) -> None:
        """Close the channel: a server without an assignment, or an attached one, ends; a second time is fine."""
        self._channel.close()


def _may_fork() -> bool:
    if threading.active_count() > 1:
        return False
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return False
    trio = sys.modules.get("trio")
    return trio is None or not trio.lowlevel.in_trio_run()


def _fork(channel: socket.socket) -> None:
    """Fork twice: the server is nobody's child that would have to be waited for."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        gc.freeze()  # nothing of the other process is to be finalised here: it may close what it does not own
        become_server(channel.detach())
    finally:
        os._exit(70)


def _spawn(channel: socket.socket) -> None:
    fd = channel.fileno()
    program = f"import sys; sys.path[:] = {sys.path!r}; from goexfs.session.launch import spawned; spawned({fd})"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, pass_fds=(fd,), start_new_session=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ServerError(f"the run's server could not be started: {''.join(last) or done.returncode}")


def spawned(fd: int) -> NoReturn:
    """The beginning of a server in a fresh interpreter: leave the one who waits for this process, then serve."""
    if os.fork():
        os._exit(0)
    become_server(fd)


def become_server(fd: int) -> NoReturn:
    """Shed everything that belonged to the process that forked, but for the channel, and serve.  Never returns."""
    status = 70
    try:
        _isolate(fd)
        from goexfs.session.server import main

        with socket.socket(fileno=fd) as channel:
            status = main(channel)
    finally:
        os._exit(status)


def _isolate(keep: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    faulthandler = sys.modules.get("faulthandler")
    if faulthandler is not None:
        faulthandler.disable()  # it would write to a descriptor that is something else by now
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # every file that the agent has open is a descriptor here
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_ready: Server | None = None


def prepare() -> None:
    """Start a server for the next mount already: to be called as early as it is known that there will be one."""
    global _ready
    if _ready is None:
        _ready = Server.start()


def take() -> Server:
    """The server that ``prepare`` started, or a new one."""
    global _ready
    server, _ready = _ready, None
    return server or Server.start()


