"""The states of a content, and how an operation waits for a disk."""

import errno
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goexfs.overlay import File, Handle, WouldBlock, store_batch
from goexfs.overlay.content import COPY_WHOLE_LIMIT, FrozenInline, FrozenSpool, Inline, Sealed, Spool
from goexfs.overlay.slowbase import SlowBaseTree
from snapshots.entries import INLINE_LIMIT
from snapshots.errors import StoreFull
from snapshots.storage.store import Store
from snapshots.storage.upper import Upper
from tests.overlay.scene import Scene

LARGE = COPY_WHOLE_LIMIT + 100_000


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(LARGE)


@pytest.fixture
def scene(area: Path, store: Store, data: bytes) -> Iterator[Scene]:
    made = Scene(area, store)
    (made.base / "small").write_bytes(b"small")
    (made.base / "middle").write_bytes(data[: INLINE_LIMIT * 2])
    (made.base / "large").write_bytes(data)
    yield made
    made.close()


def content_of(scene: Scene, path: bytes) -> object:
    node = scene.node(path)
    assert isinstance(node, File)
    return node.content


def opened(scene: Scene, path: bytes) -> Handle:
    handle = scene.mount.open(path, os.O_RDWR, 0).handle
    assert isinstance(handle, Handle)
    return handle


def test_copy_up_waits_for_the_first_write(scene: Scene) -> None:
    for path in (b"small", b"middle", b"large"):
        file = scene.mount.open(path, os.O_RDWR, 0)
        assert content_of(scene, path) is None
        scene.mount.close(file)
    assert not scene.overlay.dirty
    assert list(scene.spool.iterdir()) == []


def test_each_size_has_its_state(scene: Scene, data: bytes) -> None:
    for path in (b"small", b"middle", b"large"):
        scene.write(path, 1, b"RUN")
    small, middle, large = (content_of(scene, path) for path in (b"small", b"middle", b"large"))
    assert isinstance(small, Inline)
    assert isinstance(middle, Spool)
    assert middle.source is None
    assert isinstance(large, Spool)
    assert list(large.ranges) == [(1, 4)]
    assert scene.read(b"large") == data[:1] + b"RUN" + data[4:]
    scene.seal()
    assert all(isinstance(content_of(scene, path), Sealed) for path in (b"small", b"middle", b"large"))
    assert scene.read(b"large") == data[:1] + b"RUN" + data[4:]
    assert scene.read(b"middle") == data[:1] + b"RUN" + data[4 : INLINE_LIMIT * 2]
    assert list(scene.spool.iterdir()) == []
    scene.write(b"large", 10, b"again")
    again = content_of(scene, b"large")
    assert isinstance(again, Spool)
    assert isinstance(again.source, Sealed)
    assert list(again.ranges) == [(10, 15)]


def test_a_growing_file_moves_to_a_spool_at_the_limit(scene: Scene) -> None:
    scene.write(b"new", 0, b"x" * INLINE_LIMIT)
    assert isinstance(content_of(scene, b"new"), Inline)
    assert scene.overlay.dirty_bytes == INLINE_LIMIT
    scene.write(b"new", INLINE_LIMIT, b"y")
    assert isinstance(content_of(scene, b"new"), Spool)
    assert scene.overlay.dirty_bytes == 0
    assert scene.read(b"new") == b"x" * INLINE_LIMIT + b"y"


def test_truncation_to_nothing_reads_nothing(scene: Scene) -> None:
    assert scene.node(b"large").size == LARGE
    os.unlink(scene.base / "large")
    file = scene.mount.open(b"large", os.O_RDWR | os.O_TRUNC, 0)
    scene.mount.close(file)
    assert scene.read(b"large") == b""
    assert isinstance(content_of(scene, b"large"), Inline)


def test_what_was_cut_off_never_comes_back(scene: Scene, data: bytes) -> None:
    scene.write(b"large", 0, b"RUN")
    for sealed in (False, True):
        scene.mount.truncate(b"large", 1000)
        if sealed:
            scene.seal()
        scene.mount.truncate(b"large", LARGE)
        assert scene.read(b"large") == b"RUN" + data[3:1000] + bytes(LARGE - 1000)


def test_a_frozen_content_is_never_written(scene: Scene, data: bytes) -> None:
    """What a batch has collected stays as it was, whatever is written until it is stored."""
    scene.write(b"small", 0, b"first")
    scene.write(b"large", 0, b"first")
    batch = scene.overlay.collect()
    assert batch is not None
    small, large = content_of(scene, b"small"), content_of(scene, b"large")
    assert isinstance(small, FrozenInline)
    assert isinstance(large, FrozenSpool)
    scene.write(b"small", 0, b"later")
    scene.write(b"large", 2, b"later")
    assert bytes(small.read(0, 100)) == b"first"
    assert bytes(large.read(0, 100)) == b"first" + data[5:100]
    assert scene.read(b"large")[:10] == b"filater" + data[7:10]
    scene.overlay.finish(batch, store_batch(batch, scene.store, scene.run))
    assert scene.read(b"small") == b"later"
    assert scene.read(b"large")[:10] == b"filater" + data[7:10]
    scene.remount()
    assert scene.read(b"small") == b"later"
    assert scene.read(b"large")[:10] == b"filater" + data[7:10]


