"""The base changes from outside while it is mounted."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from snapshots.merging.merge import merge
from snapshots.storage.store import Store
from tests.support.mounts import Mounted, eventually, mounted


@pytest.fixture(params=["watched", "unwatched"])
def either(request: pytest.FixtureRequest, base: Path, area: Path):  # type: ignore[no-untyped-def]
    """A mount whose base is watched, and one whose base cannot be."""
    with mounted(base, area, watch=request.param == "watched") as mount:
        if request.param == "watched":
            mount.wait_watched()
        yield mount


def test_a_changed_file_shows_within_a_second(either: Mounted) -> None:
    path = either.path / "dir" / "file1"
    assert path.read_text() == "1\n" * 100
    (either.base / "dir" / "file1").write_text("changed from outside\n")
    eventually(lambda: path.read_text() == "changed from outside\n", 1.1)
    assert path.stat().st_size == len("changed from outside\n")


def test_a_replaced_file_shows_within_a_second(either: Mounted) -> None:
    path = either.path / "small"
    assert path.read_text() == "small\n"
    (either.base / "temporary").write_text("replaced\n")
    (either.base / "temporary").rename(either.base / "small")
    eventually(lambda: path.read_text() == "replaced\n", 1.1)


def test_a_new_file_shows_although_its_absence_was_known(either: Mounted) -> None:
    path = either.path / "dir" / "later"
    for _ in range(2):
        assert not path.exists()
    (either.base / "dir" / "later").write_text("here\n")
    eventually(path.exists, 1.1)
    assert path.read_text() == "here\n"
    assert "later" in os.listdir(either.path / "dir")


@pytest.mark.parametrize("kept_by_the_run", [False, True])
def test_a_listing_shows_what_came_and_went(either: Mounted, kept_by_the_run: bool) -> None:
    """Names that nobody asked for, so that the kernel has nothing of them but what it kept of the listing."""
    place = either.path / "dir"
    if kept_by_the_run:
        (place / "mine").write_text("the run's")
    for _ in range(2):
        assert "came" not in os.listdir(place)
    (either.base / "dir" / "came").write_text("here\n")
    eventually(lambda: "came" in os.listdir(place), 1.1)
    for _ in range(2):
        assert "came" in os.listdir(place)
    (either.base / "dir" / "came").unlink()
    eventually(lambda: "came" not in os.listdir(place), 1.1)


def test_a_removed_file_goes_within_a_second(either: Mounted) -> None:
    path = either.path / "dir" / "file2"
    assert path.exists()
    (either.base / "dir" / "file2").unlink()
    eventually(lambda: not path.exists(), 1.1)
    assert "file2" not in os.listdir(either.path / "dir")


def test_attributes_show_within_a_second(either: Mounted) -> None:
    path = either.path / "small"
    assert path.stat().st_mode & 0o777 == 0o644
    (either.base / "small").chmod(0o600)
    eventually(lambda: path.stat().st_mode & 0o777 == 0o600, 1.1)


def test_directories_that_come_and_go(mount: Mounted) -> None:
    assert not (mount.path / "fresh").exists()
    (mount.base / "fresh" / "inner").mkdir(parents=True)
    (mount.base / "fresh" / "inner" / "file").write_text("1")
    eventually((mount.path / "fresh" / "inner" / "file").exists)
    (mount.base / "fresh" / "inner" / "file").write_text("2 and more")
    eventually(lambda: (mount.path / "fresh" / "inner" / "file").read_text() == "2 and more")
    shutil.rmtree(mount.base / "fresh")
    eventually(lambda: not (mount.path / "fresh").exists())


def test_a_moved_directory_and_what_happens_in_it_afterwards(mount: Mounted) -> None:
    assert (mount.path / "dir" / "sub" / "deep").read_text() == "deep\n"
    (mount.base / "dir").rename(mount.base / "moved")
    eventually((mount.path / "moved" / "sub" / "deep").exists)
    eventually(lambda: not (mount.path / "dir").exists())
    (mount.base / "moved" / "sub" / "deep").write_text("deeper\n")
    eventually(lambda: (mount.path / "moved" / "sub" / "deep").read_text() == "deeper\n")


def test_a_directory_moved_in_from_elsewhere(mount: Mounted, area: Path) -> None:
    (area / "outside" / "inner").mkdir(parents=True)
    (area / "outside" / "inner" / "file").write_text("1")
    assert not (mount.path / "arrived").exists()
    (area / "outside").rename(mount.base / "arrived")
    eventually((mount.path / "arrived" / "inner" / "file").exists)
    (mount.base / "arrived" / "inner" / "file").write_text("longer")
    eventually(lambda: (mount.path / "arrived" / "inner" / "file").read_text() == "longer")
    (mount.base / "arrived").rename(area / "gone")
    eventually(lambda: not (mount.path / "arrived").exists())


def test_what_the_run_changed_stays_the_runs_own(mount: Mounted) -> None:
    (mount.path / "small").write_text("mine\n")
    (mount.base / "small").write_text("theirs, and longer\n")
    time.sleep(0.3)
    assert (mount.path / "small").read_text() == "mine\n"


@pytest.mark.parametrize("how", ["append", "shrink", "replace"])
def test_a_file_with_a_mode_of_the_runs_own_follows_its_content(either: Mounted, area: Path, how: str) -> None:
    path, outside = either.path / "small", either.base / "small"
    assert path.read_text() == "small\n"
    path.chmod(0o755)
    new = {"append": "small\nmore\n", "shrink": "s\n", "replace": "another and longer\n"}[how]
    if how == "replace":
        (either.base / "temporary").write_text(new)
        (either.base / "temporary").rename(outside)
    else:
        outside.write_text(new)
    eventually(lambda: path.read_text() == new, 1.1)
    st = path.stat()
    assert (st.st_size, st.st_mode & 0o777, st.st_nlink) == (len(new), 0o755, 1)
    with path.open("a") as file:
        file.write("and the run's")
    assert path.read_text() == new + "and the run's"
    with Store.open(either.store) as store:
        either.ask("seal")
        assert not merge(store, store.runs.get(either.run_id), dry_run=True).plan.conflicts


def test_an_open_file_stays_readable_when_the_base_replaces_it(mount: Mounted) -> None:
    with (mount.path / "big").open("rb") as file:
        start = file.read(10)
        (mount.base / "other").write_text("other")
        (mount.base / "other").rename(mount.base / "big")
        eventually(lambda: (mount.path / "big").stat().st_size == 5)
        assert start + file.read() == bytes(range(256)) * 4096 * 3


def test_a_storm_of_changes_is_survived(mount: Mounted) -> None:
    os.listdir(mount.path / "dir")
    subprocess.run(
        ["sh", "-c", "for n in $(seq 3000); do echo $n > file$n; done; rm file1*; mkdir -p a/b/c/d"],
        cwd=mount.base / "dir",
        check=True,
    )
    expected = sorted(os.listdir(mount.base / "dir"))
    eventually(lambda: sorted(os.listdir(mount.path / "dir")) == expected, 3)


def test_the_base_is_moved_away(base: Path, area: Path) -> None:
    with mounted(base, area) as mount:
        mount.wait_watched()
        (mount.path / "new").write_text("new")
        base.rename(area / "elsewhere")
        eventually(lambda: bool(mount.ask("messages")))
        assert "moved or removed" in mount.ask("messages")[0]
        assert (mount.path / "new").read_text() == "new"
