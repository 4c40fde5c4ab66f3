"""What only the user can allow, on its way from a run to whoever started it, and the answer on its way back.

Owns the two ends of that conversation: ``Questions`` in the server (event loop's thread), ``Asker`` in the session
process (a thread of its own receives, the session's thread asks); and ``LimitAsker``, for what waits at a limit, which
the server notes in a file.  Knows no terminal.

The session process keeps one connection to the control socket open for as long as somebody is there to ask; its end
means that nobody is.  Questions go down it one at a time, as lines of JSON, and each is answered with one line.
"""

import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from goexfs.policy.rules import PolicyError
from goexfs.session import control, policing
from goexfs.session.errors import ServerError
from snapshots.storage.effects import Effect

if TYPE_CHECKING:
    import trio

    from goexfs.policy.rules import Waiting

ANSWER_SECONDS = 600.0
"""How long a person may take; then it is a no."""

_YES, _NO = b"y\n", b"n\n"


class Questions:
    """The server's end."""

    def __init__(self) -> None:
        import trio

        self._send, self._receive = trio.open_memory_channel[tuple[Effect, list[bool], trio.Event]](0)
        self._attending = 0

    @property
    def is_attended(self) -> bool:
        """Whether somebody can be asked."""
        return self._attending > 0

    async def ask(self, effect: Effect) -> bool:
        """Whether the user allows it; no answer in time is a no."""
        import trio

        answer: list[bool] = []
        answered = trio.Event()
        with trio.move_on_after(ANSWER_SECONDS):
            await self._send.send((effect, answer, answered))
            await answered.wait()
        return answer == [True]

    async def attend(self, connection: "trio.socket.SocketType") -> None:
        """Put questions to the other end of ``connection`` until it is gone."""
        import trio

        self._attending += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._put, connection, nursery.cancel_scope)
        finally:
            self._attending -= 1

    async def _put(self, connection: "trio.socket.SocketType", scope: "trio.CancelScope") -> None:
        import trio

        pending: list[tuple[list[bool], trio.Event]] = []

        async def hear() -> None:
            line = b""
            try:
                while data := await connection.recv(64):
                    line += data
                    while b"\n" in line:
                        word, _, line = line.partition(b"\n")
                        if pending:
                            answer, answered = pending.pop(0)
                            answer.append(word + b"\n" == _YES)
                            answered.set()
                            turn.set()
            except OSError:
                pass
            for _, answered in pending:
                answered.set()
            scope.cancel()

        turn = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            while True:
                effect, answer, answered = await self._receive.receive()
                pending.append((answer, answered))
                turn = trio.Event()
                data = msgspec.json.encode(effect) + b"\n"
                while data:
                    data = data[await connection.send(data) :]
                await turn.wait()


Decide = Callable[["Waiting", Callable[[], bool]], bool | int | None]
"""Asks about what waits at a limit: True (as much again), how much it is from now on, False (refused, and what comes
after), or None: not decided, because it was interrupted, or the second argument says that it waits no more."""


class Asking(Protocol):
    """Something that the user may have to be asked, as the wait for a command sees it."""

    @property
    def is_asked(self) -> bool:
        """Whether a question waits."""

    def attend(self) -> None:
        """Put the questions that wait to the user."""


class Asker:
    """The session's end: a context manager; inside it questions of the run arrive and ``attend`` answers them."""

    def __init__(self, directory: Path, answer: Callable[[Effect], bool]) -> None:
        self._directory = directory
        self._answer = answer
        self._arrived: queue.SimpleQueue[Effect] = queue.SimpleQueue()
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Asker":
        self._connection = control.connect(self._directory)
        self._connection.sendall(control.encode(control.Question("attend")))
        self._thread = threading.Thread(target=self._listen, args=(self._connection,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._connection is not None
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._thread is not None:
            self._thread.join()
        self._connection.close()

    def _listen(self, connection: socket.socket) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that waits
        data = b""
        try:
            while piece := connection.recv(1 << 16):
                data += piece
                while b"\n" in data:
                    line, _, data = data.partition(b"\n")
                    self._arrived.put(msgspec.json.decode(line, type=Effect))
        except (OSError, msgspec.MsgspecError):
            pass

    @property
    def is_asked(self) -> bool:
        """Whether a question waits."""
        return not self._arrived.empty()

    def attend(self) -> None:
        """Put the questions that wait to the user."""
        while not self._arrived.empty():
            effect = self._arrived.get()
            allowed = False
            try:
                allowed = self._answer(effect)
            finally:
                assert self._connection is not None
                try:
                    self._connection.sendall(_YES if allowed else _NO)
                except OSError:
                    pass  # the server is gone


class LimitAsker:
    """Puts what waits at a limit to the user."""

    _AGAIN_SECONDS = 1.0

    def __init__(self, directories: Sequence[Path], decide: Decide) -> None:
        self._directories = directories
        self._decide = decide
        self._decided: set[tuple[Path, str, int]] = set()
        """directory, limit and its value: what still waits at it has only not heard of the answer yet"""
        self._not_before = 0.0

    def _waiting(self) -> "list[tuple[Path, Waiting]]":
        return [
            (directory, one)
            for directory in self._directories
            for one in policing.waiting_in(directory)
            if (directory, one.limit, one.most) not in self._decided
        ]

    @property
    def is_asked(self) -> bool:
        """Whether something waits."""
        return time.monotonic() >= self._not_before and bool(self._waiting())

    def attend(self) -> None:
        """Ask about what waits, one after the other."""
        for directory, one in self._waiting():

            def still(directory: Path = directory, one: "Waiting" = one) -> bool:
                return any((at.limit, at.most) == (one.limit, one.most) for at in policing.waiting_in(directory))

            answer = self._decide(one, still) if still() else None
            if answer is None:
                self._not_before = time.monotonic() + self._AGAIN_SECONDS  # its process ends, or it is asked again
                return
            most = None if isinstance(answer, bool) else answer
            try:
                policing.decide(directory, one.limit, allow=answer is not False, most=most)
            except (PolicyError, ServerError):
                pass  # it has ended meanwhile, or somebody else has decided
            else:
                self._decided.add((directory, one.limit, one.most))
