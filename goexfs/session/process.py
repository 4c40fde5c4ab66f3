"""A command of a run, from its start to its end with nothing of it left.

Owns the wait for a child, the signals meant for it, the grace it is given and the killing of what stays.  Knows no run
and no store; is told argv, environment and sandbox.  How a child is started and found is in ``children``.

Signals can be handled in the main thread only; in another thread ``run`` waits without forwarding any.

In a terminal a sandboxed command has a process group of its own in the foreground, so that job control, window sizes
and Ctrl-C reach it as if goexfs were not there; when it is stopped, goexfs stops with it.  Elsewhere it stays in the
group of the caller.  A signal that the terminal sent (the kernel says so) is never forwarded; one that a process sent
to goexfs is.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from goexfs.session import activity, roster
from goexfs.session.arrivals import Arrivals
from goexfs.session.children import Child, Command, Plain, Sandboxed
from goexfs.session.errors import SocketGone
from goexfs.session.questions import Asking
from goexfs.session.terminal import borrowed, foreground_group, hand_over, has_foreground, terminal_restored

GRACE_SECONDS = 10.0
"""How long a command may take to end after SIGTERM, SIGHUP or SIGQUIT was forwarded to it."""

ATTEMPTS = 5
"""to make a sandbox.  Between the moment in which the sockets of the host are listed and the one in which bubblewrap
covers them, some milliseconds later, one may go away, and then bubblewrap gives up before it starts the command."""

FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DEADLY = frozenset({signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP})

_IMPATIENT_SECONDS = 1.0
"""What remains of the grace once such a signal comes a second time."""

_STOPPED_SECONDS = 0.2
"""How often to look whether a command in the terminal was stopped: nobody but its own parent is told."""


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    """exit status, 128+N when signal N ended it"""
    signal: int | None
    """the last deadly signal that goexfs itself got meanwhile (SIGTERM, SIGHUP, SIGQUIT), None without one"""


def run(
    command: Command, *, timeout: float | None = None, grace: float = GRACE_SECONDS, askers: Sequence[Asking] = ()
) -> Ended:
    """Run the command to its end; ``askers`` answer meanwhile what only the user can decide.

    When this returns or raises, every process that the command started is dead.  Raises ``TimeoutError`` after
    ``timeout`` seconds, ``SandboxError`` when there is no sandbox to run it in, and ``CommandNotFound`` or
    ``CommandNotExecutable`` when it cannot be started.
    """
    with terminal_restored():
        for _ in range(ATTEMPTS - 1):
            try:
                return _attempt(command, timeout, grace, askers)
            except SocketGone:
                pass
        return _attempt(command, timeout, grace, askers)


def _attempt(command: Command, timeout: float | None, grace: float, askers: Sequence[Asking]) -> Ended:
    """Raises ``SocketGone`` when it is worth another one, with signals as they were: a child inherits them."""
    with Arrivals(FORWARDED) as signals:
        in_terminal = has_foreground()  # before the command is there, which takes it over
        child: Child = Sandboxed(command) if command.sandbox is not None else Plain(command)
        wait = _Wait(command, child, signals, timeout, grace, askers, in_terminal=in_terminal)
        try:
            if command.directory is not None and (running := child.note()) is not None:
                roster.begin(command.directory, running)
            return wait.end()
        except SocketGone:
            if wait.deadly is not None:  # told to end meanwhile
                return Ended(128 + wait.deadly, wait.deadly)
            raise
        finally:
            child.kill_all()
            if command.directory is not None:
                roster.end(command.directory)


class _Wait:
    """The wait for a child: reaps it, forwards signals, counts the grace and the time limit."""

    def __init__(
        self, command: Command, child: Child, signals: Arrivals, timeout: float | None, grace: float,
        askers: Sequence[Asking], *, in_terminal: bool,
    ) -> None:  # fmt: skip
        self._command = command
        self._child = child
        self._signals = signals
        self._grace = grace
        self._askers = askers
        self._kill_at: float | None = None
        self._end_at = None if timeout is None else time.monotonic() + timeout
        self.deadly: int | None = None
        """see ``Ended.signal``"""
        self._in_terminal = in_terminal
        self._lent = False
        """whether goexfs itself has the terminal while the command is paused"""

    def end(self) -> Ended:
        """Wait to the end."""
        popen = self._child.popen
        self._signals.block()
        pidfd = os.pidfd_open(popen.pid)
        try:
            while popen.poll() is None:
                self._act(pidfd)
        finally:
            os.close(pidfd)
        return Ended(self._child.status(popen.returncode), self.deadly)

    def _act(self, pidfd: int) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now >= self._kill_at:
            self._child.kill_all()
            return
        if self._end_at is not None and now >= self._end_at:
            raise TimeoutError
        due = [at - now for at in (self._kill_at, self._end_at) if at is not None]
        if self._in_terminal or self._askers:
            due.append(_STOPPED_SECONDS)
        arrived = self._signals.next(pidfd, min(due, default=None))
        if arrived is not None:
            self._forward(*arrived)
        elif (asker := next((each for each in self._askers if each.is_asked), None)) and self._may_ask():
            self._ask(asker, pidfd)
        elif self._in_terminal and not self._watch_pause() and (group := self._child.stopped()) is not None:
            self._suspend(group)

    def _may_ask(self) -> bool:
        """Whether the terminal is this run's now: not when the user has put it into the background."""
        if not self._in_terminal:
            return True
        group = foreground_group()
        if group in (None, os.getpgrp()):
            return group is not None
        running = self._child.note()
        return running is not None and activity.has_group(running, self._command.run_id, group or 0)

    def _ask(self, asker: Asking, pidfd: int) -> None:
        """Have the terminal, while the command stands still; what the user did to the question is done to both."""
        if not self._in_terminal:
            asker.attend()
            return
        group, directory = foreground_group(), self._command.directory
        with nullcontext() if directory is None else activity.held(directory, self._command.run_id):
            with borrowed():
                asker.attend()
            while (arrived := self._signals.next(pidfd, 0)) is not None:
                number, by_terminal = arrived
                if by_terminal and number in (signal.SIGINT, signal.SIGQUIT) and group not in (None, os.getpgrp()):
                    os.killpg(group or 0, number)
                else:
                    self._forward(number, by_terminal)

    def _watch_pause(self) -> bool:
        """Whether the command is paused (``goexfs pause``).

        It would not hear a Ctrl-C then, so goexfs takes the terminal for that long and does what is to be done.
        """
        paused = self._command.directory is not None and activity.is_paused(self._command.directory)
        group = self._child.group() if paused != self._lent else None
        if group is not None:
            hand_over(os.getpgrp() if paused else group, only_from=group if paused else os.getpgrp())
            self._lent = paused
        return paused

    def _suspend(self, group: int) -> None:
        """The user stopped the command: stop too, for the shell that waits for this process, and go on together."""
        hand_over(os.getpgrp())
        os.kill(os.getpid(), signal.SIGSTOP)
        hand_over(group, only_from=os.getpgrp())  # unless the shell lets us go on in the background
        try:
            os.killpg(group, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def _forward(self, number: int, by_terminal: bool) -> None:
        if self._command.directory is not None and activity.is_paused(self._command.directory):
            by_terminal = False  # the command was not in the foreground
            activity.resume(self._command.directory, self._command.run_id)
            self._watch_pause()
        # A terminal that is closed tells the leader of its session only; any other signal it gives to the whole group.
        if not by_terminal or (number == signal.SIGHUP and os.getsid(0) == os.getpid()):
            self._child.send(number)
        if number in DEADLY and not (by_terminal and number == signal.SIGQUIT):
            self.deadly = number
            now = time.monotonic()
            if self._kill_at is None:
                self._kill_at = now + self._grace
            else:
                self._kill_at = min(self._kill_at, now + _IMPATIENT_SECONDS)
