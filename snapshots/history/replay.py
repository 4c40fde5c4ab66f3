"""What journal records add up to: the state of an upper at any record.

Owns the fold of records over a checkpoint, in memory.  Reads the store's objects and the spool only when contents are
asked for; writes nothing itself (`contents` stores through the callbacks it is given).  One thread.
"""

import os
from pathlib import Path

import msgspec

from snapshots.entries import ROOT_INO, WHITEOUT, Changed, Content, Entry, Extent, UpperState
from snapshots.history.journal import (
    REBASE,
    REWIND,
    Change,
    Cut,
    Data,
    Load,
    Numbered,
    Patch,
    Process,
    Range,
    Read,
    Spooled,
    Whole,
)
from snapshots.ranges import RangeSet
from snapshots.storage.extents import layered
from snapshots.storage.objects import Objects


class Memory:
    """A content that was in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)


class Working:
    """A content that was in a working file, over what it was before."""

    def __init__(self, file: str, size: int, limit: int, below: "Memory | Working | Content | None") -> None:
        self.file = file
        self.size = size
        self.limit = limit
        self.below = below
        self.ranges = RangeSet()


class Replay:
    """An upper that records are applied to, beginning with the checkpoint *state*."""

    def __init__(self, state: UpperState) -> None:
        self.entries = dict(state.entries)
        self.links = {parent: dict(names) for parent, names in state.links.items()}
        self.hides = {parent: dict(names) for parent, names in state.hides.items()}
        self.next_ino = state.next_ino
        self.processes: dict[int, Process] = {}
        self.dirty: dict[int, Memory | Working] = {}
        """contents that no checkpoint has, by inode number"""
        self.lost: list[tuple[int, str]] = []
        """(inode number, reason) of contents that could not be brought back"""

    def apply(self, numbered: Numbered) -> None:
        """One record more."""
        record = numbered.record
        if isinstance(record, Process):
            self.processes[numbered.number] = record
            return
        if isinstance(record, Read):
            return  # changes nothing
        for entry in record.entries:
            if record.op in (REWIND, REBASE):
                self._rewound(entry)
            else:
                self._entry(entry)
        for link in record.links:
            self.links.setdefault(link.parent, {})[link.name] = link.ino
            if link.hides is not None:
                self.hides.setdefault(link.parent, {})[link.name] = link.hides
            else:
                self.hides.get(link.parent, {}).pop(link.name, None)
        for parent, name in record.unlinked:
            self.links.get(parent, {}).pop(name, None)
            self.hides.get(parent, {}).pop(name, None)
        for data in record.data:
            self._data(record, data)

    def _entry(self, entry: Entry) -> None:
        if not entry.nlink:
            self.entries.pop(entry.ino, None)
            self.dirty.pop(entry.ino, None)
            return
        known = self.entries.get(entry.ino)
        if known is not None and known.content is not None:
            entry = msgspec.structs.replace(entry, content=known.content)
        if known is not None and known.ancestor is not None and entry.ancestor is None:
            entry = msgspec.structs.replace(entry, ancestor=known.ancestor)
        self.entries[entry.ino] = entry
        self.next_ino = max(self.next_ino, entry.ino + 1)

    def _rewound(self, entry: Entry) -> None:
        """A rewind tells of contents too, all of them in the store."""
        self.dirty.pop(entry.ino, None)
        if entry.nlink:
            self.entries[entry.ino] = entry
            self.next_ino = max(self.next_ino, entry.ino + 1)
        else:
            self.entries.pop(entry.ino, None)

    def _data(self, record: Change, data: Data) -> None:
        ino = record.ino
        known = self.entries.get(ino)
        if known is None:
            return  # written after its last name was gone: nothing can reach it any more
        if isinstance(data, Whole):
            self.dirty[ino] = Memory(data.data)
        elif isinstance(data, Load):
            before = self.dirty.get(ino, known.content)
            if not isinstance(before, Memory):
                self.dirty[ino] = _Loaded(before or Content(0, 0, ()))
        elif isinstance(data, Spooled):
            self.dirty[ino] = Working(data.file, data.size, data.limit, self.dirty.get(ino, known.content))
        else:
            content = self.dirty.get(ino)
            if content is None:
                content = self.dirty[ino] = Memory(b"")
            _change(content, data)
        now = self.dirty[ino]
        told = any(entry.ino == ino for entry in record.entries)
        self.entries[ino] = msgspec.structs.replace(
            known,
            size=now.size if isinstance(now, Working | _Loaded) else len(now.data),
            mtime_ns=known.mtime_ns if told else record.time_ns,
            ctime_ns=known.ctime_ns if told else record.time_ns,
            changed=known.changed | Changed.DATA,
        )

    def contents(self, objects: Objects, spool: Path | None) -> dict[int, Content]:
        """Store every dirty content and answer the records, by inode number; what cannot be is in ``lost``.

        Without ``spool`` what was in working files cannot: they are as they are now, not as they were then.
        """
        # Most are small and whole: all of these in few transactions.
        whole = {ino: content for ino, content in self.dirty.items() if type(content) is Memory and content.data}
        names = objects.put_many(bytes(content.data) for content in whole.values())
        stored: dict[int, Content] = {
            ino: Content(len(content.data), 0, (Extent(0, len(content.data), name, 0),))
            for (ino, content), name in zip(whole.items(), names, strict=True)
        }
        for ino, content in self.dirty.items():
            if ino in stored:
                continue
            try:
                short: list[int] = []
                stored[ino] = _store(content, objects, spool, short)
                if short:
                    self.lost.append((ino, f"{sum(short)} bytes of its working file were not on the disk"))
            except (OSError, ValueError) as e:
                self.lost.append((ino, str(e)))
        return stored

    def state(self, stored: dict[int, Content]) -> UpperState:
        """The whole upper, with the contents that `contents` answered."""
        entries = {
            ino: msgspec.structs.replace(entry, content=stored[ino]) if ino in stored else entry
            for ino, entry in self.entries.items()
        }
        links = {
            parent: kept
            for parent, names in self.links.items()
            if (parent in entries or parent == ROOT_INO)
            and (kept := {n: i for n, i in names.items() if i == WHITEOUT or i in entries})
        }
        hides = {
            parent: hidden
            for parent, names in self.hides.items()
            if (hidden := {name: each for name, each in names.items() if name in links.get(parent, {})})
        }
        return UpperState(entries, links, self.next_ino, hides=hides)


class _Loaded(Memory):
    """Bytes of a content that was sealed when it was changed again; read when they are stored."""

    def __init__(self, content: Working | Content) -> None:
        super().__init__(b"")
        self.content = content
        self.patches: list[Data] = []
        self.size = content.size


def _change(content: Memory | Working, data: Patch | Cut | Range) -> None:
    if isinstance(content, _Loaded):
        content.patches.append(data)
        if isinstance(data, Cut):
            content.size = data.size
        elif isinstance(data, Patch):
            content.size = max(content.size, data.offset + len(data.data))
    elif isinstance(content, Memory):
        if isinstance(data, Patch):
            if data.offset > len(content.data):
                content.data.extend(bytes(data.offset - len(content.data)))
            content.data[data.offset : data.offset + len(data.data)] = data.data
        elif isinstance(data, Cut):
            del content.data[data.size :]
            content.data.extend(bytes(data.size - len(content.data)))
    elif isinstance(data, Range):
        content.ranges.add(data.offset, data.offset + data.length)
        content.size = max(content.size, data.offset + data.length)
    elif isinstance(data, Cut):
        if data.size < content.size:
            content.ranges.clip(data.size)
            content.limit = min(content.limit, data.size)
        content.size = data.size


def _store(content: Memory | Working, objects: Objects, spool: Path | None, short: list[int]) -> Content:
    """Answers the record of a content; *short* gets the number of bytes that a power cut took of working files."""
    if isinstance(content, _Loaded):
        source = content.content
        below = _store(source, objects, spool, short) if isinstance(source, Working) else source
        memory = Memory(read_sealed(below, objects))
        for data in content.patches:
            if isinstance(data, Patch | Cut):
                _change(memory, data)
        content = memory
    if isinstance(content, Memory):
        if not content.data:
            return Content(0, 0, ())
        return Content(len(content.data), 0, (Extent(0, len(content.data), objects.put(bytes(content.data)), 0),))
    under = content.below
    if isinstance(under, Memory | Working):
        under = _store(under, objects, spool, short)
    stored: list[Extent] = []
    ranges = RangeSet()
    if len(content.ranges):
        if spool is None:
            raise ValueError("its working file is not kept")
        try:
            fd = os.open(spool / content.file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            length = os.fstat(fd).st_size
            for start, end in content.ranges:
                if start < length:
                    ranges.add(start, min(end, length))
                if end > length:
                    short.append(end - max(start, length))
            stored = objects.put_ranges(fd, [(start, end - start) for start, end in ranges])
        finally:
            os.close(fd)
    return layered(content.size, content.limit, ranges, stored, under)


def read_sealed(content: Content, objects: Objects) -> bytes:
    """All bytes of a content that needs nothing from the base."""
    out = bytearray(content.size)
    for extent in content.extents:
        out[extent.offset : extent.offset + extent.length] = objects.read(extent.object, extent.start, extent.length)
    return bytes(out)
