"""A discard frees everything that only this run held, and touches nothing else."""

import os
import random
import subprocess

import pytest

from snapshots.entries import INLINE_LIMIT
from snapshots.errors import RunBusy, RunUnknown
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.uppers import disk_usage, read_back, save

PAGE = 8192


def contents(seed: int, large: int = 3) -> dict[bytes, bytes]:
    """About 6 MiB in rows and 3 in files."""
    source = random.Random(seed)
    small = {b"s%d" % number: source.randbytes(source.choice([0, 10, 3000, 60_000])) for number in range(400)}
    return small | {b"l%d" % number: source.randbytes(1 << 20) for number in range(large)}


@pytest.mark.parametrize("reopen", [False, True])
def test_the_store_is_as_small_as_before(store, base, store_path, reopen):
    kept = store.runs.create(base=base)
    save(store, kept.id, contents(1))
    store.database.shrink()
    before = disk_usage(store_path)
    run = store.runs.create(base=base)
    save(store, run.id, contents(2))
    (store.runs.directory(run.id) / "spool" / "17").write_bytes(b"x" * 100_000)
    assert disk_usage(store_path) > before + (5 << 20)
    if reopen:
        store.close()
        with Store.open(store_path) as other:
            other.discard(run.id)
    else:
        store.discard(run.id)
        assert read_back(store, kept.id) == contents(1)
    assert disk_usage(store_path) <= before + 2 * PAGE
    assert not store.runs.directory(run.id).exists()


def test_an_empty_store_is_empty_again(store, base, store_path):
    store.database.shrink()
    before = disk_usage(store_path)
    run = store.runs.create(base=base)
    save(store, run.id, contents(1))
    store.discard(run.id)
    store.runs.forget(run.id)
    assert disk_usage(store_path) <= before + PAGE
    assert len(store.objects) == 0


def test_superseded_contents_go_too(store, base):
    run = store.runs.create(base=base)
    for seed in range(3):
        save(store, run.id, contents(seed))
    store.discard(run.id)
    assert len(store.objects) == 0


def test_what_another_run_shares_stays(store, base):
    ours, theirs = store.runs.create(base=base), store.runs.create(base=base)
    save(store, ours.id, contents(1))
    save(store, theirs.id, contents(1))
    store.discard(ours.id)
    assert read_back(store, theirs.id) == contents(1)
    store.discard(theirs.id)
    assert len(store.objects) == 0


def test_what_another_store_has_just_found_stays(store, base, store_path):
    """Deduplication found the discarded run's object, and the entry that will name it is not committed yet."""
    ours, theirs = store.runs.create(base=base), store.runs.create(base=base)
    data = {b"small": b"s" * 100, b"large": b"l" * (INLINE_LIMIT + 1)}
    save(store, ours.id, data)
    with Store.open(store_path) as other:
        names = other.objects.put_many(data.values())
        store.discard(ours.id)
        assert [other.objects.read(name) for name in names] == list(data.values())
        save(other, theirs.id, data)
        assert read_back(other, theirs.id) == data


def test_the_record_stays_as_a_tombstone(store, base):
    run = store.runs.create(base=base, name="gone", command=("x",))
    store.runs.update(run.id, pid=5, mountpoint=b"/m")
    store.discard(run.id)
    tombstone = store.runs.resolve("gone")
    assert (tombstone.state, tombstone.pid, tombstone.mountpoint) == ("discarded", None, None)
    assert tombstone.command == ("x",)
    store.discard(run.id)  # once more changes nothing
    assert store.runs.get(run.id) == tombstone


def test_a_merge_ends_the_same_way(store, base):
    run = store.runs.create(base=base)
    save(store, run.id, contents(1))
    store.discard(run.id, state="merged")
    assert store.runs.get(run.id).state == "merged"
    assert len(store.objects) == 0


def test_an_unknown_run_cannot_be_discarded(store):
    with pytest.raises(RunUnknown):
        store.discard("000000000000")


def test_a_run_in_use_is_not_discarded(store, base, store_path):
    run = store.runs.create(base=base)
    save(store, run.id, {b"a": b"data"})
    with Store.open(store_path) as other, other.runs.lock(run.id), pytest.raises(RunBusy):
        store.discard(run.id)
    assert read_back(store, run.id) == {b"a": b"data"}


def test_the_holder_of_the_lock_may_discard(store, base):
    run = store.runs.create(base=base)
    with store.runs.lock(run.id):
        store.discard(run.id)
    assert store.runs.get(run.id).state == "discarded"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("where", ["mnt", "spool"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_nothing_is_removed_through_a_mount(store, base, where, kind):
    run = store.runs.create(base=base)
    save(store, run.id, {b"a": b"data"})
    point = store.runs.directory(run.id) / where
    precious = os.path.join(os.fsdecode(base), "precious")
    open(precious, "w").close()
    what = ["--bind", base, point] if kind == "bind" else ["-t", "tmpfs", "none", point]
    subprocess.run(["mount", *what], check=True)
    try:
        with pytest.raises(RunBusy, match="mounted"):
            store.discard(run.id)
        assert read_back(store, run.id) == {b"a": b"data"}
        assert os.path.exists(precious)
    finally:
        subprocess.run(["umount", point], check=True)
    store.discard(run.id)
    assert os.path.exists(precious)


def test_a_spool_may_hold_anything(store, base):
    run = store.runs.create(base=base)
    spool = store.runs.directory(run.id) / "spool"
    os.makedirs(os.fsencode(spool / "sub" / "deep") + b"/\xff")
    (spool / "link").symlink_to(os.fsdecode(base))
    (spool / "sub" / "file").write_bytes(b"x")
    os.mkfifo(spool / "pipe")
    store.discard(run.id)
    assert not store.runs.directory(run.id).exists()
    assert os.path.isdir(base)


def test_discarding_under_many_others_leaves_them_whole(store, base):
    runs = [store.runs.create(base=base) for _ in range(8)]
    for number, run in enumerate(runs):
        save(store, run.id, contents(number // 2, large=1))
    for run in runs[::2]:
        store.discard(run.id)
    for number, run in list(enumerate(runs))[1::2]:
        assert read_back(store, run.id) == contents(number // 2, large=1)
    assert fsck(store).findings == ()
