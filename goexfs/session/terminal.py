"""The terminal as it was before a command had it.

Owns the saving and restoring of the terminal's modes and foreground process group.  Main thread only (it has to
ignore SIGTTOU for a moment); elsewhere it does nothing.
"""

import os
import signal
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminal_restored() -> Iterator[None]:
    """Give the terminal back as it was: a killed editor leaves it raw, a killed shell leaves it to a dead group."""
    fd = _open_terminal()
    if fd is None:
        yield
        return
    try:
        modes = termios.tcgetattr(fd)
        yield
        _give_back(fd, modes)
    finally:
        os.close(fd)


@contextmanager
def borrowed() -> Iterator[None]:
    """Have the terminal for a question, with plain modes; then all is as before.  What had it is to stand still."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # this is done from the background
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        signal.signal(signal.SIGTTOU, before)
        yield
        return
    group, own = -1, os.getpgrp()
    try:
        modes = termios.tcgetattr(fd)
        group = os.tcgetpgrp(fd)
        os.tcsetpgrp(fd, own)
        plain = termios.tcgetattr(fd)
        plain[0] |= termios.ICRNL | termios.BRKINT
        plain[1] |= termios.OPOST | termios.ONLCR
        plain[3] |= termios.ICANON | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ISIG
        termios.tcsetattr(fd, termios.TCSAFLUSH, plain)  # what was typed to the command answers nothing
        yield
        termios.tcsetattr(fd, termios.TCSAFLUSH, modes)
    finally:
        if group not in (-1, 0, own):
            try:
                os.tcsetpgrp(fd, group)
            except OSError:
                pass  # the command has ended
        os.close(fd)
        signal.signal(signal.SIGTTOU, before)


def has_foreground() -> bool:
    """Whether this process is in the foreground group of its terminal, so that Ctrl-C reaches it and its children."""
    fd = _open_terminal()
    if fd is None:
        return False
    os.close(fd)
    return True


def foreground_group() -> int | None:
    """The process group that has the terminal now, whoever that is; None without a terminal."""
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(fd) or None
    except OSError:
        return None
    finally:
        os.close(fd)


def hand_over(group: int, *, only_from: int | None = None) -> None:
    """Make *group* the foreground group of the terminal, if *only_from* (when given) is that now."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may be done from the background
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return
    try:
        if only_from is None or os.tcgetpgrp(fd) == only_from:
            os.tcsetpgrp(fd, group)
    except OSError:
        pass  # the terminal was closed, or the group is gone
    finally:
        os.close(fd)
        signal.signal(signal.SIGTTOU, before)


def _open_terminal() -> int | None:
    """The controlling terminal, if there is one and this process is in its foreground."""
    if threading.current_thread() is not threading.main_thread():
        return None
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(fd) == os.getpgrp():
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _give_back(fd: int, modes: list[int | list[bytes | int]]) -> None:
    # To take the foreground back, and to set modes from the background, SIGTTOU has to be out of the way.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        if os.tcgetpgrp(fd) != os.getpgrp():
            os.tcsetpgrp(fd, os.getpgrp())
        if termios.tcgetattr(fd) != modes:
            termios.tcsetattr(fd, termios.TCSADRAIN, modes)
    except (OSError, termios.error):
        pass  # the terminal was closed meanwhile
    finally:
        signal.signal(signal.SIGTTOU, before)
