"""The process that serves one run's mount.

Owns the composition: store, base, overlay, FUSE service, control socket, watch, and the order of their ends.  Born by
``birth``.  One thread runs the event loop; disks, sealing and programs have threads of their own.

The end is always the same, whoever asks for it (control socket, SIGTERM, somebody's ``umount``, the death of an
attached session process): the mount goes away, everything is sealed, the record says ``kept``, the lock is released by
exiting.  If this process dies instead, the record says ``active`` and the lock is free: the run has crashed, and
nothing that was sealed is lost.
"""

import contextlib
import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import msgspec
import trio

from goexfs.fuse import occasions
from goexfs.fuse.recording import Recording
from goexfs.fuse.referee import Referee
from goexfs.fuse.service import Service
from goexfs.overlay import Overlay
from goexfs.overlay.objectcache import ObjectCache
from goexfs.overlay.slowbase import SlowBaseTree, open_base
from goexfs.session import channel, control, policing
from goexfs.session.birth import NAME
from goexfs.session.checks import left_alone
from goexfs.session.control import fault_of
from goexfs.session.launch import LOG, Assignment, Report
from goexfs.session.listening import Listening
from goexfs.session.questions import Questions
from goexfs.session.recovered import losses
from goexfs.session.storeroom import StoreRoom
from snapshots.errors import GoexfsError, StoreError
from snapshots.history.occasions import parse_occasions
from snapshots.history.recovery import Recovery, recover
from snapshots.storage.store import Store

WATCH_DELAY_SECONDS = 0.15
"""Importing the watch takes a while; the command that is about to start goes first."""

CHANNEL_BACKLOG = 64
"""programs of the run that may wait to be heard"""

_MOST_BYTES = 1 << 20

log = logging.getLogger("goexfs.server")


def main(channel: socket.socket) -> int:
    """Wait for the assignment, serve it to its end; the exit status."""
    data, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 1)
    if not data:
        return 0  # nobody wanted a server after all
    assignment = msgspec.msgpack.decode(data, type=Assignment)
    try:
        store = Store.open(Path(os.fsdecode(assignment.store)), create=False)
        _log_to(store.runs.directory(assignment.run_id) / LOG)
    except Exception as error:
        for fd in descriptors:
            os.close(fd)  # the run's lock: whoever hears of the failure cleans up at once
        channel.sendall(msgspec.msgpack.encode(Report(os.getpid(), fault_of(error))))
        return 1
    _raise_limits()
    server = _Server(assignment, channel, store, descriptors)
    try:
        trio.run(server.run)
    except BaseException:
        log.critical("the server ends", exc_info=True)
        return 1
    if server.orphaned and assignment.discard:
        server.release_lock()
        _discard(store, assignment.run_id)
    store.close()
    return 0 if server.fault is None else 1


