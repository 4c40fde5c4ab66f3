"""Fixtures of the tests that mount."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mounted, mounted


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """In place of a device: what is read from, and what is written to."""
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        os.close(fd)


@pytest.fixture
def base(area: Path) -> Path:
    """A base with a little of everything."""
    base = area / "base"
    base.mkdir()
    (base / "small").write_text("small\n")
    (base / "empty").write_bytes(b"")
    (base / "big").write_bytes(bytes(range(256)) * 4096 * 3)
    (base / "link").symlink_to("small")
    (base / "dir").mkdir()
    for number in range(20):
        (base / "dir" / f"file{number}").write_text(f"{number}\n" * 100)
    (base / "dir" / "sub").mkdir()
    (base / "dir" / "sub" / "deep").write_text("deep\n")
    return base


@pytest.fixture
def mount(base: Path, area: Path) -> Iterator[Mounted]:
    """That base, mounted and watched."""
    with mounted(base, area) as mount:
        mount.wait_watched()
        yield mount
