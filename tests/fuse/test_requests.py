"""How many requests the usual operations cost: each is a round trip through two wake-ups."""

import os
from collections import Counter
from pathlib import Path

import pytest

from goexfs.overlay.nowait import read_now
from tests.support.mounts import ASYNCHRONOUS, Mounted, mounted


def waited_for(counted: Counter[str]) -> int:
    """Requests that a program had to wait for."""
    return sum(number for name, number in counted.items() if name not in ASYNCHRONOUS)


def read_all(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    data = os.read(fd, 1_000_000)
    os.close(fd)
    return data


def test_a_known_file_costs_nothing_to_stat(mount: Mounted) -> None:
    os.stat(mount.path / "dir" / "file1")
    with mount.counting() as counted:
        for _ in range(10):
            os.stat(mount.path / "dir" / "file1")
    assert waited_for(counted) == 0, counted


def test_a_missing_file_is_asked_for_once(mount: Mounted) -> None:
    os.stat(mount.path / "dir")
    with mount.counting() as counted:
        for _ in range(10):
            assert not os.path.exists(mount.path / "dir" / "absent")
    assert counted == {"lookup": 1}


def test_a_listing_makes_everything_in_it_known(mount: Mounted) -> None:
    names = os.listdir(mount.path / "dir")
    with mount.counting() as counted:
        for name in names:
            os.lstat(mount.path / "dir" / name)
    assert waited_for(counted) == 0, counted


def test_reading_a_small_file_costs_its_opening(mount: Mounted) -> None:
    path = str(mount.path / "dir" / "file1")
    os.stat(path)
    for _ in range(3):
        with mount.counting() as counted:
            assert read_all(path) == b"1\n" * 100
        assert waited_for(counted) == 1, counted


def test_a_new_file_costs_five(mount: Mounted) -> None:
    os.stat(mount.path / "dir")
    for name in ("a", "b"):
        with mount.counting() as counted:
            fd = os.open(mount.path / "dir" / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            os.write(fd, b"some content")
            os.close(fd)
        assert waited_for(counted) <= 5, counted


def test_many_small_writes_are_gathered(mount: Mounted) -> None:
    fd = os.open(mount.path / "log", os.O_CREAT | os.O_WRONLY, 0o644)
    with mount.counting() as counted:
        for _ in range(500):
            os.write(fd, b"x" * 100)
        os.close(fd)
    assert counted["write"] <= 2, counted
    assert counted["getxattr"] <= 1, "security.capability is asked once for a file, not at every write"


def test_a_symlink_is_read_once(mount: Mounted) -> None:
    os.readlink(mount.path / "link")
    with mount.counting() as counted:
        for _ in range(5):
            assert os.readlink(mount.path / "link") == "small"
    assert waited_for(counted) == 0, counted


def test_what_was_written_is_read_from_the_page_cache(mount: Mounted) -> None:
    (mount.path / "new").write_bytes(b"new" * 10_000)
    mount.ask("seal")
    with mount.counting() as counted:
        assert read_all(str(mount.path / "new")) == b"new" * 10_000
    assert counted["read"] == 0, counted


def test_a_directory_is_listed_once(mount: Mounted) -> None:
    mount.wait_watched()
    names = sorted(os.listdir(mount.path / "dir"))
    os.stat(mount.path / "dir")  # reading it moved its atime, says the kernel
    with mount.counting() as counted:
        for _ in range(3):
            assert sorted(os.listdir(mount.path / "dir")) == names
    assert counted["readdir"] == 0
    assert waited_for(counted) == counted["opendir"] == 3, counted


def test_after_a_listing_what_was_read_costs_nothing_to_stat(mount: Mounted) -> None:
    mount.wait_watched()
    names = os.listdir(mount.path / "dir")
    for name in names:
        if os.path.isfile(mount.path / "dir" / name):
            read_all(str(mount.path / "dir" / name))  # the kernel doubts st_blocks of what was closed
    with mount.counting() as counted:
        for entry in os.scandir(mount.path / "dir"):
            entry.stat()
    assert counted["getattr"] <= 1, counted
    assert waited_for(counted) < len(names) / 2, counted


def test_a_kept_listing_follows_the_run_itself(mount: Mounted) -> None:
    mount.wait_watched()
    place = mount.path / "dir"
    before = set(os.listdir(place))
    for _ in range(2):
        (place / "made").write_text("new")
        assert set(os.listdir(place)) == before | {"made"}
        os.rename(place / "made", place / "renamed")
        assert set(os.listdir(place)) == before | {"renamed"}
        os.unlink(place / "renamed")
        assert set(os.listdir(place)) == before


def test_files_that_only_the_disk_has_cost_their_opening_too(tmp_path: Path, area: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02}").write_bytes(b"%d" % number * 1000)
    os.sync()
    cold = 0
    for path in tmp_path.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            cold += read_now(file.fileno(), 0, 1000) is None
    if cold < 30:
        pytest.skip("this filesystem keeps what is to be forgotten")
    with mounted(tmp_path, area) as mount:
        mount.wait_watched()
        names = os.listdir(mount.path)
        with mount.counting() as counted:
            for name in names:
                assert read_all(str(mount.path / name)) == b"%d" % int(name) * 1000
    assert counted["open"] == len(names)
    assert counted["read"] <= 5, "a content is read when its file is opened, and pushed into the page cache"
