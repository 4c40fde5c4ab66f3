"""Stores for tests; whatever a test did to its store, the checker must find nothing wrong with it afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck


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
