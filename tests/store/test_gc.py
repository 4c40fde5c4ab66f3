"""Garbage collection frees what nobody holds, and only that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapshots.entries import INLINE_LIMIT
from snapshots.errors import RunUnknown
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import TOMBSTONE_AGE_NS, gc
from tests.store.uppers import read_back, save

LARGE = INLINE_LIMIT + 1

DYING = """
import os, sys
from pathlib import Path
from snapshots.storage import durable
from snapshots.storage.store import Store
store = Store.open(Path(sys.argv[1]))
"""


def die(store_path: Path, script: str) -> None:
    """Let a process do something with the store and vanish without closing it."""
    done = subprocess.run([sys.executable, "-c", DYING + script + "\nos._exit(7)", store_path], check=False)
    assert done.returncode == 7


def test_nothing_to_free(store):
    report = gc(store)
    assert report == gc(store)
    assert (report.objects, report.files, report.directories, report.tombstones, report.freed_bytes) == (0, 0, 0, 0, 0)


def test_what_a_dead_process_put_is_freed(store, store_path):
    die(store_path, f"store.objects.put(b'small'); store.objects.put(bytes({LARGE}))")
    assert len(store.objects) == 2
    report = gc(store)
    assert (report.objects, report.object_bytes) == (2, 5 + LARGE)
    assert len(store.objects) == 0
    assert list((store_path / "objects").iterdir()) == []


def test_how_far_it_is_is_told(store):
    told = []
    gc(store, progress=lambda done, total: told.append((done, total)))
    (total,) = {total for _, total in told}
    assert told[0] == (0, total) or told[0][0] >= 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (total, total)


def test_what_a_living_process_put_stays(store, store_path, base):
    run = store.runs.create(base=base)
    with Store.open(store_path) as writer:
        names = writer.objects.put_many([b"small", bytes(LARGE)])
        assert gc(store).objects == 0
        assert all(store.objects.exists(name) for name in names)
    save(store, run.id, {b"a": b"small"})  # found again in the last moment
    assert gc(store).objects == 1
    assert read_back(store, run.id) == {b"a": b"small"}


def test_the_half_written_files_of_the_dead_are_freed(store, store_path):
    with Store.open(store_path) as writer:
        mine = writer.lease.temporary()
        writer.files.write(mine, b"in the making")
        die(
            store_path,
            "durable.seam = lambda step, where: step == 'sync' and os._exit(7)\nstore.objects.put(bytes(300_000))",
        )
        (store_path / "incoming" / "what is this").touch()
        assert len(list((store_path / "incoming").iterdir())) == 3
        report = gc(store)
        assert (report.files, report.file_bytes) == (2, 300_000)
        assert [str(path) for path in (store_path / "incoming").iterdir()] == [mine]
    assert gc(store).files == 1


def test_files_that_were_never_registered_are_freed(store, store_path):
    keep = store.objects.put(b"k" * LARGE)
    dying = "durable.seam = lambda step, where: step == 'commit' and os._exit(7)\n"
    die(store_path, dying + f"store.objects.put(bytes({LARGE}))")
    assert len(list((store_path / "objects").iterdir())) == 2
    report = gc(store)
    assert (report.files, report.file_bytes) == (2, 2 * LARGE)  # its own name, and that of its making
    assert store.objects.read(keep) == b"k" * LARGE


def test_spools_of_kept_runs_are_emptied(store, base):
    kept, crashed, mounted = (store.runs.create(base=base) for _ in range(3))
    store.runs.update(kept.id, state="kept")
    for run in (kept, crashed, mounted):
        (store.runs.directory(run.id) / "spool" / "1").write_bytes(b"spool")
    with store.runs.lock(mounted.id):
        report = gc(store)
    assert (report.files, report.file_bytes) == (1, 5)
    left = {run.id: os.listdir(store.runs.directory(run.id) / "spool") for run in (kept, crashed, mounted)}
    assert left == {kept.id: [], crashed.id: ["1"], mounted.id: ["1"]}  # a crashed run may still be recovered


def test_a_kept_run_being_mounted_is_left_alone(store, base):
    run = store.runs.create(base=base)
    store.runs.update(run.id, state="kept")
    (store.runs.directory(run.id) / "spool" / "1").write_bytes(b"spool")
    with store.runs.lock(run.id):
        assert gc(store).files == 0


def test_directories_of_runs_that_are_no_more_are_removed(store, store_path, base):
    run = store.runs.create(base=base)
    store.discard(run.id)
    for name in (run.id, "zzzzzzzzzzzz"):
        (store_path / "runs" / name / "spool").mkdir(parents=True)
        (store_path / "runs" / name / "spool" / "x").touch()
    assert gc(store).directories == 2
    assert list((store_path / "runs").iterdir()) == []


def test_old_tombstones_go(store, base, monkeypatch):
    old, young, live = (store.runs.create(base=base) for _ in range(3))
    store.discard(old.id)
    store.discard(young.id, state="merged")
    with store.database.transaction():
        store.database.run("UPDATE runs SET changed_ns = changed_ns - ? WHERE id != ?", (TOMBSTONE_AGE_NS, young.id))
    assert gc(store).tombstones == 1
    assert [run.id for run in store.runs.list(all=True)] == [young.id, live.id]
    assert gc(store, tombstone_age_ns=0).tombstones == 1
    with pytest.raises(RunUnknown):
        store.runs.get(young.id)


def test_a_merged_run_that_still_has_its_upper_keeps_its_record(store, base):
    run = store.runs.create(base=base)
    save(store, run.id, {b"a": b"data"})
    store.runs.update(run.id, state="merged")
    assert gc(store, tombstone_age_ns=0).tombstones == 0
    assert read_back(store, run.id) == {b"a": b"data"}


@pytest.mark.parametrize("after", range(1, 20))
def test_a_discard_that_died_is_finished(store, store_path, base, after):
    run, other = store.runs.create(base=base), store.runs.create(base=base)
    data = {b"%d" % number: b"%d" % number * 5000 for number in range(20)} | {b"large": b"l" * LARGE}
    save(store, run.id, data)
    save(store, other.id, {b"large": b"l" * LARGE})
    store.objects.release()
    script = f"""
steps = 0
def seam(step, where):
    global steps
    steps += 1
    if steps == {after}: os._exit(7)
durable.seam = seam
store.discard({run.id!r})
"""
    die(store_path, script)
    assert {finding.kind for finding in fsck(store).findings} <= {"run-directory", "orphan-file"}
    gc(store)
    if store.runs.get(run.id).state == "active":
        assert read_back(store, run.id) == data  # it died before the decision
        store.discard(run.id)
    assert not store.runs.directory(run.id).exists()
    assert read_back(store, other.id) == {b"large": b"l" * LARGE}
    assert len(store.objects) == 1
    store.runs.forget(run.id)


def test_collecting_costs_what_there_is_to_collect(store, base, monkeypatch):
    """Not the size of the store: the statements of a collection are counted."""
    run = store.runs.create(base=base)
    save(store, run.id, {b"%d" % number: b"%d" % number for number in range(3000)})
    store.objects.put(b"garbage")
    store.objects.release()
    statements = []
    store.database._sql.set_trace_callback(statements.append)
    assert store.objects.collect().objects == 1
    store.database._sql.set_trace_callback(None)
    assert len(statements) < 20
