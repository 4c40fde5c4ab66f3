"""The checker finds every kind of damage, says what it is about, and mends what it can.

One test damages a store in one way.  The ``store`` fixture's teardown asserts that the checker finds nothing any more.
"""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from snapshots.entries import FIRST_NEW_INO, INLINE_LIMIT, ROOT_INO, WHITEOUT, Content, Extent, Link
from snapshots.errors import ObjectMissing
from snapshots.history.history import History
from snapshots.storage import effects
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store
from snapshots.upkeep import findings
from snapshots.upkeep.findings import Kind
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.uppers import checkpoint, entry, read_back, save, whole

LARGE = INLINE_LIMIT + 1
DATA = {b"small": b"s" * 100, b"large": b"l" * LARGE, b"other": b"o" * 50}
SMALL_INO, LARGE_INO, OTHER_INO = range(FIRST_NEW_INO, FIRST_NEW_INO + 3)


@pytest.fixture
def run(store, base):
    run = store.runs.create(base=base)
    save(store, run.id, DATA)
    return run


def name_of(store, content: bytes) -> bytes:
    return store.objects.digest([content])


def damage(store, sql: str, args=()) -> None:
    with store.database.transaction():
        assert store.database.run(sql, args) > 0


def commit(store, run, *args, **kwargs) -> None:
    store.upper(run.id).commit(checkpoint(*args, **kwargs))


def found(store, *, repair: bool = False) -> list[tuple[Kind, str, bool]]:
    return [(finding.kind, finding.what, finding.repaired) for finding in fsck(store, repair=repair).findings]


def check_and_repair(store, *expected: tuple[Kind, str]) -> None:
    """The checker finds exactly this, twice; repairs it; and finds nothing then."""
    assert found(store) == [(*what, False) for what in expected]
    assert found(store, repair=True) == [(*what, True) for what in expected]
    assert found(store) == []


def test_a_sound_store(store, run, base):
    store.discard(store.runs.create(base=base).id)
    report = fsck(store, repair=True)
    assert (report.findings, report.clean) == ((), True)
    assert (report.objects, report.object_bytes) == (3, sum(map(len, DATA.values())))
    assert (report.runs, report.entries) == (2, 3)


def test_an_unused_row_is_damaged(store):
    name = store.objects.put(b"data")
    damage(store, "UPDATE objects SET data = x'64616d61'")
    check_and_repair(store, (Kind.OBJECT_DAMAGED, name.hex()))
    assert (store.path / "quarantine" / name.hex()).read_bytes() == b"dama"
    assert not store.objects.exists(name)


def test_an_unused_file_is_damaged(store):
    name = store.objects.put(b"x" * LARGE)
    path = Path(store.layout.object_path(name))
    path.chmod(0o600)
    path.write_bytes(b"x" * INLINE_LIMIT + b"y")
    path.chmod(0o444)
    check_and_repair(store, (Kind.OBJECT_DAMAGED, name.hex()))
    assert (store.path / "quarantine" / name.hex()).read_bytes()[-1:] == b"y"
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 5, LARGE - 1, LARGE + 1])
def test_a_file_has_another_size(store, run, size):
    name = name_of(store, DATA[b"large"])
    path = Path(store.layout.object_path(name))
    path.chmod(0o600)
    os.truncate(path, size)
    path.chmod(0o444)
    lost = (Kind.ENTRY_CONTENT_LOST, f"run {run.id} inode {LARGE_INO}")
    assert found(store) == [(Kind.OBJECT_DAMAGED, name.hex(), False)]
    assert found(store, repair=True) == [(Kind.OBJECT_DAMAGED, name.hex(), True), (*lost, False)]
    assert found(store, repair=True) == [(*lost, False)]
    with pytest.raises(ObjectMissing, match="set aside"):
        store.objects.read(name)
    # the rest of the run can be used, and writing the file again heals the run
    assert store.objects.read(name_of(store, DATA[b"small"])) == DATA[b"small"]
    again = store.objects.put(DATA[b"large"])
    assert again != name
    commit(store, run, [entry(LARGE_INO, content=whole(again, LARGE))])
    assert read_back(store, run.id) == DATA


def test_a_used_row_is_damaged(store, run):
    name = name_of(store, DATA[b"small"])
    damage(store, "UPDATE objects SET data = x'78' WHERE name = ?", (name,))
    assert found(store, repair=True) == [
        (Kind.OBJECT_DAMAGED, name.hex(), True),
        (Kind.ENTRY_CONTENT_LOST, f"run {run.id} inode {SMALL_INO}", False),
    ]
    with pytest.raises(ObjectMissing):
        store.objects.read(name)
    store.discard(run.id)
    assert len(store.objects) == 0


