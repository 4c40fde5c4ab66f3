"""Statements for PostgreSQL: prepared in the run and committed on merge, or done on merge, in both cases once.

Owns the transaction, what a statement may be in it, and how the server is asked later what became of it.  Where the
server keeps prepared transactions (``max_prepared_transactions``), a name for it (``gid``) is recorded before there is
one.  In any case the server's own number of the transaction (``xid``) is recorded before the commit, and
``pg_xact_status`` tells afterwards whether it took place: no table of ours is needed.  Any thread.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from goexfs.effects.outcome import Outcome
from snapshots.errors import EffectError
from snapshots.storage import durable
from snapshots.storage.effects import Effect, Sql, State

CONNECT_SECONDS = 10
_LIMITS = "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'"

ALLOWED = frozenset({
    "ALTER", "ANALYZE", "CALL", "COMMENT", "CREATE", "DELETE", "DO", "DROP", "GRANT", "INSERT", "LOCK", "MERGE",
    "REFRESH", "REINDEX", "REVOKE", "SELECT", "TABLE", "TRUNCATE", "UPDATE", "VALUES", "WITH",
})  # fmt: skip
"""What a statement may begin with: nothing that ends the transaction, changes who one is, or copies to files."""

Record = Callable[[str, str], None]
"""Is told gid and xid before they exist in the server, or matter there."""


def check(statements: tuple[str, ...]) -> None:
    """Raise EffectError for what is not allowed.

    A statement has to begin with its keyword, without a comment before it, so that no parser of ours has to agree with
    the server's; that it is a single one, the server sees to (they go by the extended protocol).
    """
    for statement in statements:
        word = re.match(r"[ \t\r\n]*([A-Za-z]+)", statement)
        if word is None or word[1].upper() not in ALLOWED:
            raise EffectError(f"a statement must begin with one of {', '.join(sorted(ALLOWED))}")


def prepare(address: str, effect: Effect, record: Record) -> Outcome:
    """Do the statements and leave the transaction ready to be committed (``PREPARED``), or, where the server does not
    keep such, only see that they can be done (``PLANNED``).
    """
    statements = _statements_of(effect)
    gid = f"goexfs-{effect.run_id}-{effect.number}"
    psycopg = _library()
    try:
        with _connected(address) as connection:
            keeps = int(connection.execute("SHOW max_prepared_transactions").fetchone()[0]) > 0
            changed = _begin(connection, statements)
            if not keeps:
                connection.execute("ROLLBACK")
                return Outcome(State.PLANNED, f"tried and rolled back; {changed} rows change")
            record(gid, _number(connection))
            durable.step("external prepare", gid)
            connection.execute(f"PREPARE TRANSACTION '{gid}'")  # ours: letters, digits and dashes
            return Outcome(State.PREPARED, f"prepared; {changed} rows change")
    except psycopg.Error as error:
        return Outcome(State.FAILED, _said(error))


def finish(address: str, effect: Effect, record: Record) -> Outcome:
    """Commit what is prepared; what is not is done now, unless the server says that it was done already."""
    psycopg = _library()
    committing = False
    try:
        with _connected(address) as connection:
            if effect.gid and _is_prepared(connection, effect.gid):
                durable.step("external commit", effect.gid)
                committing = True
                connection.execute(f"COMMIT PREPARED '{effect.gid}'")
                return Outcome(State.DONE, "the prepared transaction was committed")
            if (verdict := _verdict(connection, effect.xid)) is not None:
                return verdict
            changed = _begin(connection, _statements_of(effect))
            record(effect.gid, _number(connection))
            durable.step("external commit", f"effect {effect.number}")
            committing = True
            connection.execute("COMMIT")
            return Outcome(State.DONE, f"committed; {changed} rows changed")
    except psycopg.OperationalError as error:
        if committing:
            return Outcome(State.UNKNOWN, f"the connection was lost during the commit: {_said(error)}", transient=True)
        return Outcome(State.FAILED, _said(error), transient=True)
    except psycopg.Error as error:
        return Outcome(State.FAILED, _said(error))


def roll_back(address: str, effect: Effect) -> Outcome:
    """Let a prepared transaction go, if it is there."""
    psycopg = _library()
    try:
        with _connected(address) as connection:
            if not _is_prepared(connection, effect.gid):
                return Outcome(State.DONE, "there is no prepared transaction")
            durable.step("external rollback", effect.gid)
            connection.execute(f"ROLLBACK PREPARED '{effect.gid}'")
            return Outcome(State.DONE, "the prepared transaction was rolled back")
    except psycopg.Error as error:
        return Outcome(State.FAILED, _said(error), transient=True)


def prepared(address: str) -> list[str]:
    """Names of the transactions of goexfs that the server holds."""
    psycopg = _library()
    try:
        with _connected(address) as connection:
            rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'goexfs-%' ORDER BY gid")
            return [gid for (gid,) in rows.fetchall()]
    except psycopg.Error as error:
        raise EffectError(f"the database cannot be asked: {_said(error)}") from None


def _begin(connection: Any, statements: tuple[str, ...]) -> int:
    """Begin the transaction and do the statements; how many rows they changed."""
    check(statements)
    connection.execute("BEGIN")
    connection.execute(_LIMITS)
    changed = 0
    for statement in statements:
        cursor = connection.execute(statement, prepare=True)
        if not (cursor.statusmessage or "").startswith(("SELECT", "TABLE", "VALUES")):
            changed += max(cursor.rowcount, 0)
    return changed


def _number(connection: Any) -> str:
    return str(connection.execute("SELECT pg_current_xact_id()::text").fetchone()[0])


def _is_prepared(connection: Any, gid: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM pg_prepared_xacts WHERE gid = %s AND database = current_database()", (gid,)
    ).fetchone()
    return row is not None


def _verdict(connection: Any, xid: str) -> Outcome | None:
    """What the server says of a transaction that was begun before; None: it did not take place."""
    if not xid:
        return None
    (status,) = connection.execute("SELECT pg_xact_status(%s::text::xid8)", (xid,)).fetchone()
    if status == "committed":
        return Outcome(State.DONE, "it had been committed before")
    if status == "aborted":
        return None
    if status == "in progress":
        return Outcome(State.UNKNOWN, "an earlier attempt is still in progress in the server", transient=True)
    return Outcome(State.UNKNOWN, "an earlier attempt is so old that the server does not know it any more")


def _statements_of(effect: Effect) -> tuple[str, ...]:
    assert isinstance(effect.request, Sql)
    return effect.request.statements


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    connection = _library().connect(
        address, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="goexfs"
    )
    try:
        yield connection
    finally:
        connection.close()


def _library() -> Any:
    try:
        import psycopg
    except ImportError:
        raise EffectError(
            "PostgreSQL needs the library psycopg, which is not installed: pip install 'goexfs[postgresql]'"
        ) from None
    return psycopg


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
