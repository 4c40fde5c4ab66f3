"""The append-only record of every change a run made, in order.

Owns the file format and the reading and writing of it; knows neither how a change comes about (the overlay) nor what
the records add up to (``snapshots.history.replay``). A journal is a directory of *segments*; a segment ends where a
checkpoint began, so recovery reads only the last few.

Format of a segment, numbers little-endian::

    offset  size  what
    0       8     b"GOEXFSJ" and the format, one byte: 1
    8       8     number of the first record
    16      8     when it was begun, nanoseconds since 1970
    24      8     xxh3_64 of bytes 0 to 23
    32            records, one after the other:
                  4   length n of the body
                  8   xxh3_64 of the body, seeded with the record's number
                  n   the body: a MessagePack array, see `Process`, `Change` and `Read`

Rules: (J1) records are numbered without a gap, across segments; the number is not stored but seeds the checksum, so a
stale or misplaced record is no record.  (J2) A record is written with one ``write`` before the change is
acknowledged, so the death of the process loses none.  (J3) What follows the first damaged or incomplete record of a
segment does not count; it is cut off and reported, never skipped over.  (J4) A segment is never written after the
next one was begun.  (J5) A record names only processes that were described before it in its own segment, so a
segment can be read when the ones before it are gone.

``docs/format.md`` has the same for readers in other languages, with the bytes of the bodies.

Threading: one writer, in one thread; any number of readers, also while it writes.
"""

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from snapshots.entries import Entry, Identity, Link
from snapshots.errors import StoreDamaged, StoreTooNew
from snapshots.storage import durable

MAGIC = b"GOEXFSJ"
FORMAT = 1
_HEADER = struct.Struct("<7sBQQ")
_HEADER_SIZE = 32
_HEAD = struct.Struct("<IQ")
UNFINISHED = ".new"
"""Suffix of a segment that is being begun."""
MAX_BODY = 64 << 20
"""Bytes; a longer length is damage."""
REWIND = "rewind"
"""``Change.op`` of a rewind: its entries have their contents, and those without links are gone."""
REBASE = "rebase"
"""``Change.op`` of a rebase: the same."""


class Whole(msgspec.Struct, frozen=True, array_like=True, tag="whole"):
    """The content is these bytes now, in memory."""

    data: bytes


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """The content, sealed until now, is in memory again; its bytes are the same."""


class Patch(msgspec.Struct, frozen=True, array_like=True, tag="patch"):
    """Bytes written into a content in memory; a gap before them is zeros."""

    offset: int
    data: bytes


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="cut"):
    """A content was truncated or extended with zeros."""

    size: int


class Spooled(msgspec.Struct, frozen=True, array_like=True, tag="spooled"):
    """The content moved to a new working file, over what it was until now."""

    file: str
    """name in ``spool/``"""
    size: int
    limit: int
    """bytes of the former content that show through where the working file has no range"""


class Range(msgspec.Struct, frozen=True, array_like=True, tag="range"):
    """Bytes written to the working file (which has them; the journal does not)."""

    offset: int
    length: int


Data = Whole | Load | Patch | Cut | Spooled | Range


class Process(msgspec.Struct, frozen=True, array_like=True, tag="process"):
    """A process that changed something, before its first change.

    Its number in the journal is the number of this record.
    """

    pid: int
    started: int
    """clock ticks after boot, as in ``/proc/PID/stat``; with the pid it names a process for good"""
    parent: int
    """number of its parent; 0 when unknown"""
    executable: bytes
    command: tuple[bytes, ...]
    """empty for a process that was gone before it could be looked at"""
    time_ns: int


class Back(msgspec.Struct, frozen=True, array_like=True):
    """What a rewind went back to."""

    position: int
    paths: tuple[bytes, ...]
    """only these; empty: all of the run"""


class Change(msgspec.Struct, frozen=True, array_like=True, tag="change"):
    """One change, as its outcome: applying it twice is applying it once."""

    op: str
    """a word for people: create, write, rename, …"""
    time_ns: int
    process: int
    """number of the process; 0 when unknown"""
    ino: int
    """of the node the change is about"""
    path: bytes
    """where the node is (was, for an unlink), relative to the base; empty for a file without a name"""
    entries: tuple[Entry, ...]
    """how nodes are now; without their contents, but for a rewind"""
    links: tuple[Link, ...]
    unlinked: tuple[tuple[int, bytes], ...]
    """(parent, name) pairs where the base shows through again, or nothing is"""
    data: tuple[Data, ...]
    """what happened to the content of ``ino``, in order"""
    old_path: bytes = b""
    """of a rename: where the node was before"""
    back: tuple[Back, ...] = ()
    """of a rewind: what it went back to, in this order"""


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """A base file was opened for reading, for the first time since the run was mounted."""

    time_ns: int
    process: int
    """number of the process; 0 when unknown"""
    path: bytes
    """in the base"""
    identity: Identity
    """of the base file at that time"""


Record = Process | Change | Read

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def encoded_size(record: Record) -> int:
    """Bytes of the body that a record would have."""
    return len(_encode(record))


class Numbered(NamedTuple):
    """A record with its number."""

    number: int
    record: Record


class Damage(NamedTuple):
    """The end of a segment that does not count (J3)."""

    path: Path
    offset: int
    """where the last whole record ends"""
    lost: int
    """bytes after it"""


