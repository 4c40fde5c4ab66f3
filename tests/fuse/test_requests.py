"""How many requests the usual operations cost: each is a round trip through two wake-ups."""

import os
from collections import Counter

from tests.support.mounts import ASYNCHRONOUS, Mounted


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
