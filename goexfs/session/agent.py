"""The server's end of the agent's channel: what a run may ask of its own server.

Owns who is heard, how much and how fast, and what each verb does.  Whoever talks here is not trusted: nothing that is
said can stop the server, name another run, give a verdict or change what the run may see.  Event loop's thread;
whatever needs the store or a database runs in one worker thread with a store of its own.
"""

import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio

from goexfs.session import ownpast, verbs
from goexfs.session.channel import MOST_BYTES, Asked, Told
from goexfs.session.control import fault_of, is_friend
from goexfs.session.errors import ServerError
from goexfs.session.questions import Questions
from snapshots.errors import EffectError, GoexfsError
from snapshots.storage.effects import State
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.fuse.service import Service

QUESTION_SECONDS = 10.0
"""How long a program may take to say what it wants, and to take the answer."""

MOST_CLIENTS = 16
"""More wait in the socket's queue."""

MOST_WAITING = 4
"""Questions that a person has to answer: a run that asks more is refused."""

QUESTIONS_PER_SECOND = 50
_BURST = 100

Found = TypeVar("Found")

log = logging.getLogger(__name__)


class Agent:
    """Answers on ``listener`` for the run that ``service`` serves; ``run`` returns only when cancelled."""

    def __init__(
        self, listener: socket.socket, service: "Service", run_id: str, open_store: Callable[[], Store],
        questions: Questions,
    ) -> None:  # fmt: skip
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._service = service
        self._run_id = run_id
        self._open_store = open_store
        self._questions = questions
        self._slots = trio.Semaphore(MOST_CLIENTS)
        self._worker = trio.CapacityLimiter(1)
        self._waiting = 0
        self._allowance = float(_BURST)
        self._counted = time.monotonic()

    async def run(self) -> None:
        """Accept programs of the run until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._slots.acquire()
                await self._pace()
                try:
                    connection, _ = await self._listener.accept()
                except OSError as error:  # no descriptor is left: the filesystem needs them more
                    self._slots.release()
                    log.warning("the agent's channel cannot accept: %s", error)
                    await trio.sleep(1)
                    continue
                nursery.start_soon(self._talk, connection)

    async def _pace(self) -> None:
        """Hold the run to so many questions a second: each of them costs the filesystem time."""
        while True:
            now = time.monotonic()
            self._allowance = min(_BURST, self._allowance + (now - self._counted) * QUESTIONS_PER_SECOND)
            self._counted = now
            if self._allowance >= 1:
                self._allowance -= 1
                return
            await trio.sleep(0.05)

    async def _talk(self, connection: trio.socket.SocketType) -> None:
        try:
            with connection:
                if not is_friend(connection):  # type: ignore[arg-type]
                    return
                line = await self._hear(connection)
                if line is not None:
                    await self._say(connection, await self._answer(line))
        except OSError:
            pass  # it went away
        except Exception:
            log.exception("a question of the run could not be answered")
        finally:
            self._slots.release()

    @staticmethod
    async def _hear(connection: trio.socket.SocketType) -> bytes | None:
        """A line; None when there comes none in time, or none that is short enough."""
        parts: list[bytes] = []
        size = 0
        with trio.move_on_after(QUESTION_SECONDS):
            while size <= MOST_BYTES:
                data = await connection.recv(1 << 16)
                if not data:
                    return None
                parts.append(data)
                size += len(data)
                if data.endswith(b"\n"):
                    return b"".join(parts)
        return None

    @staticmethod
    async def _say(connection: trio.socket.SocketType, told: Told) -> None:
        data = msgspec.json.encode(told) + b"\n"
        with trio.move_on_after(QUESTION_SECONDS):
            while data:
                data = data[await connection.send(data) :]

    async def _answer(self, line: bytes) -> Told:
        try:
            asked = msgspec.json.decode(line, type=Asked)
            verbs.check(asked)
            return await self._act(asked)
        except msgspec.MsgspecError as error:
            return Told(fault_of(ServerError(f"this question is not understood: {str(error)[:200]}")))
        except GoexfsError as error:
            return Told(fault_of(error))
        except (ValueError, RecursionError) as error:  # what is no Unicode, or nested without end
            return Told(fault_of(ServerError(f"this question is not understood: {type(error).__name__}")))

    async def _act(self, asked: Asked) -> Told:
        verb = asked.verb
        if verb in ("defer", "begin") or (verb == "rewind" and not asked.paths):
            await self._service.seal_now()  # what was done before it is before it
        if verb == "begin" and asked.irreversible:
            return await self._begin_irreversible(asked)
        if verb == "rewind":
            return await self._rewind(asked)
        return await self._with_store(verbs.ACTS[verb], asked)

    async def _with_store(self, act: "Callable[[Store, str, Asked], Found]", asked: Asked) -> Found:
        def work() -> Found:
            with self._open_store() as store:
                return act(store, self._run_id, asked)

        return await trio.to_thread.run_sync(work, limiter=self._worker)

    async def _begin_irreversible(self, asked: Asked) -> Told:
        """Nobody but the user can allow it."""
        if not self._questions.is_attended:
            raise EffectError(
                "this cannot be undone, so the user has to allow it, and nobody is there to ask; defer it instead"
            )
        if self._waiting >= MOST_WAITING:
            raise EffectError("too many questions to the user wait already; ask again later")
        told = await self._with_store(verbs.begin, asked)
        assert told.effect is not None
        if told.effect.state is not State.ASKED:
            return told
        number = told.effect.number
        self._waiting += 1
        allowed = False
        try:
            allowed = await self._questions.ask(told.effect)
        finally:
            self._waiting -= 1
            with trio.CancelScope(shield=True):
                verdict = verbs.allow if allowed else verbs.refuse
                told = await self._with_store(verdict, Asked("begin", number=number))
        if not allowed:
            raise EffectError("the user did not allow it")
        return told

    async def _rewind(self, asked: Asked) -> Told:
        """To a snapshot of its own; what was done outside since has to be undone before, by the one who asks."""
        goal = await self._with_store(ownpast.goal, asked)
        if goal.due:
            return Told(effects=tuple(map(verbs.without_bulk, goal.due)))
        nodes = 0
        for aim in goal.aims:
            if aim.run_id == self._run_id:
                nodes += (await self._service.rewind(aim.position, aim.paths)).nodes
            else:
                nodes += await self._with_store(partial(ownpast.rewind, aim), asked)
        if not asked.paths:
            await self._with_store(ownpast.after_rewind, asked)
        return Told(nodes=nodes)
