"""Checkpoints are applied whole, and read back as they were."""

import os
import stat

import pytest

from snapshots.entries import (
    FIRST_NEW_INO,
    ROOT_INO,
    WHITEOUT,
    Changed,
    Content,
    Extent,
    Identity,
    Link,
    Origin,
)
from snapshots.errors import ObjectMissing, RunState, RunUnknown, StoreDamaged
from snapshots.storage import durable
from snapshots.storage.store import Store
from tests.store.uppers import checkpoint, entry, files, read_back, save, whole


@pytest.fixture
def run(store, base):
    return store.runs.create(base=base)


def test_a_new_run_has_an_empty_upper(store, run):
    state = store.upper(run.id).load()
    assert (state.entries, state.links, state.next_ino) == ({}, {}, FIRST_NEW_INO)


def test_every_field_comes_back(store, run):
    name = store.objects.put(b"0123456789")
    identity = Identity(64, (1 << 64) - 3, 0o100644, 5, -1, 1 << 62)
    directory = entry(
        7, mode=stat.S_IFDIR | 0o2755, changed=int(Changed.NAMES), origin=Origin(b"d\xff\n", identity), opaque=True
    )
    regular = entry(
        (1 << 64) - 3,
        content=Content(20, 4, (Extent(4, 6, name, 2), Extent(15, 2, name, 0))),
        origin=Origin(b"d/f", identity),
        xattrs={b"user.x": b"\0\xff"},
        uid=(1 << 32) - 1,
        mtime_ns=-5,
    )
    symlink = entry(9, mode=stat.S_IFLNK | 0o777, target=b"../\xff")
    links = [
        Link(ROOT_INO, b"d", 7),
        Link(7, b"f\xff", (1 << 64) - 3),
        Link(7, b"hard link", (1 << 64) - 3),
        Link(7, b"s\n", 9),
        Link(ROOT_INO, b"gone", WHITEOUT),
    ]
    store.upper(run.id).commit(checkpoint([directory, regular, symlink], links, next_ino=FIRST_NEW_INO + 5))
    state = store.upper(run.id).load()
    assert state.entries == {7: directory, (1 << 64) - 3: regular, 9: symlink}
    assert state.links == {
        ROOT_INO: {b"d": 7, b"gone": WHITEOUT},
        7: {b"f\xff": (1 << 64) - 3, b"hard link": (1 << 64) - 3, b"s\n": 9},
    }
    assert state.next_ino == FIRST_NEW_INO + 5


def test_later_checkpoints_replace_and_drop(store, run):
    save(store, run.id, {b"a": b"1", b"b": b"2", b"c": b"3"})
    new = store.objects.put(b"new")
    store.upper(run.id).commit(
        checkpoint(
            [entry(FIRST_NEW_INO, content=whole(new, 3))],
            [Link(ROOT_INO, b"renamed", FIRST_NEW_INO + 1)],
            gone=[FIRST_NEW_INO + 2],
            unlinked=[(ROOT_INO, b"b"), (ROOT_INO, b"c")],
        )
    )
    assert read_back(store, run.id) == {b"a": b"new", b"renamed": b"2"}
    assert store.upper(run.id).load().next_ino == FIRST_NEW_INO + 3  # never goes back


def test_runs_do_not_see_each_other(store, run, base):
    other = store.runs.create(base=base)
    save(store, run.id, {b"a": b"mine"})
    save(store, other.id, {b"a": b"yours"})
    assert read_back(store, run.id) == {b"a": b"mine"}
    store.discard(run.id)
    assert read_back(store, other.id) == {b"a": b"yours"}


def test_an_entry_needs_its_objects(store, run):
    save(store, run.id, {b"a": b"1"})
    lost = b"\1" * 16
    with pytest.raises(ObjectMissing, match=lost.hex()):
        store.upper(run.id).commit(files({b"b": (store.objects.put(b"x"), 1), b"c": (lost, 5)}, FIRST_NEW_INO + 9))
    assert read_back(store, run.id) == {b"a": b"1"}


