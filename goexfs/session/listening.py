"""The server's end of the control socket.

Owns the conversation with clients: who may ask, how long they may take, what a question calls.  Knows the service
of one mount.  Event loop's thread.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import msgspec
import trio

from goexfs.fuse.service import Service
from goexfs.session import mounts
from goexfs.session.control import MOST_BYTES, Answer, Question, Status, decode, encode, fault_of, is_friend
from goexfs.session.errors import PolicyError, ServerError
from goexfs.session.questions import Questions
from snapshots.errors import GoexfsError
from snapshots.names import readable

if TYPE_CHECKING:
    from snapshots.history.takeback import Left

QUESTION_SECONDS = 10.0
"""How long a client may take to say what it wants, and to take the answer."""

COMMAND_BYTES = 500
"""of a command line that is named in an answer"""

MOST_CLIENTS = 32
"""More wait in the socket's queue."""

log = logging.getLogger(__name__)


class Listening:
    """Answers on ``listener`` for ``service``; ``run`` returns only when cancelled, and then nobody is left waiting."""

    def __init__(self, listener: socket.socket, service: Service, run_id: str, questions: Questions) -> None:
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._service = service
        self._run_id = run_id
        self._questions = questions
        self._slots = trio.Semaphore(MOST_CLIENTS)
        self._ended = trio.Event()
        self._fault: BaseException | None = None
        self.watch_problem: str | None = None
        self._stoppers = 0
        self._nobody_waits = trio.Event()

    async def run(self) -> None:
        """Accept clients until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._slots.acquire()
                connection, _ = await self._listener.accept()
                nursery.start_soon(self._talk, connection)

    async def ended(self, fault: BaseException | None) -> None:
        """The mount is gone and all is sealed (or not: ``fault``): tell those who asked for it."""
        self._fault = fault
        self._ended.set()
        if self._stoppers:
            with trio.move_on_after(QUESTION_SECONDS):
                await self._nobody_waits.wait()

    async def _talk(self, connection: trio.socket.SocketType) -> None:
        try:
            with connection:
                await self._answer(connection)
        except OSError as error:
            log.info("a client of the control socket went away: %s", error)
        finally:
            self._slots.release()

    async def _answer(self, connection: trio.socket.SocketType) -> None:
        if not is_friend(connection):  # type: ignore[arg-type]
            log.warning("another user asked something on the control socket; not answered")
            return
        line = b""
        with trio.move_on_after(QUESTION_SECONDS):
            while not line.endswith(b"\n") and len(line) <= MOST_BYTES:
                data = await connection.recv(4096)
                if not data:
                    return
                line += data
        try:
            question = decode(line, Question)
            if question.verb == "attend":
                await self._questions.attend(connection)
                return
            act: dict[str, Callable[[Question], Awaitable[Answer]]] = {
                "ping": self._ping, "status": self._status, "seal": self._seal, "stop": self._stop,
                "rewind": self._rewind, "limit": self._limit,
            }  # fmt: skip
            answer = await act[question.verb](question)
        except GoexfsError as error:
            answer = Answer(fault_of(error))
        except Exception as error:
            log.exception("a question could not be answered")
            answer = Answer(fault_of(error))
        try:
            with trio.move_on_after(QUESTION_SECONDS):
                await _send_all(connection, encode(answer))
        finally:
            if self._stoppers and self._ended.is_set():
                self._stoppers -= 1
                if not self._stoppers:
                    self._nobody_waits.set()

    async def _ping(self, _: Question) -> Answer:
        return Answer()

    async def _status(self, _: Question) -> Answer:
        overlay = self._service.overlay
        status = Status(
            self._run_id, os.getpid(), readable(self._service.mountpoint), overlay.base_watched,
            self.watch_problem, overlay.dirty_bytes, overlay.change_count,
        )  # fmt: skip
        return Answer(status=status)

    async def _seal(self, _: Question) -> Answer:
        await self._service.seal_now()
        return Answer()

    async def _rewind(self, question: Question) -> Answer:
        try:
            done = await self._service.rewind(question.position, question.paths, question.process)
        except OSError as error:
            raise ServerError(f"the run could not be rewound: {error.strerror}; nothing was changed") from None
        return Answer(nodes=done.nodes, snapshot=done.snapshot, left=_as_many_as_fit(done.left))

    async def _limit(self, question: Question) -> Answer:
        referee = self._service.referee
        waiting = () if referee is None else referee.waiting()
        names = [question.limit] if question.limit else [one.limit for one in waiting]
        if referee is None or any(name not in referee.meter.limits for name in names):
            raise PolicyError(f"the run has no limit of {question.limit or 'anything'}")
        if not names:
            raise PolicyError("nothing waits for a decision; name the limit that is to change (--limit)")
        changed = [(name, referee.answer(name, allow=question.allow, most=question.most)) for name in names]
        return Answer(limits=tuple((name, limit.most, limit.then) for name, limit in changed))

    async def _stop(self, question: Question) -> Answer:
        self._stoppers += 1
        try:
            taken_from = await self.unmount(force=question.force)
        except GoexfsError:
            self._stoppers -= 1
            raise
        await self._ended.wait()
        return Answer(None if self._fault is None else fault_of(self._fault), holders=tuple(map(str, taken_from)))

    async def unmount(self, *, force: bool) -> tuple[mounts.Holder, ...]:
        """Unmount, and begin the end; the processes that it was taken away from.  Without ``force``: ``MountBusy``."""
        referee = self._service.referee
        if referee is not None:
            referee.end(True)
        try:
            return await self._unmount(force)
        except GoexfsError:
            if referee is not None:
                referee.end(False)
            raise

    async def _unmount(self, force: bool) -> tuple[mounts.Holder, ...]:
        mountpoint = self._service.mountpoint
        # Where another mount namespace holds a copy of the mount, unmounting this one writes nothing back.
        if mounts.is_mounted(mountpoint):
            await self._service.flush_kernel(mounts.FLUSH_SECONDS)
        taken_from: tuple[mounts.Holder, ...] = ()
        if force:
            taken_from = await trio.to_thread.run_sync(mounts.unmount_now, mountpoint)
        else:
            await trio.to_thread.run_sync(mounts.unmount, mountpoint)
        self._service.stop()
        return taken_from


def _as_many_as_fit(left: "Iterable[Left]") -> tuple[tuple[bytes, int, bytes], ...]:
    room = MOST_BYTES // 2
    fitting = []
    for path, number, by in map(msgspec.structs.astuple, left):
        room -= 2 * (len(path) + len(by[:COMMAND_BYTES])) + 64
        if room < 0:
            break
        fitting.append((path, number, by[:COMMAND_BYTES]))
    return tuple(fitting)


async def _send_all(connection: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await connection.send(data) :]
