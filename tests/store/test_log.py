"""What happened in a run, and who did it: events, blame, what a command wrote, and a log that outlives its journal."""

import os
from pathlib import Path

import pytest

from snapshots.entries import Entry, Identity, Link
from snapshots.errors import RunState
from snapshots.history import logbook
from snapshots.history.journal import Back, Change, JournalWriter, Numbered, Patch, Process, Read, segments
from snapshots.history.log import EXCHANGE, Authors, Event, Log, below, blame, paths_written_by
from snapshots.history.retention import set_limit, thin
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck

SECOND = 10**9
ATTRIBUTES = (0, 0, 0, 1, 0, 0, 0, 0, 1, None, None, None, None, False)


class Story:
    """A log told step by step; every step is one record."""

    def __init__(self) -> None:
        self.log = Log()
        self.number = 0
        self.inos: dict[bytes, int] = {}
        self.now = 10**18

    def add(self, record: Process | Change | Read) -> int:
        self.number += 1
        self.now += 1
        self.log.add(Numbered(self.number, record))
        return self.number

    def process(self, *command: str, parent: int = 0, executable: str = "") -> int:
        words = tuple(os.fsencode(word) for word in command)
        return self.add(Process(self.number + 100, 1, parent, os.fsencode(executable) or words[0], words, self.now))

    def change(
        self, op: str, path: bytes, process: int, *, old: bytes = b"", is_dir: bool = False, exchange: bool = False
    ) -> int:
        ino = self.inos.pop(old, 0) or self.inos.get(path) or self.number + 1000
        if op == "unlink":
            self.inos.pop(path, None)
        else:
            self.inos[path] = ino
        for inner in [known for known in self.inos if old and known.startswith(old + b"/")]:
            self.inos[path + inner[len(old) :]] = self.inos.pop(inner)
        mode = 0o040755 if is_dir else 0o100644
        entries = () if op == "write" else (Entry(ino, mode, *ATTRIBUTES),)
        data = (Patch(0, b"12345"),) if op == "write" else ()
        unlinked = ((1, os.path.basename(old)),) if old and not exchange else ()
        links = (Link(1, os.path.basename(path), ino),)
        return self.add(Change(op, self.now, process, ino, path, entries, links, unlinked, data, old))


@pytest.fixture
def story() -> Story:
    return Story()


def who(log: Log, path: bytes) -> bytes | None:
    author = blame(log, path)
    return None if author is None else author.lineage[0].command[0]


def test_consecutive_writes_of_one_process_to_one_file_are_one_event(story: Story) -> None:
    one, other = story.process("one"), story.process("other")
    story.change("create", b"f", one)
    for _ in range(3):
        story.change("write", b"f", one)
    story.change("write", b"f", other)
    story.change("write", b"g", one)
    story.change("write", b"f", one)
    assert [(e.op, e.path, e.process, e.writes, e.bytes) for e in story.log.events] == [
        ("create", b"f", one, 0, 0),
        ("write", b"f", one, 3, 15),
        ("write", b"f", other, 1, 5),
        ("write", b"g", one, 1, 5),
        ("write", b"f", one, 1, 5),
    ]
    assert (story.log.events[1].number, story.log.events[1].last) == (4, 6)


def test_blame_follows_renames_also_of_directories(story: Story) -> None:
    maker, mover, editor = story.process("maker"), story.process("mover"), story.process("editor")
    story.change("create", b"d", maker, is_dir=True)
    story.change("create", b"d/f", maker)
    story.change("write", b"d/f", editor)
    story.change("create", b"d/g", maker)
    story.change("rename", b"e", mover, old=b"d", is_dir=True)
    story.change("rename", b"h", mover, old=b"e/g")
    assert who(story.log, b"e/f") == b"editor"
    assert who(story.log, b"h") == b"maker"
    assert who(story.log, b"d/f") is None
    assert who(story.log, b"d") == b"mover"  # that it is not there any more
    assert who(story.log, b"never") is None


def test_blame_of_what_is_gone_and_of_what_came_in_its_place(story: Story) -> None:
    maker, remover = story.process("maker"), story.process("remover")
    story.change("create", b"f", maker)
    story.change("unlink", b"f", remover)
    assert who(story.log, b"f") == b"remover"
    story.change("create", b"f", maker)
    assert who(story.log, b"f") == b"maker"


