"""Files of known formats, shown as what they are; hostile ones get no view, and nothing unpacks without a bound."""

import gzip
import io
import json
import sqlite3
import tarfile
import zipfile

import pytest

from goexfs.views import Views, archive, database, formats
from snapshots.layers.content import BytesContent
from snapshots.review.changes import Side

REGULAR = 0o100644


def side(path: bytes, data: bytes) -> Side:
    return Side(
        path=path, mode=REGULAR, uid=0, gid=0, size=len(data), mtime_ns=0, rdev=0, nlink=1, target=None, node=object(),
        read_xattrs=dict, opener=lambda: BytesContent(data), lister=list,
    )  # fmt: skip


def shown(path: bytes, old: bytes | None, new: bytes | None, beside=None, changed=()) -> list[str] | None:
    files = beside or {}

    def find(place, is_before):
        data = files.get((place, is_before))
        return None if data is None else BytesContent(data)

    views = Views(find, frozenset(changed))
    made = views(path, *(None if data is None else side(path, data) for data in (old, new)))
    return None if made is None else made.decode().splitlines()


# databases


def made_database(tmp_path, *statements, wal=False) -> bytes:
    place = tmp_path / "made.db"
    place.unlink(missing_ok=True)
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    if wal:
        connection.execute("PRAGMA journal_mode=WAL")
    for statement in statements:
        connection.execute(*((statement,) if isinstance(statement, str) else statement))
    connection.close()
    return place.read_bytes()


BASIC = ("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, data BLOB)", "INSERT INTO t VALUES(1, 'one', x'00ff')",
         "INSERT INTO t VALUES(2, NULL, NULL)", "CREATE TABLE same(a)", "INSERT INTO same VALUES(1)")  # fmt: skip


def test_rows_by_primary_key(tmp_path):
    old = made_database(tmp_path, *BASIC)
    new = made_database(
        tmp_path, *BASIC, "UPDATE t SET name = 'two\n' WHERE id = 2", "DELETE FROM t WHERE id = 1",
        ("INSERT INTO t VALUES(3, ?, ?)", ("it's", b"x" * 100)),
    )
    assert shown(b"x.db", old, new) == [
        "@@ table t: 1 added, 1 removed, 1 changed @@",
        "-id=1  name='one'  data=x'00ff'",
        "-id=2  name=NULL",
        "+id=2  name='two\\n'",
        "+id=3  name='it''s'  data=x'" + "78" * 20 + "'... (100 bytes)",
        " 1 table without a difference",
    ]


def test_rows_without_a_primary_key_go_by_row_number(tmp_path):
    first = ("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(1)")
    lines = shown(b"x.db", made_database(tmp_path, *first), made_database(tmp_path, *first, "INSERT INTO t VALUES(1)"))
    assert lines == ["@@ table t: 1 added, 0 removed, 0 changed @@", "+rowid=3  a=1"]


def test_what_sqlite_takes_for_equal_is_a_change(tmp_path):
    def one(value, kind="NUMERIC"):
        table = f"CREATE TABLE t(id INTEGER PRIMARY KEY, v {kind})"
        return made_database(tmp_path, table, ("INSERT INTO t VALUES(1,?)", (value,)))

    assert shown(b"x.db", one("a", "TEXT COLLATE NOCASE"), one("A", "TEXT COLLATE NOCASE"))[0].endswith("1 changed @@")
    assert shown(b"x.db", one(1, ""), one(1.0, ""))[-1] == "+id=1  v=1.0"


def test_the_schema(tmp_path):
    old = made_database(tmp_path, *BASIC, "CREATE INDEX i ON t(name)")
    new = made_database(tmp_path, *BASIC, "CREATE VIEW v AS SELECT 1", "ALTER TABLE t ADD COLUMN more")
    lines = shown(b"x.db", old, new)
    assert lines[0] == "@@ schema @@"
    assert {line.split("(")[0] for line in lines[1:5]} == {
        "-CREATE INDEX i ON t", "-CREATE TABLE t", "+CREATE TABLE t", "+CREATE VIEW v AS SELECT 1",
    }
    assert lines[-1] == " 2 tables without a difference", "the rows are the same in the columns both have"


