"""The journal of a mounted run: every change is in it before its reply, with the process that made it.

Owns the writer, the numbers of processes, and how a segment ends where a checkpoint begins.  Knows ``/proc``; knows
nothing of what a change means.

Threading: the event loop's thread.
"""

import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from goexfs.fuse.reserve import FULL, Reserve
from goexfs.fuse.unsynced import Unsynced
from snapshots.entries import Identity
from snapshots.history.journal import Change, JournalWriter, Process, Read

FRESH_S = 1.0
"""A pid is looked up again after this long: it may belong to another process by then."""
PATIENCE_S = 0.02
"""How long a thread that asks about a process is waited for."""
KNOWN_LIMIT = 4096
NAMES_LIMIT = 64
"""threads whose names are read from files that stay open"""
COMMAND_LIMIT = 4096
"""Bytes of a command line that are recorded."""
READS_LIMIT = 65536
ANCESTORS = 16
"""How far up the chain of parents is recorded."""

_Key = tuple[int, int, bytes, tuple[bytes, ...]]


class Recording:
    """Appends to the journal in *directory*, from record number *first* on.  Errors: StoreFull, StoreUnusable."""

    def __init__(self, directory: Path, first: int) -> None:
        self._writer = JournalWriter(directory, first, time.time_ns())
        self._reserve = Reserve(directory / "reserve")
        self._segment = first
        self._unsynced = Unsynced(directory, directory.parent / "spool")
        self._numbers: dict[_Key, int] = {}
        """of processes that the current segment describes (J5)"""
        self._asker = _Asker()
        self._names = _Names()
        self._recent: dict[int, tuple[int, float, bytes]] = {}
        self._described: dict[int, Process] = {}
        """by number, those of former segments too: who has a file open stays responsible for what it writes"""
        self._read: set[int] = set()
        """inode numbers of base files whose reading is recorded"""
        self._missing: OSError | None = None
        """why the last change could not be recorded"""
        self._collected: OSError | None = None
        """the same, when the checkpoint that is under way began"""
        self.unrecorded: Callable[[Change], None] = lambda change: None
        """to be set: hears of a change that was made and could not be recorded, so that it is refused all the same"""

    @property
    def next(self) -> int:
        """Number of the next record."""
        return self._writer.next

    def append(self, change: Change) -> None:
        """Write a change.  OSError when it cannot be: then no other is, until a checkpoint has what is missing."""
        try:
            self.check_whole()
            self._append(change)
        except OSError as e:
            self._missing = OSError(e.errno, e.strerror)
            self.unrecorded(change)
            raise

    def _append(self, change: Change) -> None:
        if 0 < change.process < self._segment:
            change = msgspec.structs.replace(change, process=self._described_again(change.process))
        if change.data:
            self._unsynced.note(change)
        try:
            self._writer.append(change)
        except OSError as e:
            if e.errno in FULL and not self._reserve.give():
                raise
            self._writer.append(change)  # once more in any case: the change is made already

    def check_whole(self) -> None:
        """Before a change is made: OSError when a former one is not in the journal, nor in a checkpoint.

        What follows would be told of a state that the journal does not lead to.
        """
        if self._missing is not None:
            raise OSError(self._missing.errno, self._missing.strerror)

    def check_room(self) -> None:
        """The same, and OSError (ENOSPC) when there would be no room for the record."""
        self.check_whole()
        self._reserve.check()

    @property
    def needs_checkpoint(self) -> bool:
        """Whether a change was made that could not be recorded, so that no other is."""
        return self._missing is not None

    def read(self, ino: int, pid: int, path: bytes, identity: Identity) -> None:
        """A base file is being read; the first time counts.  Never fails: to read needs no room."""
        if ino in self._read:
            return
        if len(self._read) >= READS_LIMIT:
            self._read.clear()  # some are recorded once more
        self._read.add(ino)
        try:
            self._writer.append(Read(time.time_ns(), self.number_of(pid), path, identity))
        except OSError:
            self._read.discard(ino)

    def executes(self, pid: int) -> None:
        """A process is about to become another program."""
        if (recent := self._recent.get(pid)) is not None:
            self._recent[pid] = (recent[0], 0.0, recent[2])  # to be looked up again

    def number_of(self, pid: int) -> int:
        """The number of a process in the journal, which is the number of the record that describes it;

        0 when it is unknown.
        """
        if pid <= 0:
            return 0  # the kernel itself, or a process in a namespace that we do not see into
        recent = self._recent.get(pid)
        now = time.monotonic()
        name = self._names.of(pid)  # another one after most an execve
        if recent is not None and now < recent[1] and recent[2] == name:
            return recent[0]
        number = self._look_up(pid, ANCESTORS)
        if number is None:  # it becomes another program at this moment: what it does, the old one has left to do
            return recent[0] if recent is not None else 0
        if len(self._recent) >= KNOWN_LIMIT:
            self._recent.clear()
        self._recent[pid] = (number, now + FRESH_S, name)
        return number

    def _look_up(self, pid: int, depth: int) -> int | None:
        """None: the process must not be asked about now."""
        if pid <= 0 or depth == 0:
            return 0
        facts = self._asker.ask(pid)
        if not isinstance(facts, _Facts):
            return None if facts is None else 0
        key = (facts.pid, facts.started, facts.executable, facts.command)  # exec makes another program of a process
        known = self._numbers.get(key)
        if known is not None:
            return known
        above = self._look_up(facts.parent, depth - 1) or 0
        return self._describe(
            key, Process(facts.pid, facts.started, above, facts.executable, facts.command, time.time_ns())
        )

    def _describe(self, key: "_Key", process: Process) -> int:
        try:
            number = self._writer.append(process)
        except OSError:
            return 0  # no room: the change itself will say so
        if len(self._numbers) >= KNOWN_LIMIT:
            self._numbers.clear()  # some are described once more; nothing is confused
        self._numbers[key] = number
        self._described[number] = process
        return number

    def _described_again(self, number: int) -> int:
        """The number that a process of a former segment has in this one."""
        process = self._described.get(number)
        if process is None:
            return 0
        key = (process.pid, process.started, process.executable, process.command)
        known = self._numbers.get(key)
        if known is not None:
            return known
        above = self._described_again(process.parent) if process.parent else 0
        return self._describe(key, msgspec.structs.replace(process, parent=above))

    def rotate(self) -> int:
        """A checkpoint begins: the number of the first record that will not be in it.

        Processes are described anew from here on: older segments go when the history is thinned.
        """
        self._numbers.clear()
        self._recent.clear()
        for number in list(self._described)[:-KNOWN_LIMIT]:
            del self._described[number]
        first = self._writer.rotate(time.time_ns())
        self._unsynced.ended(self._segment)
        self._segment = first
        self._collected = self._missing
        return first

    def sealed(self, position: int) -> None:
        """A checkpoint that survives a power cut has every record before number *position*, and every change that was
        made before it and could not be recorded.
        """
        if self._missing is self._collected:
            self._missing = None
        self._unsynced.sealed(position)

    def nothing_missing(self) -> None:
        """The store has all that was changed."""
        self._missing = None

    def syncer(self) -> Callable[[], None]:
        """What makes everything recorded so far, and the contents it tells of, survive a power cut; for a worker
        thread.
        """
        return self._unsynced.syncer(self._writer.syncer())

    def close(self) -> None:
        """Nothing more will be appended."""
        self._writer.close()
        self._reserve.close()
        self._names.close()


