"""A store whose runs end with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import goexfs
from goexfs.session import RunStore


@pytest.fixture
def store(goexfs_home: Path) -> Iterator[RunStore]:
    with goexfs.open_store() as opened:
        yield opened
        for run in opened.runs():
            if run.state == "active":
                run.unmount(force=True)
        assert not opened.fsck().findings
