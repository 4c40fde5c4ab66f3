"""Bringing what is dirty into the store, off the request path.

Owns when that happens, the one thread (with the one `Store`) in which it happens, and what happens when memory or the
store is full.  How a batch is made, stored and taken back is `goexfs.overlay.sealing`.

Threading: a `Sealer` belongs to the event loop's thread; only `store_batch` and the `Store` live in the sealing
thread.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import trio

from goexfs.fuse.recording import Recording
from goexfs.overlay import Batch, Overlay, store_batch
from snapshots.entries import Content
from snapshots.errors import StoreError, StoreFull
from snapshots.storage.durable import reporting
from snapshots.storage.store import Store

QUIET_NS = 1_000_000_000
"""a run that changed nothing for this long is sealed"""
AT_MOST_SECONDS = 5.0
"""one that never rests is sealed this often"""
LARGE_QUIET_NS = 10_000_000_000
LARGE_AT_MOST_SECONDS = 120.0
LARGE_AT_MOST_CHANGES = 50_000
"""the same while a large file is open for writing: sealed in the middle it becomes several objects, each of which is
copied, and a merge can give the base only a whole one; until then it is safe in the journal and its working file"""
TICK_SECONDS = 0.5
RETRY_SECONDS = 5.0
"""pause after the store refused a batch"""
DIRTY_SOFT = 32 << 20
"""bytes of dirty contents in memory from which on sealing begins at once"""
DIRTY_HARD = 128 << 20
"""bytes of dirty contents in memory (also those being stored) at which writers wait"""
WAIT_SECONDS = 20.0
"""how long a writer waits for memory before it is told ENOSPC"""

THIN_BYTES = 16 << 20
"""of contents stored since the history was last thinned"""
THIN_SECONDS = 30.0
"""after which it is thinned again in any case"""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Sealer:
    """Seals one overlay; `run` does it by itself, `seal` at once."""

    def __init__(
        self, overlay: Overlay, run_id: str, open_store: Callable[[], Store], recording: Recording | None = None
    ) -> None:
        """*open_store* is called once, in the sealing thread.  *recording* ends a segment where a checkpoint begins."""
        self._recording = recording
        self._overlay = overlay
        self._run_id = run_id
        self._open_store = open_store
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="goexfs-seal")
        self._one_at_a_time = trio.Lock()
        self._wanted = trio.Event()
        self._room = trio.Event()
        self._storing_bytes = 0
        self._last_try = 0.0
        self._unthinned = 0
        self._thinned = time.monotonic()
        self.failed: StoreError | None = None
        """why the last batch could not be stored; None when it was"""
        self.seals = 0

    @property
    def held_bytes(self) -> int:
        """Contents in memory that are in no store yet."""
        return self._overlay.dirty_bytes + self._storing_bytes

    async def run(self) -> None:
        """Seal whenever the run is quiet, or busy for long, or holds much; until cancelled."""
        last, seen = trio.current_time(), 0
        while True:
            with trio.move_on_after(TICK_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()
            now = trio.current_time()
            if not self._overlay.dirty and not self._needs_checkpoint:
                last, seen = now, self._overlay.change_count
                continue
            if self.failed is not None and now - self._last_try < RETRY_SECONDS:
                continue
            if self.is_time(now - last, self._overlay.change_count - seen):
                try:
                    await self.seal()
                except Exception:
                    pass  # reported by `seal`; what is dirty stays so, and is tried again
                last, seen = trio.current_time(), self._overlay.change_count

    @property
    def _needs_checkpoint(self) -> bool:
        return self._recording is not None and self._recording.needs_checkpoint

    def is_time(self, seconds: float, changes: int) -> bool:
        """Whether to seal now; how long ago the last time was, and how many changes."""
        if self._overlay.dirty_bytes >= DIRTY_SOFT or self._needs_checkpoint:
            return True
        rest = time.time_ns() - self._overlay.last_change_ns
        if rest < QUIET_NS and seconds < AT_MOST_SECONDS:
            return False
        if not self._overlay.is_writing_large:
            return True
        return rest >= LARGE_QUIET_NS or seconds >= LARGE_AT_MOST_SECONDS or changes >= LARGE_AT_MOST_CHANGES

    async def seal(self) -> None:
        """Bring everything that is dirty now into the store.  Raises `StoreError`; then all of it stays dirty."""
        async with self._one_at_a_time:
            self._last_try = trio.current_time()
            held = self._overlay.dirty_bytes
            batch = None
            try:
                if self._overlay.dirty:
                    batch = self._overlay.collect(self._recording.rotate() if self._recording is not None else 0)
            except BaseException as e:  # the journal would not be divided: nothing was taken out of the overlay
                self._report(e)
                raise
            if batch is None:
                self.failed = None
                if self._recording is not None:
                    self._recording.nothing_missing()
                return
            self._storing_bytes = held
            try:
                stored = await self._in_thread(lambda: self._stored(batch))
            except BaseException as e:
                self._overlay.give_back(batch)
                self._report(e)
                raise
            else:
                self._overlay.finish(batch, stored)
                if self._recording is not None:
                    self._recording.sealed(batch.journal)
                self.failed = None
                self.seals += 1
            finally:
                self._storing_bytes = 0
                self._room.set()
                self._room = trio.Event()

    async def with_store(self, work: Callable[[Store], T]) -> T:
        """Do something with the store, in the sealing thread; nothing is sealed meanwhile."""
        async with self._one_at_a_time:

            def there() -> T:
                if self._store is None:
                    self._store = self._open_store()
                return work(self._store)

            return await self._in_thread(there)

    def _stored(self, batch: Batch) -> dict[int, Content]:
        if self._store is None:
            self._store = self._open_store()
        with reporting("changes of the run cannot be stored"):
            stored = store_batch(batch, self._store, self._run_id)
        if self._recording is not None:
            self._store.sync()  # what the journal had until here must be as safe in the store before it may go
            self._thin(sum(extent.length for content in stored.values() for extent in content.extents))
        return stored

    def _thin(self, more: int) -> None:
        """Now and then, drop what is beyond the history limit.  In the sealing thread."""
        self._unthinned += more
        now = time.monotonic()
        if self._store is not None and (self._unthinned >= THIN_BYTES or now - self._thinned >= THIN_SECONDS):
            from snapshots.history.retention import thin

            self._unthinned, self._thinned = 0, now
            try:
                thin(self._store, self._run_id)
            except (StoreError, OSError) as e:  # what was to be sealed is; this is housekeeping
                log.warning("the history of the run could not be thinned: %s", e)

    def _report(self, e: BaseException) -> None:
        if isinstance(e, StoreError):
            if type(e) is not type(self.failed):
                log.error("changes of the run could not be stored: %s (tried again every %d s)", e, RETRY_SECONDS)
            self.failed = e
        elif isinstance(e, Exception):
            log.error("changes of the run could not be stored (tried again every %d s)", RETRY_SECONDS, exc_info=e)
            self.failed = StoreError(f"sealing failed: {e!r}")

    async def make_room(self) -> bool:
        """Wait until there is memory for more dirty contents; False when there will be none (the store is full)."""
        with trio.CancelScope(shield=True), trio.move_on_after(WAIT_SECONDS):
            while self.held_bytes >= DIRTY_HARD:
                if isinstance(self.failed, StoreFull):
                    return False
                self._wanted.set()
                await self._room.wait()
        return self.held_bytes < DIRTY_HARD

    def hurry(self) -> None:
        """There is much that is dirty: do not wait for the next tick."""
        self._wanted.set()

    async def close(self) -> None:
        """End the sealing thread.  What is dirty stays unsealed: `seal` first."""

        def close_store() -> None:
            if self._store is not None:
                self._store.close()

        await self._in_thread(close_store)
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        future = self._thread.submit(function)
        future.add_done_callback(lambda _: token.run_sync_soon(done.set))
        with trio.CancelScope(shield=True):  # a batch is never left half stored, and its result is always taken
            await done.wait()
        return future.result()
