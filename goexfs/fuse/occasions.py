"""Automatic snapshots of a mounted run: when it has been quiet, or has changed much.

Owns the watching for these two occasions.  Event loop's thread.
"""

import logging
import time
from typing import TYPE_CHECKING

import trio

from goexfs.fuse.service import Service
from snapshots.errors import GoexfsError
from snapshots.history.occasions import Occasions

if TYPE_CHECKING:
    from snapshots.history.history import Kind
    from snapshots.storage.store import Store

TICK_SECONDS = 0.25

log = logging.getLogger(__name__)


async def watch(service: Service, run_id: str, occasions: Occasions) -> None:
    """Make snapshots when there is occasion for one; until cancelled."""
    overlay = service.overlay
    seen = last = overlay.change_count
    moved = time.monotonic()
    while occasions.quiet_seconds or occasions.every:
        await trio.sleep(TICK_SECONDS)
        changes = overlay.change_count
        if changes != last:
            last, moved = changes, time.monotonic()
        kind: Kind | None = None
        if occasions.every and changes - seen >= occasions.every:
            kind = "every"
        elif (
            occasions.quiet_seconds
            and changes != seen
            and time.monotonic() - moved >= occasions.quiet_seconds
        ):
            kind = "quiet"
        if kind is None:
            continue
        try:
            await snapshot(service, run_id, kind)
        except GoexfsError as error:
            log.warning("no automatic snapshot: %s", error)
        seen = overlay.change_count


async def snapshot(service: Service, run_id: str, kind: "Kind") -> str:
    """Seal, and name what there is then; the name."""

    def make(store: "Store") -> str:
        from snapshots.history.history import History

        return History(store, run_id).snapshot(kind=kind).name

    await service.seal_now()
    return await service.sealer.with_store(make)