class JournalWriter:
    """Appends to the journal in *directory*, beginning a segment with record *first*.

    Errors: StoreFull, StoreUnusable.
    """

    def __init__(self, directory: Path, first: int, now_ns: int) -> None:
        self._directory = directory
        self.next = first
        """number of the next record"""
        self.bytes = 0
        """written to the current segment"""
        self._torn = False
        """whether the segment ends in a part of a record"""
        self._fd = self._begin(now_ns)

    def _begin(self, now_ns: int) -> int:
        head = _HEADER.pack(MAGIC, FORMAT, self.next, now_ns)
        path = self._directory / segment_name(self.next)
        beside = path.with_suffix(UNFINISHED)
        with durable.reporting(f"cannot begin the journal {path}"):
            durable.mkdir(self._directory, 0o700)
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                durable.write_all(fd, head + xxhash.xxh3_64_digest(head)[::-1])
                durable.rename(beside, path)  # a segment without its header would hide every later one (J3)
            except BaseException:
                os.close(fd)
                raise
        self.bytes = _HEADER_SIZE
        return fd

    def append(self, record: Record) -> int:
        """Write one record; its number.  OSError (ENOSPC, EIO, …) when it cannot be: then nothing counts as written."""
        body = _encode(record)
        whole = _HEAD.pack(len(body), xxhash.xxh3_64_intdigest(body, self.next)) + body
        if self._torn:
            self._cut_off()
        done = os.write(self._fd, whole)
        if done != len(whole):
            self._torn = True
            try:
                while done < len(whole):
                    done += os.write(self._fd, whole[done:])
            except OSError:
                self._cut_off()
                raise
            self._torn = False
        self.bytes += done
        self.next += 1
        return self.next - 1

    def _cut_off(self) -> None:
        """A torn record would hide every later one (J3); OSError when it stays."""
        os.ftruncate(self._fd, self.bytes)
        self._torn = False

    def rotate(self, now_ns: int) -> int:
        """Begin a new segment (J4); the number of its first record."""
        if self._torn:
            with durable.reporting(f"cannot repair the journal {self._directory}"):
                self._cut_off()
        old = self._fd
        self._fd = self._begin(now_ns)
        os.close(old)
        return self.next

    def syncer(self) -> Callable[[], None]:
        """What makes everything appended so far survive a power cut; to be called once, in any thread."""
        fd, directory = os.dup(self._fd), self._directory

        def sync() -> None:
            try:
                durable.sync(fd)
            finally:
                os.close(fd)
            durable.sync_directory(directory)  # the segment may be new

        return sync

    def close(self) -> None:
        """Close the segment."""
        os.close(self._fd)


def drop_before(directory: Path, position: int) -> None:
    """Remove the segments all of whose records are before number *position*."""
    known = segments(directory)
    for (_, path), (following, _) in itertools.pairwise(known):
        if following <= position:
            durable.unlink(path)


def segment_name(first: int) -> str:
    """The file name of the segment that begins with record *first*; names sort by number."""
    return f"{first:016x}"


def segments(directory: Path) -> list[tuple[int, Path]]:
    """(first record, path) of every segment, oldest first."""
    found = []
    for name in durable.listdir(directory):
        try:
            found.append((int(name, 16), directory / name))
        except ValueError:
            continue
    return sorted(found)


def begun_ns(path: Path) -> int | None:
    """When a segment was begun, nanoseconds since 1970; None when its header is damaged, or it is gone."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER_SIZE)
    except FileNotFoundError:
        return None
    if len(head) < _HEADER_SIZE or xxhash.xxh3_64_digest(head[:24])[::-1] != head[24:32]:
        return None
    return int(_HEADER.unpack_from(head)[3])


def read_segment(path: Path) -> tuple[list[Numbered], Damage | None]:
    """The whole records of a segment, and what follows them if that is not its end.

    Errors: StoreTooNew; a segment whose header is damaged has no records.
    """
    records, end, size = read_on(path, 0, 0)
    return records, (Damage(path, end, size - end) if end < size or not end else None)


def read_on(path: Path, offset: int, number: int) -> tuple[list[Numbered], int, int]:
    """The whole records of a segment from ``offset`` on, where record ``number`` begins; offset 0 is the beginning.

    Answers also the offset at which they end (0: not even the header is whole), to go on from when more was written,
    and the length of the file.  Errors: StoreTooNew, FileNotFoundError.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    size = offset + len(data)
    at = 0
    if not offset:
        if len(data) < _HEADER_SIZE or xxhash.xxh3_64_digest(data[:24])[::-1] != data[24:32]:
            return [], 0, size
        magic, version, number, _ = _HEADER.unpack_from(data)
        if magic != MAGIC:
            return [], 0, size
        if version > FORMAT:
            raise StoreTooNew(
                f"the journal {path} has format {version} and this goexfs knows up to {FORMAT}; use a newer goexfs"
            )
        at = _HEADER_SIZE
    records: list[Numbered] = []
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        if length > MAX_BODY or end > len(data):
            break
        body = data[at + _HEAD.size : end]
        if xxhash.xxh3_64_intdigest(body, number) != checksum:
            break
        try:
            records.append(Numbered(number, _decode(body)))
        except msgspec.MsgspecError as e:
            raise StoreDamaged(f"record {number} of the journal {path} is whole but not a record: {e}") from e
        number += 1
        at = end
    return records, offset + at, size


def read(directory: Path, first: int = 0) -> Iterator[Numbered | Damage]:
    """Every record from number *first* on, in order; a `Damage` ends the iteration, since nothing after it counts."""
    known = segments(directory)
    expected: int | None = None
    for at, (begins, path) in enumerate(known):
        if at + 1 < len(known) and known[at + 1][0] <= first:
            continue
        if expected is not None and begins != expected:
            yield Damage(path, 0, path.stat().st_size)
            return
        records, damage = read_segment(path)
        for numbered in records:
            if numbered.number >= first:
                yield numbered
        if damage is not None:
            yield damage
            return
        expected = begins + len(records)
