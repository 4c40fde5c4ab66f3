"""SQLite databases by table and row.

Owns the comparison, made by SQLite itself on private copies: the files in the run and the base are never opened as
databases, and a write-ahead log that lies beside one is copied and read with it.  A rollback journal is not: it can
name other files, which SQLite deletes when it rolls back.  Nothing in a schema is trusted: triggers do not fire,
virtual tables are not opened, functions in a schema are those without side effects.  Belongs to one thread.
"""

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from goexfs.views.sources import Source

LARGEST = 64 << 20
"""Bytes above which a database is not looked into."""
MOST_SECONDS = 3.0
MOST_ROWS = 25
"""Rows of each table that are listed: what is left is counted."""
_MOST_COUNTED = 100_000
_MOST_SHOWN = 60
"""Characters of a value."""

FromBeside = Callable[[bytes, bool], Source | None]
Two = Sequence[Source | None]
"""Before and after."""


class Table(NamedTuple):
    """One table of one side."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    """primary key, or the name under which it has its row number"""


def lines(old: Source | None, new: Source | None, beside: FromBeside) -> Iterator[str]:
    """Which tables and rows came, went and changed."""
    logs = [beside(source.path + b"-wal", source is old) if source is not None else None for source in (old, new)]
    try:
        with tempfile.TemporaryDirectory(prefix="goexfs-") as place:
            yield from _compared(_copies(Path(place), (old, new), logs))
    finally:
        for found in logs:
            if found is not None:
                found.content.close()


def lines_of_log(
    path: bytes, old: Source | None, new: Source | None, beside: FromBeside, shown: bool
) -> Iterator[str] | None:
    """What a write-ahead log holds, as changes of its database; None when there is no database.

    ``shown``: the database is in the diff itself, and its view takes the log into account.
    """
    name = path[:-4]
    if shown:
        return iter([f"@@ write-ahead log, shown with {name.decode('utf-8', 'surrogateescape')} @@"])
    databases = [beside(name, is_before) for is_before in (True, False)]
    if not any(databases):
        return None
    return _log_lines(databases, (old, new))


def _log_lines(databases: Two, logs: Two) -> Iterator[str]:
    yield "@@ write-ahead log: the database with it @@"
    try:
        with tempfile.TemporaryDirectory(prefix="goexfs-") as place:
            yield from _compared(_copies(Path(place), databases, logs))
    finally:
        for source in databases:
            if source is not None:
                source.content.close()


def _copies(place: Path, databases: Two, logs: Two) -> list[Path | None]:
    copies: list[Path | None] = []
    for name, database, log in zip(("before", "after"), databases, logs, strict=True):
        if database is None:
            copies.append(None)
            continue
        copies.append(place / name)
        database.copy(place / name, LARGEST)
        if log is not None and log.size:
            log.copy(place / f"{name}-wal", LARGEST)
    return copies


def _compared(copies: list[Path | None]) -> Iterator[str]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        deadline = time.monotonic() + MOST_SECONDS
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 10_000)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        for name, copy in zip(("before", "after"), copies, strict=True):
            connection.execute(f"ATTACH ? AS {name}", (":memory:" if copy is None else str(copy),))
            connection.execute(f"PRAGMA {name}.synchronous=OFF")
        connection.execute("PRAGMA query_only=ON")
        try:
            yield from _Comparison(connection).lines()
        except sqlite3.OperationalError as error:
            if time.monotonic() <= deadline:
                raise
            yield f" ... stopped after {MOST_SECONDS:g} s: the rest was not compared ({error})"
    finally:
        connection.close()


class _Comparison:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def lines(self) -> Iterator[str]:
        """All of it: the schema, then each table."""
        before, after = self._schema("before"), self._schema("after")
        different = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        if different:
            yield "@@ schema @@"
        for key in different:
            for sign, schema in (("-", before), ("+", after)):
                if key in schema:
                    yield f"{sign}{' '.join(schema[key].split())}"
        same = 0
        for name in sorted({name for kind, name in before.keys() | after.keys() if kind == "table"}):
            statements = [schema.get(("table", name)) for schema in (before, after)]
            if any(sql is not None and sql.upper().startswith("CREATE VIRTUAL") for sql in statements):
                yield f"@@ table {name}: virtual, not looked into @@"
                continue
            said = False
            for line in self._table(name, *(sql is not None for sql in statements)):
                said = True
                yield line
            same += not said
        if same:
            yield f" {same} tables without a difference" if same > 1 else " 1 table without a difference"

    def _schema(self, side: str) -> dict[tuple[str, str], str]:
        rows = self._connection.execute(
            f"SELECT type, name, sql FROM {side}.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        return {(kind, name): sql or "" for kind, name, sql in rows}

    def _layout(self, side: str, name: str) -> Table:
        rows = self._connection.execute(f"PRAGMA {side}.table_info({_quoted(name)})").fetchall()
        columns = tuple(row[1] for row in rows)
        key = tuple(row[1] for row in sorted((row for row in rows if row[5]), key=lambda row: int(row[5])))
        if not key:
            taken = {column.lower() for column in columns}
            key = next(((number,) for number in ("rowid", "_rowid_", "oid") if number not in taken), ())
        return Table(columns, key)

    def _table(self, name: str, was: bool, is_now: bool) -> Iterator[str]:
        old = self._layout("before", name) if was else None
        new = self._layout("after", name) if is_now else None
        layout = new or old
        assert layout is not None, "one side has it"
        columns, key = layout.columns, layout.key
        if old is not None and new is not None:
            columns = tuple(column for column in new.columns if column in old.columns)
            key = new.key if new.key == old.key else ()
        key = key if all(part in columns for part in key) or len(key) == 1 else ()
        shown = (*key, *(column for column in columns if column not in key))
        if not shown:
            return
        gone = self._only_in("before", "after", name, shown, len(key), was, is_now)
        come = self._only_in("after", "before", name, shown, len(key), is_now, was)
        if not gone and not come:
            return
        both = gone.keys() & come.keys() if key else set()
        most = "" if max(len(gone), len(come)) < _MOST_COUNTED else ", and more"
        yield (
            f"@@ table {name}: {len(come) - len(both)} added, {len(gone) - len(both)} removed,"
            f" {len(both)} changed{most} @@"
        )
        listed = [*gone, *(identity for identity in come if identity not in gone)]
        for identity in listed[:MOST_ROWS]:
            yield from _row(shown, len(key), gone.get(identity), come.get(identity), identity in both)
        if len(listed) > MOST_ROWS:
            yield f" ... {len(listed) - MOST_ROWS} more rows"

    def _only_in(
        self, here: str, there: str, name: str, columns: tuple[str, ...], keys: int, has: bool, other_has: bool
    ) -> dict[tuple[object, ...], tuple[object, ...]]:
        """The rows that only one side has, by key (by all of the row where there is none)."""
        if not has:
            return {}
        # Not the columns' own collations: NOCASE would take what only differs in case for equal.
        # With the types, because 1 and 1.0 are equal.
        wanted = ", ".join(f"{_quoted(column)} COLLATE BINARY" for column in columns)
        wanted += "".join(f", typeof({_quoted(column)})" for column in columns)
        query = f"SELECT {wanted} FROM {here}.{_quoted(name)}"
        if other_has:
            query += f" EXCEPT SELECT {wanted} FROM {there}.{_quoted(name)}"
        found: dict[tuple[object, ...], tuple[object, ...]] = {}
        for row in self._connection.execute(f"{query} LIMIT {_MOST_COUNTED}"):
            found[row[:keys] if keys else row] = row[: len(columns)]
        return found


def _row(
    columns: tuple[str, ...], keys: int, old: tuple[object, ...] | None, new: tuple[object, ...] | None, both: bool
) -> Iterator[str]:
    """A row, or both its states with the key and what differs."""
    if both and old is not None and new is not None:
        chosen = [i for i in range(len(columns)) if i < keys or old[i] != new[i] or type(old[i]) is not type(new[i])]
    else:
        chosen = list(range(len(columns)))
    for sign, row in (("-", old), ("+", new)):
        if row is not None:
            yield sign + "  ".join(f"{columns[i]}={_value(row[i])}" for i in chosen)


def _value(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        more = f"... ({len(value):,} bytes)" if len(value) > _MOST_SHOWN // 3 else ""
        return f"x'{value[: _MOST_SHOWN // 3].hex()}'{more}"
    if isinstance(value, str):
        text = value.replace("'", "''").replace("\n", "\\n")
        more = f"... ({len(value):,} characters)" if len(text) > _MOST_SHOWN else ""
        return f"'{text[:_MOST_SHOWN]}'{more}"
    return str(value)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