def _raise_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # every file that the agent has open may be a descriptor here
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to(path: Path) -> None:
    """Everything that is said from here on goes to the run's log."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    faulthandler.enable(sys.stderr)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)


def _discard(store: Store, run_id: str) -> None:
    """The session process died before its verdict, and this run was to leave nothing."""
    from goexfs.session.effects import must_stay

    try:
        if must_stay(store, store.runs.get(run_id).whole or run_id):
            log.warning("the run has effects that nobody has decided about: it is kept")
            return
        store.discard(run_id)
        store.runs.forget(run_id)
    except GoexfsError as error:
        log.error("the run could not be discarded: %s", error)


def _tell_of(recovery: Recovery | None) -> None:
    """Say in the log what a recovery found."""
    if recovery is None:
        return
    log.info("%d records of the journal were recovered", recovery.records)
    for line in losses(recovery):
        log.warning("%s", line)


class _Server:
    """One assignment being served."""

    def __init__(self, assignment: Assignment, channel: socket.socket, store: Store, lock: list[int]) -> None:
        self._assignment = assignment
        self._channel = channel
        self._store = store
        self._lock = lock
        """the descriptor that carries the run's lock"""
        self._reported = False
        self.fault: BaseException | None = None
        self.orphaned = False
        """the session process is gone"""

    async def run(self) -> None:
        """Serve to the end.  What goes wrong before the mount is there is reported up the channel."""
        try:
            await self._serve()
        except BaseException as error:
            self.fault = error = _single(error)
            if not self._reported:
                self.release_lock()  # whoever hears of it cleans up at once
                self._report(error)
            log.error("%s: %s", type(error).__name__, error, exc_info=not isinstance(error, GoexfsError))

    def release_lock(self) -> None:
        """Let others have the run before this process has ended."""
        while self._lock:
            os.close(self._lock.pop())

    def _report(self, fault: BaseException | None) -> None:
        self._reported = True
        try:
            report = Report(os.getpid(), None if fault is None else fault_of(fault))
            self._channel.sendall(msgspec.msgpack.encode(report))
        except OSError:
            log.warning("whoever started this server is gone already")

    async def _serve(self) -> None:
        assignment = self._assignment
        run_id, store = assignment.run_id, self._store
        directory = store.runs.directory(run_id)

        def service_store() -> Store:
            return Store.open(store.path, create=False)

        objects = ObjectCache(service_store)
        with (
            open_base(assignment.base) as base, control.bind(directory) as listener,
            control.bind(directory, channel.NAME, backlog=CHANNEL_BACKLOG) as speaking, contextlib.closing(objects),
        ):  # fmt: skip
            _tell_of(recover(store, run_id))
            state = store.upper(run_id).load()
            hidden = frozenset(assignment.hidden)
            guard = policing.guard_of(assignment.policy, assignment.base, hidden=hidden | left_alone(assignment.base))
            meter = policing.meter_of(
                assignment.policy, store.runs.get(run_id), store, state, store_limit=assignment.store_limit
            )
            overlay = Overlay(base, state, objects, directory / "spool", hidden=hidden, guard=guard, meter=meter)
            recording = Recording(directory / "journal", state.journal)
            service = Service(
                overlay, assignment.mountpoint, run_id=run_id, allow_other=assignment.allow_other,
                open_store=service_store, recording=recording,
            )  # fmt: skip
            room = None
            if meter is not None:
                if assignment.store_limit:
                    room = StoreRoom(
                        meter, service_store, service.sealer.seal, directory,
                        limit=assignment.store_limit, room=assignment.store_room,
                    )  # fmt: skip
                service.limit_by(Referee(
                    meter, snapshot=partial(occasions.snapshot, service, run_id, "limit"),
                    tell=partial(policing.say_waiting, directory),
                    remember=partial(policing.remember_limit, store, run_id),
                    make_room=None if room is None else room.make,
                ))  # fmt: skip
            questions = Questions()
            listening = Listening(listener, service, run_id, questions)
            async with trio.open_nursery() as nursery:

                def mounted() -> None:
                    store.runs.update(run_id, state="active", mountpoint=assignment.mountpoint, pid=os.getpid())
                    self._report(None)
                    nursery.start_soon(self._watch, service, listening, isinstance(base, SlowBaseTree))
                    nursery.start_soon(occasions.watch, service, run_id, parse_occasions(assignment.auto_snapshot))
                    if room is not None:
                        nursery.start_soon(room.watch, lambda: recording.next)
                    if assignment.attached:
                        nursery.start_soon(self._notice_death, listening)

                nursery.start_soon(listening.run)
                nursery.start_soon(self._hear_agent, speaking, service, service_store, questions)
                nursery.start_soon(self._obey_signals, listening)
                try:
                    await service.serve(mounted)
                except BaseException as error:
                    self.fault = _single(error)
                    raise
                finally:
                    overlay.close()
                    if room is not None:
                        room.end()
                    if self._reported:
                        with trio.CancelScope(shield=True):
                            self._finish(directory)
                            await listening.ended(self.fault)
                nursery.cancel_scope.cancel()

    def _finish(self, directory: Path) -> None:
        """All is sealed: say so in the record.  Not after a failure: that is a crash, which ``ls`` shows."""
        for name in (control.NAME, channel.NAME):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(directory / os.fsdecode(name))
        # After a store error there are changes that only the journal has: that too is a crash, to be recovered from.
        if self.fault is None or (isinstance(self.fault, GoexfsError) and not isinstance(self.fault, StoreError)):
            self._store.runs.update(self._assignment.run_id, state="kept", mountpoint=None, pid=None)

    async def _hear_agent(
        self, speaking: socket.socket, service: Service, open_store: Callable[[], Store], questions: Questions
    ) -> None:
        """Answer the run itself.  Most runs never ask anything, so what answers is loaded when one does."""
        await trio.lowlevel.wait_readable(speaking)
        agent = await trio.to_thread.run_sync(import_module, "goexfs.session.agent")
        await agent.Agent(speaking, service, self._assignment.run_id, open_store, questions).run()

    async def _obey_signals(self, listening: Listening) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                log.info("SIGTERM: unmounting")
                await listening.unmount(force=True)

    async def _notice_death(self, listening: Listening) -> None:
        """An attached server ends with its session process."""
        channel = trio.socket.from_stdlib_socket(self._channel.dup())
        with channel:
            while await channel.recv(1):
                pass
        self.orphaned = True
        log.info("the session process is gone: unmounting")
        await listening.unmount(force=True)

    async def _watch(self, service: Service, listening: Listening, slow: bool) -> None:
        def report(problem: str) -> None:
            listening.watch_problem = problem
            log.warning("%s", problem)

        if slow:  # and a report would have to be compared with the base at once, which would wait for it
            report("the base is on a filesystem that does not report all changes (network, FUSE): they show after 1 s")
            return
        await trio.sleep(WATCH_DELAY_SECONDS)
        from goexfs.watch import BaseWatch

        watch = BaseWatch(self._assignment.base, hidden={*self._assignment.hidden, *left_alone(self._assignment.base)})
        await watch.run(service.base_watched, service.base_changed, report)


def _single(error: BaseException) -> BaseException:
    """trio wraps what a task raised in groups; a group of one is that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