class _FullStore(Store):
    """Takes the objects and has no room for the checkpoint."""

    def __init__(self, store: Store) -> None:
        self.objects = store.objects

    def upper(self, run_id: str) -> Upper:
        raise StoreFull(f"no room for {run_id}")


def test_an_object_of_a_failed_batch_is_never_written(scene: Scene, data: bytes) -> None:
    """The store takes a working file for an object under a second name, and another run may need it from then on."""
    whole = data[: INLINE_LIMIT * 3]
    scene.write(b"new", 0, whole)
    batch = scene.overlay.collect()
    assert batch is not None
    with pytest.raises(StoreFull):
        store_batch(batch, _FullStore(scene.store), scene.run)
    scene.overlay.give_back(batch)
    name = scene.store.objects.put(whole)  # the same content, of somebody else
    scene.write(b"new", 0, b"written after the failure")
    assert scene.store.objects.read(name) == whole
    assert scene.read(b"new") == b"written after the failure" + whole[25:]
    scene.seal()
    assert scene.store.objects.read(name) == whole
    assert list(scene.spool.iterdir()) == []


def test_the_store_is_not_asked_for_equal_contents_twice(scene: Scene, data: bytes) -> None:
    for number in range(5):
        scene.write(b"copy%d" % number, 0, data)
    scene.seal()
    assert scene.store.bytes_held(scene.run) == len(data)


SMALL_WRITES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 300), st.binary(min_size=1, max_size=60)),
        st.tuples(st.just("cut"), st.integers(0, 300), st.just(b"")),
        st.tuples(st.sampled_from(("freeze", "seal")), st.just(0), st.just(b"")),
    ),
    max_size=25,
)


