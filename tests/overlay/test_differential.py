"""An overlay and a plain directory must not be told apart, whatever is done to both (see ``tests.support.model``).

In the end the diff of the run must say what is different, no more and no less, and merging it must make the base
what the plain directory is.
"""

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snapshots.storage.store import Store
from tests.support.model import Pair
from tests.support.strategies import ACLS, Operation, operations, random_operations, sequences

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs trusted xattrs, other owners, and no permission checks"),
    pytest.mark.timeout(7200 if LONG else 250),
]


@pytest.fixture(scope="module", autouse=True)
def no_umask() -> Iterator[None]:
    """The modes that are asked for are the modes that are given."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """For the names of areas."""
    return itertools.count()


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spools from 33 bytes on, partly copied files from 65 on."""
    monkeypatch.setattr("goexfs.overlay.files.INLINE_LIMIT", 32)
    monkeypatch.setattr("goexfs.overlay.files.COPY_WHOLE_LIMIT", 64)
    monkeypatch.setattr("snapshots.storage.objects.INLINE_LIMIT", 32)


def run(
    area: Path,
    store: Store,
    sequence: list[Operation],
    *,
    shape: int,
    watched: bool = True,
    slow: bool = False,
    merge: bool = False,
    exact: bool = True,
) -> None:
    """Apply a sequence to a pair of its own; perhaps *merge* what came of it."""
    area.mkdir()
    pair = Pair(area, store, shape=shape, watched=watched, slow=slow, exact=exact)
    try:
        for operation in sequence:
            pair.apply(operation)
        pair.finish()
        if merge:
            pair.merge()
    finally:
        pair.abandon()
        shutil.rmtree(area)


def _spooled(path: bytes) -> list[Operation]:
    return [("open", 0, path, os.O_RDWR | os.O_CREAT, 0o600), ("write", 0, 0, 100, 1)]


FOUND: list[tuple[int, list[Operation]]] = [
    # What was found once is tried first.
    (26, [("open", 1, b"p/p/a", os.O_RDONLY | os.O_TRUNC, 0o644)]),
    # the identity of the base itself after a remount, and a merge of nothing but its times
    (5, [("chmod_dir", b"", 0o1777), ("remount",), ("rename", b"p/a", b"c", 0)]),
    (58, [("utime", b"", 3_999_999_999, 3_999_999_999, True)]),
    # working files of batches that could not be stored
    (354, [("truncate", b"p/p/p/a", 63), ("collect",), ("truncate", b"c", 0), ("store_batch", False)]),
    (0, [*_spooled(b"n"), ("collect",), ("store_batch", False), ("ftruncate", 0, 0)]),
    (0, [*_spooled(b"n"), ("collect",), ("store_batch", False), ("write", 0, 7, 31, 2), ("compare",)]),
    (0, [*_spooled(b"n"), ("collect",), ("store_batch", False), ("collect",), ("unlink", b"n"), ("close", 0)]),
    (0, [*_spooled(b"n"), ("collect",), ("unlink", b"n"), ("close", 0), ("forget", 1.0), ("store_batch", False)]),
]


@pytest.mark.parametrize(("shape", "sequence"), FOUND)
@pytest.mark.usefixtures("small_limits")
def test_sequences_that_once_told_them_apart(
    fast_area: Path, store: Store, numbers: Iterator[int], shape: int, sequence: list[Operation]
) -> None:
    for watched, slow in itertools.product((True, False), (True, False)):
        area = fast_area / str(next(numbers))
        run(area, store, sequence, shape=shape, watched=watched, slow=slow, merge=watched)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=20_000 if LONG else 120)
@given(
    shape=st.integers(0, 999),
    watched=st.booleans(),
    slow=st.booleans(),
    sequence=st.lists(operations(), max_size=40),
)
@example(shape=0, watched=True, slow=False, sequence=[])
def test_drawn_sequences(
    fast_area: Path,
    store: Store,
    numbers: Iterator[int],
    shape: int,
    watched: bool,
    slow: bool,
    sequence: list[Operation],
) -> None:
    run(fast_area / str(next(numbers)), store, sequence, shape=shape, watched=watched, slow=slow)


@pytest.mark.parametrize("least", [5, 12, 30])
@pytest.mark.usefixtures("small_limits")
def test_many_drawn_sequences(fast_area: Path, store: Store, numbers: Iterator[int], least: int) -> None:
    """Short and long ones, of which some are merged."""
    most, examples = {5: (12, 800), 12: (30, 700), 30: (100, 200)}[least]

    @settings(max_examples=examples * (40 if LONG else 1))
    @given(
        shape=st.integers(0, 99_999), watched=st.booleans(), slow=st.booleans(), merge=st.booleans(),
        sequence=sequences(least, most),
    )  # fmt: skip
    def drawn(shape: int, watched: bool, slow: bool, merge: bool, sequence: list[Operation]) -> None:
        place = fast_area / str(next(numbers))
        run(place, store, sequence, shape=shape, watched=watched, slow=slow, merge=merge)

    drawn()


def test_with_the_limits_as_they_are(fast_area: Path, store: Store, numbers: Iterator[int]) -> None:
    for seed in range(1000 if LONG else 50):
        source = random.Random(seed)
        run(
            fast_area / str(next(numbers)),
            store,
            random_operations(source, 60),
            shape=seed,
            merge=True,
        )


def _has_acls(place: Path) -> bool:
    try:
        os.setxattr(place, "system.posix_acl_access", ACLS[1])
        os.removexattr(place, "system.posix_acl_access")
    except OSError:
        return False
    return True


def test_with_access_control_lists(area: Path) -> None:
    if not _has_acls(area):
        pytest.skip("the filesystem has no ACLs")
    with Store.open(area / "store") as store:
        for seed in range(1000 if LONG else 60):
            source = random.Random(seed)
            sequence = random_operations(source, source.randrange(5, 60), on_acls=True)
            try:
                place, watched = area / str(seed), source.random() < 0.6
                run(place, store, sequence, shape=seed, watched=watched, merge=seed % 2 == 0, exact=False)
            except BaseException as e:
                e.add_note(f"seed {seed}")
                raise
