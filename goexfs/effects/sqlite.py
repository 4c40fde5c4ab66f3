"""Statements for an SQLite file, done exactly once.

Owns the transaction, what statements may not do in it, and the mark by which a transaction is known again: a row with
the effect's run and number in a table of the same database, written in the same transaction, and removed when the
ledger knows.  A process that dies in between leaves the mark, which the next attempt finds; one that dies at the very
end leaves it until effects of the run are carried out again.  Any thread.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from goexfs.effects.outcome import Outcome
from snapshots.storage import durable
from snapshots.storage.effects import State

MARKS = "goexfs_effects"
BUSY_SECONDS = 10.0
TRIAL_SECONDS = 20.0
MOST_TRIAL_BYTES = 256 << 20
"""A larger file is not copied for a trial."""

_DENIED = frozenset({
    sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT,
    sqlite3.SQLITE_PRAGMA,
})  # fmt: skip
"""What would leave the transaction, the file or its rules.  (``VACUUM INTO`` attaches.)"""


def _authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    if action in _DENIED or (action == sqlite3.SQLITE_FUNCTION and second == "load_extension"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


@contextmanager
def _opened(path: str, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def execute(path: str, statements: tuple[str, ...], key: str) -> Outcome:
    """Do the statements in one transaction, unless that was done already."""
    try:
        with _opened(path, "rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            if _is_marked(connection, key):
                connection.execute("ROLLBACK")
                return Outcome(State.DONE, "it had been committed before")
            changed = _statements(connection, statements)
            connection.execute(f"CREATE TABLE IF NOT EXISTS {MARKS} (effect TEXT PRIMARY KEY, made_ns INTEGER)")
            connection.execute(f"INSERT INTO {MARKS} VALUES (?, ?)", (key, time.time_ns()))
            durable.step("external commit", path)
            connection.execute("COMMIT")
            return Outcome(State.DONE, f"committed; {changed} rows changed")
    except sqlite3.Error as error:  # nothing was committed: closing rolls back
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        return Outcome(State.FAILED, f"rolled back: {error}", transient=busy)


def has_marks(path: str) -> bool:
    """Whether there is the mark of any transaction."""
    try:
        with _opened(path, "ro") as connection:
            return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (MARKS,)).fetchone() is not None
    except sqlite3.Error:
        return False


def forget_mark(path: str, key: str) -> None:
    """The ledger knows: the database is what the statements made of it, and nothing else.  Failing is harmless."""
    try:
        with _opened(path, "rw") as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"DELETE FROM {MARKS} WHERE effect = ?", (key,))
            if connection.execute(f"SELECT 1 FROM {MARKS} LIMIT 1").fetchone() is None:
                connection.execute(f"DROP TABLE {MARKS}")
            connection.execute("COMMIT")
    except sqlite3.Error:
        pass


def try_out(path: str, statements: tuple[str, ...]) -> Outcome:
    """Do the statements to a copy of the file, as it is now: ``FAILED`` when they cannot be done."""
    try:
        if Path(path).stat().st_size > MOST_TRIAL_BYTES:
            return Outcome(State.DONE, "not tried out: the file is large")
        deadline = time.monotonic() + TRIAL_SECONDS
        with _opened(path, "ro") as connection, sqlite3.connect(":memory:", isolation_level=None) as copy:
            connection.backup(copy)
            copy.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            copy.execute("BEGIN")
            changed = _statements(copy, statements)
        copy.close()
    except (sqlite3.Error, OSError) as error:
        return Outcome(State.FAILED, f"tried on a copy: {error}")
    return Outcome(State.DONE, f"tried on a copy; {changed} rows change")


def _statements(connection: sqlite3.Connection, statements: tuple[str, ...]) -> int:
    before = connection.total_changes
    connection.set_authorizer(_authorize)
    try:
        for statement in statements:
            connection.execute(statement).fetchall()
    finally:
        connection.set_authorizer(None)
    return connection.total_changes - before


def _is_marked(connection: sqlite3.Connection, key: str) -> bool:
    known = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (MARKS,)).fetchone()
    if known is None:
        return False
    return connection.execute(f"SELECT 1 FROM {MARKS} WHERE effect = ?", (key,)).fetchone() is not None
