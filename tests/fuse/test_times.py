"""Times under the writeback cache: the kernel keeps them, and what is stored must be what it showed."""

import os
from pathlib import Path

from goexfs.overlay.clock import KernelClock
from tests.support.mounts import mounted

FILES = 40


def test_what_is_stored_is_the_mtime_that_was_shown(area: Path) -> None:
    """Large enough that pages are still being written back while the clock ticks on."""
    base = area / "base"
    base.mkdir()
    for number in range(FILES):
        (base / f"old{number}").write_bytes(b"old")
    data = os.urandom(3_000_000)
    with mounted(base, area) as mount:
        mount.wait_watched()
        paths = [f"new{number}" for number in range(FILES)] + [f"old{number}" for number in range(FILES)]
        for path in paths:
            (mount.path / path).write_bytes(data)
        shown = {path: os.stat(mount.path / path).st_mtime_ns for path in paths}
    with mounted(base, area, run_id=mount.run_id) as mount:
        stored = {path: os.stat(mount.path / path).st_mtime_ns for path in paths}
    assert stored == shown


def test_a_later_write_through_the_same_handle_is_younger(area: Path) -> None:
    base = area / "base"
    base.mkdir()
    with mounted(base, area) as mount:
        fd = os.open(mount.path / "file", os.O_CREAT | os.O_RDWR, 0o644)
        os.write(fd, b"first")
        os.fsync(fd)
        first = os.fstat(fd).st_mtime_ns
        while os.fstat(fd).st_mtime_ns == first:
            os.write(fd, b"more")
        os.fsync(fd)
        second = os.fstat(fd).st_mtime_ns
        os.close(fd)
        assert second > first
    with mounted(base, area, run_id=mount.run_id) as mount:
        assert os.stat(mount.path / "file").st_mtime_ns == second


def test_what_is_emptied_in_the_tick_in_which_it_was_written(area: Path) -> None:
    """The kernel's stamps run ahead of the coarse clock once some filesystem was given a finer one (Linux 6.13), and
    of a stamp that it has already it tells nobody."""
    base, ahead = area / "base", area / "ahead"
    base.mkdir()
    shown = {}
    with mounted(base, area) as mount:
        for number in range(60):
            path = mount.path / f"{number}"
            for _ in range(3):  # what was looked at gets a finer stamp at its next change
                ahead.write_bytes(b"x")
                ahead.stat()
            path.write_bytes(b"written")
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
            shown[path.name] = path.stat().st_mtime_ns
    with mounted(base, area, run_id=mount.run_id) as mount:
        assert {name: (mount.path / name).stat().st_mtime_ns for name in shown} == shown


def test_nothing_is_stamped_before_what_the_kernel_stamped() -> None:
    clock = KernelClock()
    now = clock()
    clock.saw(now + 3_000_000)
    clock.saw(now + 1_000_000)
    assert clock() >= now + 3_000_000
    clock.saw(now + 10**12)  # the clock was set back since
    assert clock() < now + 10**11
