"""What becomes of a request that would go over a limit: it waits for the user, or for a snapshot.

Owns the requests that wait and the decisions about them.  Others go on meanwhile; only so many may wait, since each
takes one of the tasks that answer requests, and the rest are refused.  When the mount ends, all that wait are refused
first, so it never waits for an answer.

A process that waits cannot be interrupted by the kernel: it has handed over its request.  (libfuse keeps the kernel's
word of an interrupt to itself.)  So the signals that it has pending are looked at from here, and Ctrl-C or a kill ends
the wait with EINTR.

Threading: the event loop's thread.
"""

import errno
from collections.abc import Awaitable, Callable, Sequence

import trio
from pyfuse3 import FUSEError, RequestContext

from goexfs.overlay.meter import ERRNO, STORE, Meter
from goexfs.policy.rules import Limit, Waiting

MOST_WAITING = 32
LOOK_SECONDS = 0.25
"""how often the pending signals of a process that waits are looked at"""
_DEADLY = sum(1 << (number - 1) for number in (1, 2, 3, 9, 15))  # HUP, INT, QUIT, KILL, TERM


class _Wait:
    def __init__(self, limit: str, operation: str, pid: int) -> None:
        self.limit, self.operation, self.pid = limit, operation, pid
        self.decided = trio.Event()
        self.allowed = False


class Referee:
    """Decides about one mount's limits."""

    def __init__(
        self,
        meter: Meter,
        *,
        snapshot: Callable[[], Awaitable[str]],
        tell: Callable[[tuple[Waiting, ...]], None],
        remember: Callable[[str, Limit], None],
        make_room: Callable[[int], Awaitable[bool]] | None = None,
    ) -> None:
        """*snapshot* makes one; *tell* hears of every change of what waits, *remember* of every changed limit.

        *make_room* says whether the store has room for so many bytes (and has told the meter).
        """
        self.meter = meter
        self._first = dict(meter.limits)
        self._snapshot = snapshot
        self._tell = tell
        self._remember = remember
        self._make_room = make_room
        self._waits: list[_Wait] = []
        self._openers: dict[int, int] = {}
        self._snapshots = trio.Lock()
        self.ending = False
        """nobody waits any more"""

    def opened(self, handle: int, pid: int) -> None:
        """A process has opened a file: a request to write does not say who it is from."""
        if any(limit.then == "pause" for limit in self.meter.limits.values()):
            self._openers[handle] = pid

    def closed(self, handle: int) -> None:
        """The file is closed."""
        self._openers.pop(handle, None)

    def _asker(self, arguments: Sequence[object]) -> int:
        """The process that a request is from, 0 when that is unknown."""
        first, last = (arguments[0], arguments[-1]) if arguments else (None, None)
        if isinstance(last, RequestContext):
            return last.pid
        return self._openers.get(first, 0) if isinstance(first, int) else 0

    async def decide(self, name: str, operation: str, arguments: Sequence[object], more: int = 1) -> None:
        """Return when the request, which needs so much, may be tried again; raise what it is answered with."""
        if name == STORE:
            if self._make_room is None or not await self._make_room(more):
                raise FUSEError(ERRNO[name])
            return
        pid = self._asker(arguments)
        limit = self.meter.limits[name]
        if limit.then == "snapshot":
            await self._make_snapshot(name, limit)
            return
        if limit.then == "deny" or self.ending or len(self._waits) >= MOST_WAITING:
            raise FUSEError(ERRNO[name])
        wait = _Wait(name, operation, pid)
        self._waits.append(wait)
        self._tell(self.waiting())
        try:
            while not wait.decided.is_set():
                with trio.move_on_after(LOOK_SECONDS):
                    await wait.decided.wait()
                if not wait.decided.is_set() and pid > 0 and is_signalled(pid):
                    raise FUSEError(errno.EINTR)
        finally:
            self._waits.remove(wait)
            self._tell(self.waiting())
        if not wait.allowed:
            raise FUSEError(ERRNO[name])

    async def _make_snapshot(self, name: str, limit: Limit) -> None:
        async with self._snapshots:
            if self.meter.limits[name] is limit:  # else another request has had it made
                await self._snapshot()
                self._set(name, Limit(self.meter.used(name) + self._first[name].most, limit.then))

    def waiting(self) -> tuple[Waiting, ...]:
        """What waits now, one for each limit."""
        found: dict[str, list[_Wait]] = {}
        for wait in self._waits:
            found.setdefault(wait.limit, []).append(wait)
        return tuple(
            Waiting(name, self.meter.limits[name].most, self.meter.used(name), ws[0].operation, ws[0].pid, len(ws))
            for name, ws in found.items()
        )

    def answer(self, name: str, *, allow: bool, most: int | None = None) -> Limit:
        """The user's decision: as much again (or up to *most*), or a refusal from now on; the limit as it is then."""
        limit = self.meter.limits[name]
        if allow:
            limit = Limit(self.meter.used(name) + self._first[name].most if most is None else most, limit.then)
        else:
            limit = Limit(limit.most, "deny")
        self._set(name, limit)
        for wait in self._waits:
            if wait.limit == name:
                wait.allowed = allow
                wait.decided.set()
        return limit

    def _set(self, name: str, limit: Limit) -> None:
        self.meter.set_limit(name, limit)
        self._remember(name, limit)

    def end(self, ending: bool) -> None:
        """The mount is about to end (or is not, after all): nobody waits for an answer."""
        self.ending = ending
        if ending:
            for wait in self._waits:
                wait.decided.set()


def is_signalled(pid: int) -> bool:
    """Whether a process (or thread) has a signal pending that is to end what it does."""
    fields = {}
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                key, _, value = line.partition(b":")
                if key in (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn"):
                    fields[key] = int(value, 16)
    except OSError:
        return True  # it is gone, and so is whoever would read the answer
    pending = fields.get(b"SigPnd", 0) | fields.get(b"ShdPnd", 0)
    return bool(pending & _DEADLY & ~(fields.get(b"SigBlk", 0) | fields.get(b"SigIgn", 0)))