class _Names:
    """The short names that programs get from the kernel; nobody is waited for.

    They are asked for with nearly every request, so files in /proc stay open: a read takes a tenth of the time.  What
    is open is of that thread, not of another one that has its number later.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[int, int] = OrderedDict()
        """descriptors by thread, in the order of their opening"""

    def of(self, thread: int) -> bytes:
        """The name of a thread; empty when it is gone."""
        fd = self._files.get(thread)
        if fd is not None:
            with suppress(OSError):
                if name := os.pread(fd, 64, 0):
                    return name
            del self._files[thread]
            os.close(fd)
        try:
            fd = os.open(b"/proc/%d/comm" % thread, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        self._files[thread] = fd
        if len(self._files) > NAMES_LIMIT:
            os.close(self._files.popitem(last=False)[1])
        try:
            return os.pread(fd, 64, 0)
        except OSError:
            return b""

    def close(self) -> None:
        """Close every file."""
        while self._files:
            os.close(self._files.popitem()[1])


class _Facts(NamedTuple):
    """What /proc says of a process."""

    pid: int
    parent: int
    started: int
    executable: bytes
    """its path, empty when it may not be known"""
    command: tuple[bytes, ...]


def _facts_of(thread: int) -> _Facts | Exception:
    """Of the process of a thread, or why there are none.  May wait for the process."""
    try:
        pid = _process_of(thread)
        parent, started = _parent_and_start(pid)
        return _Facts(pid, parent, started, _executable(pid), _command(pid))
    except (OSError, ValueError, IndexError) as e:
        return e


def _process_of(thread: int) -> int:
    """The kernel names the thread that makes a request; the process is its thread group."""
    try:
        os.close(os.pidfd_open(thread))  # only of the first thread of a group
        return thread
    except OSError:
        for line in _contents(b"/proc/%d/status" % thread).splitlines():
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
        return thread


def _parent_and_start(pid: int) -> tuple[int, int]:
    fields = _contents(b"/proc/%d/stat" % pid).rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19])


def _executable(pid: int) -> bytes:
    try:
        return os.readlink(b"/proc/%d/exe" % pid)
    except OSError:
        return b""


def _command(pid: int) -> tuple[bytes, ...]:
    try:
        line = _contents(b"/proc/%d/cmdline" % pid)
    except OSError:
        return ()
    return tuple(line.rstrip(b"\0").split(b"\0")) if line else ()


def _contents(path: bytes) -> bytes:
    """What a file in /proc says at once; without the file objects of Python, which take longer than that."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, COMMAND_LIMIT)
    finally:
        os.close(fd)


class _Asker:
    """Has a thread ask about processes, and waits for it for a short time only.

    The kernel (6.18 does) holds back what /proc says of a process (``exe``, ``stat``) until an execve(2) that goes on
    is over; that closes files, whose times it tells first, so it may be waiting for an answer of this filesystem,
    whatever it executes.  The command line is in the memory of the process, whose lock is held by whoever maps and
    unmaps there, and he may wait for a page of this filesystem to be written.  Asked on the event loop, either would
    be the end of both.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[int, queue.SimpleQueue[_Facts | Exception]]] | None = None

    def ask(self, pid: int) -> _Facts | Exception | None:
        """What there is to know; None when nobody can say within a short time."""
        answer: queue.SimpleQueue[_Facts | Exception] = queue.SimpleQueue()
        if self._asked is None:
            self._asked = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._asked,), name="goexfs-proc", daemon=True).start()
        self._asked.put((pid, answer))
        try:
            return answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            self._asked = None  # that thread goes when it is let go; the next question has another
            return None

    def _run(self, asked: "queue.SimpleQueue[tuple[int, queue.SimpleQueue[_Facts | Exception]]]") -> None:
        while True:
            pid, answer = asked.get()
            answer.put(_facts_of(pid))
            if self._asked is not asked:
                return
