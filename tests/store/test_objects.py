"""What the content store promises, for contents of every size."""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapshots.entries import INLINE_LIMIT, Extent
from snapshots.errors import ObjectMissing
from snapshots.storage import durable
from snapshots.storage.hashing import DIGEST_SIZE
from snapshots.storage.store import Store

SIZES = [0, 1, 4096, INLINE_LIMIT - 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3 << 20]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def spool_file(store, data: bytes, name: str = "spool"):
    """A file of the store's own filesystem, as an overlay spools it."""
    path = store.path.parent / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_can_be_read(store, size):
    data = content(size)
    name = store.objects.put(data)
    assert len(name) == DIGEST_SIZE
    assert store.objects.read(name) == data
    assert store.objects.size(name) == size
    assert store.objects.exists(name)
    assert list(store.objects) == [name]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_put(store, size, kind):
    assert store.objects.read(store.objects.put(kind(content(size)))) == content(size)


@pytest.mark.parametrize("size", SIZES)
def test_every_way_of_storing_gives_the_same_object(store, size):
    data = content(size)
    path = spool_file(store, data)
    with open(path, "rb") as file:
        extents = store.objects.put_ranges(file.fileno(), [(0, size)])
    names = {
        store.objects.put(data),
        store.objects.put_many([data, data])[1],
        store.objects.put_file(path),
        *(extent.object for extent in extents),
    }
    assert len(names) == 1
    assert len(store.objects) == 1
    assert not path.exists()


