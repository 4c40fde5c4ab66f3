"""The format of the journal: golden files of format 1, and every damage to an end (docs/format.md, J1 to J5)."""


import os
import shutil
from pathlib import Path

import msgspec
import pytest

from snapshots.entries import Content, Entry, Extent, Hidden, Identity, Link, Origin
from snapshots.errors import StoreTooNew
from snapshots.history import journal
from snapshots.history.journal import (
    Back,
    Change,
    Cut,
    Damage,
    JournalWriter,
    Load,
    Numbered,
    Patch,
    Process,
    Range,
    Read,
    Spooled,
    Whole,
)

GOLDEN = Path(__file__).parent / "golden" / "journal-1"
BEGUN = 1_795_380_000_000_000_000
IDENTITY = Identity(65024, 42, 0o100644, 12, BEGUN - 5, BEGUN - 4)
CONTENT = Content(12, 4, (Extent(4, 8, bytes(range(16)), 2),))
RECORDS: list[journal.Record] = [
    Process(100, 5000, 0, b"/usr/bin/dash", (b"sh", b"-c", b"echo \xff > f"), BEGUN),
    Process(101, 5001, 1, b"/usr/bin/vi", (b"vi", b"f"), BEGUN + 1),
    Read(BEGUN + 2, 2, b"d/\xffname", IDENTITY),
    Change("create", BEGUN + 3, 2, 1 << 52, b"d/new",
           (Entry(1 << 52, 0o100644, 1000, 1001, 0, 1, 0, 1, 2, 3, 3, None, None, None, None, False),
            Entry(7, 0o040755, 0, 0, 0, 2, 0, 1, 2, 3, 8, Origin(b"d", IDENTITY), None, None, {b"user.k": b"v"}, True)),
           (Link(7, b"new", 1 << 52), Link(7, b"old", 0, Hidden(IDENTITY, bytes(16)))), ((1, b"gone"),), ()),
    Change("write", BEGUN + 4, 2, 1 << 52, b"d/new", (), (), (), (Whole(b"abc"), Patch(3, b"def"), Cut(5))),
    Process(100, 5000, 0, b"/usr/bin/dash", (b"sh",), BEGUN + 5),
    Change("write", BEGUN + 5, 6, 42, b"f", (), (), (), (Load(), Patch(0, b"\0"))),
    Change("write", BEGUN + 6, 6, 43, b"g", (), (), (), (Spooled("2b.1", 300_000, 300_000), Range(4096, 100))),
    Change("rename", BEGUN + 7, 6, 43, b"h", (), (Link(1, b"h", 43),), ((1, b"g"),), (), b"g"),
    Change("rewind", BEGUN + 8, 0, 0, b"",
           (Entry(42, 0o100600, 0, 0, 0, 1, 12, 1, 2, 3, 2, Origin(b"f", IDENTITY), CONTENT, None, None, False),),
           (), (), (), back=(Back(3, (b"f", b"d/\xffname")), Back(9, ()))),
]  # fmt: skip
HALF = 5


def write(directory: Path) -> None:
    """The golden records, in two segments."""
    writer = JournalWriter(directory, 1, BEGUN)
    for record in RECORDS[:HALF]:
        writer.append(record)
    writer.rotate(BEGUN + 100)
    for record in RECORDS[HALF:]:
        writer.append(record)
    writer.close()


def test_golden_files_are_read_for_ever() -> None:
    found = list(journal.read(GOLDEN))
    assert found == [Numbered(number, record) for number, record in enumerate(RECORDS, 1)]
    assert [(first, journal.begun_ns(path)) for first, path in journal.segments(GOLDEN)] == [
        (1, BEGUN),
        (1 + HALF, BEGUN + 100),
    ]


def test_golden_files_are_what_is_written(tmp_path: Path) -> None:
    """A change of what is written needs another format, or to be one that older readers can read."""
    write(tmp_path / "journal")
    for _, path in journal.segments(GOLDEN):
        assert (tmp_path / "journal" / path.name).read_bytes() == path.read_bytes()


def test_a_record_without_later_fields_is_read(tmp_path: Path) -> None:
    """What was added at the end of a record has a default: a journal that was written before still counts."""
    body = msgspec.msgpack.decode(msgspec.msgpack.encode(RECORDS[4]))
    shortened = msgspec.msgpack.decode(msgspec.msgpack.encode(body[:-1]), type=journal.Record)
    assert shortened == RECORDS[4]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    import xxhash

    path = tmp_path / journal.segment_name(1)
    head = bytearray((GOLDEN / path.name).read_bytes()[:24])
    head[7] = 2
    path.write_bytes(bytes(head) + xxhash.xxh3_64_digest(head)[::-1])
    with pytest.raises(StoreTooNew, match="newer goexfs"):
        journal.read_segment(path)


def boundaries(path: Path) -> list[int]:
    """Where the records of a segment end; the first: the header."""
    data = path.read_bytes()
    ends = [32]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 12 + int.from_bytes(data[ends[-1] : ends[-1] + 4], "little"))
    return ends


def test_every_truncation_is_cut_at_the_last_whole_record(tmp_path: Path) -> None:
    source = GOLDEN / journal.segment_name(1)
    ends = boundaries(source)
    path = tmp_path / source.name
    for length in range(source.stat().st_size):
        path.write_bytes(source.read_bytes()[:length])
        records, damage = journal.read_segment(path)
        whole = [at for at, end in enumerate(ends) if end <= length]
        assert [record for _, record in records] == RECORDS[: len(whole) - 1 if whole else 0]
        if length in ends:
            assert damage is None
        else:
            last = ends[whole[-1]] if whole else 0
            assert damage == Damage(path, last, length - last)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    source = GOLDEN / journal.segment_name(1)
    original = source.read_bytes()
    ends = boundaries(source)
    path = tmp_path / source.name
    for at in range(len(original)):
        for bit in range(8):
            data = bytearray(original)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            records, damage = journal.read_segment(path)
            before = sum(1 for end in ends if end <= at)
            assert [record for _, record in records] == RECORDS[: max(before - 1, 0)], (at, bit)
            assert damage is not None
            assert damage.offset == (ends[before - 1] if before else 0), (at, bit)


def test_nothing_after_damage_counts_not_even_another_segment(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    shutil.copytree(GOLDEN, directory)
    first = directory / journal.segment_name(1)
    os.truncate(first, first.stat().st_size - 1)
    *records, damage = journal.read(directory)
    assert [found.record for found in records] == RECORDS[: HALF - 1]  # type: ignore[union-attr]
    assert isinstance(damage, Damage)


def test_a_record_in_another_place_is_no_record(tmp_path: Path) -> None:
    """Its number seeds the checksum (J1): a stale block, or two records that changed places, are damage."""
    source = GOLDEN / journal.segment_name(1)
    data, ends = source.read_bytes(), boundaries(source)
    path = tmp_path / source.name
    path.write_bytes(data[: ends[0]] + data[ends[1] : ends[2]] + data[ends[0] : ends[1]] + data[ends[2] :])
    records, damage = journal.read_segment(path)
    assert records == []
    assert damage is not None


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    shutil.copy(GOLDEN / journal.segment_name(1), directory)
    writer = JournalWriter(directory, 50, BEGUN)
    writer.append(RECORDS[4])
    writer.close()
    *records, damage = journal.read(directory)
    assert len(records) == HALF
    assert isinstance(damage, Damage)
