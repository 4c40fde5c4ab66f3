"""One mounted overlay: its device, its session loop, its sealing, its notifications and its end.

Owns the order in which these start and stop.  Knows no run, no control socket and no signal: whoever serves calls
`Service.stop`, `Service.seal_now` and `Service.base_changed`.

Threading: the event loop's thread, except where a thread is named.  The process must never touch the mountpoint
itself; what has to (unmounting, flushing the kernel's caches) is done by programs it starts.
"""

import contextlib
import errno
import gc
import logging
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from goexfs.fuse import device, listings, wait
from goexfs.fuse.adapter import Adapter
from goexfs.fuse.answering import SLOW_REQUESTS
from goexfs.fuse.cache import Notifier
from goexfs.fuse.errors import MountError, MountpointBusy, UnmountFailed
from goexfs.fuse.handshake import Handshake, HandshakeError
from goexfs.fuse.patience import Patience
from goexfs.fuse.recording import Recording
from goexfs.fuse.referee import Referee
from goexfs.fuse.seal import Sealer
from goexfs.overlay import Invalidation, Overlay, WouldBlock
from snapshots.errors import RunError
from snapshots.history.journal import Change
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.fuse.rewinding import Done

MAX_TASKS = SLOW_REQUESTS + 16
"""tasks of the session loop: as many requests can wait for disks, and some are left to answer the others"""
SWITCH_SECONDS = 0.0001
"""how long another thread (sealing, watching) may keep the interpreter when a request has come: with Python's own 5 ms,
a busy one makes requests ten times slower
"""
DRAIN_SECONDS = 2.0
"""how long to wait for a moment without a request, after a flush"""
DRAIN_STEP_SECONDS = 0.0005
FLUSH_SECONDS = 15.0
"""how long the kernel may take to write back what it holds"""
REWIND_ATTEMPTS = 5
REWIND_SECONDS = 10.0
"""how long the kernel may take to forget what a rewind changed, before the rewind is reported as done"""
HANG_UP_SECONDS = 0.1
"""how long the kernel may take to end the session after the last unmount"""

log = logging.getLogger(__name__)


