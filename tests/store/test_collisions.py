"""Two contents with one hash: both survive, in whatever way they are stored."""

import os
import random

import pytest

from snapshots.entries import INLINE_LIMIT
from snapshots.storage.hashing import DIGEST_SIZE
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.uppers import read_back, save


class ConstantHash:
    """Every content collides with every other."""

    def __init__(self, data=b""):
        pass

    def update(self, data):
        pass

    def digest(self) -> bytes:
        return b"\xab" * DIGEST_SIZE


@pytest.fixture
def colliding(store_path):
    with Store.open(store_path, hasher=ConstantHash) as store:
        yield store
        assert fsck(store).findings == ()


def put(store, data):
    return store.objects.put(data)


def put_file(store, data):
    path = store.path.parent / "spool"
    path.write_bytes(data)
    return store.objects.put_file(path)


def put_range(store, data):
    path = store.path.parent / "spool"
    path.write_bytes(b"before" + data)
    with open(path, "rb") as file:
        return store.objects.put_ranges(file.fileno(), [(6, len(data))])[0].object


@pytest.mark.parametrize("way", [put, put_file, put_range])
@pytest.mark.parametrize("size", [10, INLINE_LIMIT + 1])
def test_both_contents_survive(colliding, way, size):
    ours, theirs = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    names = [way(colliding, ours), way(colliding, theirs)]
    assert names == [b"\xab" * 16, b"\xab" * 16 + b"\x01"]
    assert [colliding.objects.read(name) for name in names] == [ours, theirs]
    # and each is found again, by its bytes
    assert [way(colliding, theirs), way(colliding, ours)] == names[::-1]
    assert len(colliding.objects) == 2


def test_a_row_and_a_file_can_share_a_hash(colliding):
    datas = [b"small", b"x" * (INLINE_LIMIT + 1), b"Small", b"y" * (INLINE_LIMIT + 1), b""]
    names = colliding.objects.put_many(datas)
    assert [colliding.objects.read(name) for name in names] == datas


def test_a_freed_name_does_not_hide_the_others(colliding):
    first, second = colliding.objects.put_many([b"first", b"second"])
    with colliding.database.transaction():
        colliding.database.run("DELETE FROM loose WHERE object = (SELECT id FROM objects WHERE name = ?)", (first,))
        colliding.database.run("DELETE FROM objects WHERE name = ?", (first,))
    assert colliding.objects.put(b"second") == second
    assert colliding.objects.put(b"third") == first
    assert colliding.objects.read(second) == b"second"


def test_hundreds_of_collisions(colliding):
    datas = [number.to_bytes(2, "big") for number in range(270)]
    names = colliding.objects.put_many(datas)
    assert len(set(names)) == 270
    assert colliding.objects.put_many(reversed(datas)) == names[::-1]
    assert [colliding.objects.read(name) for name in names] == datas


def test_a_run_keeps_colliding_contents_apart(colliding, base):
    contents = {b"ours": b"o" * 300_000, b"theirs": b"t" * 300_000, b"small": b"s"}
    run = colliding.runs.create(base=base)
    save(colliding, run.id, contents)
    assert read_back(colliding, run.id) == contents


def test_damage_is_no_invitation(colliding, base):
    """Bytes that collide with a damaged object do not get its name: entries that need it would show them."""
    run = colliding.runs.create(base=base)
    save(colliding, run.id, {b"file": b"d" * 300_000})
    name = next(iter(colliding.objects))
    path = colliding.layout.object_path(name)
    colliding.files.close()
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.truncate(5)
    os.chmod(path, 0o444)
    fsck(colliding, repair=True)
    forged = colliding.objects.put(b"f" * 300_000)
    assert forged != name
    assert not colliding.objects.exists(name)
    colliding.discard(run.id)
