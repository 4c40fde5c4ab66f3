"""The control socket of a mounted run: what is said on it, and the client that asks.

Owns the messages and the socket's place.  Knows no overlay; the server's end is ``listening``.  Any thread; a client
is one connection for one question.

``runs/<id>/control`` is a Unix stream socket of mode 0600.  The client sends one line of JSON, the server answers
with one and hangs up.  Both ends ask the kernel who the other is, so that a socket in a directory that somebody else
could write to tells nothing and obeys nobody.  No end waits for ever.
"""

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from goexfs.session import errors as session_errors
from goexfs.session.errors import ServerError
from snapshots import errors as store_errors
from snapshots.errors import GoexfsError

NAME = b"control"

MOST_BYTES = 1 << 16
"""Length of the longest message, in bytes."""

CONNECT_SECONDS = 10.0
PING_SECONDS = 10.0
SEAL_SECONDS = 300.0
STOP_SECONDS = 300.0
"""Sealing, and so stopping, takes as long as the disk needs for what is dirty: at most some hundred MiB."""
PATIENCE = {"ping": PING_SECONDS, "status": CONNECT_SECONDS, "seal": SEAL_SECONDS, "stop": STOP_SECONDS}
"""How many seconds the client waits for an answer, by verb."""

_CREDENTIALS = struct.Struct("3i")


Verb = Literal["ping", "status", "seal", "stop", "rewind", "attend", "limit"]


class Question(msgspec.Struct, frozen=True):
    """What a client wants."""

    verb: Verb
    """``seal``: bring everything into the store; ``stop``: unmount, seal and end.  Both answer when it is done.
    ``attend``: the connection stays, for what only the user can allow (see ``questions``)."""
    force: bool = False
    """for ``stop``: also take the mount away from processes that use it, instead of refusing with ``MountBusy``"""
    position: int = 0
    """for ``rewind``: where in the journal to go back to"""
    paths: tuple[bytes, ...] = ()
    """for ``rewind``: what is to go back, relative to the base; nothing: everything"""
    process: str = ""
    """for ``rewind``: take back what commands matching this pattern did, whatever ``position`` says"""
    limit: str = ""
    """for ``limit``: which one the user has decided about; empty: all that something waits for"""
    allow: bool = False
    """for ``limit``: as much again, or a refusal from now on"""
    most: int | None = None
    """for ``limit``: how much it allows from now on; None: as much again"""


class Fault(msgspec.Struct, frozen=True):
    """An exception on its way to another process."""

    kind: str
    """name of the exception's type"""
    message: str