def test_a_new_and_a_deleted_database(tmp_path):
    data = made_database(tmp_path, *BASIC)
    assert "+id=2  name=NULL  data=NULL" in shown(b"x.db", None, data)
    assert "-rowid=1  a=1" in shown(b"x.db", data, None)


def test_many_rows_are_counted(tmp_path):
    old = made_database(tmp_path, "CREATE TABLE t(a)")
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1000) INSERT INTO t SELECT i FROM n"
    lines = shown(b"x.db", old, made_database(tmp_path, "CREATE TABLE t(a)", fill))
    assert lines[0] == "@@ table t: 1000 added, 0 removed, 0 changed @@"
    assert lines[-1] == f" ... {1000 - database.MOST_ROWS} more rows"


def test_a_write_ahead_log_is_read(tmp_path):
    place = tmp_path / "live.db"
    connection = sqlite3.connect(place, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t(a)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = place.read_bytes()
    connection.execute("INSERT INTO t VALUES(7)")
    log = (tmp_path / "live.db-wal").read_bytes()
    connection.close()
    beside = {(b"d/live.db", True): data, (b"d/live.db", False): data}
    assert shown(b"d/live.db-wal", None, log, beside) == [
        "@@ write-ahead log: the database with it @@",
        "@@ table t: 1 added, 0 removed, 0 changed @@",
        "+rowid=1  a=7",
    ]
    assert shown(b"d/live.db-wal", None, log, beside, {b"d/live.db"}) == ["@@ write-ahead log, shown with d/live.db @@"]
    assert "+rowid=1  a=7" in shown(b"d/live.db", None, data, {(b"d/live.db-wal", False): log})


def test_a_rollback_journal_is_left_alone(tmp_path):
    """It may name a file that SQLite deletes."""
    asked = []

    def find(place, is_before):
        asked.append(place)

    data = made_database(tmp_path, *BASIC)
    Views(find)(b"x.db", None, side(b"x.db", data))
    assert asked == [b"x.db-wal"]


def test_hostile_databases(tmp_path, monkeypatch):
    data = bytearray(made_database(tmp_path, *BASIC))
    data[100:4000] = b"\xff" * 3900
    assert shown(b"x.db", None, bytes(data))[0] == "@@ binary @@", "damaged: only that it is there"
    assert shown(b"x.db", None, b"SQLite format 3\0 and no more")[0] == "@@ binary @@"
    slow = made_database(
        tmp_path, "CREATE TABLE t(a)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 30000) INSERT INTO t SELECT i FROM n",
    )
    monkeypatch.setattr(database, "MOST_SECONDS", 0.0)
    assert any("stopped after" in line for line in shown(b"x.db", None, slow))
    monkeypatch.setattr(database, "LARGEST", 100)
    assert "not looked into" in shown(b"x.db", None, slow)[-1]


# notebooks


def notebook(*cells, **more) -> bytes:
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}, **more}).encode()


def cell(source, kind="code", **more):
    return {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}, **more}


def test_cells_by_id():
    old = notebook(cell("a = 1\nb = 2\n", id="x", outputs=[]), cell("gone", id="y"), cell("# text", "markdown", id="z"))
    new = notebook(
        cell("# text", "markdown", id="z"),
        cell("a = 1\nb = 3\n", id="x", outputs=[{"output_type": "stream", "text": "3"}]),
    )
    lines = shown(b"n.ipynb", old, new)
    assert "@@ cell 2 removed (code) @@" in lines
    assert "-gone" in lines
    changed = shown(b"n.ipynb", old, notebook(cell("a = 1\nb = 3\n", id="x", outputs=[{"output_type": "stream"}])))
    assert changed[:4] == ["@@ cell 1 (code) @@", " a = 1", "-b = 2", "+b = 3"]
    assert changed[4:6] == ["-no outputs", "+outputs: 1 (stream), 27 bytes"]


