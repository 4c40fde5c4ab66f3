"""How a plain method becomes a handler of requests.

Owns what every handler has in common: an `OSError` becomes the reply's errno, an operation that would block is
prepared in a worker thread and called again, and an exception that nobody expected is logged and answered with EIO.
A handler that let it through would end the session loop, and with it the mount.

Threading: the event loop's thread, except for what is handed to `Threads`.
"""

import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import trio
from pyfuse3 import FUSEError

from goexfs.fuse.patience import Patience
from goexfs.overlay import WouldBlock
from goexfs.overlay.meter import OverLimit

SLOW_REQUESTS = 64
"""worker threads for requests that wait for a disk"""

log = logging.getLogger(__name__)


class Threads:
    """Worker threads for what waits: the request's task waits with it, everybody else's goes on.

    And the one moment in which all requests wait: while the gate is closed.
    """

    def __init__(self) -> None:
        self.gate: trio.Event | None = None
        """set again when it opens; None while it is open"""
        self.busy = 0
        """requests that wait for a thread now"""
        self.patience: Patience | None = None
        """waits for a quick disk without a thread; None where that is not to be done"""
        self._limiter = trio.CapacityLimiter(SLOW_REQUESTS)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Let no request begin meanwhile.  What waits for a request must not be waited for."""
        self.gate = gate = trio.Event()
        try:
            yield
        finally:
            self.gate = None
            gate.set()

    async def wait_for(self, blocked: WouldBlock, *, patiently: bool) -> None:
        """Have what an operation needs brought into memory; *patiently*: perhaps without a thread."""
        patience = self.patience
        if patience is None or blocked.arrived is None or self.busy:
            await self.run(blocked.prepare)
        elif not (patiently and patience.caught(blocked.arrived)):
            patience.took(await self.run(lambda: _timed(blocked.prepare)))

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run something that waits.  Not cancelled halfway: somebody waits for the reply."""
        self.busy += 1
        try:
            with trio.CancelScope(shield=True):
                return await trio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self.busy -= 1


def _timed(work: Callable[[], None]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def errno_of(e: Exception, what: str, *about: object) -> FUSEError:
    """The reply for an exception; one that is neither `OSError` nor `FUSEError` is a mistake, and logged."""
    if isinstance(e, FUSEError):
        return e
    if isinstance(e, OSError):
        return FUSEError(e.errno or errno.EIO)
    log.error("request %s%r failed; it is answered with EIO", what, about, exc_info=e)
    return FUSEError(errno.EIO)


def request(operation: Callable[..., Any]) -> Any:
    """Make a handler out of a plain method, which may raise `OSError` and `WouldBlock` (and is then called again).

    The method's class has `Threads` as ``threads`` and perhaps a `Referee` as ``referee``.  Answers an async method;
    typed as Any because its signature is that of pyfuse3, with other names.
    """

    @functools.wraps(operation)
    async def handler(self: Any, *arguments: Any) -> Any:
        patiently = True  # once: what has arrived may be gone again
        try:
            while True:
                if self.threads.gate is not None:
                    await self.threads.gate.wait()
                    continue
                try:
                    return operation(self, *arguments)
                except WouldBlock as blocked:
                    waiting = blocked
                if isinstance(waiting, OverLimit) and self.referee is not None:
                    await self.referee.decide(waiting.name, operation.__name__.strip("_"), arguments, waiting.more)
                else:
                    await self.threads.wait_for(waiting, patiently=patiently)
                    patiently = False
        except Exception as e:
            raise errno_of(e, operation.__name__, *arguments) from None

    return handler