def test_a_used_file_is_gone(store, run):
    name = name_of(store, DATA[b"large"])
    os.unlink(store.layout.object_path(name))
    os.rmdir(os.path.dirname(store.layout.object_path(name)))
    lost = (Kind.ENTRY_CONTENT_LOST, f"run {run.id} inode {LARGE_INO}")
    assert found(store) == [(Kind.OBJECT_MISSING, name.hex(), False)]
    assert found(store, repair=True) == [(Kind.OBJECT_MISSING, name.hex(), True), (*lost, False)]
    assert found(store) == [(*lost, False)]
    store.discard(run.id)


def test_a_used_object_has_no_record(store, run):
    name = name_of(store, DATA[b"small"])
    damage(store, "DELETE FROM objects WHERE name = ?", (name,))
    lost = (Kind.ENTRY_CONTENT_LOST, f"run {run.id} inode {SMALL_INO}", False)
    uses = (Kind.USES, f"run {run.id} inode {SMALL_INO}")
    assert found(store) == [lost, (*uses, False)]
    assert found(store, repair=True) == [lost, (*uses, True)]
    assert found(store) == [lost]
    store.discard(run.id)


def test_an_object_that_nothing_would_free(store):
    name = store.objects.put(b"data")
    damage(store, "DELETE FROM loose")
    check_and_repair(store, (Kind.OBJECT_UNHELD, name.hex()))
    assert not store.objects.exists(name)


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x90", msgspec.msgpack.encode({"ino": 1})])
def test_an_entry_cannot_be_read(store, run, blob):
    damage(store, "UPDATE entries SET data = ? WHERE ino = ?", (blob, SMALL_INO))
    entry_finding = (Kind.ENTRY_UNDECODABLE, f"run {run.id} inode {SMALL_INO}")
    assert (*entry_finding, False) in found(store)
    kinds = {kind for kind, _, repaired in found(store, repair=True) if repaired}
    assert kinds == {Kind.ENTRY_UNDECODABLE, Kind.LINK_DANGLING}
    assert found(store) == []
    assert read_back(store, run.id) == {name: data for name, data in DATA.items() if name != b"small"}
    assert (store.path / "quarantine" / f"entry-{run.id}-{SMALL_INO}").read_bytes() == blob


INVALID = {
    "outside the file": {"content": Content(10, 0, (Extent(5, 6, b"?", 0),))},
    "ends at 51": {"content": Content(100, 0, (Extent(0, 11, b"?", 40),))},
    "overlap": {"content": Content(100, 0, (Extent(0, 11, b"?", 0), Extent(10, 5, b"?", 0)))},
    "out of order": {"content": Content(100, 0, (Extent(50, 1, b"?", 0), Extent(10, 5, b"?", 0)))},
    "attributes say 7": {"content": Content(10, 0, ()), "size": 7},
    "needs a base file": {"content": Content(10, 5, ())},
    "not a regular file": {"content": Content(0, 0, ()), "mode": stat.S_IFDIR | 0o755},
    "symlink without a target": {"mode": stat.S_IFLNK | 0o777},
    "not a symlink": {"target": b"x"},
}


@pytest.mark.parametrize("problem", INVALID)
def test_an_entry_makes_no_sense(store, run, problem):
    fields = dict(INVALID[problem])
    if fields.get("content") is not None:
        other = name_of(store, DATA[b"other"])  # of 50 bytes
        extents = tuple(msgspec.structs.replace(x, object=other) for x in fields["content"].extents)
        fields["content"] = msgspec.structs.replace(fields["content"], extents=extents)
    commit(store, run, [entry(SMALL_INO, **fields)])
    (finding,) = fsck(store).findings
    assert (finding.kind, finding.what) == (Kind.ENTRY_INVALID, f"run {run.id} inode {SMALL_INO}")
    assert problem in finding.detail
    assert not fsck(store, repair=True).clean
    store.discard(run.id)


def test_an_entry_is_another_inodes(store, run):
    other = store.database.one("SELECT data FROM entries WHERE ino = ?", (OTHER_INO,))
    damage(store, "UPDATE entries SET data = ? WHERE ino = ?", (*other, SMALL_INO))
    kinds = {kind for kind, _, _ in found(store)}
    assert Kind.ENTRY_INVALID in kinds
    store.discard(run.id)


