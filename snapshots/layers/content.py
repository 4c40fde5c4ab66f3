"""Reading the content of a file, whichever layer it is in, by offset and length.

Owns how a ``Content`` is put together from objects, ranges of the base file and holes.  Knows no names of the run and
never writes.  A reader belongs to one thread and must be closed.
"""

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self, runtime_checkable

from snapshots.entries import Content, Entry, Identity
from snapshots.errors import BaseChanged
from snapshots.layers.basepaths import BasePaths
from snapshots.names import readable

CHUNK = 1 << 20
"""Bytes read at a time when whole files are compared or copied."""


class ObjectReader(Protocol):
    """What is needed of ``snapshots.storage.objects.Objects``."""

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object; ObjectMissing."""

    def descriptor(self, name: bytes) -> int | None:
        """The open file of an object that is a file, borrowed until the next call; None for others."""


@runtime_checkable
class RowReader(Protocol):
    """What saves a query for each small file, where there is such a thing."""

    def read_rows(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of many objects that are small and there, by name."""


class Ahead:
    """Reads small objects together that are likely to be read one after the other: those of a diff.

    Keeps what it read, up to ``HELD`` objects of at most ``large.SMALL`` bytes.
    """

    HELD = 256
    TOGETHER = 64

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self._rows = objects if isinstance(objects, RowReader) else None
        self._order: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._held: dict[bytes, bytes] = {}

    def expect(self, name: bytes) -> None:
        """This small object may be read, and if it is, then at about the time of those expected before and after."""
        if self._rows is not None and name not in self._places:
            self._places[name] = len(self._order)
            self._order.append(name)

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See ``ObjectReader``."""
        data = self._held.get(name)
        if data is None and name in self._places and self._rows is not None:
            if len(self._held) >= self.HELD:
                self._held = {}
            first = self._places[name] // self.TOGETHER * self.TOGETHER
            near = [other for other in self._order[first : first + self.TOGETHER] if other not in self._held]
            self._held.update(self._rows.read_rows(near))
            data = self._held.get(name)
        if data is None:
            return self._objects.read(name, offset, length)
        return data[offset:] if length is None else data[offset : offset + length]

    def descriptor(self, name: bytes) -> int | None:
        """See ``ObjectReader``."""
        return self._objects.descriptor(name)


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file that is not a hole."""

    offset: int
    """in the file, in bytes"""
    length: int
    """in bytes, at least 1"""
    object: bytes | None
    """name of the object that holds it; None: the base file, at the same offset"""
    start: int
    """where in the object it begins, in bytes"""


class Readable:
    """The content of one regular file.  Subclasses give ``read_piece`` and ``pieces``."""

    size: int
    """in bytes"""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``; short only at the end of the file, holes are zeros."""
        raise NotImplementedError

    def next_data(self, offset: int) -> int:
        """The first offset from ``offset`` on that may not be in a hole; ``size`` when only a hole is left."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back the descriptor, if there is one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BytesContent(Readable):
    """A content held in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Readable``."""
        return self._data[offset : offset + length]

    def next_data(self, offset: int) -> int:
        """See ``Readable``."""
        return min(offset, self.size)


