"""What is recorded of a run, and what may be a run's name.

Owns the record and its encoding; knows the columns it is kept in and no SQL beyond their names.  Values only: any
thread.
"""

import os
from typing import Any, Literal

import msgspec

from snapshots.errors import RunError, StoreDamaged
from snapshots.storage.database import Row

State = Literal["active", "kept", "merged", "discarded"]
STATES: tuple[State, ...] = ("active", "kept", "merged", "discarded")
LIVE: tuple[State, ...] = ("active", "kept")
"""States of a run that still has something to decide about; names are unique among these."""

NAME_LIMIT = 100
"""Characters of a name."""


class Run(msgspec.Struct, frozen=True):
    """One run as recorded; a value, not updated when the record is."""

    id: str
    """``ID_LENGTH`` characters of 0-9a-z"""
    name: str | None
    """None when the user gave none"""
    base: bytes
    """absolute path"""
    base_identity: tuple[int, int]
    """device and inode number of the base when the run was made"""
    state: State
    command: tuple[str, ...]
    """empty for a run that was only mounted; undecodable bytes as surrogates (``os.fsencode`` gives them back)"""
    created_ns: int
    changed_ns: int
    """when the record was last changed"""
    exit_status: int | None
    """of the last command; None when none has ended"""
    mountpoint: bytes | None
    """None when not mounted, as far as was recorded"""
    pid: int | None
    """of the process that serves the mount; None when not mounted, as far as was recorded"""
    options: dict[str, Any]
    """what the session wants back when it mounts the run again; plain values"""
    whole: str | None = None
    """of a part: the id of the run whose further base this is about; None for a run"""

    @property
    def is_live(self) -> bool:
        """Whether the run is active or kept."""
        return self.state in LIVE

    @property
    def label(self) -> str:
        """How to call the run in a message: its name, else its id; a part is called as its run."""
        return self.name or self.whole or self.id


class _Record(msgspec.Struct, frozen=True):
    """The fields of a run that nothing selects by: the column ``record``."""

    base_identity: tuple[int, int]
    command: tuple[bytes, ...]
    exit_status: int | None = None
    mountpoint: bytes | None = None
    pid: int | None = None
    options: dict[str, Any] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode
COLUMNS = "id, name, state, base, created_ns, changed_ns, record, whole"
FIELDS = frozenset({"name", "state", "command", "exit_status", "mountpoint", "pid", "options", "base_identity"})
"""What of a run may be changed."""


def pack(run: Run) -> bytes:
    """The column ``record`` of a run."""
    return _encode(
        _Record(
            run.base_identity,
            tuple(os.fsencode(part) for part in run.command),
            run.exit_status,
            run.mountpoint,
            run.pid,
            run.options,
        )
    )


def unpack(row: Row) -> Run:
    """The run of a row with ``COLUMNS``.  Errors: StoreDamaged."""
    run_id, name, state, base, created_ns, changed_ns, blob, whole = row
    try:
        record = _decode(blob)
    except msgspec.MsgspecError as exc:
        raise StoreDamaged(f"the record of run {run_id} is damaged ({exc}); `goexfs fsck` says what else is") from exc
    return Run(
        run_id,
        name,
        base,
        record.base_identity,
        state,
        tuple(os.fsdecode(part) for part in record.command),
        created_ns,
        changed_ns,
        record.exit_status,
        record.mountpoint,
        record.pid,
        record.options,
        whole,
    )


def check_name(name: str) -> None:
    """Raise RunError unless ``name`` can name a run: printable, no spaces, ``/`` or ``@``, not like an option."""
    problem = unfit(name)
    if problem is not None:
        raise RunError(f"{name!r} cannot name a run: {problem}")


def unfit(name: str) -> str | None:
    """Why ``name`` can name neither a run nor a snapshot; None when it can."""
    if not 0 < len(name) <= NAME_LIMIT:
        return "it is empty" if not name else f"it is longer than {NAME_LIMIT} characters"
    if name.startswith("-"):
        return "it looks like an option"
    if not name.isprintable() or any(char.isspace() for char in name):
        return "it has spaces or characters that cannot be printed"
    if "/" in name or "@" in name:
        return "it has '/' or '@' in it"
    return None
