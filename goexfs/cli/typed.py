"""A question on the terminal while a command of a run is at work, which the session has made stand still for that.

Owns the writing and the reading.  Not standard input and output: those may be the command's, redirected.  Main thread.

The signals that would end goexfs are blocked meanwhile, for the session to forward: one that is pending ends the
question without an answer.
"""

import os
import select
import signal
from collections.abc import Callable, Iterable

_LOOK_SECONDS = 0.1
_ENDING = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP}
_MOST_BYTES = 4096


def typed(lines: Iterable[str], prompt: str, *, still: Callable[[], bool] = lambda: True) -> str | None:
    """What was typed in answer, stripped; None when a signal or the end of input came instead, or it was not
    ``still`` to be answered.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        os.write(terminal, "\n".join(["", *lines, prompt]).encode("utf-8", "replace"))
        poll = select.poll()
        poll.register(terminal, select.POLLIN)
        while still() and not signal.sigpending() & _ENDING:
            if poll.poll(_LOOK_SECONDS * 1000):
                line = os.read(terminal, _MOST_BYTES)
                return line.decode("utf-8", "replace").strip() if line else None
        os.write(terminal, b"\n")
        return None
    except OSError:
        return None  # the terminal was closed
    finally:
        os.close(terminal)