def test_nothing_is_committed_to_a_run_that_is_over(store, run):
    with pytest.raises(RunUnknown):
        store.upper("000000000000").commit(checkpoint())
    store.discard(run.id)
    with pytest.raises(RunState, match="has been discarded"):
        store.upper(run.id).commit(checkpoint())


def test_usage_counts_changes_and_distinct_bytes(store, run):
    save(store, run.id, {b"a": b"same", b"b": b"same", b"c": b"x" * 200_000})
    store.upper(run.id).commit(
        checkpoint(
            [entry(5, mode=stat.S_IFDIR | 0o755, changed=int(Changed.NAMES))],
            [Link(ROOT_INO, b"gone", WHITEOUT), Link(ROOT_INO, b"d", 5)],
        )
    )
    usage = store.usage(run.id)
    assert (usage.entries, usage.whiteouts, usage.objects, usage.bytes) == (3, 1, 2, 200_004)
    assert store.bytes_held(run.id) == 200_004


def test_what_went_out_of_use_stays_readable_while_the_store_is_open(store, run, store_path):
    save(store, run.id, {b"a": b"old"})
    old = next(iter(store.objects))
    store.upper(run.id).commit(checkpoint(gone=[FIRST_NEW_INO], unlinked=[(ROOT_INO, b"a")]))
    with Store.open(store_path) as other:
        other.objects.collect()
        assert store.objects.read(old) == b"old"  # an open file may still be read from it
        store.close()
        assert other.objects.collect().objects == 1


def test_hold_says_exactly_what_stays(store, run, store_path):
    save(store, run.id, {b"a": b"old a", b"b": b"old b"})
    old_a, old_b = store.objects
    unnamed = store.objects.put(b"put and never named")
    gone = checkpoint(
        gone=[FIRST_NEW_INO, FIRST_NEW_INO + 1], unlinked=[(ROOT_INO, b"a"), (ROOT_INO, b"b")]
    )
    store.upper(run.id).commit(gone, hold={old_a})
    store.objects.collect()
    assert list(store.objects) == [old_a]
    assert unnamed not in store.objects
    assert old_b not in store.objects
    store.upper(run.id).commit(checkpoint(), hold=())
    assert store.objects.collect().objects == 1


def test_an_object_dropped_and_used_again_stays(store, run):
    save(store, run.id, {b"a": b"data"})
    (name,) = store.objects
    store.upper(run.id).commit(checkpoint(gone=[FIRST_NEW_INO], unlinked=[(ROOT_INO, b"a")]))
    store.upper(run.id).commit(files({b"again": (name, 4)}, FIRST_NEW_INO + 1), hold=())
    store.objects.release()
    store.objects.collect()
    assert read_back(store, run.id) == {b"again": b"data"}


def test_two_checkpoints_of_one_batch_may_name_its_objects(store, run):
    first, second = store.objects.put_many([b"1", b"2"])
    store.upper(run.id).commit(files({b"a": (first, 1)}))
    store.objects.collect()
    store.upper(run.id).commit(files({b"b": (second, 1)}, FIRST_NEW_INO + 1))
    assert read_back(store, run.id) == {b"a": b"1", b"b": b"2"}


def test_a_damaged_entry_is_said_to_be_damaged(store, run):
    save(store, run.id, {b"a": b"data"})
    good = store.database.one("SELECT data FROM entries")
    with store.database.transaction():
        store.database.run("UPDATE entries SET data = x'c1'")
    with pytest.raises(StoreDamaged, match=f"inode {FIRST_NEW_INO} of run {run.id}"):
        store.upper(run.id).load()
    with store.database.transaction():
        store.database.run("UPDATE entries SET data = ?", good)


def test_everything_put_is_durable_when_it_is_named(store, run, monkeypatch):
    name = store.objects.put(b"x" * 200_000)
    steps = []
    monkeypatch.setattr(durable, "seam", lambda step, where: steps.append((step, os.path.basename(where))))
    store.upper(run.id).commit(files({b"a": (name, 200_000)}))
    assert steps[:2] == [("sync directory", name.hex()[:2]), ("sync directory", "objects")]
    assert steps[2:] == [("begin", "store.db"), ("commit", "store.db")]
