"""Telling a new server process what to serve, and waiting until it is mounted.

Owns the two messages between a session process and its server.  How the server is born is ``birth``, what it does is
``server``.

Down the channel go the assignment and the run's lock, up comes the report; after that an attached server watches the
channel, and its end tells that the session process is gone.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from goexfs.session import birth
from goexfs.session.control import Fault, exception_of
from goexfs.session.errors import ServerError

START_SECONDS = 60.0
"""How long a server may take to mount: it has to load the run's entries."""

LOG = "server.log"

_MOST_BYTES = 1 << 20

Found = TypeVar("Found")


class Assignment(msgspec.Struct, frozen=True):
    """What a server is to serve."""

    store: bytes
    run_id: str
    base: bytes
    mountpoint: bytes
    hidden: tuple[bytes, ...]
    """paths relative to the base that the run must not see and the server must not touch"""
    allow_other: bool
    attached: bool
    """end when the session process does; otherwise the server outlives it"""
    discard: bool
    """with ``attached``: discard the run, and forget it, when the session process dies without a verdict"""
    auto_snapshot: tuple[str, ...] = ()
    """see ``snapshots.history.occasions``"""
    policy: bytes = b""
    """see ``goexfs.session.policing``"""
    store_limit: int = 0
    """bytes that the whole store may take up (see ``snapshots.storage.bound``); 0: no limit"""
    store_room: int = 0
    """bytes that it had room for a moment ago"""


class Report(msgspec.Struct, frozen=True):
    """What became of the assignment."""

    pid: int
    fault: Fault | None = None
    """None: it is mounted"""


class Server:
    """A server process from the side of whoever started it."""

    def __init__(self, newborn: birth.Newborn) -> None:
        self._newborn = newborn
        self._channel = newborn.channel
        self.pid = 0
        """known once it is mounted"""

    @classmethod
    def take(cls) -> "Server":
        """The server that ``birth.prepare`` started, or a new one; it waits for its assignment."""
        newborn = birth.take()
        newborn.channel.settimeout(START_SECONDS)
        return cls(newborn)

    def assign(self, assignment: Assignment, lock_fd: int, log: Path, meanwhile: Callable[[], Found]) -> Found:
        """Hand over the assignment and the run's lock, and wait until it is mounted.

        Returns what ``meanwhile`` does, which is called in between.  The caller may release its own copy of the lock
        then.  Raises what the server raised, or ``ServerError``.
        """
        try:
            socket.send_fds(self._channel, [msgspec.msgpack.encode(assignment)], [lock_fd])
            found = meanwhile()
            data = self._channel.recv(_MOST_BYTES)
        except TimeoutError:
            raise ServerError(f"the run's server did not mount within {START_SECONDS:.0f} s; see {log}") from None
        except OSError as error:
            raise ServerError(f"the run's server could not be started ({error.strerror}); see {log}") from None
        finally:
            complaint = self._newborn.reap()
        if not data and complaint:
            raise ServerError(f"the run's server could not be started: {complaint}")
        if not data:
            raise ServerError(f"the run's server ended before it had mounted; see {log}")
        report = msgspec.msgpack.decode(data, type=Report)
        if report.fault is not None:
            raise exception_of(report.fault)
        self.pid = report.pid
        if not assignment.attached:
            self.let_go()
        return found

    def let_go(self) -> None:
        """Close the channel: a server without an assignment, or an attached one, ends; a second time is fine."""
        self._channel.close()
        self._newborn.reap()
