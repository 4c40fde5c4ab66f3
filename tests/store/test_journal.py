"""The format of the journal: golden files of format 1, and every damage to an end (docs/format.md, J1 to J5)."""


import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
import xxhash

from goexfs.overlay.changes import Op
from snapshots.entries import Ancestor, Content, Entry, Extent, Hidden, Identity, Link, Origin
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
from tests.support.commands import CHECKOUT

GOLDEN = Path(__file__).parent / "golden" / "journal-1"
DOCUMENT = CHECKOUT / "docs" / "format.md"
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
    Change("rebase", BEGUN + 9, 0, 0, b"",
           (Entry(42, 0o100600, 0, 0, 0, 1, 12, 1, 2, 3, 2, Origin(b"f", IDENTITY), CONTENT, None, None, False,
                  Ancestor(IDENTITY, bytes(range(16)))),
            Entry(44, 0o120777, 0, 0, 0, 0, 3, 1, 2, 3, 1, None, None, b"f/g", None, False)),
           (), (), ()),
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


PARTS = {
    "identity": Identity, "entry": Entry, "ancestor": Ancestor, "origin": Origin, "content": Content, "extent": Extent,
    "link": Link, "back": Back, "hidden": Hidden, "process": Process, "change": Change, "read": Read, "whole": Whole,
    "load": Load, "patch": Patch, "cut": Cut, "spooled": Spooled, "range": Range,
}  # fmt: skip
ARRAYS = {"entries": "entry", "links": "link", "extents": "extent", "back": "back", "data": ""}
BYTES = {"path", "old path", "parent name", "name", "executable", "bytes", "target"}


def documented() -> dict[str, list[str]]:
    """The elements of every part, as the tables of the document have them."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        name, _, rest = line.removeprefix("| ").partition(" | ")
        if name.strip("`") in PARTS:
            text = rest.partition("|")[0].strip()
            found[name.strip("`")] = re.split(r", (?![^(]*\)|[^\[]*\])", text) if text else []
    return found


def check(told: dict[str, list[str]], part: str, value: object) -> None:
    """Whether a decoded value is what the document says of a part; "" is any kind of data."""
    assert isinstance(value, list)
    if not part or part in ("process", "change", "read"):
        assert not part or value[0] == part
        part, value = value[0], value[1:]
    assert len(value) == len(told[part]), part
    for element, each in zip(told[part], value, strict=True):
        word, _, remark = element.partition(" (")
        word = word.removesuffix(" or nil")
        if each is None:
            assert element.partition(" (")[0].endswith(" or nil") or "or nil" in element, (part, element)
        elif word in PARTS and "(array" not in element:
            check(told, word, each)
        elif word in ARRAYS:
            for one in each:
                check(told, ARRAYS[word], one)
        elif "(array of `bin`" in element:
            assert all(type(one) is bytes for one in each), element
        elif word == "unlinked":
            assert all(type(parent) is int and type(name) is bytes for parent, name in each)
        elif "map" in remark:
            assert all(type(one) is bytes for pair in each.items() for one in pair)
        else:
            kind = str if "`str`" in remark else bytes if "`bin`" in remark or word in BYTES else int
            assert type(each) is (bool if word == "opaque" else kind), (part, element, each)


def test_the_document_is_enough_to_read_the_golden_files() -> None:
    """With its tables alone, and libraries for MessagePack and xxh3."""
    told = documented()
    assert set(told) == set(PARTS)
    for name, struct in PARTS.items():
        assert len(told[name]) == len(struct.__struct_fields__), name
    assert {op.value for op in Op} | {journal.REWIND, journal.REBASE} == set(
        re.findall(r"Ops are `([a-z ]+)`", DOCUMENT.read_text())[0].split()
    )
    number, kinds = 1, []
    for name in sorted(os.listdir(GOLDEN)):
        data = (GOLDEN / name).read_bytes()
        assert (data[:8], int.from_bytes(data[8:16], "little"), int(name, 16)) == (b"GOEXFSJ\x01", number, number)
        assert int.from_bytes(data[24:32], "little") == xxhash.xxh3_64_intdigest(data[:24])
        at = 32
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            body = data[at + 12 : at + 12 + length]
            assert int.from_bytes(data[at + 4 : at + 12], "little") == xxhash.xxh3_64_intdigest(body, seed=number)
            value = msgspec.msgpack.decode(body)
            check(told, value[0], value)
            kinds.append(value[0])
            at, number = at + 12 + length, number + 1
    assert kinds == [type(record).__struct_config__.tag for record in RECORDS]


def test_every_rule_of_the_document_names_a_test_that_exists() -> None:
    rules = DOCUMENT.read_text().partition("## Rules")[2].partition("\n## ")[0].split("\n* **")[1:]
    assert [rule[:2] for rule in rules] == [f"J{number}" for number in range(1, len(rules) + 1)]
    here = Path(__file__).read_text()
    for rule in rules:
        named = re.findall(r"`((?:tests/[a-z_/]+\.py)?(?:::)?(?:test_\w+)?)`", rule)
        assert named, rule
        for each in filter(None, named):
            file, _, function = each.rpartition("::") if "::" in each else (each, "", "")
            if not each.startswith("tests/"):
                assert f"def {each}(" in here, each
            else:
                assert f"def {function}" in (CHECKOUT / (file or each)).read_text(), each


def test_a_record_without_later_fields_is_read(tmp_path: Path) -> None:
    """What was added at the end of a record has a default: a journal that was written before still counts."""
    body = msgspec.msgpack.decode(msgspec.msgpack.encode(RECORDS[4]))
    shortened = msgspec.msgpack.decode(msgspec.msgpack.encode(body[:-1]), type=journal.Record)
    assert shortened == RECORDS[4]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
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


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    source = GOLDEN / journal.segment_name(1)
    original = source.read_bytes()
    ends = boundaries(source)
    path = tmp_path / source.name
    for at in range(len(original)):
        for bit in (0, 3, 7):
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