class BaseContent(Readable):
    """The content of a base file, read through a descriptor that this owns."""

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        self.stat = os.fstat(fd)
        self.size = self.stat.st_size

    def read(self, offset: int, length: int) -> bytes:
        """See ``Readable``; BaseChanged when the file became shorter meanwhile."""
        wanted = max(0, min(length, self.size - offset))
        data = os.pread(self.fd, wanted, offset)
        if len(data) == wanted:
            return data
        parts = [data]
        while data and wanted > (got := sum(map(len, parts))):
            data = os.pread(self.fd, wanted - got, offset + got)
            parts.append(data)
        if sum(map(len, parts)) < wanted:
            raise BaseChanged(f"{readable(self.path)} in the base became shorter while it was read; try again")
        return b"".join(parts)

    def next_data(self, offset: int) -> int:
        """See ``Readable``."""
        if offset >= self.size:
            return self.size
        try:
            return min(os.lseek(self.fd, offset, os.SEEK_DATA), self.size)
        except OSError as e:
            return self.size if e.errno == errno.ENXIO else offset

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The (offset, length) ranges between two offsets that are not holes."""
        while (start := self.next_data(start)) < min(end, self.size):
            try:
                hole = min(os.lseek(self.fd, start, os.SEEK_HOLE), end, self.size)
            except OSError:
                hole = min(end, self.size)
            yield start, hole - start
            start = hole

    def is_unchanged(self) -> bool:
        """Whether the file was not written to since it was opened here."""
        return same_bytes(Identity.of(self.stat), Identity.of(os.fstat(self.fd)))

    def close(self) -> None:
        """See ``Readable``."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class StoredContent(Readable):
    """A sealed content: objects, ranges of the base file (``lower``) and holes."""

    def __init__(self, content: Content, objects: ObjectReader, lower: BaseContent | None) -> None:
        self.content = content
        self.size = content.size
        self.lower = lower
        self._objects = objects
        self._starts = [extent.offset for extent in content.extents]
        self._limit = min(content.base_limit, content.size, lower.size if lower is not None else 0)
        """base bytes show below this offset"""

    def read(self, offset: int, length: int) -> bytes:
        """See ``Readable``."""
        end = min(offset + length, self.size)
        parts: list[bytes] = []
        while offset < end:
            extent_index = bisect_right(self._starts, offset) - 1
            extent = self.content.extents[extent_index] if extent_index >= 0 else None
            if extent is not None and offset < extent.offset + extent.length:
                skip = offset - extent.offset
                data = self._objects.read(extent.object, extent.start + skip, min(end - offset, extent.length - skip))
            else:
                following = self._starts[extent_index + 1] if extent_index + 1 < len(self._starts) else end
                gap = min(following, end) - offset
                if offset < self._limit:
                    assert self.lower is not None
                    data = self.lower.read(offset, min(gap, self._limit - offset))
                else:
                    data = bytes(gap)
            if not data:
                break
            parts.append(data)
            offset += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def next_data(self, offset: int) -> int:
        """See ``Readable``."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self.content.extents[index].offset + self.content.extents[index].length:
            return min(offset, self.size)
        following = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
        if offset < self._limit and self.lower is not None:
            data = self.lower.next_data(offset)
            if data < min(self._limit, following):
                return data
        return min(following, self.size)

    def pieces(self) -> Iterator[Piece]:
        """Everything but the holes between extents, in order; base pieces are clipped to what shows of the base."""
        offset = 0
        for extent in self.content.extents:
            if offset < min(extent.offset, self._limit):
                yield Piece(offset, min(extent.offset, self._limit) - offset, None, offset)
            length = min(extent.length, self.size - extent.offset)
            if length > 0:
                yield Piece(extent.offset, length, extent.object, extent.start)
            offset = extent.offset + extent.length
        if offset < self._limit:
            yield Piece(offset, self._limit - offset, None, offset)

    def close(self) -> None:
        """See ``Readable``."""
        if self.lower is not None:
            self.lower.close()


def open_base(base: BasePaths, path: bytes) -> BaseContent:
    """The content of the base file at a path; BaseChanged when there is no regular file."""
    st = base.stat(path)
    if st is not None and stat.S_ISREG(st.st_mode):  # asked first: opening a device may do things
        fd = base.open(path)
        if fd is not None:
            content = BaseContent(fd, path)
            if stat.S_ISREG(content.stat.st_mode):
                return content
            content.close()
    raise BaseChanged(f"{readable(path)} is no longer a file in the base, and its content is needed; restore it")


def open_entry(entry: Entry, base: BasePaths, objects: ObjectReader, *, at: bytes | None = None) -> Readable:
    """The content of a changed regular file.

    ``at`` is where its base file is now, when that is not its origin's path.  BaseChanged when ranges of the base
    file are needed and it no longer is what it was at copy-up: never a mixture of two versions.
    """
    origin = entry.origin
    content = entry.content
    if content is None:
        if origin is None:
            return BytesContent(b"")
        return open_base(base, origin.path if at is None else at)
    if origin is None or not shows_base(content):
        return StoredContent(content, objects, None)
    path = origin.path if at is None else at
    lower = open_base(base, path)
    if not same_bytes(origin.identity, Identity.of(lower.stat)):
        lower.close()
        raise BaseChanged(
            f"{readable(path)} in the base changed since the run copied it up, and the run still needs parts of the "
            "old content; restore the file, or discard the run"
        )
    return StoredContent(content, objects, lower)


def shows_base(content: Content) -> bool:
    """Whether any byte of a content is read from the base file."""
    limit = min(content.base_limit, content.size)
    offset = 0
    for extent in content.extents:
        if extent.offset > offset:
            break
        offset = extent.offset + extent.length
    return offset < limit


def same_bytes(a: Identity, b: Identity) -> bool:
    """Whether two identities mean the same unwritten content (a new name or mode of the inode changes only ctime)."""
    return (a.dev, a.ino, a.size, a.mtime_ns) == (b.dev, b.ino, b.size, b.mtime_ns)


def same_content(a: Readable, b: Readable) -> bool:
    """Whether two contents are byte for byte equal.  Streams; neither what is a hole in both nor what both take from
    the same place is read.
    """
    if a.size != b.size:
        return False
    sources = [_sources(a), _sources(b)]
    starts = [[offset for offset, _ in each] for each in sources]
    for start, end in pairwise(sorted({*starts[0], *starts[1], a.size})):
        here = [each[bisect_right(at, start) - 1][1] for each, at in zip(sources, starts, strict=True)]
        if here[0] == here[1]:
            continue
        offset = start
        while (offset := min(a.next_data(offset), b.next_data(offset))) < end:
            length = min(CHUNK, end - offset)
            if a.read(offset, length) != b.read(offset, length):
                return False
            offset += length
    return True


_HOLE = object()


def _sources(content: Readable) -> list[tuple[int, object]]:
    """(offset, where the bytes from there on come from), from 0 on; equal where they are the same ones."""
    if isinstance(content, BaseContent):
        return [(0, _source(content))]
    if not isinstance(content, StoredContent):
        return [(0, content)]
    found: list[tuple[int, object]] = []
    end = 0
    for piece in content.pieces():
        if piece.offset > end or not found:
            found.append((end, _HOLE))
        base = _source(content.lower) if piece.object is None and content.lower is not None else None
        found.append((piece.offset, base or (piece.object, piece.start - piece.offset)))
        end = piece.offset + piece.length
    found.append((end, _HOLE))
    return found


def _source(content: BaseContent) -> tuple[int, ...]:
    st = content.stat
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns
