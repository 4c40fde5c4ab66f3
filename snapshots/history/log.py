"""What happened in a run, and who did it: the journal read for people.

Owns the step from records to *events* (one per change; consecutive writes of one process to one file are one) and the
questions asked of them: which process wrote a path, which paths a command wrote.  Pure; knows no store and no file
(``snapshots.history.logbook`` reads and keeps them).  Any thread; one `Log` belongs to one at a time.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from snapshots.entries import WHITEOUT, Identity
from snapshots.history.journal import REWIND, Back, Change, Numbered, Patch, Process, Range, Read, Whole

RENAME = "rename"
EXCHANGE = "exchange"
"""``Event.op`` of a rename that swapped two names."""
UNLINK = "unlink"
_CONTENT = frozenset({"create", "write", "truncate", REWIND})
_SAME_NODE = frozenset({"write", "truncate", "setattr", "xattr", "follow", RENAME})
_MERGED = frozenset({"write", "setattr"})
_SHELLS = frozenset({b"sh", b"bash", b"dash", b"zsh", b"ksh", b"busybox", b"fish"})
_SANDBOX = b"bwrap"
MERGE_NS = 60 * 10**9
"""Writes that are further apart are separate events."""


class Event(msgspec.Struct, array_like=True):
    """One change, or consecutive writes of one process to one file."""

    number: int
    """of the (first) record"""
    last: int
    """number of the last record"""
    time_ns: int
    """of the first"""
    last_ns: int
    op: str
    """as in ``journal.Change``, or `EXCHANGE`"""
    process: int
    """number of the process; 0 when unknown"""
    ino: int
    path: bytes
    """relative to the base; empty for what had no name any more, and for a rewind"""
    old_path: bytes
    """of a rename, else empty"""
    writes: int
    """how many writes it stands for"""
    bytes: int
    """written by them"""
    is_dir: bool
    back: tuple[Back, ...] = ()
    """of a rewind: what it went back to"""


class ReadEvent(msgspec.Struct, frozen=True, array_like=True):
    """The first reading of a base file since the run was mounted."""

    number: int
    time_ns: int
    process: int
    path: bytes
    """in the base"""
    identity: Identity


class Log:
    """Events in order, the processes they name, and what was read.  `add` takes the journal's records in order."""

    def __init__(self, *, merge: bool = True) -> None:
        """Without ``merge`` every write is an event."""
        self._merge = merge
        self.events: list[Event] = []
        self.processes: dict[int, Process] = {}
        self.reads: list[ReadEvent] = []
        self.parents: tuple[str, ...] = ()
        """ids of the run that this one is a fork of, of what that is a fork of, and so on, if theirs is in it"""

    def add(self, numbered: Numbered) -> None:
        """One record more."""
        number, record = numbered
        if isinstance(record, Process):
            self.processes[number] = record
        elif isinstance(record, Read):
            self.reads.append(ReadEvent(number, record.time_ns, record.process, record.path, record.identity))
        else:
            self.add_event(_event(number, record))

    def add_event(self, event: Event) -> None:
        """An event that follows all there are."""
        last = self.events[-1] if self.events else None
        if (
            self._merge
            and last is not None
            and event.op == last.op
            and event.op in _MERGED
            and (event.ino, event.process, event.path) == (last.ino, last.process, last.path)
            and event.last_ns - last.last_ns < MERGE_NS
        ):
            last.last, last.last_ns = event.last, event.last_ns
            last.writes += event.writes
            last.bytes += event.bytes
        else:
            self.events.append(event)

    def until(self, position: int) -> "Log":
        """What was in it before record ``position``."""
        earlier = Log(merge=self._merge)
        earlier.events = [event for event in self.events if event.number < position]
        earlier.processes, earlier.parents = self.processes, self.parents
        earlier.reads = [read for read in self.reads if read.number < position]
        return earlier

    def lineage(self, number: int) -> list[Process]:
        """A process, its parent, and so on, as far as they belong to the run: not the sandbox, nor who started it."""
        found = []
        while (process := self.processes.get(number)) is not None and not _is_outside(process):
            found.append(process)
            if process.parent >= number:
                break  # never written: a parent is described before its child
            number = process.parent
        return found

    def matching(self, pattern: str) -> Callable[[int], bool]:
        """Whether a process, or one that it descends from, has a command line that the pattern matches.

        A pattern with ``*``, ``?`` or ``[`` must match all of the command line, any other a part of it.  The text of a
        script after ``sh -c`` does not count: it names all that it starts.
        """
        known: dict[int, bool] = {0: False}

        def matches(number: int) -> bool:
            if number not in known:
                known[number] = any(_matches(process, pattern) for process in self.lineage(number))
            return known[number]

        return matches