def test_an_editor_that_saves_by_renaming_is_to_blame(story: Story) -> None:
    editor, other = story.process("vi"), story.process("chmod")
    story.change("create", b"f.tmp", editor)
    story.change("write", b"f.tmp", editor)
    story.change("rename", b"f", editor, old=b"f.tmp")
    story.change("setattr", b"f", other)
    assert who(story.log, b"f") == b"vi"
    assert [event.op for event in Authors(story.log).events(b"f")] == ["create", "write", "rename", "setattr"]


def test_swapped_names(story: Story) -> None:
    a, b, swapper = story.process("a"), story.process("b"), story.process("swap")
    story.change("create", b"x", a)
    story.change("create", b"y", b)
    ino = story.inos[b"x"]
    story.add(Change("rename", story.now, swapper, ino, b"y", (Entry(ino, 0o100644, *ATTRIBUTES),),
                     (Link(1, b"x", story.inos[b"y"]), Link(1, b"y", ino)), (), (), b"x"))  # fmt: skip
    assert story.log.events[-1].op == EXCHANGE
    assert who(story.log, b"y") == b"a"
    assert who(story.log, b"x") == b"b"


def rewound(story: Story, position: int, *paths: bytes) -> int:
    return story.add(Change("rewind", story.now, 0, 0, b"", (), (), (), (), back=(Back(position, paths),)))


def test_who_wrote_what_a_rewind_brought_back(story: Story) -> None:
    maker, other, remover = story.process("maker"), story.process("other"), story.process("remover")
    story.change("create", b"f", maker)
    story.change("mkdir", b"d", maker, is_dir=True)
    story.change("create", b"d/g", maker)
    snapshot = story.number + 1
    known = dict(story.inos)
    story.change("write", b"f", other)
    story.change("rename", b"e", other, old=b"d", is_dir=True)
    story.change("unlink", b"e/g", remover)
    story.change("create", b"new", other)
    later = story.number + 1
    assert (who(story.log, b"f"), who(story.log, b"d/g")) == (b"other", None)
    first = rewound(story, snapshot)
    story.inos = known
    assert (who(story.log, b"f"), who(story.log, b"d/g"), who(story.log, b"d")) == (b"maker",) * 3
    gone = blame(story.log, b"new")
    assert gone is not None
    assert (gone.event.number, gone.event.op, gone.lineage) == (first, "rewind", ())
    rewound(story, later, b"e")
    assert (who(story.log, b"e"), who(story.log, b"e/g"), who(story.log, b"f")) == (b"other", b"remover", b"maker")
    rewound(story, first)
    assert (who(story.log, b"f"), who(story.log, b"new"), who(story.log, b"d")) == (b"other",) * 3


def test_many_rewinds_of_rewinds(story: Story) -> None:
    """Each goes back to before the one before it: what all of that comes to is found in one pass."""
    maker, other = story.process("maker"), story.process("other")
    story.change("create", b"f", maker)
    for _ in range(40):
        position = story.number + 1
        story.change("write", b"f", other)
        rewound(story, position)
        assert who(story.log, b"f") == b"maker"
        rewound(story, position + 1)
        assert who(story.log, b"f") == b"other"
        rewound(story, story.number)


def test_what_a_rewind_brought_back_may_have_another_number(story: Story) -> None:
    maker, other = story.process("maker"), story.process("other")
    story.change("create", b"f", maker)
    snapshot = story.number + 1
    story.change("write", b"f", other)
    rewound(story, snapshot)
    story.inos[b"f"] += 5000
    story.change("setattr", b"f", other)
    assert who(story.log, b"f") == b"maker"
    story.change("rename", b"g", other, old=b"f")
    assert who(story.log, b"g") == b"maker"
    story.change("write", b"g", other)
    assert who(story.log, b"g") == b"other"