def test_a_link_leads_nowhere(store, run):
    commit(store, run, links=[Link(ROOT_INO, b"nowhere", 99)])
    check_and_repair(store, (Kind.LINK_DANGLING, f"run {run.id} inode {ROOT_INO}"))
    assert read_back(store, run.id) == DATA


@pytest.mark.parametrize("parent", [99, SMALL_INO])
def test_a_link_in_what_is_no_directory(store, run, parent):
    commit(store, run, links=[Link(parent, b"x", WHITEOUT)])
    check_and_repair(store, (Kind.LINK_DANGLING, f"run {run.id} inode {parent}"))


def test_an_entry_without_a_name(store, run):
    commit(store, run, unlinked=[(ROOT_INO, b"small")])
    check_and_repair(store, (Kind.ENTRY_UNREACHABLE, f"run {run.id} inode {SMALL_INO}"))
    assert read_back(store, run.id) == {name: data for name, data in DATA.items() if name != b"small"}


def test_a_directory_in_itself(store, run):
    commit(
        store,
        run,
        [entry(50, mode=stat.S_IFDIR | 0o755), entry(51, mode=stat.S_IFDIR | 0o755)],
        [Link(50, b"a", 51), Link(51, b"b", 50)],
    )
    check_and_repair(
        store, *((Kind.ENTRY_UNREACHABLE, f"run {run.id} inode {ino}") for ino in (50, 51))
    )
    assert read_back(store, run.id) == DATA


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM uses WHERE ino = ?", "UPDATE uses SET object = object + 1 WHERE ino = ?"],
    ids=["lost", "wrong"],
)
def test_the_table_of_uses_is_wrong(store, run, sql):
    damage(store, sql, (SMALL_INO,))
    report = fsck(store)
    assert {finding.kind for finding in report.findings} <= {Kind.USES, Kind.OBJECT_UNHELD}
    assert fsck(store, repair=True).clean
    assert found(store) == []
    store.objects.release()
    gc(store)
    assert read_back(store, run.id) == DATA


def test_the_record_of_a_run_cannot_be_read(store, run):
    (good,) = store.database.one("SELECT record FROM runs")
    damage(store, "UPDATE runs SET record = x'c1'")
    assert found(store) == found(store, repair=True) == [(Kind.RUN_RECORD, f"run {run.id}", False)]
    damage(store, "UPDATE runs SET record = ?", (good,))


@pytest.mark.parametrize("part", ["lock", "mnt", "spool", ""])
def test_a_part_of_a_runs_directory_is_missing(store, run, part):
    directory = store.runs.directory(run.id)
    if part == "lock":
        (directory / part).unlink()
    elif part:
        (directory / part).rmdir()
    else:
        store.runs.remove_directory(run.id)
    check_and_repair(store, (Kind.RUN_DIRECTORY, f"run {run.id}"))
    store.runs.lock(run.id).release()


def test_a_directory_without_a_run(store):
    path = store.path / "runs" / "zzzzzzzzzzzz"
    path.mkdir(mode=0o700)
    check_and_repair(store, (Kind.RUN_DIRECTORY, str(path)))
    assert not path.exists()


def test_a_file_that_no_record_knows(store):
    path = Path(store.layout.object_path(b"\7" * 16))
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o444)
    check_and_repair(store, (Kind.ORPHAN_FILE, str(path)))
    assert not path.exists()


@pytest.mark.parametrize("name", ["thesis.txt", "ab/thesis.txt"])
def test_a_file_of_somebody_else(store, name):
    path = store.path / "objects" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text("precious")
    check_and_repair(store, (Kind.ORPHAN_FILE, str(path)))
    assert (store.path / "quarantine" / "thesis.txt").read_text() == "precious"


def test_a_write_that_died(store):
    path = store.path / "incoming" / "123abc-456def"
    path.touch()
    check_and_repair(store, (Kind.ORPHAN_FILE, str(path)))
    assert not path.exists()


def test_modes(store, run):
    large = store.layout.object_path(name_of(store, DATA[b"large"]))
    wrong = [str(store.path), str(store.path / "runs"), large, str(store.path / "store.db")]
    for path in wrong:
        os.chmod(path, 0o755)
    check_and_repair(store, *((Kind.MODE, path) for path in wrong))
    assert stat.S_IMODE(os.stat(large).st_mode) == 0o444


