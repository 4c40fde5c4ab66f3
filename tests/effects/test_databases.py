"""SQL effects against real databases: once, all of it or nothing, and only what a statement may do."""

import os
import sqlite3

import pytest

import goexfs
from goexfs.effects import execute, sqlite
from goexfs.effects.strays import release, strays
from snapshots.errors import EffectError, EffectFailed
from snapshots.storage.effects import Sql, State


def go(place):
    with place.opened() as store:
        return execute.run_pending(place.ledger(store), os.fsencode(place.base))


def add(place, *statements, database="main", hold=True):
    with place.opened() as store:
        ledger = place.ledger(store)
        effect = ledger.add(Sql(database, statements), deferred=True)
        return execute.prepare(ledger, effect) if hold else effect


@pytest.fixture
def notes(area):
    path = area / "notes.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x UNIQUE)")
    connection.close()
    return path


def rows(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT x FROM t ORDER BY x").fetchall()
    finally:
        connection.close()


# PostgreSQL


def test_held_ready_and_committed(place, postgres):
    effect = add(place, "INSERT INTO t VALUES ('a')", "UPDATE t SET x = 'b' WHERE x = 'a'")
    assert effect.state is State.PREPARED
    assert postgres.prepared() == [f"goexfs-{place.run_id}-1"]
    assert postgres.all("SELECT * FROM t") == []
    (done,) = go(place).effects
    assert (done.state, postgres.all("SELECT * FROM t"), postgres.prepared()) == (State.DONE, [("b",)], [])


def test_held_ready_and_dropped(place, postgres):
    add(place, "INSERT INTO t VALUES ('a')")
    with place.opened() as store:
        execute.withdraw_all(place.ledger(store), "given up")
    assert (postgres.prepared(), postgres.all("SELECT * FROM t"), place.states()) == ([], [], ["dropped"])


def test_what_cannot_be_done_is_told_at_once(place, postgres):
    effect = add(place, "INSERT INTO missing VALUES (1)")
    assert effect.state is State.DROPPED
    assert "missing" in effect.attempts[0].detail
    assert postgres.prepared() == []


def test_where_the_server_keeps_none(place, postgres):
    """The default of PostgreSQL: tried and rolled back, done after the merge, recognised by its number."""
    postgres.stop()
    postgres.start(prepared=0)
    try:
        assert add(place, "INSERT INTO t VALUES ('a')").state is State.PLANNED
        assert postgres.all("SELECT * FROM t") == []
        (done,) = go(place).effects
        assert done.state is State.DONE
        assert done.xid
        assert postgres.all("SELECT * FROM t") == [("a",)]
    finally:
        postgres.stop()
        postgres.start()


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT", "  rollback", "-- x\nCOMMIT", "/* /* */ SELECT 1 */ COMMIT", "BEGIN", "END",
        "PREPARE TRANSACTION 'x'", "COPY t TO PROGRAM 'sh'", "SET ROLE postgres", "SAVEPOINT a",
        "SELECT 1; COMMIT", "DO $$ BEGIN COMMIT; END $$",
        "VACUUM", "RESET ALL", "\ufeffCOMMIT", "", ";COMMIT",
    ],
)  # fmt: skip
def test_no_statement_leaves_the_transaction(place, postgres, statement):
    effect = add(place, "INSERT INTO t VALUES ('a')", statement)
    assert effect.state is State.DROPPED, effect
    assert (postgres.all("SELECT * FROM t"), postgres.prepared()) == ([], [])
    with place.opened() as store:
        place.ledger(store).add(Sql("main", ("INSERT INTO t VALUES ('a')", statement)), deferred=True)
    with pytest.raises(EffectFailed):
        go(place)
    assert postgres.all("SELECT * FROM t") == []


def test_rolled_back_behind_its_back(place, postgres):
    """An administrator rolled it back: the statements are done again, in a transaction that is known by number."""
    effect = add(place, "INSERT INTO t VALUES ('a')")
    postgres.all(f"ROLLBACK PREPARED '{effect.gid}'")
    go(place)
    assert postgres.all("SELECT * FROM t") == [("a",)]


def test_committed_behind_its_back(place, postgres):
    effect = add(place, "INSERT INTO t VALUES ('a')")
    postgres.all(f"COMMIT PREPARED '{effect.gid}'")
    go(place)
    assert postgres.all("SELECT * FROM t") == [("a",)]


def test_a_server_that_is_not_there(place, postgres, configured):
    add(place, "INSERT INTO t VALUES ('a')")
    configured('[effects.databases]\nmain = "postgresql:///x?host=/nowhere"\n')
    with place.opened() as store, pytest.raises(EffectFailed, match="is still held"):
        execute.withdraw_all(place.ledger(store), "given up")
    assert place.states() == ["prepared"]
    with pytest.raises(EffectFailed, match="effect 1"):
        go(place)
    configured(f'[effects.databases]\nmain = "{postgres.address}"\n')
    with place.opened() as store:
        place.ledger(store).retry(1)
    go(place)
    assert postgres.all("SELECT * FROM t") == [("a",)]


