"""Signals for this process, collected instead of acted upon, with who sent them.

Owns signal handlers, the signal mask and a signalfd for as long as it is entered, and puts all of them back.  Knows no
child.  In another thread than the main one it collects nothing: Python handles signals in the main thread only.

Not ``signal.sigtimedwait``: continued after a stop that outlasted its time limit, it returns whatever was in memory
(CPython up to 3.13 at least).
"""

import ctypes
import os
import select
import signal
import struct
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Self

from goexfs.session.terminal import has_foreground

_SENT_BY_KERNEL = 0x80
"""``si_code`` SI_KERNEL: the terminal, not ``kill(2)``."""

_SIGINFO = struct.Struct("=IiiI112x")  # struct signalfd_siginfo: number, errno, code, pid, …

_POLL_WITH_THREADS_SECONDS = 0.05


class Arrivals:
    """Collects ``numbers``, but for those that were ignored before: they stay so."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._early: list[int] = []
        """those that a handler saw, so that who sent them is not known"""
        self._handlers: dict[int, object] = {}
        self._mask: set[int] | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                if signal.getsignal(number) != signal.SIG_IGN:  # by nohup, or a shell's background job
                    self._handlers[number] = signal.signal(number, self._arrived)
        return self

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._early.append(number)

    def block(self) -> None:
        """From now on signals wait to be fetched.  Not before a child is started, which would inherit the block."""
        if self._handlers:
            # This runs the handlers of what arrived before, so that nothing falls between the two.
            self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._handlers.keys()))
            self._fd = _signalfd(self._handlers.keys())

    def next(self, other: int, seconds: float | None) -> tuple[int, bool] | None:
        """Wait for the next signal, until the descriptor ``other`` is readable, or for ``seconds`` (None: for ever).

        The signal and whether the terminal sent it, or None.
        """
        if threading.active_count() > 1:  # a thread that has not blocked it may take a signal; its handler runs here
            seconds = min(_POLL_WITH_THREADS_SECONDS, seconds or _POLL_WITH_THREADS_SECONDS)
        if not self._early:
            poll = select.poll()
            poll.register(other, select.POLLIN)
            if self._fd >= 0:
                poll.register(self._fd, select.POLLIN)
            ready = dict(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
            if self._fd in ready:
                try:
                    number, _, code, _ = _SIGINFO.unpack(os.read(self._fd, _SIGINFO.size))
                except BlockingIOError:  # another thread was quicker
                    return None
                return number, code == _SENT_BY_KERNEL
        if self._early:
            number = self._early.pop(0)
            return number, number in (signal.SIGINT, signal.SIGQUIT) and has_foreground()
        return None

    def __exit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _signalfd(numbers: Iterable[int]) -> int:
    """A descriptor from which blocked signals are read: Python itself has no call for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    signals = ctypes.create_string_buffer(128)  # sigset_t
    libc.sigemptyset(signals)
    for number in numbers:
        libc.sigaddset(signals, number)
    fd: int = libc.signalfd(-1, signals, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