@given(size=st.sampled_from((0, 20, 40, 70, 200)), steps=SMALL_WRITES)
@settings(max_examples=60)
def test_reads_and_writes_against_bytes(
    tmp_path_factory: pytest.TempPathFactory, store: Store, size: int, steps: list[tuple[str, int, bytes]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goexfs.overlay.files.INLINE_LIMIT", 32)
        patch.setattr("goexfs.overlay.files.COPY_WHOLE_LIMIT", 64)
        area = tmp_path_factory.mktemp("bytes")
        (area / "base").mkdir()
        model = bytearray(random.Random(size).randbytes(size))
        (area / "base" / "file").write_bytes(model)
        scene = Scene(area, store)
        handle = opened(scene, b"file")
        batch = None
        for step, position, written in steps:
            if step == "write":
                scene.mount.ask(scene.overlay.write, handle, position, written)
                model.extend(bytes(max(0, position - len(model))))
                model[position : position + len(written)] = written
            elif step == "cut":
                scene.mount.ask(scene.overlay.setattr, handle.node, size=position)
                del model[position:]
                model.extend(bytes(position - len(model)))
            elif step == "freeze" and batch is None:
                batch = scene.overlay.collect()
            elif batch is not None:
                scene.overlay.finish(batch, store_batch(batch, store, scene.run))
                batch = None
            for offset, length in ((0, 1000), (17, 30), (60, 20), (250, 100)):
                got = scene.mount.ask(scene.overlay.read, handle, offset, length)
                assert bytes(got) == bytes(model[offset : offset + length])
            assert handle.node.size == len(model)
        scene.close()


# -- waiting for the disk


SIZES = {b"small": 100, b"middle": INLINE_LIMIT * 2, b"large": LARGE}
ATTEMPTS = 10


def drop_from_cache(path: Path) -> None:
    """The next read has to wait for the disk, unless the kernel thinks otherwise."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.fixture
def cold(tmp_path: Path, store: Store, data: bytes) -> Iterator[Scene]:
    made = Scene(tmp_path, store)
    yield made
    made.close()


def cold_handles(scene: Scene, data: bytes, kind: bytes) -> Iterator[Handle]:
    """Open files of a size; each has just been dropped from the page cache, which the kernel need not have done."""
    for attempt in range(ATTEMPTS):
        path = scene.base / f"{os.fsdecode(kind)}{attempt}"
        path.write_bytes(data[: SIZES[kind]])
        handle = opened(scene, os.fsencode(path.name))
        drop_from_cache(path)
        yield handle
    pytest.skip("the page cache keeps every file")


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_read_that_would_wait_says_so(cold: Scene, data: bytes, kind: bytes) -> None:
    expected = data[: SIZES[kind]][:5000]
    for handle in cold_handles(cold, data, kind):
        try:
            assert bytes(cold.overlay.read(handle, 0, 5000)) == expected
        except WouldBlock as blocked:
            blocked.prepare()
            assert bytes(cold.overlay.read(handle, 0, 5000)) == expected
            break


@pytest.mark.parametrize("kind", [b"small", b"middle"])
def test_a_write_that_would_wait_has_changed_nothing_yet(cold: Scene, data: bytes, kind: bytes) -> None:
    for handle in cold_handles(cold, data, kind):
        node = handle.node
        dirty = len(cold.overlay.view.changes.nodes)
        spooled = len(list(cold.spool.iterdir()))
        before = (node.size, node.mtime_ns, node.ctime_ns, node.content, node.changed)
        try:
            cold.overlay.write(handle, 2, b"RUN")
        except WouldBlock as blocked:
            assert (node.size, node.mtime_ns, node.ctime_ns, node.content, node.changed) == before
            assert len(cold.overlay.view.changes.nodes) == dirty
            assert len(list(cold.spool.iterdir())) == spooled
            blocked.prepare()
            cold.overlay.write(handle, 2, b"RUN")
            assert bytes(cold.overlay.read(handle, 0, LARGE)) == data[:2] + b"RUN" + data[5 : SIZES[kind]]
            break


def test_the_first_write_to_a_large_file_waits_for_nothing(cold: Scene, data: bytes) -> None:
    handle = next(cold_handles(cold, data, b"large"))
    cold.overlay.write(handle, 2, b"RUN")
    assert bytes(cold.mount.ask(cold.overlay.read, handle, 0, LARGE)) == data[:2] + b"RUN" + data[5:]


def test_many_readers_of_one_cold_file_all_get_there(cold: Scene, data: bytes) -> None:
    handle = next(cold_handles(cold, data, b"large"))
    waiting = [(offset, 65_536) for offset in range(0, LARGE, 65_536)]
    got: dict[int, bytes] = {}
    for _ in range(10):
        blocked = []
        for offset, length in waiting:
            try:
                got[offset] = bytes(cold.overlay.read(handle, offset, length))
            except WouldBlock as e:
                blocked.append((e, offset, length))
        for would_block, _, _ in reversed(blocked):
            would_block.prepare()
        waiting = [(offset, length) for _, offset, length in blocked]
    assert not waiting
    assert b"".join(got[offset] for offset in sorted(got)) == data


def test_a_filesystem_that_cannot_say_whether_it_would_wait(
    scene: Scene, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several pieces of the base in one read: each is prepared once, and kept until all are there."""
    scene.write(b"large", 1000, b"RUN")
    scene.write(b"large", 3000, b"RUN")
    scene.seal()
    scene.write(b"large", 5000, b"RUN")

    def never(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", never)
    expected = bytearray(data)
    for offset in (1000, 3000, 5000):
        expected[offset : offset + 3] = b"RUN"
    assert scene.read(b"large") == expected


def test_every_question_to_a_slow_base_is_asked_elsewhere(area: Path, store: Store) -> None:
    (area / "base" / "d").mkdir(parents=True)
    (area / "base" / "d" / "file").write_bytes(b"content")
    scene = Scene(area, store, tree=SlowBaseTree)
    assert isinstance(scene.tree, SlowBaseTree)
    scene.tree.waiting = False
    with pytest.raises(WouldBlock):
        scene.overlay.lookup(scene.overlay.root, b"d")
    assert scene.read(b"d/file") == b"content"
    scene.write(b"d/file", 0, b"C")
    scene.mount.rename(b"d", b"e")
    assert scene.read(b"e/file") == b"Content"
    assert scene.names(b"e") == [b"file"]
    scene.close()


def test_a_slow_base_leaves_no_descriptor(area: Path, store: Store) -> None:
    (area / "base").mkdir()
    for number in range(20):
        (area / "base" / str(number)).write_bytes(b"x")
    gc.collect()  # what earlier tests caught may hold descriptors
    before = len(os.listdir("/proc/self/fd"))
    scene = Scene(area, store, tree=SlowBaseTree)
    assert isinstance(scene.tree, SlowBaseTree)
    scene.tree.waiting = False
    for number in range(20):
        name = b"%d" % number
        assert scene.read(name) == b"x"
        node = scene.node(name)
        for _ in range(2):  # two that ask for the same, and never come back for the answer
            with pytest.raises(WouldBlock) as blocked:
                scene.overlay.open(node, os.O_RDONLY)
            blocked.value.prepare()
            with pytest.raises(WouldBlock) as other:
                scene.overlay.getxattr(node, b"user.%d" % random.getrandbits(60))
            other.value.prepare()
            blocked.value.prepare()
            scene.overlay.release(scene.overlay.open(node, os.O_RDONLY))
    scene.close()
    assert len(os.listdir("/proc/self/fd")) == before
