"""A command of a run, from its start to its end with nothing of it left.

Owns the wait for a child, the signals meant for it, the grace it is given and the killing of what stays.  Knows no run
and no store; is told argv, environment and sandbox.  How a child is started and found is in ``children``.

Signals can be handled in the main thread only; in another thread ``run`` waits without forwarding any.

The command stays in the process group of the caller, so that job control, window sizes and Ctrl-C of the terminal
reach it as if goexfs were not there.  A signal that the terminal sent (the kernel says so) is therefore never
forwarded; one that a process sent to goexfs is.
"""

import os
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import NamedTuple

from goexfs.session.children import Child, Command, Plain, Sandboxed
from goexfs.session.terminal import has_foreground, terminal_restored

GRACE_SECONDS = 10.0
"""How long a command may take to end after SIGTERM, SIGHUP or SIGQUIT was forwarded to it."""

FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DEADLY = frozenset({signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP})

_IMPATIENT_SECONDS = 1.0
"""What remains of the grace once such a signal comes a second time."""

_SENT_BY_KERNEL = 0x80
"""``si_code`` SI_KERNEL: the terminal, not ``kill(2)``."""


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    """exit status, 128+N when signal N ended it"""
    signal: int | None
    """the last deadly signal that goexfs itself got meanwhile (SIGTERM, SIGHUP, SIGQUIT), None without one"""


def run(command: Command, *, timeout: float | None = None, grace: float = GRACE_SECONDS) -> Ended:
    """Run the command to its end.

    When this returns or raises, every process that the command started is dead.  Raises ``TimeoutError`` after
    ``timeout`` seconds, ``SandboxError`` when there is no sandbox to run it in, and ``CommandNotFound`` or
    ``CommandNotExecutable`` when it cannot be started.
    """
    with terminal_restored(), _Signals() as signals:
        child: Child = Sandboxed(command) if command.sandbox is not None else Plain(command)
        try:
            return _Wait(child, signals, timeout, grace).end()
        finally:
            child.kill_all()


class _Signals:
    """Signals for goexfs are collected instead of acted upon, as long as this is entered."""

    def __init__(self) -> None:
        self.early: list[int] = []
        """those that came before ``block``, so that who sent them is not known"""
        self.possible = threading.current_thread() is threading.main_thread()
        self._handlers: dict[int, object] = {}
        self._mask: set[int | signal.Signals] | None = None

    def __enter__(self) -> "_Signals":
        if self.possible:
            for number in FORWARDED:
                if signal.getsignal(number) != signal.SIG_IGN:  # by nohup, or a shell's background job: stays so
                    self._handlers[number] = signal.signal(number, self._arrived)
        return self

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self.early.append(number)

    def block(self) -> None:
        """From now on signals wait to be fetched by ``next``.  Not before the child is started: it would inherit it."""
        # pthread_sigmask runs the handlers of what arrived before it, so nothing falls between the two.
        self._mask = {*signal.pthread_sigmask(signal.SIG_BLOCK, {*self._handlers, signal.SIGCHLD})}

    def next(self, seconds: float) -> tuple[int, bool] | None:
        """The next signal and whether the terminal sent it; None for SIGCHLD and when there was none in time."""
        if self.early:
            number = self.early.pop(0)
            return number, number in (signal.SIGINT, signal.SIGQUIT) and has_foreground()
        info = signal.sigtimedwait({*self._handlers, signal.SIGCHLD}, seconds)
        if info is None or info.si_signo == signal.SIGCHLD:
            return None
        return info.si_signo, info.si_code == _SENT_BY_KERNEL

    def __exit__(self, *_exc: object) -> None:
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class _Wait:
    """The wait for a child: reaps it, forwards signals, counts the grace and the time limit."""

    def __init__(self, child: Child, signals: _Signals, timeout: float | None, grace: float) -> None:
        self._child = child
        self._signals = signals
        self._grace = grace
        self._kill_at: float | None = None
        self._end_at = None if timeout is None else time.monotonic() + timeout
        self._deadly: int | None = None

    def end(self) -> Ended:
        """Wait to the end."""
        popen = self._child.popen
        if self._signals.possible:
            self._signals.block()
            while popen.poll() is None:
                self._act()
        else:
            try:
                popen.wait(None if self._end_at is None else self._end_at - time.monotonic())
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
        return Ended(self._child.status(popen.returncode), self._deadly)

    def _act(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._child.kill_all()
            return
        if self._end_at is not None and now >= self._end_at:
            raise TimeoutError
        # SIGCHLD ends the sleep; in a program with threads another one may take it away.
        seconds = 0.5 if threading.active_count() == 1 else 0.05
        for due in (self._kill_at, self._end_at):
            if due is not None:
                seconds = min(seconds, max(0.001, due - now))
        arrived = self._signals.next(seconds)
        if arrived is not None:
            self._forward(*arrived)

    def _forward(self, number: int, by_terminal: bool) -> None:
        # A terminal that is closed tells the leader of its session only; any other signal it gives to the whole group.
        if not by_terminal or (number == signal.SIGHUP and os.getsid(0) == os.getpid()):
            self._child.send(number)
        if number in DEADLY and not (by_terminal and number == signal.SIGQUIT):
            self._deadly = number
            now = time.monotonic()
            if self._kill_at is None:
                self._kill_at = now + self._grace
            else:
                self._kill_at = min(self._kill_at, now + _IMPATIENT_SECONDS)
