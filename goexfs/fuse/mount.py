"""Serving one overlay from start to end, as one call.

Owns the composition of `Service` and the watch of the base.  Knows no run directory and no control socket.  Event
loop's thread.
"""

from collections.abc import Callable

import trio

from goexfs.fuse.service import Service
from goexfs.overlay import Overlay
from goexfs.watch import BaseWatch
from snapshots.errors import GoexfsError
from snapshots.store import Store


async def serve(
    overlay: Overlay,
    mountpoint: bytes,
    *,
    run_id: str,
    open_store: Callable[[], Store],
    watch: BaseWatch | None = None,
    allow_other: bool = False,
    on_mounted: Callable[[Service], None] | None = None,
    report: Callable[[str], None] | None = None,
    prepare: Callable[[Service], None] | None = None,
) -> None:
    """Mount *overlay* at *mountpoint* and serve it until it is unmounted or ``Service.stop`` is called; then all is
    sealed.

    *open_store* opens the run's store for the thread that seals.  *watch* watches the base (None: timeouts stay
    short).  *on_mounted* is called, with the service, when the mount answers.  *report* takes one-line messages for a
    person: that the base cannot be watched, or is gone.  *prepare* is called with the service before it mounts.
    Raises `MountError` and `StoreError`.
    """
    service = Service(overlay, mountpoint, run_id=run_id, open_store=open_store, allow_other=allow_other)
    if prepare is not None:
        prepare(service)
    async with trio.open_nursery() as nursery:

        def mounted() -> None:
            if watch is not None:
                nursery.start_soon(watch.run, service.base_watched, service.base_changed, report or (lambda line: None))
            if on_mounted is not None:
                on_mounted(service)

        failure: GoexfsError | None = None
        try:
            await service.serve(mounted)
        except GoexfsError as e:
            failure = e  # raised outside the nursery, which would wrap it
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
