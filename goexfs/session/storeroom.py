"""How a mounted run keeps to the limit of its store.

Owns what the server knows of the room there is: it hands the meter a part of it, looks again when that is used up, has
the store let go of what may go, and when nothing is left refuses, and says so once in the log, and beside the run for
who asks afterwards.  Several runs share what is left: each may be wrong by `STEP` bytes at most.

The event loop's thread; what looks at the store or changes it has a worker thread and a store of its own.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from goexfs.overlay.meter import Meter
from goexfs.policy.rules import Refused
from goexfs.session import policing
from snapshots.errors import GoexfsError
from snapshots.storage.bound import Use, full, measure
from snapshots.storage.store import Store

STEP = 16 << 20
"""bytes that a run gets at a time when there is little room, or nobody has looked yet"""
LOOK_SECONDS = 30.0
"""how often a run that changes something looks: names and the journal take up room as well"""
AGAIN_SECONDS = 1.0
"""for so long a refusal holds without another look, unless something was deleted"""

log = logging.getLogger("goexfs.server")


class StoreRoom:
    """The room of one mounted run."""

    def __init__(
        self, meter: Meter, open_store: Callable[[], Store], seal: Callable[[], Awaitable[None]], directory: Path, *,
        limit: int, room: int,
    ) -> None:  # fmt: skip
        self._meter = meter
        self._open_store = open_store
        self._seal = seal
        self._directory = directory
        self._limit = limit
        self._looking = trio.Lock()
        self._refused_at = float("-inf")
        self._refused_with = 0
        self._refused = 0
        self._last = Use(limit, limit, 0, 0, 0, 0)
        meter.set_room(min(room, STEP))
        policing.say_refused(directory, None)

    async def make(self, more: int) -> bool:
        """Whether there is room for so many bytes more; the meter knows."""
        async with self._looking:
            if self._meter.room >= more:  # somebody else has asked meanwhile
                return True
            if time.monotonic() - self._refused_at >= AGAIN_SECONDS or self._meter.bytes < self._refused_with:
                use = await self._look(more)
                if use is not None and self._meter.room < more:  # what is deleted now can go when that is in the store
                    await self._sealed()
                    use = await self._look(more)
                if use is not None and self._meter.room < more:
                    self._refused_at, self._refused_with = time.monotonic(), self._meter.bytes
                    if not self._refused:
                        log.warning("writes fail with ENOSPC: %s", full(use))
            if self._meter.room >= more:
                return True
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # 1, 2, 4, …
                self._note()
            return False

    async def watch(self, changes: Callable[[], int]) -> None:
        """Look from time to time, for as long as *changes* (a count of them) grows."""
        known = changes()
        while True:
            await trio.sleep(LOOK_SECONDS)
            if (now := changes()) != known:
                known = now
                async with self._looking:
                    await self._look(0)

    def end(self) -> None:
        """Write down how much was refused."""
        if self._refused:
            self._note()

    async def _sealed(self) -> None:
        try:
            await self._seal()
        except GoexfsError as error:
            log.warning("there is no room, and nothing could be sealed: %s", error)

    async def _look(self, more: int) -> Use | None:
        try:
            use, sharers = await trio.to_thread.run_sync(self._in_thread, more)
        except (GoexfsError, OSError) as error:
            log.warning("how large the store is cannot be found out: %s", error)
            self._meter.set_room(max(self._meter.room, STEP))
            return None
        room = use.room if sharers <= 1 else max(use.room // sharers, min(use.room, STEP))
        self._meter.set_room(room)
        self._last = use
        return use

    def _in_thread(self, more: int) -> tuple[Use, int]:
        with self._open_store() as store:
            use = measure(store.layout, limit=self._limit)
            if use.room <= more:
                from snapshots.upkeep.room import make_room

                use = make_room(store, limit=self._limit, wanted=more).after
            row = store.database.one("SELECT count(*) FROM runs WHERE state = 'active'")
            return use, (row or (1,))[0]

    def _note(self) -> None:
        try:
            policing.say_refused(self._directory, Refused(self._limit, self._last.used, self._refused))
        except OSError as error:
            log.warning("what was refused could not be written down: %s", error)