def test_an_index_is_damaged(store, run):
    damage(store, "INSERT INTO objects (name, size, place, data) VALUES (x'00', 0, 0, x'')")
    page = store.database.one("SELECT rootpage FROM sqlite_schema WHERE name = 'uses_object'")[0]
    size = store.database.one("PRAGMA page_size")[0]
    damage(store, "DELETE FROM objects WHERE name = x'00'")
    store.close()
    with open(store.path / "store.db", "r+b") as file:
        file.seek((page - 1) * size + 3)
        file.write(b"\0\0")  # the number of cells: an index of nothing
    with Store.open(store.path) as reopened:
        kinds = {kind for kind, _, _ in found(reopened)}
        assert Kind.DATABASE in kinds
        assert fsck(reopened, repair=True).clean
        assert found(reopened) == []
        assert read_back(reopened, run.id) == DATA


def test_a_table_is_damaged(store, run):
    """Nothing can mend this; the checker says so, and goes on with what can be read."""
    page = store.database.one("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'")[0]
    size = store.database.one("PRAGMA page_size")[0]
    stray = store.path / "objects" / "thesis.txt"
    stray.touch()
    store.close()
    with open(store.path / "store.db", "r+b") as file:
        file.seek((page - 1) * size)
        good = file.read(size)
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with Store.open(store.path) as reopened:
        for repair in (False, True):
            kinds = [kind for kind, _, repaired in found(reopened, repair=repair) if not repaired]
            assert Kind.DATABASE in kinds
            assert (Kind.ORPHAN_FILE in kinds) != repair
    with open(store.path / "store.db", "r+b") as file:
        file.seek((page - 1) * size)
        file.write(good)


def test_a_mounted_run_is_looked_at_and_not_repaired(store, run, store_path):
    commit(store, run, links=[Link(ROOT_INO, b"nowhere", 99)])
    with Store.open(store_path) as other, other.runs.lock(run.id):
        assert found(store, repair=True) == [(Kind.LINK_DANGLING, f"run {run.id} inode {ROOT_INO}", False)]
    assert fsck(store, repair=True).clean


def test_a_snapshot_of_what_never_was(store, run) -> None:
    History(store, run.id).snapshot("ahead")
    damage(store, "UPDATE snapshots SET position = position + 1000")
    (finding,) = fsck(store).findings
    assert (finding.kind, finding.what) == (Kind.HISTORY, f"run {run.id} snapshot ahead")
    assert fsck(store, repair=True).clean
    assert History(store, run.id).snapshots() == []


def deferred(store, run):
    return Ledger(store, run.id).add(effects.Command((b"true",)), deferred=True)


def test_an_effect_of_no_run(store, run) -> None:
    deferred(store, run)
    damage(store, "UPDATE effects SET run = 'nobody'")
    check_and_repair(store, (Kind.EFFECT, "run nobody effect 1"))


def test_an_effect_whose_doer_died(store, run, store_path) -> None:
    effect = deferred(store, run)
    with Store.open(store_path) as other:
        Ledger(other, run.id).begin(effect.number)
        assert found(store) == []  # alive
    check_and_repair(store, (Kind.EFFECT, f"run {run.id} effect 1"))
    assert Ledger(store, run.id).get(1).state is effects.State.UNKNOWN
    Ledger(store, run.id).drop(1, "")


def test_an_effect_that_cannot_be_read(store, run) -> None:
    deferred(store, run)
    ((good,),) = store.database.all("SELECT data FROM effects")
    damage(store, "UPDATE effects SET data = ?", (b"\xff",))
    for repair in (False, True):
        assert found(store, repair=repair) == [(Kind.EFFECT, f"run {run.id} effect 1", False)]
    damage(store, "UPDATE effects SET data = ?", (good,))


def test_a_part_that_outlived_its_run(store, run) -> None:
    part = store.runs.create(base=run.base, whole=run.id)
    assert [each.id for each in store.runs.list()] == [run.id]
    store.discard(run.id)
    check_and_repair(store, (Kind.PART, f"run {part.id}"))
    assert [each.id for each in store.runs.list()] == [part.id]  # a run of its own, to be seen
    whole = store.runs.create(base=run.base)
    store.discard(store.runs.create(base=run.base, whole=whole.id).id)
    assert [finding.kind for finding in fsck(store, repair=True).findings] == [Kind.PART]
    store.discard(whole.id)


def test_every_kind_has_its_test():
    source = Path(__file__).read_text()
    assert [kind for kind in findings.Kind if f"Kind.{kind.name}" not in source] == []
