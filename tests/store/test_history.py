"""Former versions, snapshots, forks and thinning: what is promised to be kept reads as it was, and the rest goes."""

import os
import random
import stat
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from snapshots.entries import FIRST_NEW_INO, ROOT_INO, WHITEOUT, Checkpoint, Link, UpperState
from snapshots.errors import HistoryGone, RunExists, RunState, SnapshotExists, SnapshotUnknown
from snapshots.history import forks
from snapshots.history.forks import began_ns, fork, parent_of
from snapshots.history.history import History
from snapshots.history.journal import Change, JournalWriter, Process
from snapshots.history.moments import parse_time
from snapshots.history.retention import NEWEST, set_limit, thin
from snapshots.history.rewind import rewind
from snapshots.history.timeline import position_at
from snapshots.storage.states import difference
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.uppers import entry, whole

Plain = tuple[dict, dict]


def plain(state: UpperState) -> Plain:
    return state.entries, {parent: names for parent, names in state.links.items() if names}


class Author:
    """Random checkpoints for one run, each with a place in the journal, and what they make of its state."""

    def __init__(self, store: Store, run_id: str, seed: int = 0) -> None:
        self.store, self.upper, self.random = store, store.upper(run_id), random.Random(seed)
        self.state = self.upper.load()
        self.seen: dict[int, Plain] = {self.state.journal: plain(self.state)}

    def step(self, size: int = 10) -> int:
        """One checkpoint more; its position."""
        choose = self.random
        entries, links = dict(self.state.entries), {p: dict(n) for p, n in self.state.links.items()}
        next_ino = self.state.next_ino
        for _ in range(choose.randrange(1, 5)):
            directories = [ROOT_INO, *(ino for ino, e in entries.items() if e.is_dir)]
            action = choose.choice(["file", "file", "dir", "write", "write", "remove", "hide"])
            name = b"n%d" % choose.randrange(30)
            parent = choose.choice(directories)
            names = links.setdefault(parent, {})
            if action in ("file", "dir") and name not in names:
                content = None
                if action == "file":
                    data = choose.randbytes(size)
                    content = whole(self.store.objects.put(data), len(data))
                mode = stat.S_IFREG | 0o644 if action == "file" else stat.S_IFDIR | 0o755
                entries[next_ino] = entry(next_ino, mode=mode, content=content)
                names[name] = next_ino
                next_ino += 1
            elif action == "hide" and name not in names:
                names[name] = WHITEOUT
            elif action == "write" and (files := [e for e in entries.values() if e.content is not None]):
                data = choose.randbytes(size)
                old = choose.choice(files)
                entries[old.ino] = entry(old.ino, content=whole(self.store.objects.put(data), len(data)))
            elif action == "remove" and names:
                self._remove(choose.choice(sorted(names)), names, entries, links)
        after = UpperState(entries, links, next_ino)
        position = self.state.journal + choose.randrange(1, 20)
        self.upper.commit(difference(self.state, after, position), hold=())
        self.state = UpperState(entries, links, next_ino, position)
        self.seen[position] = plain(self.state)
        return position

    def _remove(self, name, names, entries, links) -> None:
        ino = names.pop(name)
        if ino == WHITEOUT:
            return
        del entries[ino]
        for below in list(links.get(ino, {})):
            self._remove(below, links[ino], entries, links)
        links.pop(ino, None)


@pytest.fixture
def author(store: Store, base: bytes) -> Author:
    return Author(store, store.runs.create(base=base).id)


def check(store: Store, run_id: str, seen: dict[int, Plain], positions) -> None:
    for position in positions:
        state = store.upper(run_id).load(position)
        assert plain(state) == seen[position], position
        assert state.journal == position
        for each in state.entries.values():
            if each.content is not None:
                assert all(len(store.objects.read(x.object)) == x.length for x in each.content.extents)


