"""The store's SQLite database: opening, schema, transactions, waiting, and what its failures mean.

Owns ``store.db`` and the one table from ``sqlite3`` exceptions to the store's errors.  Knows what the tables are and
not what the rows mean.  A ``Database`` belongs to the thread that opened it, and must not be carried across a fork.

A busy database waits.  Every transaction takes the write lock at its start (``BEGIN IMMEDIATE``), so it cannot fail
half-way for having read before it wrote, and reads hold no lock between statements (rows are fetched at once): nothing
of a slow caller keeps others waiting.

Durability: write-ahead log with ``synchronous=NORMAL``.  A commit survives the death of the process; after a power cut
the database is at some earlier commit, whole.  ``sync`` makes all commits so far survive that too.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from snapshots.errors import StoreDamaged, StoreError, StoreFull, StoreTooNew, StoreUnusable
from snapshots.storage import durable

FORMAT = 1
"""Version of the store's format, kept in ``user_version``."""

APPLICATION_ID = 0x676F6578  # "goex"

BUSY_LIMIT_S = 600.0
"""How long a transaction waits for others before it gives up: a stopped process may hold the lock for ever."""

_BUSY_TIMEOUT_MS = 10_000
_PAGE_SIZE = 8192  # measured: 60 us for a row of 9 KiB on average, against 88 with pages of 4 KiB, 55 with 16 KiB
_SHRINK_PAGES = 256  # per transaction, so that others get their turn in between
_FRUGAL_SHRINK_PAGES = 16
_LOG_PAGES = 256  # folded in when it has 2 MiB: a full disk must be able to take it (see ``snapshots.storage.reserve``)
_LOG_LIMIT = 4 << 20  # bytes of the log's file that stay for the next transactions

_SCHEMA = """
CREATE TABLE runs (
    key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT, state TEXT NOT NULL, base BLOB NOT NULL,
    created_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, next_ino INTEGER NOT NULL, record BLOB NOT NULL,
    journal INTEGER NOT NULL DEFAULT 1, over INTEGER NOT NULL DEFAULT 0,
    horizon INTEGER NOT NULL DEFAULT 1, history_limit INTEGER NOT NULL DEFAULT 268435456, whole TEXT
) STRICT;
CREATE INDEX runs_whole ON runs (whole) WHERE whole IS NOT NULL;
CREATE UNIQUE INDEX runs_live_name ON runs (name) WHERE state IN ('active', 'kept');
CREATE TABLE objects (
    id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, place INTEGER NOT NULL, data BLOB
) STRICT;
CREATE TABLE entries (
    run INTEGER NOT NULL, until INTEGER NOT NULL, ino INTEGER NOT NULL, since INTEGER NOT NULL,
    changed INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, until, ino)
) STRICT, WITHOUT ROWID;
CREATE TABLE links (
    run INTEGER NOT NULL, until INTEGER NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL, since INTEGER NOT NULL,
    ino INTEGER NOT NULL, hides BLOB, PRIMARY KEY (run, until, parent, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE uses (
    run INTEGER NOT NULL, until INTEGER NOT NULL, ino INTEGER NOT NULL, object INTEGER NOT NULL,
    PRIMARY KEY (run, until, ino, object)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (
    run INTEGER NOT NULL, position INTEGER NOT NULL, time_ns INTEGER NOT NULL, PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    key INTEGER PRIMARY KEY, run INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    message TEXT NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX snapshots_name ON snapshots (run, name);
CREATE INDEX snapshots_position ON snapshots (run, position);
CREATE TABLE forks (
    run INTEGER PRIMARY KEY, parent INTEGER NOT NULL, position INTEGER NOT NULL, began_ns INTEGER NOT NULL,
    next_ino INTEGER NOT NULL
) STRICT;
CREATE INDEX forks_parent ON forks (parent, position);
CREATE INDEX uses_object ON uses (object, run);
CREATE TABLE log (
    run INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE reads (
    run INTEGER NOT NULL, path BLOB NOT NULL, identity BLOB NOT NULL, number INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, PRIMARY KEY (run, path, identity)
) STRICT, WITHOUT ROWID;
CREATE TABLE loose (
    object INTEGER NOT NULL, holder INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (object, holder)
) STRICT, WITHOUT ROWID;
CREATE INDEX loose_holder ON loose (holder, run);
CREATE TABLE effects (
    run TEXT NOT NULL, number INTEGER NOT NULL, state TEXT NOT NULL, holder INTEGER NOT NULL, open INTEGER NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
"""
TABLES = frozenset(
    {"runs", "objects", "entries", "links", "uses", "loose", "checkpoints", "snapshots", "forks", "log", "reads",
     "effects"}
)

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_MISMATCH})
_UNUSABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_NO_ROOM_BYTES = 1 << 20