class Author(NamedTuple):
    """Who made a path what it is."""

    event: Event
    """the last change of its content, or if that never changed, of the rest of it"""
    lineage: tuple[Process, ...]
    """the process, its parent, and so on; empty when unknown"""


class _Then(NamedTuple):
    """What `Authors` knew at some position."""

    at: dict[bytes, int]
    gone: dict[bytes, Event]
    of: dict[int, tuple[list[Event], int]]
    """events, and how many of them there were"""


class Authors:
    """Which events made every path what it is after all of them.  Renames are followed, hard links too.

    A rewind made nothing: what it brought back was made by who had made it before.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._at: dict[bytes, int] = {}
        self._of: dict[int, list[Event]] = {}
        self._gone: dict[bytes, Event] = {}
        self._then: dict[int, _Then] = {}
        """what it was at positions that rewinds, still to come, go back to"""
        uses = Counter(back.position for event in log.events for back in event.back)
        positions = sorted(uses, reverse=True)
        for event in log.events:
            while positions and positions[-1] <= event.number:
                self._then[positions.pop()] = self._present()
            self._add(event)
            uses.subtract(back.position for back in event.back)
            for back in event.back:
                if not uses[back.position]:
                    self._then.pop(back.position, None)

    def _present(self) -> "_Then":
        # Lists only grow, or are replaced: up to their present lengths they stay what they are.
        return _Then(dict(self._at), dict(self._gone), {ino: (found, len(found)) for ino, found in self._of.items()})

    def _add(self, event: Event) -> None:
        path = event.path
        if event.op == REWIND:
            self._rewound(event)
            return
        if event.op == UNLINK:
            self._at.pop(path, None)
            self._gone[path] = event
            return
        if event.ino not in self._of:
            self._recognize(event)
        self._of.setdefault(event.ino, []).append(event)
        if event.op == EXCHANGE:
            displaced = self._at.pop(path, None)
            self._gone[event.old_path] = event
            if displaced is not None:
                self._at[event.old_path] = displaced
        elif event.op == RENAME:
            self._at.pop(event.old_path, None)
            self._gone[event.old_path] = event
            if event.is_dir:
                self._move_below(event.old_path + b"/", path + b"/")
        if path:
            self._at[path] = event.ino
            self._gone.pop(path, None)

    def _move_below(self, old: bytes, new: bytes) -> None:
        for path in [path for path in self._at if path.startswith(old)]:
            self._at[new + path[len(old) :]] = self._at.pop(path)
        for path in [path for path in self._gone if path.startswith(old)]:
            self._gone[new + path[len(old) :]] = self._gone.pop(path)

    def _recognize(self, event: Event) -> None:
        """What a rewind brought back may have another number since."""
        old = self._at.get(event.old_path if event.op == RENAME else event.path)
        if old is None or event.op not in _SAME_NODE:
            return
        self._of[event.ino] = list(self._of.get(old, ()))
        for path in [path for path, ino in self._at.items() if ino == old]:
            self._at[path] = event.ino

    def _rewound(self, event: Event) -> None:
        for back in event.back:
            then = self._then.get(back.position) or self._present()
            before = dict(self._at)
            for path in [path for path in self._at if is_at_or_below(path, back.paths)]:
                del self._at[path]
            for path in [path for path in self._gone if is_at_or_below(path, back.paths)]:
                del self._gone[path]
            at = {path: ino for path, ino in then.at.items() if is_at_or_below(path, back.paths)}
            self._at |= at
            self._gone |= {path: gone for path, gone in then.gone.items() if is_at_or_below(path, back.paths)}
            for ino in set(at.values()):
                found, length = then.of.get(ino, ([], 0))
                self._of[ino] = found[:length]
            for path in before:
                if path not in self._at and path not in self._gone:
                    self._gone[path] = event

    def knows(self, path: bytes) -> bool:
        """Whether a path is there because of some event, not only was."""
        return path in self._at

    def paths(self) -> Iterator[bytes]:
        """Every path that is, or was, the subject of an event."""
        yield from self._at
        yield from (path for path in self._gone if path not in self._at)

    def events(self, path: bytes) -> list[Event]:
        """The events that made a path what it is, in order; its deletion or departure if that is how it ended."""
        ino = self._at.get(path)
        if ino is not None:
            return self._of.get(ino, [])
        gone = self._gone.get(path)
        return [] if gone is None else [gone]

    def events_of(self, ino: int) -> list[Event]:
        """The events that made a node what it is, or was last; its deletion is none of them."""
        return self._of.get(ino, [])

    def last(self, path: bytes) -> Author | None:
        """Who wrote a path last; None when nothing is known of it."""
        events = self.events(path)
        if not events:
            return None
        event = next((event for event in reversed(events) if event.op in _CONTENT), events[-1])
        return Author(event, tuple(self._log.lineage(event.process)))


def blame(log: Log, path: bytes) -> Author | None:
    """Who wrote a path last; None when nothing is known of it."""
    return Authors(log).last(path)


def paths_written_by(log: Log, pattern: str) -> frozenset[bytes]:
    """Paths that processes matching ``pattern`` (see `Log.matching`) had a part in making what they are.

    Deleted ones and former names of renamed ones are among them, and a renamed directory, without what is below it.
    """
    matches = log.matching(pattern)
    authors = Authors(log)
    return frozenset(
        path for path in authors.paths() if any(matches(event.process) for event in authors.events(path))
    )


def below(events: Iterable[Event], paths: tuple[bytes, ...]) -> Iterator[Event]:
    """The events about what is at or below one of ``paths`` (at that time); all events for no paths."""
    for event in events:
        if not paths or any(_is_below(event.path, top) or _is_below(event.old_path, top) for top in paths):
            yield event


def command(process: Process) -> bytes:
    """The command line in one piece, the executable where there is none."""
    return b" ".join(process.command) or process.executable


def _event(number: int, record: Change) -> Event:
    op, is_dir, size = record.op, False, 0
    if op == REWIND:
        when = record.time_ns
        return Event(number, number, when, when, op, record.process, 0, b"", b"", 0, 0, False, record.back)
    for entry in record.entries:
        if entry.ino == record.ino:
            is_dir = entry.is_dir
    for data in record.data:
        if isinstance(data, Patch):
            size += len(data.data)
        elif isinstance(data, Range):
            size += data.length
        elif isinstance(data, Whole) and op != "write":
            size += len(data.data)
    if op == RENAME and record.old_path and not _left(record):
        op = EXCHANGE
    writes = int(op == "write")
    time_ns = record.time_ns
    return Event(
        number, number, time_ns, time_ns, str(op), record.process, record.ino, record.path, record.old_path, writes,
        size if writes else 0, is_dir,
    )  # fmt: skip


def _left(record: Change) -> bool:
    """Whether a rename left its old name behind, empty or as a whiteout."""
    name = os.path.basename(record.old_path)
    return any(name == other for _, other in record.unlinked) or any(
        link.name == name and link.ino == WHITEOUT for link in record.links
    )


def is_at_or_below(path: bytes, tops: tuple[bytes, ...]) -> bool:
    """Whether a path is one of these, or below one; everything is, for none."""
    return not tops or any(_is_below(path, top) for top in tops)


def _is_below(path: bytes, top: bytes) -> bool:
    return bool(path) and (not top or path == top or path.startswith(top + b"/"))


def _is_outside(process: Process) -> bool:
    """Whether this is the sandbox, or goexfs itself: above them is who started the run."""
    if os.path.basename(process.executable) == _SANDBOX:
        return True
    words = process.command[:4]
    return any(os.path.basename(word) == b"goexfs" for word in words[:2]) or words[1:3] == (b"-m", b"goexfs")


def _matches(process: Process, pattern: str) -> bool:
    words = process.command
    if words and os.path.basename(words[0]) in _SHELLS:
        script = next((at for at, word in enumerate(words) if at and word[:1] == b"-" and b"c" in word[1:]), None)
        if script is not None and not words[script].startswith(b"--"):
            words = words[: script + 1] + words[script + 2 :]
    line = (b" ".join(words) or process.executable).decode("utf-8", "surrogateescape")
    if any(mark in pattern for mark in "*?["):
        return fnmatchcase(line, pattern)
    return pattern in line
