"""Contents by offset and length, against plain bytes; and the refusal to mix two versions of a base file."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.entries import Content, Extent, Identity, Origin
from snapshots.errors import BaseChanged
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.content import (
    BaseContent,
    BytesContent,
    StoredContent,
    open_base,
    open_entry,
    same_content,
    shows_base,
)
from tests.store.mirror import DictObjects
from tests.store.uppers import entry


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base").mkdir()
    with BaseTree(os.fsencode(tmp_path / "base")) as tree:
        yield tmp_path / "base", BasePaths(tree)


@st.composite
def layered(draw):
    """Base bytes, a content over them, its objects, and what it all amounts to."""
    lower = draw(st.binary(max_size=40))
    size = draw(st.integers(0, 60))
    limit = draw(st.integers(0, min(size, len(lower))))
    expected = bytearray(lower[:limit] + bytes(size - limit))
    objects, extents, offset = DictObjects(), [], 0
    while offset < size and draw(st.booleans()):
        offset += draw(st.integers(0, 10))
        length = draw(st.integers(1, 10))
        if offset + length > size:
            break
        data = draw(st.binary(min_size=length, max_size=length))
        pad = draw(st.integers(0, 3))
        extents.append(Extent(offset, length, objects.put(bytes(pad) + data), pad))
        expected[offset : offset + length] = data
        offset += length
    return lower, Content(size, limit, tuple(extents)), objects, bytes(expected)


def stored(directory, lower, content, objects):
    path = os.path.join(directory, "lower")
    with open(path, "wb") as file:
        file.write(lower)
    return StoredContent(content, objects, BaseContent(os.open(path, os.O_RDONLY), b"lower"))


@given(layered(), st.integers(0, 70), st.integers(0, 70))
def test_reading_anywhere(tmp_path_factory, case, offset, length):
    lower, content, objects, expected = case
    with stored(tmp_path_factory.getbasetemp(), lower, content, objects) as readable:
        assert readable.size == len(expected)
        assert readable.read(offset, length) == expected[offset : offset + length]
        assert readable.read(0, 100) == expected


@given(layered())
def test_what_is_called_a_hole_is_zero(tmp_path_factory, case):
    lower, content, objects, expected = case
    with stored(tmp_path_factory.getbasetemp(), lower, content, objects) as readable:
        offset = 0
        while offset < readable.size:
            data = readable.next_data(offset)
            assert offset <= data <= readable.size
            assert expected[offset:data].count(0) == data - offset
            offset = data + 1
        rebuilt = bytearray(len(expected))
        for piece in readable.pieces():
            data = lower if piece.object is None else objects.data[piece.object]
            rebuilt[piece.offset : piece.offset + piece.length] = data[piece.start : piece.start + piece.length]
        assert bytes(rebuilt) == expected
        assert readable.lower is not None
        assert shows_base(content) == any(piece.object is None for piece in readable.pieces())


@given(layered())
def test_comparing(tmp_path_factory, case):
    lower, content, objects, expected = case
    with stored(tmp_path_factory.getbasetemp(), lower, content, objects) as readable:
        assert same_content(readable, BytesContent(expected))
        assert same_content(BytesContent(expected), readable)
        assert same_content(readable, BytesContent(lower)) == (expected == lower)
        if expected:
            other = bytes([expected[0] ^ 1]) + expected[1:]
            assert not same_content(readable, BytesContent(other))
        assert not same_content(readable, BytesContent(expected + b"x"))
        if readable.lower is not None:
            assert same_content(readable, readable.lower) == (expected == lower)


def test_comparing_large_sparse_files_reads_no_holes(base, monkeypatch):
    root, paths = base
    for name in ("a", "b"):
        with open(root / name, "wb") as file:
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(b"in the middle")
    with open_base(paths, b"a") as a, open_base(paths, b"b") as b:
        assert same_content(a, b)
    with open(root / "b", "r+b") as file:
        file.seek((1 << 40) - 1)
        file.write(b"x")
    with open_base(paths, b"a") as a, open_base(paths, b"b") as b:
        assert not same_content(a, b)


def patched(root, name=b"f"):
    """An entry of a file of which only the first byte was written."""
    objects = DictObjects()
    st = os.stat(os.path.join(os.fsencode(root), name))
    content = Content(st.st_size, st.st_size, (Extent(0, 1, objects.put(b"X"), 0),))
    return entry(1 << 52, content=content, origin=Origin(name, Identity.of(st))), objects


def test_a_base_file_that_changed_is_never_mixed_in(base):
    root, paths = base
    (root / "f").write_bytes(b"0123456789")
    changed, objects = patched(root)
    with open_entry(changed, paths, objects) as content:
        assert content.read(0, 20) == b"X123456789"
    (root / "f").chmod(0o600)  # does not touch the bytes
    with open_entry(changed, paths, objects) as content:
        assert content.read(0, 20) == b"X123456789"
    (root / "f").write_bytes(b"9876543210")
    os.utime(root / "f", ns=(5, 5))
    with pytest.raises(BaseChanged, match="changed since the run copied it up"):
        open_entry(changed, paths, objects)
    (root / "f").unlink()
    with pytest.raises(BaseChanged, match="no longer a file"):
        open_entry(changed, paths, objects)
    os.mkfifo(root / "f")
    with pytest.raises(BaseChanged, match="no longer a file"):
        open_entry(changed, paths, objects)


def test_a_content_that_needs_nothing_of_the_base_does_not_ask_for_it(base):
    root, paths = base
    (root / "f").write_bytes(b"0")
    changed, objects = patched(root)  # its one byte is in an object, though the limit says more
    (root / "f").unlink()
    with open_entry(changed, paths, objects) as content:
        assert content.read(0, 20) == b"X"


def test_a_file_that_shrinks_while_it_is_read(base):
    root, paths = base
    (root / "f").write_bytes(b"0123456789")
    with open_base(paths, b"f") as content:
        os.truncate(root / "f", 3)
        with pytest.raises(BaseChanged, match="shorter"):
            content.read(0, 10)
