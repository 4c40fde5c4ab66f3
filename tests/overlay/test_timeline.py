"""Every record of a run's past can be gone back to, long after: J7 of docs/format.md for what is looked at later."""

import os
from pathlib import Path

import msgspec
import pytest

from goexfs.overlay import Overlay
from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.errors import HistoryGone
from snapshots.history import journal
from snapshots.history.forks import fork
from snapshots.history.rewind import Aim, goal
from snapshots.history.timeline import moment_at, state_at
from snapshots.layers.base import BaseTree
from snapshots.storage.states import difference
from snapshots.storage.store import Store
from tests.crash.sequence import Picture, Sequence, make_base, make_store, small_limits
from tests.overlay.test_replay import dump

STEPS = 60


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((files_module, "INLINE_LIMIT"), (files_module, "COPY_WHOLE_LIMIT"),
                         (content_module, "COPY_WHOLE_LIMIT")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))
    small_limits()


def without_bytes(seen: Picture, lost: dict[int, bytes]) -> Picture:
    """Without content and size of these inodes: who opens one is refused."""
    return {path: (*known[:5], *known[6:-1]) if known[0] in lost else known for path, known in seen.items()}


@pytest.mark.parametrize("seed", range(6))
def test_every_position_is_what_was_shown_then(tmp_path: Path, seed: int) -> None:
    """Through seals, snapshots, forks and rewinds; of large contents only what was sealed is known."""
    base = tmp_path / "base"
    make_base(base)
    run_id = make_store(tmp_path / "store", base)
    shown: dict[int, Picture] = {}
    with Store.open(tmp_path / "store") as store:
        sequence = Sequence(store, run_id, base, 300 + seed)
        directory = store.runs.directory(run_id) / "journal"

        def note(done: int) -> None:
            records = [found.number for found in journal.read(directory) if isinstance(found, journal.Numbered)]
            shown[max(records, default=0) + 1] = dump(sequence.overlay)

        note(0)
        sequence.run(STEPS, stepped=note)
        sequence.seal()
        sequence.close()
        assert len(shown) > STEPS // 2
        whole, present = 0, store.upper(run_id).load()
        with BaseTree(os.fsencode(base)) as tree:
            for position, expected in shown.items():
                state, lost = moment_at(store, run_id, position)
                overlay = Overlay(tree, state, store.objects, tmp_path)
                assert without_bytes(dump(overlay), lost) == without_bytes(expected, lost), position
                overlay.close()
                if lost:
                    with pytest.raises(HistoryGone):
                        state_at(store, run_id, position)
                    continue
                whole += 1
                there = goal(store, run_id, Aim(position)).change
                long_way = difference(present, msgspec.structs.replace(state, next_ino=present.next_ino), 0)
                for part in ("entries", "gone", "links", "unlinked"):
                    one, other = (sorted(map(repr, getattr(change, part))) for change in (there, long_way))
                    assert one == other, position
                if position % 5 == 0:
                    child = fork(store, run_id, position)
                    overlay = Overlay(tree, store.upper(child.id).load(), store.objects, tmp_path)
                    assert dump(overlay) == expected
                    overlay.close()
        assert whole > len(shown) // 3