@pytest.mark.parametrize("seed", range(4))
def test_every_checkpoint_can_be_gone_back_to(store: Store, base: bytes, seed: int) -> None:
    author = Author(store, store.runs.create(base=base).id, seed)
    positions = [author.step() for _ in range(40)]
    gc(store)
    check(store, author.upper.run_id, author.seen, [1, *positions])
    assert plain(author.upper.load()) == author.seen[positions[-1]]
    assert author.upper.load(positions[5] + 0).journal == positions[5]
    with pytest.raises(HistoryGone):
        author.upper.load(positions[-1] + 1)
    assert fsck(store).findings == ()


def test_without_a_limit_only_snapshots_are_kept(store: Store, author: Author) -> None:
    set_limit(store, author.upper.run_id, 0)
    history = History(store, author.upper.run_id)
    kept = {1: author.seen[1]}
    history.snapshot("empty")
    for number in range(30):
        position = author.step()
        if number % 10 == 5:
            history.snapshot(f"at{number}")
            kept[position] = author.seen[position]
    check(store, author.upper.run_id, kept, kept)
    other = next(position for position in author.seen if position not in kept and position != author.state.journal)
    with pytest.raises(HistoryGone):
        author.upper.load(other)
    needed = {
        (x.object)
        for state in (*kept.values(), author.seen[author.state.journal])
        for e in state[0].values()
        if e.content is not None
        for x in e.content.extents
    }
    thin(store, author.upper.run_id)
    gc(store)
    assert set(store.objects) == needed
    for snapshot in history.snapshots():
        history.drop(snapshot.name)
    thin(store, author.upper.run_id)
    gc(store)
    state = author.upper.load()
    assert set(store.objects) == {x.object for e in state.entries.values() if e.content for x in e.content.extents}
    assert store.database.one("SELECT count(*) FROM entries WHERE data != x''")[0] == len(state.entries)


def test_names_of_points(store: Store, author: Author) -> None:
    history = History(store, author.upper.run_id)
    one = author.step()
    assert history.snapshot("one", "first").message == "first"
    two = author.step()
    assert history.snapshot().name == "s1"
    assert history.snapshot(kind="exit").name == history.snapshot(kind="exit").name == f"exit-{two - 1}"
    three = author.step()
    assert [s.position for s in history.snapshots()] == [one, two, two]
    points = {"one": one, "s1": two, "~0": three, "~1": two, "~": two, "~3": one, f"#{one}": one + 1, "#0": 1}
    assert {point: history.position(point) for point in points} == points
    assert history.position("{0s ago}") == three
    assert history.position("{2001-01-01 12:00}") == 1, "nothing is lost: before it began, it was empty"
    for wrong in ("two", "~4", "~x", "#x", "{noon}"):
        with pytest.raises(SnapshotUnknown):
            history.position(wrong)
    with pytest.raises(HistoryGone):
        history.position(f"#{three}")
    with pytest.raises(SnapshotExists):
        history.snapshot("one")
    for name in ("", "two words", "a/b", "~9", "#1", "{x"):
        with pytest.raises(SnapshotUnknown, match="cannot name a snapshot"):
            history.snapshot(name)


def test_times_by_a_clock_that_was_set_back(store: Store, base: bytes) -> None:
    """A time is after the last record that is not later: what was done while the clock was ahead is done by then."""
    run = store.runs.create(base=base)
    begun = 10**18
    times = [10, 20, 100, 110, 30, 40, None, 50, 5, 60]
    """seconds after the beginning; None: a segment ends"""
    writer = JournalWriter(store.runs.directory(run.id) / "journal", 1, begun)
    clock = 0
    for each in times:
        if each is None:
            store.upper(run.id).commit(Checkpoint((), (), (), (), FIRST_NEW_INO, writer.rotate(begun + clock * 10**9)))
        else:
            clock = each
            writer.append(Process(each, 1, 0, b"", (), begun))
            writer.append(Change("create", begun + each * 10**9, 0, 1, b"f", (), (), (), ()))
    store.upper(run.id).commit(Checkpoint((), (), (), (), FIRST_NEW_INO, writer.next))
    writer.close()
    changes = [each for each in times if each is not None]
    for asked in range(130):
        done = [2 * number + 2 for number, each in enumerate(changes) if each <= asked]
        after = max(done, default=0) + 1
        found = position_at(store, run.id, begun + asked * 10**9)
        assert found in (after, after + 1), "at most a process more, which changes nothing"
    assert position_at(store, run.id, begun - 1) == 1