def test_strays_are_found_and_released(place, postgres):
    effect = add(place, "INSERT INTO t VALUES ('a')")
    with place.opened() as store:
        assert strays(store) == []
        place.ledger(store).drop(effect.number, "as if the rollback had been forgotten")
        (stray,) = strays(store)
        assert stray.gid == effect.gid
        runs = goexfs.RunStore(store)
        assert [finding.repaired for finding in runs.fsck().findings] == [False]
        assert [finding.repaired for finding in runs.fsck(repair=True).findings] == [True]
        assert runs.fsck().findings == ()
        assert release(stray)
    assert postgres.prepared() == []


def test_the_library_is_missing(place, configured, monkeypatch):
    configured('[effects.databases]\nmain = "postgresql:///x"\n')
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    effect = add(place, "SELECT 1")
    assert effect.attempts[0].detail == (
        "PostgreSQL needs the library psycopg, which is not installed: pip install 'goexfs[postgresql]'"
    )


# SQLite


def test_a_file(place, notes):
    add(place, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", database=str(notes), hold=False)
    (done,) = go(place).effects
    assert (done.state, rows(notes)) == (State.DONE, [(1,), (2,)])
    connection = sqlite3.connect(notes)
    assert connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("t",)]
    connection.close()


def test_all_or_nothing_and_again(place, notes):
    add(place, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)", database=str(notes), hold=False)
    with pytest.raises(EffectFailed, match="UNIQUE"):
        go(place)
    assert rows(notes) == []
    with place.opened() as store:
        place.ledger(store).replace(1, Sql(str(notes), ("INSERT INTO t VALUES (1)",)), "")
    go(place)
    assert rows(notes) == [(1,)]


def test_the_mark_prevents_a_second_time(notes):
    assert sqlite.execute(str(notes), ("INSERT INTO t VALUES (1)",), "key").state is State.DONE
    again = sqlite.execute(str(notes), ("INSERT INTO t VALUES (2)",), "key")
    assert (again.detail, rows(notes)) == ("it had been committed before", [(1,)])
    sqlite.forget_mark(str(notes), "key")
    sqlite.forget_mark(str(notes), "key")


@pytest.mark.parametrize(
    "statement",
    ["ATTACH '{there}' AS x", "VACUUM INTO '{there}'", "COMMIT", "ROLLBACK", "SAVEPOINT x",
     "PRAGMA writable_schema = 1", "PRAGMA journal_mode = OFF", "SELECT load_extension('x')",
     "INSERT INTO t VALUES (9); COMMIT", "BEGIN"],
)  # fmt: skip
def test_no_statement_leaves_the_file(area, place, notes, statement):
    statement = statement.format(there=area / "there")
    add(place, "INSERT INTO t VALUES (1)", statement, database=str(notes), hold=False)
    with pytest.raises(EffectFailed):
        go(place)
    assert rows(notes) == []
    assert not (area / "there").exists()
    assert sqlite.try_out(str(notes), (statement,)).state is State.FAILED


def test_a_configured_file_is_tried_on_a_copy(place, notes, configured):
    configured(f'[effects.databases]\nnotes = "sqlite:{notes}"\n')
    before = notes.read_bytes()
    assert add(place, "INSERT INTO t VALUES (1)", database="notes").state is State.PLANNED
    assert add(place, "INSERT INTO nothing VALUES (1)", database="notes").state is State.DROPPED
    assert notes.read_bytes() == before
    go(place)
    assert rows(notes) == [(1,)]


def test_a_statement_without_end_is_ended(notes, monkeypatch):
    monkeypatch.setattr(sqlite, "TRIAL_SECONDS", 0.3)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    assert sqlite.try_out(str(notes), (endless,)).detail == "tried on a copy: interrupted"


def test_a_file_that_is_not_there_is_not_made(area, place):
    add(place, "CREATE TABLE x (y)", database=str(area / "none.db"), hold=False)
    with pytest.raises(EffectFailed, match="unable to open"):
        go(place)
    assert not (area / "none.db").exists()


# the configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no database is called 'main'"), ("[effects", "is not TOML"), ("effects = 1", "no database"),
        ('[effects.databases]\nmain = 5', "is not a text"), ('[effects.databases]\nmain = "mysql://x"', "is neither"),
        ('[effects.databases]\nmain = "postgresql://${NO_SUCH_NAME}"', "NO_SUCH_NAME, which is not set"),
        ('[effects.databases]\nmain = "postgresql://a${"', "no ${NAME}"),
        ('[effects.databases]\nmain = "sqlite:x"', "absolute"),
    ],
)  # fmt: skip
def test_the_configuration_is_wrong(configured, text, message):
    from goexfs.effects import connections

    configured(text)
    with pytest.raises(EffectError) as caught:
        connections.database("main")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_is_not_shown(place, configured, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    configured('[effects.databases]\nmain = "postgresql://me:${DB_PASSWORD}@127.0.0.1:1/x"\n')
    effect = add(place, "SELECT 1")
    assert "hunter2" not in str(effect)
