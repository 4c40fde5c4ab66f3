"""The content of a regular file, in one of four states with one interface.

    base     `BaseFile`                 untouched: reads go to the base file
    inline   `Inline`                   small and dirty: a buffer in memory
    spool    `Spool`                    large and dirty: a sparse working file plus the ranges that are in it; the
    rest comes from its source sealed   `Sealed`                   objects of the store (see
    `snapshots.entries.Content`), never written again

`FrozenInline` and `FrozenSpool` are the last two on their way to the store: immutable, so that a worker thread can
hash them while the run goes on writing to a successor.  Owns how bytes are kept; knows no names and no inode numbers.
Event-loop thread only, except for what `WouldBlock.prepare` does with descriptors of its own.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

from goexfs.overlay.blocking import Lent, WouldBlock
from goexfs.overlay.descriptors import DescriptorPool
from goexfs.overlay.reading import EarlyReads, LocalReads
from goexfs.overlay.working import WorkingFiles
from snapshots.entries import Content as Record
from snapshots.entries import Extent, Identity
from snapshots.layers.base import BaseDir, BaseTree
from snapshots.ranges import BLOCK, RangeSet

COPY_WHOLE_LIMIT = 1024 * 1024
"""Bytes up to which a copy-up takes the whole base file.

A larger one keeps reading its unwritten ranges from the base.
"""

_SECTORS = BLOCK // 512


class ObjectReader(Protocol):
    """What the overlay needs of `snapshots.storage.objects.Objects`."""

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        """Bytes of an object; may raise `WouldBlock`."""


def rounded_blocks(length: int) -> int:
    """``st_blocks`` of *length* stored bytes."""
    return (length + BLOCK - 1) // BLOCK * _SECTORS


class BaseFile:
    """One file of the base, open while something needs it.

    With *trusted*, the identity at copy-up, the base file is a source of a partly copied file: every read makes sure
    that size and mtime still are what they were, and fails with EIO otherwise, since a mixture of two versions would
    be silent corruption.
    """

    __slots__ = ("_blocks", "_dir", "_early", "_held", "_name", "_pool", "_tree", "dev", "ino", "trusted")

    def __init__(
        self, tree: BaseTree, directory: BaseDir, name: bytes, dev: int, ino: int, pool: DescriptorPool
    ) -> None:
        self._tree = tree
        self._dir = directory
        self._name = name
        self._pool = pool
        self.dev = dev
        self.ino = ino
        self.trusted: Identity | None = None
        self._held: Lent | None = None
        self._early = EarlyReads()
        self._blocks = 0

    def open_fd(self) -> int:
        """Open the base file; ESTALE when another file has its name now."""
        if self._held is not None:
            return os.dup(self._held.fd)
        fd = self._tree.open(self._dir, self._name)
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (self.dev, self.ino):
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        self._blocks = st.st_blocks
        return fd

    def open(self) -> None:
        """Make sure the file is open, so that it stays readable when the base loses its name."""
        self._pool.get(self)

    def hold(self) -> None:
        """Keep the file open until `close`, however many others are opened."""
        if self._held is None:
            self._held = Lent(self._pool.get(self))

    def close(self) -> None:
        """Give the descriptor back."""
        self._pool.drop(self)
        self._held = None

    def _check(self, fd: int) -> None:
        trusted = self.trusted
        if trusted is not None:
            st = os.fstat(fd)
            if st.st_size != trusted.size or st.st_mtime_ns != trusted.mtime_ns:
                raise OSError(errno.EIO, "the base file changed after this run had copied only a part of it")

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Bytes of the base file, from the page cache; raises `WouldBlock` when they are not all there."""
        early = self._early.take(offset, length)
        if early is not None:
            return early
        fd = self._pool.get(self)
        self._check(fd)
        return self._early.read(fd, offset, length)

    def blocks(self) -> int:
        """``st_blocks`` of the base file, 0 when it is gone; never raises."""
        try:
            self._blocks = os.fstat(self._pool.get(self)).st_blocks
        except WouldBlock:
            pass  # as they were
        except OSError:
            return 0
        return self._blocks