Row = tuple[Any, ...]
Args = Sequence[object] | Mapping[str, object]
_T = TypeVar("_T")


class Database:
    """An open connection.  Errors of every method: StoreDamaged, StoreFull, StoreUnusable."""

    def __init__(self, path: Path, making: AbstractContextManager[None]) -> None:
        """Open the database, made if need be inside ``making``, which lets in one process at a time."""
        self.path = path
        self._depth = 0
        try:
            os.close(durable.create(path, 0o600))  # its log gets the same mode
        except FileExistsError:
            pass
        except OSError as exc:
            raise durable.failure(exc, f"cannot make {path}") from exc
        try:
            # autocommit: transactions begin and end where this module says
            self._sql = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_MS / 1000, isolation_level=None, cached_statements=256
            )
        except sqlite3.Error as exc:
            raise self.failure(exc) from exc
        try:
            self._set_up(making)
        except BaseException:
            self._sql.close()
            raise

    def _set_up(self, making: AbstractContextManager[None]) -> None:
        """Make or check the schema, and set what belongs to the connection."""
        self._pragma("synchronous=NORMAL")
        self._pragma("cache_size=-8000")  # KiB: a batch of small objects fits
        self._pragma(f"wal_autocheckpoint={_LOG_PAGES}")
        self._pragma("secure_delete=OFF")  # Debian's default zeroes what is freed: a discard would write it all again
        self._pragma("cell_size_check=ON")  # this file may be damaged: find out early
        self._pragma(f"journal_size_limit={_LOG_LIMIT}")
        version, application, tables = self._contents()
        if not version and not application and not tables:
            with making:
                if not self._contents()[2]:
                    self._make()
            version, application, tables = self._contents()
        if application != APPLICATION_ID:
            raise StoreDamaged(f"{self.path} is not the database of a store; move it away, or name another store")
        if version > FORMAT:
            raise StoreTooNew(
                f"the store {self.path.parent} has format {version}, and this goexfs knows formats up to {FORMAT};"
                " use a newer goexfs"
            )
        missing = TABLES - tables
        if version != FORMAT or missing:
            what = f"table {sorted(missing)[0]} is missing" if missing else f"format {version} never existed"
            raise StoreDamaged(f"the database {self.path} is damaged: {what}")
        self._pragma("journal_mode=WAL")

    def _contents(self) -> tuple[int, int, set[str]]:
        """Format, application and tables of the file, as of one instant."""
        with self.snapshot():
            tables = {name for (name,) in self.all("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            return int(self._pragma("user_version")), int(self._pragma("application_id")), tables

    def _make(self) -> None:
        """Make the schema, in one transaction with what says that it is there."""
        self._pragma(f"page_size={_PAGE_SIZE}")
        self._pragma("auto_vacuum=INCREMENTAL")  # only before the first table
        self._pragma("journal_mode=WAL")
        with self.transaction():
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    self.run(statement)
            self._pragma(f"application_id={APPLICATION_ID}")
            self._pragma(f"user_version={FORMAT}")

    def close(self) -> None:
        """Close the connection; a second time is fine."""
        self._sql.close()

    # statements

    def all(self, sql: str, args: Args = ()) -> list[Row]:
        """All rows of a query, at once: an open cursor would keep the write-ahead log from being folded in."""
        try:
            return self._sql.execute(sql, args).fetchall()
        except sqlite3.Error as exc:
            if self._busy(exc):
                return self._retry(lambda: self._sql.execute(sql, args).fetchall())
            raise self.failure(exc) from exc

    def one(self, sql: str, args: Args = ()) -> Row | None:
        """The first row of a query, or None."""
        try:
            row: Row | None = self._sql.execute(sql, args).fetchone()
            return row
        except sqlite3.Error as exc:
            if self._busy(exc):
                rows = self.all(sql, args)
                return rows[0] if rows else None
            raise self.failure(exc) from exc

    def run(self, sql: str, args: Args = ()) -> int:
        """Execute a change, inside a transaction; the number of rows it touched."""
        try:
            return self._sql.execute(sql, args).rowcount
        except sqlite3.Error as exc:
            raise self.failure(exc) from exc

    def insert(self, sql: str, args: Args = ()) -> int:
        """Execute an INSERT, inside a transaction; the new row's id."""
        try:
            return self._sql.execute(sql, args).lastrowid or 0
        except sqlite3.Error as exc:
            raise self.failure(exc) from exc

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Execute a change once per row, inside a transaction; the number of rows touched in all."""
        try:
            return self._sql.executemany(sql, rows).rowcount
        except sqlite3.Error as exc:
            raise self.failure(exc) from exc

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; waits for other writers.  A transaction inside another is part of it."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self._begin()
        self._depth = 1
        try:
            yield
            durable.step("commit", self.path)
            self._sql.execute("COMMIT")
        except BaseException as exc:
            self._roll_back()
            if isinstance(exc, sqlite3.Error):
                raise self.failure(exc) from exc
            if isinstance(exc, OSError):
                raise durable.failure(exc, f"cannot write the store {self.path.parent}") from exc
            raise
        finally:
            self._depth = 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one instant.  Keep it short: the log cannot be folded in meanwhile."""
        if self._depth:
            yield
            return
        self.run("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def _begin(self) -> None:
        try:
            durable.step("begin", self.path)
            self._sql.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            if not self._busy(exc):
                raise self.failure(exc) from exc
            self._retry(lambda: self._sql.execute("BEGIN IMMEDIATE"))
        except OSError as exc:
            raise durable.failure(exc, f"cannot write the store {self.path.parent}") from exc

    def _roll_back(self) -> None:
        if self._sql.in_transaction:  # a full disk may have rolled back already
            try:
                self._sql.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # what brought us here is the error to tell

    def _retry(self, attempt: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            try:
                return attempt()
            except sqlite3.Error as exc:
                if not self._busy(exc) or time.monotonic() > deadline:
                    raise self.failure(exc) from exc
            time.sleep(0.01)

    @staticmethod
    def _busy(exc: sqlite3.Error) -> bool:
        return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _BUSY

    def _pragma(self, text: str) -> Any:
        rows = self.all(f"PRAGMA {text}")
        return rows[0][0] if rows else None

    # the file

    def integrity(self, *, most: int = 20) -> list[str]:
        """What SQLite finds wrong with the file, at most ``most`` lines; empty when it is sound."""
        try:
            lines = [str(row[0]) for row in self._sql.execute(f"PRAGMA integrity_check({most})").fetchall()]
        except sqlite3.Error as exc:
            if exc.sqlite_errorcode & 0xFF in _DAMAGED:
                return [str(exc)]
            raise self.failure(exc) from exc
        return [] if lines == ["ok"] else lines

    def rebuild_indexes(self) -> None:
        """Make all indexes anew from their tables."""
        with self.transaction():
            self.run("REINDEX")

    def shrink(self, *, frugal: bool = False) -> None:
        """Give free pages and the write-ahead log back to the disk.

        Done in small steps, and the log only as far as readers allow: this is housekeeping, nobody waits for it.
        ``frugal`` is for a full disk: the log is folded in first and after every step, so that it stays small, and
        when there is no room even so, the rest is left for another time.
        """
        if frugal:
            self.fold_log()
        try:
            while pages := int(self._pragma("freelist_count")):
                self._vacuum(_FRUGAL_SHRINK_PAGES if frugal else _SHRINK_PAGES)
                if frugal:
                    self.fold_log()
                if int(self._pragma("freelist_count")) >= pages:
                    break
        except StoreFull:
            if not frugal:
                raise
        self.fold_log()

    def _vacuum(self, pages: int) -> None:
        """Give up to so many pages back, in a transaction of its own."""
        script = f"PRAGMA incremental_vacuum({pages})"  # as a script: ``execute`` stops after the first page
        try:
            durable.step("vacuum", self.path)
            self._sql.executescript(script)
        except sqlite3.Error as exc:
            if not self._busy(exc):
                raise self.failure(exc) from exc
            self._retry(lambda: self._sql.executescript(script))
        except OSError as exc:
            raise durable.failure(exc, f"cannot write the store {self.path.parent}") from exc

    def fold_log(self) -> None:
        """Write the log into the database and empty it, if readers allow it soon."""
        self._pragma("busy_timeout=200")
        try:
            self._pragma("wal_checkpoint(TRUNCATE)")
        except StoreFull:
            pass  # the log stays; what it holds is committed all the same
        finally:
            self._pragma(f"busy_timeout={_BUSY_TIMEOUT_MS}")

    def sync(self) -> None:
        """Make everything committed so far survive a power cut.

        What is committed is in the log, or was synced into the database before the log was started anew.  (Never do
        this to the database file: closing a second descriptor of it would drop SQLite's locks.)
        """
        try:
            fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with durable.reporting(f"cannot sync the store {self.path.parent}"):
            try:
                durable.sync(fd)
            finally:
                os.close(fd)

    # errors

    def failure(self, exc: sqlite3.Error) -> StoreError:
        """The store's error for an error of SQLite: the only place where one becomes the other.

        A wrong call (``ProgrammingError``) is a bug of ours and goes on as it is.
        """
        extended = getattr(exc, "sqlite_errorcode", None)
        if extended is None or isinstance(exc, sqlite3.ProgrammingError):
            raise exc
        code = extended & 0xFF
        store = self.path.parent
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room(extended)):
            return durable.full(f"cannot write the store {store}")
        if code == sqlite3.SQLITE_NOTADB:  # fsck could not open it either
            advice = f"put a copy of it back, or move {store} away to begin a new store"
            return StoreDamaged(f"{self.path} is not a database any more; {advice}")
        if code in _DAMAGED or extended == sqlite3.SQLITE_IOERR_SHORT_READ or code == sqlite3.SQLITE_ERROR:
            return StoreDamaged(f"the database {self.path} is damaged ({exc}); `goexfs fsck` says how far")
        if code in _BUSY:
            return StoreUnusable(f"the store {store} has been locked by another process for too long")
        if code in _UNUSABLE:
            return StoreUnusable(f"cannot write the store {store}: {exc}")
        return StoreUnusable(f"cannot use the store {store}: {exc}")

    def _no_room(self, extended: int) -> bool:
        """Whether an I/O error of SQLite is a full disk or quota: it tells only for writes, and there only ENOSPC."""
        if extended not in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC):
            return False
        try:
            free = os.statvfs(self.path.parent)
        except OSError:
            return False
        return extended == sqlite3.SQLITE_IOERR_SHMSIZE or free.f_bavail * free.f_frsize < _NO_ROOM_BYTES
