"""Holding signals back over what is short and bad by half.

Owns nothing but that.  Any thread: the mask is the calling one's, and handlers are the main one's.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals that would end the program until the block is through.

    The mask alone is not enough in a program with threads: another one takes the signal, and Python runs its handler in
    the main thread all the same.
    """
    arrived: list[int] = []
    handlers = {}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if callable(signal.getsignal(number)):
                    handlers[number] = signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for each in dict.fromkeys(arrived):
            signal.raise_signal(each)
