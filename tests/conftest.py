"""Fixtures, and the checks every test passes through: no unexpected warning, no mount and no process left behind."""

import gc
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import leftovers, trees
from tests.support.users import OrdinaryUser, ordinary_user

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("ci"), derandomize=False, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def session_area() -> Iterator[Path]:
    """A directory with a short name (Unix sockets have at most 107 bytes of path) that ordinary users may enter."""
    area = Path(tempfile.mkdtemp(prefix="gxt-"))
    area.chmod(0o755)
    yield area
    shutil.rmtree(area)


@pytest.fixture
def area(session_area: Path) -> Iterator[Path]:
    """A fresh directory for one test, with a short name; gone afterwards."""
    place = Path(tempfile.mkdtemp(dir=session_area, prefix="t"))
    place.chmod(0o755)
    yield place
    left = leftovers.clear(place)  # before the removal, which must not walk into a mount
    shutil.rmtree(place)
    assert not left, f"the test left behind: {left}"


@pytest.fixture(autouse=True)
def nothing_left_behind(session_area: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that left a mount or a process; undo both first, so that the next test is not the victim."""
    places = (session_area, tmp_path_factory.getbasetemp())
    before = set(leftovers.own_files_below(*places))
    yield
    left = leftovers.clear(*places)
    assert not left, f"the test left behind: {left}"
    if set(leftovers.own_files_below(*places)) - before:
        gc.collect()  # what only a cycle holds is nobody's mistake
    files = sorted(set(leftovers.own_files_below(*places)) - before)
    assert not files, f"the test left open: {files}"


@pytest.fixture(autouse=True)
def no_unexpected_warning(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which goexfs logged a warning or worse that no ``logs`` marker announces."""
    expected = [re.compile(mark.args[0]) for mark in request.node.iter_markers("logs")]
    yield
    records = [
        record
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.WARNING and record.name.split(".")[0] in ("goexfs", "snapshots", "pyfuse3")
    ]
    unexpected = [f"{r.name}: {r.getMessage()}" for r in records if not any(e.search(r.getMessage()) for e in expected)]
    assert not unexpected, f"the test logged: {unexpected}"


@pytest.fixture
def goexfs_home(area: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private place for a store, given by the environment to this process and its children; not created yet."""
    home = area / "store"
    monkeypatch.setenv("GOEXFS_HOME", str(home))
    return home


@pytest.fixture
def fresh_base(area: Path) -> Path:
    """A small real project to run over (see ``trees.small_tree``)."""
    base = area / "base"
    base.mkdir()
    trees.small_tree(base)
    return base


@pytest.fixture(scope="session")
def standard_library(session_area: Path) -> Path:
    """A copy of the interpreter's library, at least 1,500 files, shared by the session: never written to."""
    target = session_area / "stdlib"
    assert trees.copy_of_standard_library(target) >= 1500
    return target


@pytest.fixture
def standard_library_base(standard_library: Path, area: Path) -> Path:
    """A copy of the interpreter's library of the test's own."""
    return shutil.copytree(standard_library, area / "lib", symlinks=True)


@pytest.fixture
def user(area: Path) -> Iterator[OrdinaryUser]:
    """An ordinary user (see ``tests.support.users``) who may open /dev/fuse; its mode is restored afterwards."""
    device = Path("/dev/fuse")
    mode = device.stat().st_mode & 0o777 if device.exists() else None
    if mode is not None and mode & 0o006 != 0o006 and os.geteuid() == 0:
        device.chmod(mode | 0o006)  # what udev does on a desktop; containers come without udev
    yield ordinary_user(area / "user")
    if mode is not None and device.stat().st_mode & 0o777 != mode:
        device.chmod(mode)