class Inline:
    """A small dirty content, in memory."""

    __slots__ = ("buffer",)

    def __init__(self, data: bytes | bytearray | memoryview = b"") -> None:
        self.buffer = bytearray(data)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.buffer)

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """See `Content`."""
        return self.buffer[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Write within what an inline content may hold; a gap becomes zeros."""
        buffer = self.buffer
        if offset > len(buffer):
            buffer.extend(bytes(offset - len(buffer)))
        buffer[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        if size < len(self.buffer):
            del self.buffer[size:]
        else:
            self.buffer.extend(bytes(size - len(self.buffer)))

    def blocks(self) -> int:
        """See `Content`."""
        return rounded_blocks(len(self.buffer))

    def freeze(self) -> "FrozenInline":
        """The same content, immutable."""
        return FrozenInline(bytes(self.buffer))


class FrozenInline:
    """A small content that a worker thread is storing."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """See `Content`."""
        return self.data[offset : offset + length]

    def blocks(self) -> int:
        """See `Content`."""
        return rounded_blocks(len(self.data))


class Sealed:
    """A content in the store, with the base file below it where the record says so."""

    __slots__ = ("_base", "_blocks", "_objects", "held", "record")

    def __init__(self, record: Record, objects: ObjectReader, base: BaseFile | None) -> None:
        self.record = record
        self._objects = objects
        self._base = base
        self.held = sum(extent.length for extent in record.extents)
        """bytes in the store; like the blocks, counted once: a write into a file of many pieces asks for them"""
        self._blocks = sum(rounded_blocks(extent.length) for extent in record.extents)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.record.size

    @property
    def base(self) -> BaseFile | None:
        """The base file that is still read, or None."""
        return self._base if self.record.base_limit else None

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """See `Content`."""
        record = self.record
        end = min(offset + length, record.size)
        if offset >= end:
            return b""
        extents = record.extents
        if len(extents) == 1 and extents[0].offset <= offset and end <= extents[0].offset + extents[0].length:
            only = extents[0]
            return self._objects.read(only.object, only.start + offset - only.offset, end - offset)
        out = bytearray(end - offset)
        at = offset
        for extent in _overlapping(extents, offset, end):
            if extent.offset > at:
                self._below(out, offset, at, extent.offset)
            start = max(extent.offset, offset)
            at = min(extent.offset + extent.length, end)
            out[start - offset : at - offset] = self._objects.read(
                extent.object, extent.start + start - extent.offset, at - start
            )
        if at < end:
            self._below(out, offset, at, end)
        return out

    def _below(self, out: bytearray, origin: int, start: int, end: int) -> None:
        end = min(end, self.record.base_limit)
        if start < end:
            if self._base is None:
                raise OSError(errno.EIO, "the base file of a partly copied file is gone")
            out[start - origin : end - origin] = _exactly(self._base.read(start, end - start), end - start)

    def blocks(self) -> int:
        """See `Content`."""
        stored = self._blocks
        if self.record.base_limit and self._base is not None:
            stored += self._base.blocks()
        return min(stored, rounded_blocks(self.record.size))


class FrozenSpool:
    """A spool that is written no more: what it covers is being stored."""

    __slots__ = ("_files", "_path", "_pool", "_reads", "given_back", "ranges", "size", "source", "source_limit")

    def __init__(
        self, files: WorkingFiles, path: Path, pool: DescriptorPool, ranges: RangeSet, size: int,
        source: "Source | None", limit: int,
    ) -> None:  # fmt: skip
        self._files = files
        self._path = path
        self._pool = pool
        self._reads = LocalReads()
        self.ranges = ranges
        self.size = size
        self.source = source
        """where bytes outside ``ranges`` come from, below ``source_limit``; None when they are zeros"""
        self.source_limit = limit
        self.given_back = False
        """whether the batch that was to store it failed, so that no batch will remove the working file"""

    @property
    def path(self) -> Path:
        """Of the working file."""
        return self._path

    def open_fd(self) -> int:
        """For the pool."""
        return self._files.open(self._path, os.O_RDONLY)  # it may have become an object, which nobody may write

    def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """See `Content`."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if self.ranges.covers(offset, end):
            return self._reads.read(self._pool.get(self), offset, end - offset)
        out = bytearray(end - offset)
        for start, stop, inside in self.ranges.pieces(offset, end):
            if inside:
                out[start - offset : stop - offset] = self._reads.read(
                    self._pool.get(self), start, stop - start
                )
            elif self.source is not None and start < self.source_limit:
                stop = min(stop, self.source_limit)
                out[start - offset : stop - offset] = _exactly(self.source.read(start, stop - start), stop - start)
        return out

    def blocks(self) -> int:
        """See `Content`."""
        stored = self.ranges.blocks * _SECTORS
        if self.source is not None and self.source_limit:
            stored += self.source.blocks()
        return min(stored, rounded_blocks(self.size))

    def close(self) -> None:
        """Give the descriptor back."""
        self._pool.drop(self)

    def discard(self) -> None:
        """Nothing needs it any more: the working file goes, and those below that no batch will remove."""
        spool: Source | None = self
        while isinstance(spool, FrozenSpool):
            spool.close()
            spool._files.remove(spool._path)
            spool = spool.source if isinstance(spool.source, FrozenSpool) and spool.source.given_back else None


class Spool(FrozenSpool):
    """A large dirty content: a sparse working file over its source."""

    __slots__ = ()

    @classmethod
    def create(
        cls, files: WorkingFiles, pool: DescriptorPool, *, size: int, source: "Source | None", limit: int
    ) -> "Spool":
        """A new spool of *size* bytes, all of it coming from *source* up to *limit* and zeros beyond; `WouldBlock`."""
        path, fd = files.create()
        spool = cls(files, path, pool, RangeSet(), size, source, limit)
        pool.put(spool, fd)
        return spool

    def open_fd(self) -> int:
        """For the pool."""
        return self._files.open(self._path, os.O_RDWR)

    def expect_write(self, start: int, end: int) -> None:
        """These bytes are about to be written, or cut off up to *end*: `WouldBlock` when a page that keeps a part of
        what it has is not in the page cache, or the name of the working file is not in memory.
        """
        fd = self._pool.get(self)
        for edge in (start, end):
            if edge % BLOCK:
                self._reads.read(fd, edge // BLOCK * BLOCK, 1)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write at any offset: all of it, or OSError."""
        fd = self._pool.get(self)
        view = memoryview(data)
        at = offset
        try:
            while view:
                done = os.pwrite(fd, view, at)
                at += done
                view = view[done:]
        except OSError:
            if os.fstat(fd).st_size > self.size:  # what is beyond the end must never come to light
                os.ftruncate(fd, self.size)
            raise
        self.ranges.add(offset, at)
        self.size = max(self.size, at)

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros: what is cut off never comes back.  To be followed by `trim`."""
        if size < self.size:
            self.ranges.clip(size)
            self.source_limit = min(self.source_limit, size)
        self.size = size

    def trim(self) -> None:
        """Remove from the working file what was cut off.

        Not before the journal knows that it was: it would miss the bytes.
        """
        fd = self._pool.get(self)
        if os.fstat(fd).st_size > self.size:
            os.ftruncate(fd, self.size)

    def freeze(self) -> FrozenSpool:
        """The same content, immutable.  Write on through `Spool.create` with the result as source."""
        frozen = FrozenSpool(
            self._files, self._path, self._pool, self.ranges, self.size, self.source, self.source_limit
        )
        self._pool.drop(self)
        return frozen

    def sync(self) -> int:
        """A duplicate of the descriptor to fsync in a worker thread; the caller closes it."""
        return os.dup(self._pool.get(self))


Content = Inline | FrozenInline | Sealed | FrozenSpool
"""What a changed file's content can be.

Each has ``size`` (bytes), ``read(offset, length)`` (short only at the end; may raise `WouldBlock`) and
``blocks()``.
"""

Source = BaseFile | Sealed | FrozenSpool


def _overlapping(extents: tuple[Extent, ...], start: int, end: int) -> list[Extent]:
    low, high = 0, len(extents)
    while low < high:
        middle = (low + high) // 2
        if extents[middle].offset + extents[middle].length <= start:
            low = middle + 1
        else:
            high = middle
    found = []
    for extent in extents[low:]:
        if extent.offset >= end:
            break
        found.append(extent)
    return found


def _exactly(data: bytes | bytearray | memoryview, length: int) -> bytes | bytearray | memoryview:
    """*data* padded with zeros: a source that lost its tail must not shift what follows."""
    return data if len(data) == length else bytes(data) + bytes(length - len(data))