def test_a_fork_of_what_was_let_go_meanwhile(store: Store, author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the run and the transaction its server may thin the history, or make a checkpoint."""
    run_id = author.upper.run_id
    positions = [author.step() for _ in range(5)]
    seen = forks._origin

    def origin(*args: Any) -> Any:
        found = seen(*args)
        author.step()
        set_limit(store, run_id, 0)
        thin(store, run_id)
        return found

    monkeypatch.setattr(forks, "_origin", origin)
    with pytest.raises(HistoryGone):
        fork(store, run_id, positions[2])
    assert len(store.runs.list()) == 1
    made = fork(store, run_id, None)
    assert plain(store.upper(made.id).load()) == plain(author.state)
    assert fsck(store).findings == ()


def test_times() -> None:
    now = 1_800_000_000 * 10**9
    assert parse_time("90s ago", now) == parse_time("90 seconds ago", now) == now - 90 * 10**9
    assert parse_time("2 min ago", now) == parse_time("2 minutes ago", now) == now - 120 * 10**9
    assert parse_time("@5", now) == 5_999_999_999
    whole_second = int(time.mktime((2026, 11, 22, 14, 3, 10, 0, 0, -1))) * 10**9
    assert parse_time("2026-11-22 14:03:10", now) == whole_second + 999_999_999
    assert parse_time("2026-11-22T14:03:10.5", now) == whole_second + 500_000_999
    assert parse_time("2026-11-22 14:03", now) == whole_second - 10 * 10**9 + 59_999_999_999
    assert parse_time("2026-11-22T14:03:10+00:00", now) == 1795356190_999_999_999


def test_without_a_journal_a_snapshot_is_still_another_version(store: Store, base: bytes) -> None:
    run = store.runs.create(base=base)
    upper = store.upper(run.id)
    states = []
    for content in (b"one", b"two", b"three"):
        upper.commit(
            Checkpoint(
                (entry(FIRST_NEW_INO, content=whole(store.objects.put(content), len(content))),), (),
                (Link(ROOT_INO, b"f", FIRST_NEW_INO),), (), FIRST_NEW_INO + 1,
            )
        )  # fmt: skip
        states.append((History(store, run.id).snapshot().position, plain(upper.load())))
    assert [plain(upper.load(position)) for position, _ in states] == [state for _, state in states]


@pytest.mark.parametrize("seed", range(6))
def test_forks_see_what_was_and_go_their_own_way(store: Store, base: bytes, seed: int) -> None:
    choose = random.Random(seed)
    authors = [Author(store, store.runs.create(base=base).id, seed)]
    for number in range(60):
        author = choose.choice(authors)
        if number % 6 == 5:
            position = choose.choice(list(author.seen))
            made = fork(store, author.upper.run_id, position)
            assert parent_of(store, made.id) == (author.upper.run_id, position)
            child = Author(store, made.id, seed * 100 + number)
            assert plain(child.state) == author.seen[position]
            authors.append(child)
        elif number % 20 == 18 and len(authors) > 3:
            authors.remove(author)
            store.discard(author.upper.run_id)
        else:
            author.step()
    for author in authors:
        check(store, author.upper.run_id, author.seen, author.seen)
    assert fsck(store).findings == ()
    choose.shuffle(authors)
    while authors:
        gone = authors.pop()
        store.discard(gone.upper.run_id)
        if choose.random() < 0.5:
            store.runs.forget(gone.upper.run_id)
        for author in authors:
            check(store, author.upper.run_id, author.seen, author.seen)
        assert fsck(store).findings == ()
    gc(store, tombstone_age_ns=-1)
    assert len(store.objects) == 0
    for table in ("entries", "links", "uses", "forks", "snapshots", "runs"):
        assert store.database.one(f"SELECT count(*) FROM {table}") == (0,), table


def test_what_snapshots_forks_and_rewinds_cost(store: Store, base: bytes) -> None:
    """What is dirty or differs, not what the run has changed: in instructions of the database, which have no noise."""
    few, many = (costs(store, store.runs.create(base=base).id, changed) for changed in (20, 2000))
    looked_at = many.pop("rewind") - few.pop("rewind")
    assert looked_at < 2000 * 0.3, "of what is the same, a rewind sees only since when it is"
    assert {name for name in few if many[name] > few[name] * 1.5 + 20} == set(), (few, many)


def costs(store: Store, run_id: str, changed: int) -> dict[str, int]:
    """Of the verbs, in a run that has changed so many files, and five of them again."""
    upper, names = store.upper(run_id), store.objects.put_many(b"%d" % n for n in range(changed))
    entries = tuple(entry(FIRST_NEW_INO + n, content=whole(name, 1)) for n, name in enumerate(names))
    links = tuple(Link(ROOT_INO, b"n%d" % n, each.ino) for n, each in enumerate(entries))
    upper.commit(Checkpoint(entries, (), links, (), FIRST_NEW_INO + changed, 10), hold=())
    other = store.objects.put(b"another")
    few = tuple(msgspec.structs.replace(each, size=7, content=whole(other, 7)) for each in entries[:5])
    verbs: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: upper.commit(Checkpoint(few, (), (), (), FIRST_NEW_INO + changed, 20), hold=()),
        "snapshot": lambda: History(store, run_id).snapshot("one"),
        "fork": lambda: fork(store, run_id, None),
        "fork of a snapshot": lambda: fork(store, run_id, 10),
        "rewind": lambda: rewind(store, run_id, 10),
    }
    return {name: instructions(store, verb) for name, verb in verbs.items()}


def instructions(store: Store, work: Callable[[], object]) -> int:
    """How many hundreds of instructions of SQLite some work takes."""
    count = 0

    def one_hundred_more() -> int:
        nonlocal count
        count += 1
        return 0

    store.database._sql.set_progress_handler(one_hundred_more, 100)
    work()
    store.database._sql.set_progress_handler(None, 0)
    return count


def test_a_fork_is_a_run(store: Store, author: Author) -> None:
    author.step()
    parent = store.runs.update(author.upper.run_id, name="parent")
    made = fork(store, parent.id, author.state.journal, name="child")
    assert (made.name, made.state, made.base, made.base_identity) == (
        "child",
        "kept",
        parent.base,
        parent.base_identity,
    )
    assert began_ns(store, fork(store, made.id, 1)) == parent.created_ns
    assert store.usage(made.id) == store.usage(parent.id)
    assert store.runs.directory(made.id).is_dir()
    with pytest.raises(RunExists):
        fork(store, parent.id, 1, name="child")
    store.discard(parent.id)
    with pytest.raises(RunState):
        fork(store, parent.id, author.state.journal)
    with pytest.raises(RunState):
        History(store, parent.id).snapshot()


def test_the_past_is_bounded_and_the_oldest_goes_first(store: Store, author: Author) -> None:
    run_id = author.upper.run_id
    set_limit(store, run_id, 100_000)
    history = History(store, run_id)
    named = author.step(size=5000)
    history.snapshot("named")
    for number in range(150):
        author.step(size=5000)
        if number == 20:
            history.snapshot(kind="exit")
        thin(store, run_id)
    gc(store)
    held = sum(store.objects.size(name) for name in store.objects)
    horizon, present = author.upper.retained()
    assert 1 < horizon < present
    kept = {p: seen for p, seen in author.seen.items() if p >= horizon}
    kept[named] = author.seen[named]
    check(store, run_id, kept, kept)
    for snapshot in history.snapshots():
        check(store, run_id, author.seen, [snapshot.position])
    with pytest.raises(HistoryGone):
        author.upper.load(max(p for p in author.seen if p < horizon))
    with pytest.raises(HistoryGone):
        author.upper.load(1)
    now = sum(e.size for e in author.state.entries.values()) + sum(e.size for e in author.seen[named][0].values())
    assert held <= now + 100_000
    assert held > now + 40_000, "what may be kept is kept"


def test_automatic_snapshots_grow_fewer_with_age(store: Store, author: Author) -> None:
    run_id = author.upper.run_id
    history = History(store, run_id)
    for _ in range(200):
        author.step()
        history.snapshot(kind="quiet")
    user = history.snapshot("mine")
    now = time.time_ns()
    rows = store.database.all("SELECT key FROM snapshots WHERE run = 1 ORDER BY key DESC")
    with store.database.transaction():
        for number, (key,) in enumerate(rows):  # one every ten minutes
            store.database.run("UPDATE snapshots SET created_ns = ? WHERE key = ?", (now - number * 600 * 10**9, key))
    before = history.snapshots()
    assert thin(store, run_id, now_ns=now).snapshots > 100
    left = history.snapshots()
    assert left[-1].name == user.name
    assert left[-NEWEST - 1 : -1] == before[-NEWEST - 1 : -1]
    assert len(left) < NEWEST + 30
    assert thin(store, run_id, now_ns=now).snapshots == 0
    assert thin(store, run_id, now_ns=now + 40 * 86400 * 10**9).snapshots == len(left) - NEWEST - 1
    assert os.listdir(store.runs.directory(run_id))


def test_fsck_knows_the_history(store: Store, author: Author) -> None:
    run_id = author.upper.run_id
    author.step()
    first = author.step()
    History(store, run_id).snapshot("one")
    made = fork(store, run_id, first)
    author.step()
    db = store.database
    damages = [
        ("UPDATE snapshots SET position = 9999", "UPDATE snapshots SET position = :first"),
        ("UPDATE snapshots SET run = 77", "UPDATE snapshots SET run = 1"),
        ("UPDATE forks SET parent = 77", "UPDATE forks SET parent = 1"),
        ("UPDATE forks SET position = 9999", "UPDATE forks SET position = :first"),
        ("UPDATE forks SET run = 78", "UPDATE forks SET run = 2"),
        ("UPDATE entries SET since = until WHERE until < 9999", None),
        ("UPDATE uses SET object = object + 1 WHERE until < 9999", None),
    ]
    for damage, undo in damages:
        before = db.all("SELECT * FROM entries"), db.all("SELECT * FROM uses")
        with db.transaction():
            changed = db.run(damage)
        found = fsck(store).findings
        assert bool(found) == bool(changed), damage
        with db.transaction():
            if undo is not None:
                db.run(undo, {"first": first})
                continue
            for table, rows in zip(("entries", "uses"), before, strict=True):
                db.run(f"DELETE FROM {table}")
                db.many(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    assert fsck(store).findings == ()
    with db.transaction():
        db.run("UPDATE snapshots SET position = 9999")
        db.run("UPDATE forks SET run = 78")
    assert all(finding.repaired for finding in fsck(store, repair=True).findings if finding.kind == "history")
    assert fsck(store).findings == ()
    assert store.runs.get(made.id).is_live


@pytest.mark.parametrize("limit", [0, 3_000, 30_000])
@pytest.mark.parametrize("seed", range(2))
def test_thinning_keeps_what_it_must(store: Store, base: bytes, seed: int, limit: int) -> None:
    choose = random.Random(seed)
    author = Author(store, store.runs.create(base=base).id, seed)
    run_id = author.upper.run_id
    set_limit(store, run_id, limit)
    history = History(store, run_id)
    forks: dict[str, Plain] = {}
    for _ in range(80):
        position = author.step(size=choose.choice([10, 900]))
        action = choose.randrange(8)
        if action == 0:
            history.snapshot()
        elif action in (1, 2):
            history.snapshot(kind="quiet")
        elif action == 3:
            forks[fork(store, run_id, position).id] = author.seen[position]
        elif action == 4 and forks:
            gone = choose.choice(sorted(forks))
            del forks[gone]
            store.discard(gone)
        elif action == 5 and (users := [s.name for s in history.snapshots() if not s.is_automatic]):
            history.drop(choose.choice(users))
        thin(store, run_id, rows=7)
        horizon, _ = author.upper.retained()
        kept = {s.position for s in history.snapshots()} | {p for p in author.seen if p >= horizon}
        check(store, run_id, author.seen, kept)
        for child, seen in forks.items():
            assert plain(store.upper(child).load()) == seen
    gc(store)
    assert fsck(store).findings == ()
