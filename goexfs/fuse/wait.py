"""Waiting for the next request without falling asleep between the requests of a burst.

Owns one thing: what pyfuse3's session loop does instead of its own ``_wait_fuse_readable``.  Waking a sleeping
processor is most of what a FUSE round trip costs, so after a request the device is polled for a little while before
its waiter goes to sleep in epoll, as long as that pays: not on a single processor, not under a CPU limit, and not
while requests are far apart.

pyfuse3 has no setting for this.  Its compiled module looks the function up among its globals at every call, so
`install` puts another one there; it first proves, on the running version, that this is what happens, and leaves
everything alone where it is not.

Threading: the event loop's thread only.  At most one task polls or sleeps on the device; all others are parked, and
the next is made runnable before a request is handed out, so that it takes over when the handler of that request has
to wait.
"""

import logging
import os
import select
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import trio

SPIN_SECONDS = 50e-6
"""how long the device is polled before sleeping"""
NEAR_SECONDS = 100e-6
"""a request that came within this time of falling asleep would have been caught by spinning (waking takes about half
of it)
"""
NAP_MS = 2
"""how long to sleep on the device alone before the event loop is asked what else there is: coming out of such a sleep
takes one system call, out of the event loop's three, and another task's turn
"""
YIELD_REQUESTS = 256
YIELD_SECONDS = 0.004
"""other tasks (control socket, sealing, slow reads that are done) get their turn after this many requests or this
much time
"""
MEMORY = 1 / 32
"""weight of the newest outcome in the running average"""
WORTH_IT = 0.3
"""spin while at least this share of the waits would end within the spin"""

KNOWN_VERSIONS = ("3.4.", "3.5.")
"""versions of pyfuse3 whose loop was read and is known to call the function once per request, before receiving it"""
SELF_TEST_SECONDS = 1.0

logger = logging.getLogger(__name__)

Wait = Callable[[], Awaitable[bool]]


class Waiter:
    """The wait for one device.  ``waiter.wait`` is what the session loop awaits: True to receive, False to end."""

    def __init__(
        self, fd: int, *, spin: bool, before_first: Callable[[], bool] | None = None,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """*before_first* is asked at every wait until it says that the device is ready to be polled.

        While it answers False the session loop receives once without polling.  *alone* says whether no request waits
        for what a thread is doing, so that the event loop may be late for a moment.
        """
        self._alone = alone
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._spin_allowed = spin
        self._score = 1.0 if spin else 0.0
        self._before_first = before_first
        self._parked = trio.lowlevel.ParkingLot()
        self._on_duty = False
        """a task polls or sleeps on the device"""
        self._relief_due = False
        """an unparked task has not run yet"""
        self._stopping = False
        self._since_yield = 0
        self._yielded_at = perf_counter()
        self.requests = 0
        self.spins_paid = 0
        self.naps = 0
        self.sleeps = 0

    def stop(self) -> None:
        """Let every waiting task return False.  The caller also wakes a sleeper (``pyfuse3.terminate`` does)."""
        self._stopping = True
        self._parked.unpark_all()

    def reset(self) -> None:
        """The session loop was ended by an error, and begins again."""
        self._on_duty = self._relief_due = False

    async def wait(self) -> bool:
        """Return True when a request can be received at once, False when the loop is to end."""
        if self._before_first is not None:
            if not self._before_first():
                return not self._stopping
            self._before_first = None
        if self._since_yield >= YIELD_REQUESTS or perf_counter() - self._yielded_at > YIELD_SECONDS:
            await self._yield()
        while self._on_duty and not self._stopping:
            await self._parked.park()
            self._relief_due = False
        if self._stopping:
            return False
        poll = self._poll.poll
        if poll(0):
            return self._hand_out()
        spin = self._score >= WORTH_IT
        if spin and self._caught():
            return self._hand_out()
        self._on_duty = True
        try:
            await self._sleep(spun=spin)
        except trio.ClosedResourceError:  # what pyfuse3.terminate() does to sleepers
            self._stopping = True
            return False
        finally:
            self._on_duty = False
            if not self._relief_due and self._parked:
                # also when cancelled: somebody has to go on waiting
                self._relief_due = True
                self._parked.unpark()
        return not self._stopping and self._hand_out()

    def _hand_out(self) -> bool:
        self.requests += 1
        self._since_yield += 1
        if not self._relief_due and self._parked:
            self._relief_due = True
            self._parked.unpark()
        return True

    def _caught(self) -> bool:
        poll = self._poll.poll
        end = perf_counter() + SPIN_SECONDS
        while perf_counter() < end:
            if poll(0):
                self.spins_paid += 1
                self._score += (1 - self._score) * MEMORY
                return True
        return False  # counted when the sleep that follows has ended

    async def _sleep(self, *, spun: bool) -> None:
        began = perf_counter()
        if self._alone() and self._poll.poll(NAP_MS):
            self.naps += 1
            now = perf_counter()
        else:
            self.sleeps += 1
            self._since_yield = 0
            await trio.lowlevel.wait_readable(self._fd)
            self._yielded_at = now = perf_counter()
        if self._spin_allowed:
            # A sleep after a spin is a spin that missed; one without tells whether spinning would have caught the
            # request.
            paid = not spun and now - began < NEAR_SECONDS
            self._score += ((1.0 if paid else 0.0) - self._score) * MEMORY

    async def _yield(self) -> None:
        self._since_yield = 0
        await trio.lowlevel.checkpoint()
        self._yielded_at = perf_counter()


def spinning_pays() -> bool:
    """Whether this process may burn a processor for a moment: it has two of them and no CPU limit."""
    return len(os.sched_getaffinity(0)) > 1 and not _cpu_limited()


def _cpu_limited() -> bool:
    """Whether a cgroup limits the CPU time of this process (then polling eats what requests need)."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return False
    for number, controllers, path in groups:
        if number == "0":
            root, name = "/sys/fs/cgroup", "cpu.max"
        elif "cpu" in controllers.split(","):
            root, name = f"/sys/fs/cgroup/{controllers}", "cpu.cfs_quota_us"
        else:
            continue
        while True:
            if _first_word(f"{root}{path}/{name}") not in (b"", b"max", b"-1"):
                return True
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]
    return False


def _first_word(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return (file.read().split() or [b""])[0]
    except OSError:
        return b""


async def can_install(module: Any) -> bool:
    """Whether *module* (pyfuse3, its session made and not yet running) waits by the function that `install` replaces.

    Not only the version is compared: the session loop is run once with a replacement that ends it.
    """
    if not str(getattr(module, "__version__", "")).startswith(KNOWN_VERSIONS):
        return False
    stock = getattr(module, "_wait_fuse_readable", None)
    loop = getattr(module, "_session_loop", None)
    if stock is None or loop is None:
        return False
    asked = 0

    async def end_at_once() -> bool:
        nonlocal asked
        asked += 1
        return False

    module._wait_fuse_readable = end_at_once
    try:
        with trio.move_on_after(SELF_TEST_SECONDS):
            await loop(None, 1, 1)
    except Exception:
        logger.warning("pyfuse3's session loop failed its self-test: requests take longer", exc_info=True)
        return False
    finally:
        module._wait_fuse_readable = stock
    return asked == 1


def install(module: Any, waiter: Waiter) -> Callable[[], None]:
    """Let *module*'s session loop wait with *waiter*; returns what puts the stock function back."""
    stock = module._wait_fuse_readable

    def restore() -> None:
        module._wait_fuse_readable = stock

    module._wait_fuse_readable = waiter.wait
    return restore