@pytest.mark.parametrize("size", SIZES)
def test_ranges_of_an_object_can_be_read(store, size):
    data = content(size)
    name = store.objects.put(data)
    for offset in {0, 1, size // 2, max(size - 1, 0), size, size + 5}:
        for length in (None, 0, 1, 100, size, size + 100):
            expected = data[offset:] if length is None else data[offset : offset + length]
            assert store.objects.read(name, offset, length) == expected


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_a_range_that_cannot_be_is_refused(store, offset, length):
    with pytest.raises(ValueError, match="no such range"):
        store.objects.read(store.objects.put(b"x"), offset, length)


def test_many_are_named_in_order_whatever_their_sizes(store):
    datas = [content(size, seed) for seed, size in enumerate(SIZES * 2)]
    names = store.objects.put_many(iter(datas))
    assert [store.objects.read(name) for name in names] == datas


def test_put_many_takes_turns_with_other_writers(store, store_path):
    """A lazy, endless source is stored in several transactions: memory and waiting are bounded."""
    with Store.open(store_path) as other:

        def source():
            for number in range(9000):
                if number == 8500:
                    other.objects.put(b"in between")
                yield number.to_bytes(4, "big")

        assert len(set(store.objects.put_many(source()))) == 9000


def test_nothing_to_put_is_fine(store):
    assert store.objects.put_many([]) == []
    assert store.objects.put_ranges(-1, []) == []
    assert store.objects.put_ranges(-1, [(5, 0)]) == []


def test_a_missing_object_is_said_to_be_missing(store):
    for access in (store.objects.read, store.objects.size):
        with pytest.raises(ObjectMissing, match="no object 00"):
            access(b"\0" * 16)
    assert not store.objects.exists(b"\0" * 16)
    assert b"\0" * 16 not in store.objects


def test_large_objects_are_read_only_files_with_private_directories(store):
    name = store.objects.put(content(INLINE_LIMIT + 1))
    path = store.path / "objects" / name.hex()[:2] / name.hex()[2:]
    assert path.stat().st_mode & 0o777 == 0o444
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list((store.path / "incoming").iterdir()) == []


def test_small_objects_are_no_files(store):
    store.objects.put_many(content(INLINE_LIMIT, seed) for seed in range(3))
    assert list((store.path / "objects").iterdir()) == []


def test_a_file_is_taken_over_without_copying(store):
    path = spool_file(store, content(INLINE_LIMIT + 1))
    inode = path.stat().st_ino
    name = store.objects.put_file(path)
    assert os.stat(store.layout.object_path(name)).st_ino == inode
    assert not path.exists()


@pytest.mark.parametrize("size", [10, INLINE_LIMIT + 1])
def test_a_file_can_keep_its_name(store, size):
    path = spool_file(store, content(size))
    name = store.objects.put_file(path, keep=True)
    assert path.read_bytes() == store.objects.read(name) == content(size)


def test_a_file_is_copied_where_there_are_no_hard_links(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    path = spool_file(store, content(INLINE_LIMIT + 1))
    monkeypatch.setattr(os, "link", refuse)
    name = store.objects.put_file(path)
    assert store.objects.read(name) == content(INLINE_LIMIT + 1)
    assert not path.exists()


def test_ranges_become_one_object_in_their_order(store):
    data = content(4 << 20)
    path = spool_file(store, data)
    for ranges in (
        [(0, 10), (100, 20)],
        [(2 << 20, INLINE_LIMIT), (0, 1), (3 << 20, 1 << 20)],
        [((4 << 20) - 1, 1), (0, 0), (5, 4)],
    ):
        with open(path, "rb") as file:
            extents = store.objects.put_ranges(file.fileno(), ranges)
        assert [(extent.offset, extent.length) for extent in extents] == [pair for pair in ranges if pair[1]]
        assert len({extent.object for extent in extents}) == 1
        assert extents[0].start == 0
        for extent in extents:
            part = store.objects.read(extent.object, extent.start, extent.length)
            assert part == data[extent.offset : extent.offset + extent.length]
    assert path.read_bytes() == data


def test_ranges_are_copied_where_the_kernel_does_not(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    data = content(3 << 20)
    with open(spool_file(store, data), "rb") as file:
        (extent,) = store.objects.put_ranges(file.fileno(), [(1, 2 << 20)])
    assert extent == Extent(1, 2 << 20, extent.object, 0)
    assert store.objects.read(extent.object) == data[1 : 1 + (2 << 20)]


@pytest.mark.parametrize("length", [100, INLINE_LIMIT * 2])
def test_a_range_beyond_the_end_is_refused_and_leaves_nothing(store, length):
    with open(spool_file(store, b"short"), "rb") as file, pytest.raises(ValueError, match="the file at 5"):
        store.objects.put_ranges(file.fileno(), [(0, length)])
    assert list((store.path / "incoming").iterdir()) == []
    assert len(store.objects) == 0


def test_descriptors_are_bounded(store):
    names = [store.objects.put(content(INLINE_LIMIT + 1, seed)) for seed in range(80)]
    before = len(os.listdir("/proc/self/fd"))
    for seed, name in enumerate(names):
        assert store.objects.read(name, 5, 10) == content(INLINE_LIMIT + 1, seed)[5:15]
    assert len(os.listdir("/proc/self/fd")) <= before + 40
    for name in reversed(names):
        assert len(store.objects.read(name)) == INLINE_LIMIT + 1


def test_a_file_that_is_gone_is_a_missing_object(store, store_path):
    with Store.open(store_path) as other:
        name = other.objects.put(content(INLINE_LIMIT + 1))
        path = other.layout.object_path(name)
        os.rename(path, path + ".away")
        with pytest.raises(ObjectMissing, match="goexfs fsck"):
            store.objects.read(name)
        os.rename(path + ".away", path)
        assert len(store.objects.read(name)) == INLINE_LIMIT + 1


def test_bytes_with_the_name_of_a_collected_object_are_the_ones_read(store, store_path):
    """An open descriptor must not outlive its object: the name may be given again, to other bytes if someone tries."""
    with Store.open(store_path) as other:
        name = other.objects.put(content(INLINE_LIMIT + 1))
        assert store.objects.read(name, 0, 4) == content(4)
        other.objects.release()
        other.objects.collect()
    with pytest.raises(ObjectMissing):
        store.objects.read(name, 0, 4)


def test_an_object_is_durable_before_it_has_its_name(store, monkeypatch):
    steps = []
    monkeypatch.setattr(durable, "seam", lambda step, where: steps.append(step))
    store.objects.put(content(INLINE_LIMIT + 1))
    assert steps.index("sync") < steps.index("publish") < steps.index("commit")
    del steps[:]
    store.objects.sync()
    assert steps == ["sync directory", "sync directory"]  # its own, and the one that holds it
    store.objects.sync()
    assert len(steps) == 2


def test_deleting_spares_what_is_held(store):
    name = store.objects.put(b"held")
    assert not store.objects.delete(name)
    assert store.objects.exists(name)
    store.objects.release()
    assert store.objects.delete(name)
    assert store.objects.delete(name)
    assert not store.objects.exists(name)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 3))
def test_contents_and_names_correspond_one_to_one(store, datas, width):
    """Also with a hasher of few values, where collisions are the rule."""
    narrow = NarrowHash.of_width(width)
    with Store.open(store.path, hasher=narrow) as few:
        names = few.objects.put_many(datas)
        assert [few.objects.read(name) for name in names] == datas
        assert len(set(names)) == len(set(datas))
        few.objects.release()
        few.objects.collect()


class NarrowHash:
    """A hasher that tells apart only a few bits of the length: nearly everything collides."""

    def __init__(self, bits: int, data: bytes):
        self.bits, self.length = bits, len(data)

    @classmethod
    def of_width(cls, bits: int):
        return lambda data=b"": cls(bits, data)

    def update(self, data):
        self.length += len(data)

    def digest(self) -> bytes:
        return (self.length % (1 << self.bits)).to_bytes(DIGEST_SIZE, "big")