class Service:
    """Serves *overlay* at *mountpoint* until it is unmounted.

    One per process: pyfuse3 keeps its session in globals.
    """

    def __init__(
        self,
        overlay: Overlay,
        mountpoint: bytes,
        *,
        run_id: str,
        open_store: Callable[[], Store],
        allow_other: bool = False,
        recording: Recording | None = None,
    ) -> None:
        """*open_store* opens the store once more, for the thread that seals; *recording* is the run's journal."""
        self.overlay = overlay
        self.mountpoint = mountpoint
        self._run_id = run_id
        self._recording = recording
        self._allow_other = allow_other
        # Root passes every check of mode bits, so nobody has to make them when nobody else gets in; with them the
        # kernel would ask for the attributes of the parent at every create, unlink and rename.
        self._default_permissions = allow_other or os.geteuid() != 0
        if recording is not None:
            overlay.record_in(recording.append)
            recording.unrecorded = self._not_recorded
        self.sealer = Sealer(overlay, run_id, open_store, recording)
        self.adapter = Adapter(overlay, self.sealer, recording, checks_permissions=not self._default_permissions)
        self.adapter.faces.stale = self._forget
        self.notifier: Notifier | None = None
        self.waiter: wait.Waiter | None = None
        self._device = -1
        self._failure: Exception | None = None
        self.referee: Referee | None = None
        self._stop = trio.Event()
        self._mounted = trio.Event()
        self._nursery: trio.Nursery | None = None
        """while requests are answered"""
        self._to_be_watched = False
        self._rescuing = trio.Lock()

    # -- for whoever serves

    def limit_by(self, referee: Referee) -> None:
        """From now on *referee* decides about requests that would go over a limit."""
        self.referee = self.adapter.referee = referee

    def stop(self) -> None:
        """Begin the orderly end: flush, unmount, seal.  `serve` returns when it is done."""
        self._stop.set()

    async def seal_now(self) -> None:
        """Bring everything into the store, also what the kernel still holds of open files.  Raises `StoreError`."""
        if self.adapter.has_writers:
            await self.flush_kernel()
        await self.sealer.seal()

    async def rewind(
        self, position: int, paths: tuple[bytes, ...] = (), process: str = ""
    ) -> "Done":
        """Become what the run was at a position of its journal, or have only these paths become so; with *process* see
        ``snapshots.history.rewind.Aim``.  Raises `RunError` (and its kind), `StoreError`.
        """
        from goexfs.fuse import rewinding
        from snapshots.history.rewind import Aim

        aim = Aim(position, paths, process)
        if self.adapter.has_writers:
            await self.flush_kernel()  # not later: what it flushes comes as requests
        with self.adapter.threads.closed():
            for _ in range(REWIND_ATTEMPTS):
                await self.sealer.seal()
                plan = partial(rewinding.plan, self.overlay, self._run_id, aim)
                planned = await self.sealer.with_store(plan)
                if not self.overlay.dirty:  # the base may have changed meanwhile, and the run with it
                    break
            else:
                raise RunError("the base changes so quickly that the run cannot be rewound; unmount it first")
            if not planned.snapshot:
                return rewinding.Done(0, "", planned.left)
            stale = rewinding.carry_out(self.overlay, planned, self._recording)
        if self.notifier is not None:
            self.notifier.invalidate(stale)
            await trio.to_thread.run_sync(self.notifier.idle().wait, REWIND_SECONDS, abandon_on_cancel=True)
        await self.sealer.seal()
        return rewinding.Done(len(planned.change.entries) + len(planned.change.gone), planned.snapshot, planned.left)

    def base_watched(self, watched: bool) -> None:
        """Changes of the base are reported from now on by `base_changed` (or no more)."""
        self._to_be_watched = watched
        # What was loaded before was last looked at when nobody watched, or some time ago.
        self.base_changed(None)
        if not watched:
            self.adapter.faces.watch(False)
            # The kernel was told to believe for long what now nobody will take back.  (Directories stay: to forget
            # one that is somebody's working directory would leave him nowhere.)
            nodes = [node for node in self.overlay.nodes.values() if node.base_dir is not None and not node.is_dir]
            self._forget([Invalidation(above.ino, name) for node in nodes for above, name in node.names()])
            self._forget([Invalidation(node.ino, None) for node in self.overlay.nodes.values() if node.is_dir])

    def base_changed(self, paths: Iterable[bytes] | None) -> None:
        """These paths of the base (relative to it) changed from outside; None: anything may have changed."""
        if self._nursery is None:
            return  # the next mount looks at everything
        if paths is not None:
            self._nursery.start_soon(self._look_at, tuple(paths))
        else:
            self._nursery.start_soon(self._look_at_everything)

    async def _look_at(self, paths: tuple[bytes, ...]) -> None:
        await self.adapter.threads.run(self.overlay.in_memory(paths))
        self._forget(one for path in paths for one in self.overlay.base_changed(path))
        await self._rescue()

    async def _look_at_everything(self) -> None:
        await self.adapter.threads.run(self.overlay.everything_in_memory())
        if self._to_be_watched:
            self.adapter.faces.watch(True)
        self._forget(self.overlay.everything_changed() + self.adapter.faces.forget_missing())
        await self._rescue()

    async def _rescue(self) -> None:
        """Copy what partly copied files still need of base files that are lost, a piece at a time."""
        threads = self.adapter.threads
        async with self._rescuing:
            while self.overlay.rescue.is_needed:
                if threads.gate is not None:
                    await threads.gate.wait()
                    continue
                try:
                    self.overlay.rescue.step()
                except WouldBlock as blocked:
                    await threads.run(blocked.prepare)
                except OSError as e:  # tried again with the next report, and in the end
                    log.error("a file whose base file is lost could not be copied: %s", e.strerror)
                    return
                await trio.lowlevel.checkpoint()

    def _not_recorded(self, change: Change) -> None:
        """What the journal could not take has happened, and the kernel is told that it has not: it is to look again."""
        self.sealer.hurry()
        names = {(link.parent, link.name) for link in change.links} | {*change.unlinked}
        self._forget(Invalidation(*name) for name in names)
        for entry in change.entries:
            with contextlib.suppress(OSError):  # one that the kernel does not know
                pyfuse3.invalidate_inode(entry.ino, attr_only=True)  # which waits for nothing

    def _forget(self, stale: Iterable[Invalidation]) -> None:
        if self.notifier is not None:
            self.notifier.invalidate(stale)

    # -- life

    async def serve(self, on_mounted: Callable[[], None] | None = None) -> None:
        """Mount, answer requests, and return when the filesystem is unmounted, by `stop` or from outside, and all is
        sealed.

        *on_mounted* is called when the first program may come; what it raises ends the mount and is raised here.
        Raises `MountError` when it does not come to that, and `StoreError` when the last changes could not be stored.
        """
        fd = await trio.to_thread.run_sync(
            partial(
                device.attach,
                self.mountpoint,
                allow_other=self._allow_other,
                default_permissions=self._default_permissions,
            )
        )
        handshake = Handshake(fd, evaluate_acls=self._allow_other)
        try:
            pyfuse3.init(self.adapter, f"/dev/fd/{handshake.fd}", set())
        except RuntimeError as e:
            await self._detach(lazy=True)
            raise MountError(f"libfuse would not serve {os.fsdecode(self.mountpoint)}: {e}") from e
        self._device = handshake.fd
        orderly = False
        replaced = contextlib.ExitStack()
        """what is put back into pyfuse3 at the end"""
        try:
            await self._prepare_wait(handshake, replaced)
            if listings.can_install(pyfuse3):
                replaced.callback(listings.install(pyfuse3))
            self.notifier = Notifier()
            sys.setswitchinterval(SWITCH_SECONDS)
            # What lives as long as the mount need not be looked at by every collection.  It is not looked at once more
            # before: that takes longer than everything else here, and finds 0.3 MB that the libraries dropped.
            gc.freeze()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.sealer.run)
                nursery.start_soon(self._unmount_when_told)
                if on_mounted is not None:
                    nursery.start_soon(self._announce, on_mounted)
                await self._answer_requests()
                self._nursery = None
                nursery.cancel_scope.cancel()
            orderly = True
            if self._failure is not None:
                raise self._failure
        finally:
            with trio.CancelScope(shield=True):
                await self._end(unmount=orderly)
            replaced.close()

    async def _prepare_wait(self, handshake: Handshake, replaced: contextlib.ExitStack) -> None:
        if not await wait.can_install(pyfuse3):
            log.info("pyfuse3 %s is not a version whose wait can be replaced; its own is used", pyfuse3.__version__)
            handshake.skip()
            self._mounted.set()
            return

        def first() -> bool:
            done = handshake.step()
            if done:
                self._mounted.set()
            return done

        spin = wait.spinning_pays()
        self.waiter = wait.Waiter(
            handshake.fd, spin=spin, before_first=first, alone=lambda: not self.adapter.threads.busy
        )
        if spin:
            self.adapter.threads.patience = Patience(handshake.fd)
        replaced.callback(wait.install(pyfuse3, self.waiter))

    async def _answer_requests(self) -> None:
        while True:
            try:
                await (pyfuse3.main(1, MAX_TASKS) if self.waiter else pyfuse3.main())
                return
            except BaseExceptionGroup as group:
                refused, _ = group.split(HandshakeError)
                if refused is not None:  # nobody works in it yet, so it may go
                    self._failure = MountError(f"{os.fsdecode(self.mountpoint)}: {refused.exceptions[0]}")
                    return
                taken_back, other = group.split(lambda e: isinstance(e, OSError) and e.errno == errno.EAGAIN)
                if other is not None or taken_back is None:
                    raise
                # A killed client took its request back between poll(2) and read(2).  pyfuse3 ends its loop for that;
                # begin again.
                if self.waiter is not None:
                    self.waiter.reset()

    async def _announce(self, on_mounted: Callable[[], None]) -> None:
        await self._mounted.wait()
        try:
            on_mounted()
        except Exception as e:
            self._failure = e
            self.stop()

    async def _unmount_when_told(self) -> None:
        await self._stop.wait()
        # Another mount namespace may hold a copy of the mount: every sandbox started meanwhile does.  Then unmounting
        # it here writes nothing back, and the kernel does not hang up.  So neither is left to it.
        if device.mounted_at(self.mountpoint) is not None:
            await self.flush_kernel()
        try:
            await self._detach()  # the session loop goes on meanwhile, and ends because of it
            await trio.sleep(HANG_UP_SECONDS)
        except MountpointBusy:
            log.info("%s is in use; it is taken away from those who use it", os.fsdecode(self.mountpoint))
        except MountError as e:
            log.warning("%s", e)
        try:
            await self._detach(lazy=True)
        except MountError as e:
            log.warning("%s", e)
        if self.waiter is not None:
            self.waiter.stop()
        pyfuse3.terminate()

    async def _end(self, *, unmount: bool) -> None:
        """After the session loop, or without one: seal what is left and let go.

        A crash leaves the mount there, dead.
        """
        # The device goes first: from then on the kernel knows that nobody serves, and lets go whoever waits.
        if self.notifier is None or await trio.to_thread.run_sync(self.notifier.stop):
            pyfuse3.close(unmount=False)
        else:
            os.close(self._device)  # what libfuse holds in memory stays: the notifying thread still uses it
        try:
            await self._rescue()
            await self.sealer.seal()
        finally:
            await self.sealer.close()
            if unmount:
                try:
                    await self._detach(lazy=True)
                except UnmountFailed as e:
                    log.warning("%s", e)

    async def _detach(self, *, lazy: bool = False) -> None:
        await trio.to_thread.run_sync(partial(device.detach, self.mountpoint, lazy=lazy), abandon_on_cancel=True)

    async def flush_kernel(self, seconds: float = FLUSH_SECONDS) -> None:
        """Have the kernel write back what programs wrote to files that they have not closed, within ``seconds``."""
        sync = shutil.which("sync")
        if sync is None:
            return
        command = [sync, "--file-system", os.fsdecode(self.mountpoint)]
        with trio.move_on_after(seconds) as timeout:
            for _ in range(2):
                done = await trio.run_process(command, check=False, stdin=subprocess.DEVNULL, capture_stderr=True)
                if not done.returncode:
                    break
                # The kernel reports once what went wrong at any time before (EINTR, when somebody was killed while he
                # wrote); the second answer is about what it holds now.
            else:
                said = done.stderr.decode(errors="replace").strip()
                log.warning("the kernel's caches could not be flushed: %s", said)
        if timeout.cancelled_caught:
            log.warning("the kernel's caches were not flushed within %d s", seconds)
        await self._drain()

    async def _drain(self) -> None:
        """Let everything that the kernel has sent be answered.

        Since Linux 6.18 syncfs(2) sends what is dirty in a FUSE filesystem and does not wait for the answers.  What is
        sent is in a queue, first in, first out; what is kept back behind its limit moves up with every answer.
        """
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        with trio.move_on_after(DRAIN_SECONDS):
            while poll.poll(0) or self.adapter.threads.busy:
                await trio.sleep(DRAIN_STEP_SECONDS)
