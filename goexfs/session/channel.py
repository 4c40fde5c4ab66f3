"""The agent's channel: what can be said on it, and the client that says it from inside a run.

Owns the messages and the way to the socket.  Knows no store and no overlay; the server's end is ``agent``.  Any thread;
a client is one connection for one question.

The socket is in the run's sandbox (``GOEXFS_CHANNEL`` says where) and everything in it is the run's own: no question
names a run, and there is none for a verdict, a policy or another run.  One line of JSON goes in, one comes back.
"""

import os
import socket
import time
from typing import Any, Literal

import msgspec

from goexfs.session.control import Fault, exception_of
from goexfs.session.errors import ServerError
from snapshots.storage.effects import Command, Effect, Request, State

VARIABLE = "GOEXFS_CHANNEL"
NAME = b"channel"
"""of the socket in the run's directory"""
INSIDE = b"/dev/goexfs"
"""of the socket in the sandbox"""

MOST_BYTES = 4 << 20
"""Length of the longest question and of the longest answer."""

ANSWER_SECONDS = 300.0
ASK_SECONDS = 900.0
"""How long an answer may take that a person has to give."""

Verb = Literal[
    "defer", "begin", "end", "undo", "undone", "effects", "snapshot", "snapshots", "diff", "rewind", "rejected"
]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program in the run wants.  Only the fields of its verb count."""

    verb: Verb
    """``defer``: record, to be done on merge (SQL of a known database: have it held ready).  ``begin``: record what is
    about to be done, with its compensation; ``end`` says how it went.  ``undo`` and ``undone``: the same of a
    compensation."""
    request: Request | None = None
    undo: Command | None = None
    """for ``defer`` and ``begin``"""
    key: str = ""
    irreversible: bool = False
    note: str = ""
    number: int = 0
    """of the effect, for ``end``, ``undo`` and ``undone``"""
    succeeded: bool = False
    """for ``end`` and ``undone``"""
    detail: str = ""
    name: str = ""
    """of the snapshot, for ``snapshot`` (empty: a new one is found) and ``rewind``"""
    message: str = ""
    paths: tuple[bytes, ...] = ()
    """for ``diff`` and ``rewind``, relative to the base"""
    hold: bool = True
    """for ``defer`` of SQL: try it, and have the database hold it ready"""
    form: Literal["patch", "name-status", "json"] = "patch"
    """for ``diff``"""


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot as the run is told of it."""

    name: str
    kind: str
    message: str
    created_ns: int


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer; ``fault`` is None when all went well."""

    fault: Fault | None = None
    effect: Effect | None = None
    effects: tuple[Effect, ...] = ()
    """for ``effects``: all; for ``rewind``: what has to be undone before it, the latest first"""
    snapshots: tuple[Snapshot, ...] = ()
    text: bytes = b""
    """for ``diff``"""
    cut: bool = False
    """whether ``text`` is only the beginning"""
    nodes: int = 0
    """for ``rewind``: how many files are different now"""


def path() -> str | None:
    """Where the channel is, if this process is inside a run that has one (and was not given a store of its own)."""
    return None if os.environ.get("GOEXFS_HOME") else os.environ.get(VARIABLE) or None


def ask(question: Asked, *, timeout: float = ANSWER_SECONDS) -> Told:
    """Ask the run's server.  Raises what it answers, or ``ServerError``."""
    place = path()
    if place is None:
        raise ServerError("this is not inside a run: there is no channel to ask on")
    line = msgspec.json.encode(question) + b"\n"
    if len(line) > MOST_BYTES:
        raise ServerError(f"this is too much for one question; {MOST_BYTES >> 20} MiB is the limit")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(timeout)
            _connect(connection, os.fsencode(place), timeout)
            connection.sendall(line)
            answer = _receive(connection)
    except TimeoutError:
        raise ServerError(f"the run's server did not answer {question.verb!r} in {timeout:.0f} s") from None
    except OSError as error:
        raise ServerError(f"the run's server does not answer: {error.strerror or error}") from None
    try:
        told = msgspec.json.decode(answer, type=Told)
    except msgspec.MsgspecError:
        raise ServerError("the run's server hung up without an answer") from None
    if told.fault is not None:
        raise exception_of(told.fault)
    return told


def _connect(connection: socket.socket, place: bytes, timeout: float) -> None:
    """Connect by a path that fits into a socket address, waiting while the server is busy."""
    directory, name = os.path.split(place)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                return connection.connect(b"/proc/self/fd/%d/%s" % (fd, name))
            except BlockingIOError:  # a full backlog
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.01)
    finally:
        os.close(fd)


def _receive(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    while data := connection.recv(1 << 16):
        parts.append(data)
    return b"".join(parts)


class Channel:
    """The recorder of effects for programs inside a run: see ``goexfs.session.tools``."""

    def begin(self, request: Request, undo: Request | None, **about: Any) -> int:
        """Record what is about to be done; its number."""
        told = ask(_asked("begin", request, undo, **about), timeout=ASK_SECONDS)
        assert told.effect is not None
        if told.effect.state is State.DONE:
            return 0  # done before, under the same key
        return told.effect.number

    def end(self, number: int, succeeded: bool, detail: str) -> None:
        """Record how it went."""
        ask(Asked("end", number=number, succeeded=succeeded, detail=detail[:2000]))

    def defer(self, request: Request, undo: Request | None = None, **about: Any) -> Effect:
        """Record what is to be done on merge."""
        told = ask(_asked("defer", request, undo, **about), timeout=ASK_SECONDS)
        assert told.effect is not None
        return told.effect

    def effects(self) -> list[Effect]:
        """All of this run."""
        return list(ask(Asked("effects")).effects)


def _asked(verb: Verb, request: Request, undo: Request | None, **about: Any) -> Asked:
    from goexfs.effects import calls
    from snapshots.storage.effects import Call

    if isinstance(request, Call):  # only told
        request = Command((b"python", request.function.encode(), request.arguments.encode()))
    if isinstance(undo, Call):  # a program like any other: it runs where the run runs
        undo = Command((*calls.argv(undo), calls.given(undo)))
    assert undo is None or isinstance(undo, Command)
    return Asked(verb, request=request, undo=undo, **about)
