"""The clock that files are stamped with.

Owns one number, the youngest stamp that the kernel has told us of.  Since Linux 6.13 the kernel's own stamps can run
ahead of the coarse clock, by up to a tick: they are never older than a finer one that some filesystem has given out
(multigrain timestamps).  Under the writeback cache the kernel stamps regular files and we stamp all else, so a stamp of
ours could be older than one of the kernel's from before; and where the kernel then finds the time that it has already,
as when a file is emptied in the tick in which it was written, it tells nobody, and what it shows is not what is
stored.

Threading: the event loop's thread.
"""

import time

_CLOCK_REALTIME_COARSE = 5  # <linux/time.h>; not among the constants of the time module
TICK_NS = 10_000_000
"""the longest tick that a kernel is built with; a stamp that is further ahead is from before the clock was set back"""


class KernelClock:
    """Called, it tells the time in nanoseconds: the coarse clock, but never before a stamp of the kernel.

    The coarse one, because a finer one would run ahead of the kernel, and a touch after a create would seem to have
    been before it.
    """

    __slots__ = ("_youngest",)

    def __init__(self) -> None:
        self._youngest = 0

    def saw(self, stamp_ns: int) -> None:
        """The kernel has stamped something with this time."""
        if stamp_ns > self._youngest:
            self._youngest = stamp_ns

    def __call__(self) -> int:
        now = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
        return self._youngest if now < self._youngest < now + TICK_NS else now
