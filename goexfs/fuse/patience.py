"""Waiting for a disk that is about to answer, without two changes of threads.

Owns one guess: that what a read asked the disk for will be in memory within a moment.  A read of what is not in the
page cache has already had the kernel begin to fetch it (see ``overlay.nowait``), and a good disk takes less time for
that than handing the wait to a worker thread and taking it back.  So the page cache is asked again for a little while,
as long as no other request waits and as long as that pays: with a slow disk it does not, nor on a single processor or
under a CPU limit.  Knows no request and no file: it is given the question.

Threading: the event loop's thread, but for `Patience.took`, which only leaves a number.
"""

import select
from collections.abc import Callable
from time import perf_counter

SPIN_SECONDS = 300e-6
"""how long a disk is waited for in this way"""
MEMORY = 1 / 32
"""weight of the newest outcome in the running average"""
WORTH_IT = 0.5
"""wait so while at least this share of the waits ends with an answer"""


class Patience:
    """For the requests of one device."""

    def __init__(self, device: int) -> None:
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        self._score = 1.0
        self.paid = 0
        """waits that ended with an answer"""
        self.missed = 0

    def caught(self, arrived: Callable[[], bool]) -> bool:
        """Whether what was asked of the disk arrived at once; False too when somebody else wants something."""
        if self._score < WORTH_IT:
            return False
        poll = self._poll.poll
        end = perf_counter() + SPIN_SECONDS
        while not poll(0):
            if arrived():
                self.paid += 1
                self._score += (1.0 - self._score) * MEMORY
                return True
            if perf_counter() > end:
                self.missed += 1
                self._score -= self._score * MEMORY
                return False
        return False

    def took(self, seconds: float) -> None:
        """A worker thread waited so long for the disk: while that is how it is done, it tells when to begin again."""
        if self._score < WORTH_IT:
            self._score += ((1.0 if seconds < SPIN_SECONDS else 0.0) - self._score) * MEMORY
