"""What the tests of the overlay share: a store, and a place on a filesystem in memory where there is one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck


def _place() -> Path | None:
    """A directory in memory whose files take extended attributes (since Linux 6.6)."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 32 << 20:
        return None
    place = Path(tempfile.mkdtemp(prefix="gxt-", dir=memory))
    try:
        os.setxattr(place, "user.a", b"")
    except OSError:
        place.rmdir()
        return None
    return place


@pytest.fixture(scope="module")
def fast_area(session_area: Path) -> Iterator[Path]:
    """A directory for many small trees."""
    place = _place()
    if place is None:
        place = Path(tempfile.mkdtemp(dir=session_area))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def store(fast_area: Path) -> Iterator[Store]:
    """A store that the tests of a module share; each makes runs of its own."""
    with Store.open(fast_area / "store") as store:
        yield store
        assert not fsck(store).findings
