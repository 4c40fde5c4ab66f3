"""Rewinding a run that is not mounted: as a whole, by paths, again and back, and across a crash."""

import random
import stat

import msgspec
import pytest

from snapshots.entries import FIRST_NEW_INO, ROOT_INO, Checkpoint, Hidden, Identity, Link, UpperState
from snapshots.errors import RunError
from snapshots.history import journal
from snapshots.history.history import History
from snapshots.history.recovery import recover
from snapshots.history.rewind import rewind
from snapshots.history.selection import select
from snapshots.layers.tree import UpperTree
from snapshots.storage.states import difference, is_empty
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.test_history import Author, plain
from tests.store.uppers import entry, whole

DIRECTORY = stat.S_IFDIR | 0o755


@pytest.fixture
def author(store: Store, base: bytes) -> Author:
    return Author(store, store.runs.create(base=base).id)


def test_a_rewind_is_in_the_history_and_can_be_rewound(store: Store, author: Author) -> None:
    positions = [author.step() for _ in range(12)]
    run_id = author.upper.run_id
    done = rewind(store, run_id, positions[3])
    assert done.nodes and done.before.position == positions[-1]
    back = author.upper.load()
    assert plain(back) == author.seen[positions[3]]
    assert back.next_ino == author.state.next_ino, "numbers of nodes that were made since are not given again"
    assert rewind(store, run_id, positions[3]) == (0, None, ())
    assert rewind(store, run_id, History(store, run_id).position("~1")).nodes == done.nodes
    assert plain(author.upper.load()) == author.seen[positions[-1]]
    assert [s.kind for s in History(store, run_id).snapshots()] == ["rewind", "rewind"]
    rewind(store, run_id, 1)
    assert author.upper.load().entries == {}
    assert fsck(store).findings == ()


@pytest.mark.parametrize("committed", [False, True])
def test_a_crash_after_the_record(store: Store, author: Author, committed: bool, monkeypatch) -> None:
    positions = [author.step() for _ in range(8)]
    run_id = author.upper.run_id

    class Died(Exception):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(type(store) if committed else type(author.upper), "sync" if committed else "commit", die)
        with pytest.raises(Died):
            rewind(store, run_id, positions[2])
    recover(store, run_id)
    assert plain(author.upper.load()) == author.seen[positions[2]]
    assert recover(store, run_id) is None


class Tree:
    """A small upper, by paths: ``d`` a directory, bytes a file, None nothing."""

    def __init__(self) -> None:
        self.entries, self.links, self.next_ino = {}, {}, FIRST_NEW_INO

    def parent(self, path: bytes) -> int:
        ino = ROOT_INO
        for name in path.split(b"/")[:-1]:
            ino = self.links[ino][name]
        return ino

    def at(self, path: bytes) -> int:
        return self.links[self.parent(path)][path.rpartition(b"/")[2]]

    def make(self, path: bytes, data: bytes | None = None) -> None:
        ino, self.next_ino = self.next_ino, self.next_ino + 1
        self.entries[ino] = (
            entry(ino, mode=DIRECTORY, nlink=2) if data is None else entry(ino, content=whole(data, len(data)))
        )
        self.name(path, ino)

    def name(self, path: bytes, ino: int) -> None:
        self.links.setdefault(self.parent(path), {})[path.rpartition(b"/")[2]] = ino

    def write(self, path: bytes, data: bytes) -> None:
        old = self.entries[self.at(path)]
        self.entries[old.ino] = entry(old.ino, content=whole(data, len(data)), nlink=old.nlink)

    def unlink(self, path: bytes) -> None:
        ino = self.links[self.parent(path)].pop(path.rpartition(b"/")[2])
        if not any(ino in names.values() for names in self.links.values()):
            del self.entries[ino]
            self.links.pop(ino, None)

    def link(self, old: bytes, new: bytes) -> None:
        ino = self.at(old)
        self.name(new, ino)
        self.entries[ino] = entry(ino, content=self.entries[ino].content, nlink=self.entries[ino].nlink + 1)

    def move(self, old: bytes, new: bytes) -> None:
        ino = self.links[self.parent(old)].pop(old.rpartition(b"/")[2])
        self.name(new, ino)

    @property
    def state(self) -> UpperState:
        return UpperState(dict(self.entries), {p: dict(n) for p, n in self.links.items()}, self.next_ino)


def content(state: UpperState) -> dict[bytes, object]:
    """Path -> what is there."""
    found: dict[bytes, object] = {}
    for place in UpperTree(state).walk():
        if place.entry is not None:
            content = place.entry.content
            found[place.path] = "dir" if content is None else b"".join(x.object for x in content.extents)
    names: dict[int, int] = {}
    for inos in state.links.values():
        for ino in inos.values():
            names[ino] = names.get(ino, 0) + 1
    assert {ino: e.nlink for ino, e in state.entries.items() if not e.is_dir} == {
        ino: names[ino] for ino, e in state.entries.items() if not e.is_dir
    }
    return found


@pytest.fixture
def tree() -> Tree:
    made = Tree()
    made.make(b"d")
    made.make(b"d/a", b"a1")
    made.make(b"d/b", b"b1")
    made.make(b"f", b"f1")
    return made


THEN = {b"d": "dir", b"d/a": b"a1", b"d/b": b"b1", b"f": b"f1"}