def test_lineage_ends_at_the_sandbox_and_at_goexfs(story: Story) -> None:
    shell = story.process("bash")
    goexfs = story.process("/usr/bin/python3", "/usr/bin/goexfs", "run", "--", "make", parent=shell)
    bwrap = story.process("bwrap", "--args", "3", parent=goexfs, executable="/usr/bin/bwrap")
    make = story.process("make", parent=bwrap)
    cc = story.process("cc", "-c", "a.c", parent=make)
    assert [process.command[0] for process in story.log.lineage(cc)] == [b"cc", b"make"]
    unconfined = story.process("make", parent=goexfs)
    assert len(story.log.lineage(unconfined)) == 1


def test_paths_written_by_a_command_and_what_it_started(story: Story) -> None:
    shell = story.process("sh", "-c", "npm install; make")
    npm = story.process("npm", "install", parent=shell)
    post = story.process("node", "postinstall.js", parent=npm)
    make = story.process("make", parent=shell)
    story.change("create", b"lock", npm)
    story.change("create", b"built", post)
    story.change("create", b"out", make)
    story.change("create", b"gone", post)
    story.change("unlink", b"gone", make)
    assert paths_written_by(story.log, "npm") == {b"lock", b"built"}  # the script of sh -c does not count
    assert paths_written_by(story.log, "node *") == {b"built"}
    assert paths_written_by(story.log, "postinst") == {b"built"}
    assert paths_written_by(story.log, "make") == {b"out", b"gone"}
    assert paths_written_by(story.log, "sh") == {b"lock", b"built", b"out", b"gone"}
    assert paths_written_by(story.log, "nobody") == frozenset()


def test_below(story: Story) -> None:
    process = story.process("p")
    for path in (b"d/f", b"dd", b"e"):
        story.change("create", path, process)
    story.change("rename", b"x", process, old=b"d/f")
    assert [e.path for e in below(story.log.events, (b"d",))] == [b"d/f", b"x"]
    assert len(list(below(story.log.events, (b"",)))) == len(list(below(story.log.events, ()))) == 4


# what the store keeps


def write_segments(store: Store, run_id: str, count: int, *, each: int = 2) -> int:
    """So many segments, each with a process, a reading and changes; the position after them."""
    directory = store.runs.directory(run_id) / "journal"
    writer = JournalWriter(directory, 1, 10**18)
    for number in range(count):
        process = writer.append(Process(number + 10, 1, 0, b"/bin/p", (b"p", b"%d" % number), 10**18))
        identity = Identity(1, number, 0o100644, 5, 0, 0)
        writer.append(Read(10**18 + number, process, b"read%d" % number, identity))
        for change in range(each):
            path = b"f%d.%d" % (number, change)
            entry = Entry(1000 + number * each + change, 0o100644, *ATTRIBUTES)
            writer.append(
                Change("create", 10**18 + number * SECOND, process, entry.ino, path, (entry,), (), (), ())
            )
        writer.rotate(10**18)
    writer.close()
    return writer.next


def story_of(store: Store, run_id: str) -> list[tuple[Event, bytes]]:
    log = logbook.read(store, run_id)
    return [(event, log.processes[event.process].command[1]) for event in log.events]


def test_the_log_outlives_the_segments(store: Store, base: bytes) -> None:
    run = store.runs.create(base=base, name=None)
    position = write_segments(store, run.id, 6)
    before = story_of(store, run.id)
    reads = [(read.path, read.identity) for read in logbook.reads(store, run.id)]
    assert len(before) == 12
    assert len(reads) == 6
    for cut in (0, 5, 13, 13, position):
        logbook.fold(store, run.id, cut)
        assert story_of(store, run.id) == before
        for path in [path for first, path in segments(store.runs.directory(run.id) / "journal") if first + 4 <= cut]:
            path.unlink()
        assert story_of(store, run.id) == before
        assert [(read.path, read.identity) for read in logbook.reads(store, run.id)] == reads
    store.discard(run.id)
    assert store.database.one("SELECT count(*) FROM log") == (0,)
    assert store.database.one("SELECT count(*) FROM reads") == (0,)
    with pytest.raises(RunState):
        logbook.read(store, run.id)


