"""Stores for tests; whatever a test did to its store, the checker must find nothing wrong with it afterwards."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.store.sessions import every_kind_of_base, every_kind_of_change
from tests.store.work import Work


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where the test's store is, or will be."""
    return tmp_path / "store"


@pytest.fixture
def store(store_path: Path) -> Iterator[Store]:
    """An open store."""
    with Store.open(store_path) as opened:
        yield opened
    with Store.open(store_path) as again:
        report = fsck(again)
    assert report.findings == ()


@pytest.fixture
def base(tmp_path: Path) -> bytes:
    """An empty directory to make runs over."""
    path = tmp_path / "base"
    path.mkdir()
    return str(path).encode()


@pytest.fixture
def work(store: Store, base: bytes, tmp_path: Path) -> Iterator[Callable[..., Work]]:
    """Makes runs over a base with every kind of file: ``work(change)`` does ``change(there)`` in a copy of it, which is
    made when ``before(base)`` is done.
    """
    made: list[Work] = []

    def begin(
        change: Callable[[Path], object] = every_kind_of_change,
        before: Callable[[Path], object] = lambda base: None,
        **kwargs: object,
    ) -> Work:
        before(Path(os.fsdecode(base)))
        made.append(Work(store, base, tmp_path / f"there{len(made)}", change, **kwargs))
        return made[-1]

    every_kind_of_base(Path(os.fsdecode(base)))
    yield begin
    for each in made:
        each.mirror.close()