def test_one_file_goes_back_and_the_rest_stays(tree: Tree) -> None:
    then = tree.state
    tree.write(b"d/a", b"a2")
    tree.write(b"f", b"f2")
    tree.make(b"d/new", b"n")
    assert content(select(tree.state, then, (b"d/a",), 9)) == {**THEN, b"f": b"f2", b"d/new": b"n"}
    assert content(select(tree.state, then, (b"d",), 9)) == {**THEN, b"f": b"f2"}
    assert content(select(tree.state, then, (b"d", b"d/a", b"f"), 9)) == THEN
    assert content(select(tree.state, then, (b"d/new",), 9)) == {**THEN, b"d/a": b"a2", b"f": b"f2"}
    assert is_empty(difference(tree.state, select(tree.state, tree.state, (b"nothing",), 9), 0))


def test_what_was_deleted_comes_back(tree: Tree) -> None:
    then = tree.state
    for path in (b"d/a", b"d/b", b"d"):
        tree.unlink(path)
    assert content(select(tree.state, then, (b"d",), 9)) == THEN
    with pytest.raises(RunError, match="rewind d itself"):
        select(tree.state, then, (b"d/a",), 9)


def test_a_file_in_a_directory_that_was_made_since_goes(tree: Tree) -> None:
    tree.make(b"d/c")
    tree.make(b"d/c/x", b"x1")
    now, empty = tree.state, UpperState({}, {}, FIRST_NEW_INO)
    rest = {**THEN, b"d/c": "dir", b"d/c/x": b"x1"}
    assert content(select(now, empty, (b"d/a",), 9)) == {path: what for path, what in rest.items() if path != b"d/a"}
    rest = {b"d": "dir", b"d/c": "dir", b"d/a": b"a1", b"d/b": b"b1"}
    assert content(select(now, empty, (b"d/c/x", b"f"), 9)) == rest
    assert content(select(now, empty, (b"d/c", b"d/nothing"), 9)) == THEN
    hidden = Hidden(Identity(1, 2, DIRECTORY, 0, 0, 0), b"")
    with pytest.raises(RunError, match="rewind d itself"):  # the base has a directory of that name
        select(msgspec.structs.replace(now, hides={ROOT_INO: {b"d": hidden}}), empty, (b"d/a",), 9)


def test_what_was_moved_away_is_copied_back(tree: Tree) -> None:
    then = tree.state
    tree.move(b"d/a", b"moved")
    tree.write(b"moved", b"a2")
    after = select(tree.state, then, (b"d/a",), 9)
    assert content(after) == {**THEN, b"moved": b"a2"}
    assert len(after.entries) == len(tree.entries) + 1
    tree.move(b"d", b"e")
    after = select(tree.state, then, (b"d",), 9)
    assert content(after) == {**THEN, b"moved": b"a2", b"e": "dir", b"e/b": b"b1"}


def test_hard_links(tree: Tree) -> None:
    tree.link(b"d/a", b"other")
    then = tree.state
    tree.write(b"d/a", b"a2")
    after = select(tree.state, then, (b"d/a",), 9)
    assert content(after) == {**THEN, b"other": b"a1"}, "one file, with all its names"
    tree.unlink(b"d/a")
    assert content(select(tree.state, then, (b"d/a",), 9)) == {**THEN, b"other": b"a1"}
    tree.unlink(b"other")
    assert content(select(tree.state, then, (b"d/a",), 9)) == THEN
    assert content(select(tree.state, then, (b"d/a", b"other"), 9)) == {**THEN, b"other": b"a1"}


def below(tree: dict[bytes, object], path: bytes) -> dict[bytes, object]:
    return {p: x for p, x in tree.items() if p == path or p.startswith(path + b"/")}


@pytest.mark.parametrize("seed", range(5))
def test_selected_paths_are_as_then_and_all_others_as_now(store: Store, base: bytes, seed: int) -> None:
    author = Author(store, store.runs.create(base=base).id, seed)
    choose = random.Random(seed)
    states = [author.state]
    for _ in range(40):
        author.step()
        states.append(author.state)
    for _ in range(60):
        now, then = choose.choice(states), choose.choice(states)
        before, target = content(now), content(then)
        path = choose.choice([p for p in {**before, **target} if p] or [b"nothing"])
        try:
            after = content(select(now, then, (path,), 9))
        except RunError:
            continue
        assert below(after, path) == below(target, path)
        for tree in (after, before):
            for inside in below(tree, path):
                del tree[inside]
        assert after == before


def test_the_record_says_what_became_of_everything(store: Store, base: bytes) -> None:
    run = store.runs.create(base=base)
    upper = store.upper(run.id)
    data = store.objects.put(b"x")
    upper.commit(
        Checkpoint(
            (entry(FIRST_NEW_INO, content=whole(data, 1)),),
            (),
            (Link(ROOT_INO, b"f", FIRST_NEW_INO),),
            (),
            FIRST_NEW_INO + 1,
            5,
        )
    )
    rewind(store, run.id, 1)
    (numbered,) = journal.read(store.runs.directory(run.id) / "journal")
    assert (numbered.number, numbered.record.op) == (5, journal.REWIND)
    assert [(e.ino, e.nlink) for e in numbered.record.entries] == [(FIRST_NEW_INO, 0)]
    assert numbered.record.unlinked == ((ROOT_INO, b"f"),)
