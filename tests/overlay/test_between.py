"""Two states over one base, as runs come to them: the difference applied to what was shown is what is shown."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.overlay import Dir, Overlay, store_batch
from snapshots.entries import UpperState
from snapshots.history.forks import fork, shared_numbers
from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.review.between import difference_of
from snapshots.review.changes import Change, Status
from snapshots.review.diff import diff
from snapshots.storage.store import Store
from tests.crash.sequence import make_base
from tests.overlay.test_replay import Driver, dump
from tests.store.test_diff import apply_to_picture

Facts = dict[bytes, dict[str, object]]


class Author:
    """Works on one run, and remembers every state with what it shows."""

    def __init__(self, store: Store, run_id: str, base: bytes, seed: int) -> None:
        self.store, self.run_id, self.base, self.seed = store, run_id, base, seed
        self.states: list[tuple[UpperState, Facts]] = []

    def work(self, rounds: int, steps: int) -> None:
        upper = self.store.upper(self.run_id)
        with BaseTree(self.base) as tree:
            spool = self.store.runs.directory(self.run_id) / "spool"
            overlay = Overlay(tree, upper.load(), self.store.objects, spool)
            driver = Driver(overlay, self.seed)
            for number in range(rounds):
                for _ in range(steps if number else 0):
                    driver.step()
                batch = overlay.collect()
                if batch is not None:
                    overlay.finish(batch, store_batch(batch, self.store, self.run_id))
                self.states.append((upper.load(), facts(overlay)))
            overlay.close()


def facts(overlay: Overlay) -> Facts:
    seen: Facts = {}
    for path, (_, mode, uid, gid, _, _, _, _, xattrs, data) in dump(overlay).items():
        assert isinstance(mode, int)
        seen[path] = {"mode": oct(mode), "uid": uid, "gid": gid, "xattrs": xattrs}
        if stat.S_ISLNK(mode):
            seen[path]["target"] = data
        elif stat.S_ISREG(mode):
            seen[path]["bytes"] = data
    return seen


def without_modes_of_links(picture: Facts) -> Facts:
    """They mean nothing, and are no difference."""
    return {path: {**known, "mode": 0} if "target" in known else known for path, known in picture.items()}


def compare(store: Store, tree: BaseTree, before: UpperState, after: UpperState, shared: int | None) -> list[Change]:
    return difference_of(before, after, tree, store.objects, shared=shared)


def lines(changes: list[Change]) -> list[tuple[object, ...]]:
    return [(c.status, c.path, c.old_path, c.content_changed, c.attrs, c.link_to) for c in changes]


@pytest.fixture
def base(tmp_path: Path) -> bytes:
    make_base(tmp_path / "base")
    for number in range(4):
        (tmp_path / "base" / "d" / "e" / f"g{number}").write_text(str(number))
    return os.fsencode(tmp_path / "base")


@pytest.fixture
def tree(base: bytes) -> Iterator[BaseTree]:
    with BaseTree(base) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(8))
def test_two_points_of_a_run_and_two_runs(store: Store, base: bytes, tree: BaseTree, seed: int) -> None:
    run = store.runs.create(base=base, name=None, command=(), options={})
    author = Author(store, run.id, base, seed)
    author.work(4, 9)
    child = fork(store, run.id, author.states[-1][0].journal)
    other, same = Author(store, child.id, base, seed + 100), Author(store, run.id, base, seed + 200)
    other.work(2, 9)
    same.work(2, 9)
    shared = shared_numbers(store, run.id, child.id)
    assert shared == shared_numbers(store, child.id, run.id)
    assert shared_numbers(store, run.id, run.id) is None
    pairs = [(one, two, None) for one in author.states + same.states for two in author.states]
    pairs += [(one, two, shared) for one in other.states for two in author.states + same.states]
    for (before, seen_before), (after, seen_after), limit in pairs:
        for one, two, old, new in ((before, after, seen_before, seen_after), (after, before, seen_after, seen_before)):
            changes = compare(store, tree, one, two, limit)
            assert [c.path for c in changes] == sorted(c.path for c in changes)
            assert without_modes_of_links(apply_to_picture(old, changes)) == without_modes_of_links(new)


@pytest.mark.parametrize("seed", range(5))
def test_what_differs_from_the_base_is_the_diff(store: Store, base: bytes, tree: BaseTree, seed: int) -> None:
    run = store.runs.create(base=base, name=None, command=(), options={})
    author = Author(store, run.id, base, 50 + seed)
    author.work(2, 25)
    state = author.states[-1][0]
    expected = diff(UpperTree(state), tree, store.objects)
    empty = UpperState({}, {}, 2)
    if all(entry.is_dir or entry.nlink == 1 for entry in state.entries.values()):  # else it is a matter of taste
        assert lines(compare(store, tree, empty, state, None)) == lines(expected)
    assert compare(store, tree, state, state, None) == []


def test_renames_are_exact_within_a_run(store: Store, base: bytes, tree: BaseTree) -> None:
    run = store.runs.create(base=base, name=None, command=(), options={})
    upper = store.upper(run.id)
    overlay = Overlay(tree, upper.load(), store.objects, store.runs.directory(run.id) / "spool")

    def sealed() -> UpperState:
        batch = overlay.collect()
        assert batch is not None
        overlay.finish(batch, store_batch(batch, store, run.id))
        return upper.load()

    root = overlay.root
    made = overlay.mkdir(root, b"made", 0o755, 0, 0)
    for name in (b"a", b"b"):
        overlay.create(made, name, 0o644, os.O_RDWR, 0, 0)
    directory = overlay.lookup(root, b"d")
    assert isinstance(directory, Dir)
    overlay.rename(root, b"d", root, b"first")
    before = sealed()
    overlay.rename(root, b"made", directory, b"there")
    overlay.rename(made, b"a", root, b"out")
    overlay.rename(root, b"first", root, b"second")
    after = sealed()
    overlay.close()
    assert [(c.status, c.path, c.old_path) for c in compare(store, tree, before, after, None)] == [
        (Status.RENAMED, b"out", b"made/a"),
        (Status.RENAMED, b"second", b"first"),
        (Status.RENAMED, b"second/there", b"made"),
    ]
