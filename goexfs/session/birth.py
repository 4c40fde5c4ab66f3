"""The birth of the process that serves a mount.

Owns the two ways of starting it: two forks, or a fresh interpreter.  Knows nothing of what it will serve; it comes with
a channel (one end of a socket pair) on which it will be told, see ``launch``.  Main thread, or any thread for the
second way.

The server takes a fifth of a second to import what it needs, most of the time that a short command takes.  So a program
that knows that it will mount calls ``prepare`` before anything else, and this module imports nothing that takes time.

A fork is quicker, but it copies what must not be used by two: the process must have one thread, no event loop, and no
SQLite (whose library keeps the locks of a process in memory, and would believe that the child has them too).
Otherwise a fresh interpreter is started.
"""

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import subprocess

NAME = "goexfs-server"
"""what ``ps`` calls the process; at most 15 characters"""

_FAILED = 70


class Newborn:
    """A server that waits on ``channel`` for its assignment; when the channel is closed without one, it ends."""

    def __init__(self, channel: socket.socket, starter: "subprocess.Popen[bytes] | None" = None) -> None:
        self.channel = channel
        self._starter = starter

    def reap(self) -> str:
        """Clean up what started the server, which has ended or is about to; what went wrong, empty for nothing."""
        if self._starter is None:
            return ""
        _, complaint = self._starter.communicate()
        failed = self._starter.returncode != 0
        self._starter = None
        return complaint.decode(errors="replace").strip().rpartition("\n")[2] or "unknown reason" if failed else ""


_ready: tuple[int, Newborn] | None = None
"""what ``prepare`` started, and the process that did"""


def prepare() -> None:
    """Start a server for the next mount of this process: to be called as soon as it is known that there will be one."""
    global _ready
    if _ready is None or _ready[0] != os.getpid():
        _ready = os.getpid(), start()


def take() -> Newborn:
    """The server that ``prepare`` started, or a new one."""
    global _ready
    ready, _ready = _ready, None
    return ready[1] if ready is not None and ready[0] == os.getpid() else start()


def start() -> Newborn:
    """Start a server."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            if _may_fork():
                _fork(theirs)
                return Newborn(ours)
            return Newborn(ours, _spawn(theirs))
    except BaseException:
        ours.close()
        raise


def _may_fork() -> bool:
    if threading.active_count() > 1 or "sqlite3" in sys.modules:
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
        import gc

        gc.freeze()  # nothing of the other process is to be finalised here: it may close what it does not own
        _become_server(channel.detach())
    finally:
        os._exit(_FAILED)


def _spawn(channel: socket.socket) -> "subprocess.Popen[bytes]":
    import subprocess

    fd = channel.fileno()
    program = f"import sys; sys.path[:] = {sys.path!r}; from goexfs.session.birth import spawned; spawned({fd})"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, pass_fds=(fd,), start_new_session=True,
    )  # fmt: skip


def spawned(fd: int) -> NoReturn:
    """The beginning of a server in a fresh interpreter: leave the one who waits for this process, then serve."""
    if os.fork():
        os._exit(0)
    _become_server(fd)


def _become_server(fd: int) -> NoReturn:
    """Shed everything that belongs to others, but for the channel, and serve.  Never returns."""
    status = _FAILED
    try:
        _isolate(fd)
        from goexfs.fuse.loading import without_what_is_unused

        with without_what_is_unused():
            import pyfuse3  # noqa: F401
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
