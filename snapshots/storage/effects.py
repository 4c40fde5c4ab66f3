"""Effects: what a run wants done, or has done, outside the filesystem.

Owns the values: a request, how far it came, what is to undo it.  How they are kept is ``snapshots.storage.ledger``'s,
and carrying them out is no business of this package.  Values only: any thread.
"""

from enum import StrEnum

import msgspec


class Command(msgspec.Struct, frozen=True, tag="command"):
    """A program to run."""

    argv: tuple[bytes, ...]
    cwd: bytes = b""
    """where, relative to the base"""


class Http(msgspec.Struct, frozen=True, tag="http"):
    """A request to a server; the user's own headers for that server are added when it is sent."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Sql(msgspec.Struct, frozen=True, tag="sql"):
    """Statements for a database, all in one transaction."""

    database: str
    """a name of the user's configuration, or the absolute path of an SQLite file"""
    statements: tuple[str, ...]


class Call(msgspec.Struct, frozen=True, tag="call"):
    """A Python function with JSON arguments."""

    function: str
    """``module:qualified.name``"""
    arguments: str
    """a JSON document: a list of positional ones and an object of named ones, in a list"""
    path: tuple[str, ...] = ()
    """where modules are looked for, besides the usual places"""


Request = Command | Http | Sql | Call

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Doing these twice is doing them once (RFC 9110, section 9.2.2)."""


class State(StrEnum):
    """How far the action of an effect came."""

    PLANNED = "planned"
    """recorded, and nothing was done"""
    PREPARED = "prepared"
    """a transaction that the database holds ready; committing it is all that is left"""
    RUNNING = "running"
    """begun; when whoever began it is dead, nobody knows yet how it ended"""
    DONE = "done"
    FAILED = "failed"
    """it said so itself"""
    UNKNOWN = "unknown"
    """begun and not known to have ended: never tried again unless a person says so"""
    DROPPED = "dropped"
    """will not be done: by the person, a discard or a rewind"""
    ASKED = "asked"
    """waits for the user's word"""
    REFUSED = "refused"
    """the user said no, or nobody was there to ask"""


class Undo(StrEnum):
    """How far the compensation of an effect came."""

    NONE = "none"
    """there is none"""
    KEPT = "kept"
    """recorded, for a discard, a rewind or an undo"""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """as often as it was tried"""


class Attempt(msgspec.Struct, frozen=True):
    """One outcome."""

    at_ns: int
    what: str
    """``do`` or ``undo``"""
    outcome: str
    """a ``State``"""
    detail: str = ""
    """for people, at most a few thousand characters"""


class Effect(msgspec.Struct, frozen=True):
    """One effect of a run as recorded."""

    run_id: str
    number: int
    """from 1, in the order in which they were recorded"""
    deferred: bool
    """done on merge; otherwise the run does it itself, at once"""
    request: Request
    key: str
    """what makes two attempts one: sent along with every attempt"""
    keyed: bool
    """the key was given: whoever gets the request knows it by that, so that trying again is harmless"""
    state: State
    undo: Request | None = None
    undo_state: Undo = Undo.NONE
    irreversible: bool = False
    note: str = ""
    trusted: bool = False
    """recorded by the user's own program, not from inside the run: its compensation needs no sandbox"""
    position: int = 0
    """of the run's journal when it was recorded"""
    created_ns: int = 0
    gid: str = ""
    """name of the prepared transaction; recorded before there is one"""
    xid: str = ""
    """the database's own number of the transaction; recorded before its commit"""
    attempts: tuple[Attempt, ...] = ()

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be tried again when it is not known how it ended.

        SQL always: the database is asked first whether the transaction is there.
        """
        if isinstance(self.request, Http):
            return self.keyed or self.request.method.upper() in IDEMPOTENT_METHODS
        return self.keyed or isinstance(self.request, Sql)

    @property
    def is_pending(self) -> bool:
        """Whether it is deferred and still to be done."""
        return self.deferred and self.state not in (State.DONE, State.DROPPED, State.REFUSED, State.ASKED)

    @property
    def is_open(self) -> bool:
        """Whether somebody still has to see to it, whatever becomes of the run."""
        return self.is_pending or self.undo_state in (Undo.RUNNING, Undo.FAILED)

    @property
    def is_compensable(self) -> bool:
        """Whether it may have happened and something is there to undo it.

        One that failed counts: a program that ends with an error half-way has done half.  One that was never begun, or
        was not allowed, does not.
        """
        begun = self.state in (State.DONE, State.FAILED, State.UNKNOWN, State.RUNNING)
        return self.undo is not None and self.undo_state is not Undo.DONE and begun