def test_cells_without_ids_and_what_is_no_cell():
    old, new = notebook(cell("one"), cell("two")), notebook(cell("one"), cell("zwei"))
    assert shown(b"n.ipynb", old, new) == ["@@ cell 2 (code) @@", "-two", "+zwei"]
    assert shown(b"n.ipynb", old, notebook(cell("one"), cell("two"), metadata={"kernel": "x"}))[-1] == (
        '+metadata: {"kernel": "x"}'
    )
    assert shown(b"n.ipynb", old, json.dumps(json.loads(old), indent=1).encode())[-1].startswith(" no cell differs")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'{"cells": 3}', b'{"cells": [1]}', b"[" * 100_000, b'{"cells": [{"source": {}}]}']
)
def test_what_is_no_notebook_is_text(data):
    made = shown(b"n.ipynb", notebook(cell("x")), data)
    assert made is None or made[0].startswith("@@")


# archives


def zipped(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def tarred(mode="w", **members) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred, lambda **m: tarred("w:gz", **m), lambda **m: tarred("w:xz", **m)])
def test_members(pack):
    old = pack(same=b"s", gone=b"g", changed=b"old", grown=b"1")
    lines = shown(b"x", old, pack(same=b"s", new=b"n", changed=b"new", grown=b"22"))
    assert lines[0] == "@@ archive: 1 added, 1 removed, 2 changed, 1 the same @@"
    assert [line.split("  ")[0] for line in lines[1:]] == ["-changed", "+changed", "-gone", "-grown", "+grown", "+new"]
    assert lines[2].endswith(", other content")
    assert shown(b"x", pack(a=b"1"), pack(a=b"1"))[-1].startswith(" no member differs")


def test_a_name_that_comes_twice_is_shown_twice():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x", "harmless")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("x", "evil")
    assert len([line for line in shown(b"x.zip", None, file.getvalue()) if line.startswith("+x")]) == 2


def test_bombs_are_not_unpacked(monkeypatch):
    bomb = gzip.compress(tarred(big=bytes(50 << 20)))
    assert len(bomb) < 100_000
    monkeypatch.setattr(archive, "MOST_UNPACKED", 10 << 20)
    assert "unpacks to more than" in shown(b"x.tar.gz", None, bomb)[-1]
    monkeypatch.setattr(archive, "MOST_MEMBERS", 2)
    assert "members" in shown(b"x.zip", None, zipped(a=b"", b=b"", c=b""))[-1]


def test_what_only_looks_like_an_archive():
    assert shown(b"x.gz", None, gzip.compress(b"text"))[0] == "@@ binary @@"
    assert shown(b"x.zip", None, b"PK\x03\x04 nothing of the kind \0")[0] == "@@ binary @@"
    assert shown(b"x.zip", None, b"PK\x03\x04 nothing of the kind") is None, "then it is text"


# everything else


def test_binary_files_by_kind_and_size():
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(2000)
    lines = shown(b"x.png", b"text\n", png)
    assert lines[:2] == ["@@ binary @@", "-text, 5 bytes"]
    assert lines[2].endswith(f", {len(png):,} bytes")
    assert "Portable Network" in lines[2] or "PNG" in lines[2]


def test_text_has_no_view():
    assert shown(b"x", b"one\n", b"two\n") is None
    assert shown(b"x", None, "ünïcode".encode()) is None


def test_large_text_is_not_read(monkeypatch):
    monkeypatch.setattr(formats, "LARGE", 10)
    assert shown(b"x", b"x" * 11, b"y")[0] == "@@ binary @@"


def test_the_length_of_a_view_is_bounded():
    members = {f"m{number}": b"" for number in range(1000)}
    lines = shown(b"x.zip", None, zipped(**members))
    assert len(lines) == 401
    assert lines[-1] == " ... 601 more lines"


def test_names_in_archives_cannot_forge_lines():
    lines = shown(b"x.zip", None, zipped(**{"a\n+forged": b""}))
    assert lines[1:] == ["+a\\n+forged  0 bytes"]