class Status(msgspec.Struct, frozen=True):
    """How the server of a run is doing."""

    run: str
    pid: int
    mountpoint: str
    """for reading only: undecodable bytes are escaped"""
    base_watched: bool
    """False: changes of the base from outside are noticed by asking again, which is slower"""
    watch_problem: str | None
    """why it is not, for a person; None while the watch is being made"""
    dirty_bytes: int
    """contents in memory that are in no store yet"""
    changes: int
    """operations that changed something since the mount"""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server says.  ``fault`` is None when all went well."""

    fault: Fault | None = None
    status: Status | None = None
    """only for ``status``"""
    holders: tuple[str, ...] = ()
    """only for ``stop``: the processes that the mount was taken away from"""
    limits: tuple[tuple[str, int, str], ...] = ()
    """only for ``limit``: name, how much, and what happens beyond"""
    nodes: int = 0
    """only for ``rewind``: how many are different now"""
    snapshot: str = ""
    """only for ``rewind``: name of the snapshot of what was there before; empty when nothing was to be done"""
    left: tuple[tuple[bytes, int, bytes], ...] = ()
    """only for ``rewind``: what was to be taken back and stays as it is, see ``snapshots.history.takeback.Left``; the
    first ones, if there are very many"""


Message = TypeVar("Message", Question, Answer)


def encode(message: Question | Answer) -> bytes:
    """A message as it goes over the socket."""
    return msgspec.json.encode(message) + b"\n"


def decode(line: bytes, kind: type[Message]) -> Message:
    """The message of a line; raises ``ServerError`` for what is none."""
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise ServerError(f"the control socket said something that is not understood: {error}") from None


def fault_of(error: BaseException) -> Fault:
    """An exception as it is sent."""
    if isinstance(error, GoexfsError):
        return Fault(type(error).__name__, str(error))
    return Fault("ServerError", f"{type(error).__name__}: {error}".replace("\n", " "))


def exception_of(fault: Fault) -> GoexfsError:
    """The exception that was sent, of its own type where this process knows it."""
    from goexfs.fuse import errors as mount_errors

    for module in (store_errors, session_errors, mount_errors):
        kind = getattr(module, fault.kind, None)
        if isinstance(kind, type) and issubclass(kind, GoexfsError):
            return kind(fault.message)
    return ServerError(fault.message)


def ask(directory: Path, verb: Verb, *, timeout: float, force: bool = False) -> Answer:
    """Ask the server of the run in ``directory``; the answer has no fault (it is raised instead).

    Raises ``ServerError`` when nobody answers in ``timeout`` seconds.
    """
    return put(directory, Question(verb, force), timeout=timeout)


def put(directory: Path, question: Question, *, timeout: float) -> Answer:
    """The same, for any question."""
    line = encode(question)
    if len(line) > MOST_BYTES:
        raise ServerError("this is too much for one question; name fewer paths")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(min(timeout, CONNECT_SECONDS))
        try:
            _connect(connection, directory, min(timeout, CONNECT_SECONDS))
            if not is_friend(connection):
                raise ServerError("the control socket of the run is another user's; nothing was asked")
            connection.sendall(line)
            connection.settimeout(timeout)
            line = _receive_line(connection)
        except TimeoutError:
            raise ServerError(
                f"the run's server did not answer {question.verb!r} in {timeout:.0f} s; see server.log"
            ) from None
        except OSError as error:
            raise ServerError(f"the run's server does not answer: {error.strerror}; see `goexfs ls`") from None
    answer = decode(line, Answer)
    if answer.fault is not None:
        raise exception_of(answer.fault)
    return answer


def _receive_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        data = connection.recv(4096)
        if not data or len(line) > MOST_BYTES:
            raise ServerError("the run's server hung up without an answer; see server.log")
        line += data
    return line


def connect(directory: Path) -> socket.socket:
    """A connection to the server of the run in ``directory``, for a conversation; the caller closes it.

    Raises ``ServerError``.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(CONNECT_SECONDS)
        _connect(connection, directory, CONNECT_SECONDS)
        if not is_friend(connection):
            raise ServerError("the control socket of the run is another user's; nothing was said")
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise ServerError(f"the run's server does not answer: {error.strerror or error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def bind(directory: Path, name: bytes = NAME, *, backlog: int = 16) -> socket.socket:
    """The listening socket of the run in ``directory``; what a dead server left there is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        try:
            os.unlink(os.fsencode(directory / os.fsdecode(name)))
        except FileNotFoundError:
            pass
        _with_short_path(directory, listener.bind, name)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _connect(connection: socket.socket, directory: Path, timeout: float) -> None:
    """Connect, waiting while the server has as many callers as it listens to; raises ``TimeoutError``."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return _with_short_path(directory, connection.connect)
        except BlockingIOError:  # what a socket with a timeout says of a full backlog
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.01)


def _with_short_path(directory: Path, use: Any, name: bytes = NAME) -> None:
    """Call ``use`` with a path of the socket that fits into a socket address (107 bytes), however deep the store is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(b"/proc/self/fd/%d/%s" % (fd, name))
    finally:
        os.close(fd)


def is_friend(connection: socket.socket) -> bool:
    """Whether the other end belongs to this user, or to root."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return uid in (os.geteuid(), 0)