def test_thinning_the_history_keeps_the_log(store: Store, base: bytes) -> None:
    run = store.runs.create(base=base, name=None)
    position = write_segments(store, run.id, 4)
    before = story_of(store, run.id)
    store.upper(run.id).commit(_at(position))
    set_limit(store, run.id, 0)
    assert thin(store, run.id).segments == 4
    assert story_of(store, run.id) == before
    assert fsck(store).findings == ()


def _at(position: int):
    from snapshots.entries import FIRST_NEW_INO, Checkpoint

    return Checkpoint((), (), (), (), FIRST_NEW_INO, position)


def test_the_log_is_bounded_and_the_oldest_goes_first(
    store: Store, base: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "LOG_LIMIT", 1000)
    monkeypatch.setattr(logbook, "READS_LIMIT", 5)
    run = store.runs.create(base=base, name=None)
    position = write_segments(store, run.id, 20)
    everything = story_of(store, run.id)
    for cut in range(1, position + 1, 7):
        logbook.fold(store, run.id, cut)
        for first, path in segments(store.runs.directory(run.id) / "journal"):
            if first + 4 <= cut:
                path.unlink()
        (size,) = store.database.one("SELECT coalesce(sum(length(data)), 0) FROM log") or (0,)
        assert size <= 1000
    kept = story_of(store, run.id)
    assert 0 < len(kept) < len(everything)
    assert kept == everything[-len(kept) :]
    assert len(logbook.reads(store, run.id)) in (5, 6)  # the last segment is still there


def test_following_sees_every_record_once_also_across_segments(store: Store, base: bytes) -> None:
    run = store.runs.create(base=base, name=None)
    directory = store.runs.directory(run.id) / "journal"
    writer = JournalWriter(directory, 1, 0)
    follower = logbook.Follower(store, run.id)

    def change(number: int) -> Change:
        return Change("write", number, 0, 5, b"f", (), (), (), (Patch(0, b"x" * number),))

    writer.append(change(1))
    follower.begin(2)
    seen: list[int] = []
    for number in range(2, 40):
        writer.append(change(number))
        if number % 7 == 0:
            writer.rotate(0)
        if number % 3 == 0:
            follower.more(lambda numbered: seen.append(numbered.number))
    follower.more(lambda numbered: seen.append(numbered.number))
    writer.close()
    assert seen == list(range(2, 40))


def test_a_fork_inherits_what_its_parent_did_before(store: Store, base: bytes) -> None:
    from snapshots.history.forks import fork

    run = store.runs.create(base=base, name=None)
    position = write_segments(store, run.id, 2)
    store.upper(run.id).commit(_at(position))
    child = fork(store, run.id, position)
    log = logbook.read(store, child.id, inherited=True)
    assert [event.path for event in log.events] == [b"f0.0", b"f0.1", b"f1.0", b"f1.1"]
    assert who(log, b"f1.1") == b"p"
    assert logbook.own_number(log.events[0].number) == 3
    assert logbook.read(store, child.id).events == []


@pytest.mark.parametrize("state", ["discarded", "merged"])
def test_a_fork_keeps_the_log_of_a_parent_that_is_over(store: Store, base: bytes, state: str) -> None:
    from snapshots.history.forks import fork

    run = store.runs.create(base=base, name=None)
    position = write_segments(store, run.id, 2)
    store.upper(run.id).commit(_at(position))
    child = fork(store, run.id, position)
    grandchild = fork(store, child.id, 1)
    paths = [event.path for event in logbook.read(store, grandchild.id, inherited=True).events]
    assert paths
    for over in (run.id, child.id):
        store.discard(over, state=state)  # type: ignore[arg-type]
        log = logbook.read(store, grandchild.id, inherited=True)
        assert [event.path for event in log.events] == paths
        assert who(log, b"f1.1") == b"p"
    store.discard(grandchild.id)
    assert store.database.one("SELECT count(*) FROM log") == (0,)


def test_a_torn_end_does_not_hide_what_is_whole(store: Store, base: bytes, tmp_path: Path) -> None:
    run = store.runs.create(base=base, name=None)
    write_segments(store, run.id, 1)
    (first, *_) = segments(store.runs.directory(run.id) / "journal")
    os.truncate(first[1], first[1].stat().st_size - 1)
    assert [event.path for event, _ in story_of(store, run.id)] == [b"f0.0"]
