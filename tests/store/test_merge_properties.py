"""What holds of merges whatever a run and the others did: all or nothing, undone exactly, in any order if disjoint."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.errors import Conflict
from snapshots.merging.merge import merge
from snapshots.merging.rebase import rebase
from snapshots.merging.settle import Resolution
from snapshots.merging.undo import undo
from snapshots.storage.runs import Run
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.operations import base_sequences, perform, sequences
from tests.store.work import Work
from tests.support.trees import differences, picture

Ops = list[tuple[object, ...]]
some = settings(max_examples=settings.default.max_examples // 6)


def perform_all(ops: Ops, below: bytes = b"") -> Callable[[Path], None]:
    def change(there: Path) -> None:
        for op in ops:
            perform(os.path.join(os.fsencode(there), below), op)

    return change


@contextmanager
def place(base_ops: Ops, *folders: bytes) -> Iterator[tuple[Path, Store]]:
    with tempfile.TemporaryDirectory(prefix="gxp-") as name:
        base = Path(name) / "base"
        base.mkdir()
        for folder in folders or (b"",):
            os.makedirs(os.path.join(os.fsencode(base), folder), exist_ok=True)
            perform_all(base_ops, folder)(base)
        with Store.open(Path(name) / "store") as store:
            yield base, store
            assert fsck(store).findings == ()


def run_over(store: Store, base: Path, change: Callable[[Path], None], **kwargs: object) -> Run:
    """A kept run, its base as it was."""
    with tempfile.TemporaryDirectory(prefix="gxm-") as there:
        work = Work(store, os.fsencode(base), Path(there) / "there", change, **kwargs)
        work.mirror.close()
        return work.run


@some
@given(base_sequences, sequences, sequences, st.sampled_from([None, *Resolution]), st.booleans())
def test_all_or_nothing_and_undone_exactly_whatever_the_base_did(
    base_ops: Ops, ops: Ops, moves: Ops, side: Resolution | None, rebased: bool
) -> None:
    with place(base_ops) as (base, store):
        run = run_over(store, base, perform_all(ops), style="ranges" if rebased else "whole")
        time.sleep(0.01)
        perform_all(moves)(base)
        before = picture(base)
        number = None
        try:
            if rebased:
                rebase(store, run, resolve=lambda _: side)
                assert differences(before, picture(base)) == []
            number = merge(store, run, resolve=lambda _: side).number
        except Conflict as refused:
            assert refused.conflicts
            assert not rebased or store.runs.get(run.id).state == "kept"
            assert differences(before, picture(base)) == []
            return
        after = picture(base)
        if number is None:
            return
        again = undo(store, number).number
        assert differences(before, picture(base)) == []
        assert again is not None
        undo(store, again)
        assert differences(after, picture(base)) == []


@some
@given(base_sequences, sequences, sequences)
def test_merging_disjoint_runs_commutes(base_ops: Ops, left: Ops, right: Ops) -> None:
    outcomes = []
    for order in ((0, 1), (1, 0)):
        with place(base_ops, b"left", b"right") as (base, store):
            changes = perform_all(left, b"left"), perform_all(right, b"right")
            runs = [run_over(store, base, change) for change in changes]
            before = picture(base)
            numbers = [merge(store, runs[each]).number for each in order]
            outcomes.append(without_own_times(picture(base)))
            for number in numbers:  # the first one first: they have nothing to do with each other
                if number is not None:
                    undo(store, number)
            assert differences(without_own_times(before), without_own_times(picture(base))) == []
    assert differences(*outcomes) == []


def without_own_times(found: dict) -> dict:  # type: ignore[type-arg]
    """Without times: those that are not set are those of the test."""
    return {path: {fact: value for fact, value in facts.items() if fact != "mtime_ns"} for path, facts in found.items()}
