"""The journal of a mounted run: who is named, in which segment, and what is recorded of reading."""

import os
import subprocess
import sys
from pathlib import Path

from goexfs.fuse.recording import Recording
from snapshots.entries import Identity
from snapshots.history import journal
from snapshots.history.journal import Change, Patch, Process, Read
from snapshots.history.log import Log

IDENTITY = Identity(1, 2, 0o100644, 3, 4, 5)


def write(process: int) -> Change:
    return Change("write", 1, process, 5, b"f", (), (), (), (Patch(0, b"x"),))


def records(directory: Path) -> list[list[journal.Record]]:
    """The records of every segment."""
    return [[record for _, record in journal.read_segment(path)[0]] for _, path in journal.segments(directory)]


def test_every_segment_describes_the_processes_that_it_names(tmp_path: Path) -> None:
    """J5, also for a process that has a file open since before, and that may be gone."""
    recording = Recording(tmp_path / "journal", 1)
    command = [sys.executable, "-c", "input(print(flush=True))"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # exec(2) has wholly happened
        number = recording.number_of(child.pid)
        recording.append(write(number))
        child.communicate(b"\n")
    for _ in range(3):
        recording.rotate()
        recording.append(write(number))
        recording.append(write(number))
    recording.close()
    segments = records(tmp_path / "journal")
    assert len(segments) == 4
    first = 1
    for segment in segments:
        log = Log(merge=False)
        for at, record in enumerate(segment, first):
            log.add(journal.Numbered(at, record))
        first += len(segment)
        assert len({record.process for record in segment if isinstance(record, Change)}) == 1
        for event in log.events:
            lineage = log.lineage(event.process)
            assert lineage[0].command[1] == b"-c"
            assert lineage[1].pid == os.getpid()


def test_a_process_that_became_another_program_is_another_process(tmp_path: Path) -> None:
    """At once, not when what is known of it has become stale: a shell redirects before it starts the program."""
    recording = Recording(tmp_path / "journal", 1)
    shell = subprocess.Popen(["sh", "-c", "echo; read line; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with shell:
        assert shell.stdout is not None
        shell.stdout.readline()  # exec(2) has wholly happened
        before = recording.number_of(shell.pid)
        assert recording.number_of(shell.pid) == before
        assert shell.stdin is not None
        shell.stdin.write(b"go\nthere\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"there\n"
        after = recording.number_of(shell.pid)
        shell.stdin.close()
    recording.close()
    assert before != after
    (segment,) = records(tmp_path / "journal")
    commands = {at: record.command for at, record in enumerate(segment, 1) if isinstance(record, Process)}
    assert commands[before][0] == b"sh"
    assert commands[after] == (b"cat",)


def test_reading_is_recorded_once_per_mount(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "journal", 1)
    for _ in range(3):
        recording.read(2, os.getpid(), b"read", IDENTITY)
    recording.rotate()
    recording.read(2, os.getpid(), b"read", IDENTITY)
    recording.read(3, 0, b"other", IDENTITY)
    recording.close()
    found = [record for segment in records(tmp_path / "journal") for record in segment if isinstance(record, Read)]
    assert [(record.path, record.identity) for record in found] == [(b"read", IDENTITY), (b"other", IDENTITY)]


def test_a_process_that_nobody_can_see_is_nobody(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "journal", 1)
    assert recording.number_of(0) == 0
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert recording.number_of(gone.pid) == 0
    recording.close()
