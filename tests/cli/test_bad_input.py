"""Bad input and broken machines: one clear line, an exit status of its own, and nothing lost."""

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.cli import errors
from snapshots.errors import GoexfsError
from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.trees import differences, picture
from tests.support.users import OrdinaryUser

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make this happen")


def refused(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    """The one line of a command that ended with ``status``."""
    assert done.returncode == status, done.stderr
    assert re.fullmatch(r"goexfs: [^\n]+\n", done.stderr), done.stderr
    assert done.stdout == ""
    return done.stderr


# the base


def test_a_base_that_is_missing_or_no_directory(goexfs: Command, area: Path) -> None:
    assert "missing" in refused(goexfs("run", "--base", area / "missing", "--", "true"), 65)
    assert "not a directory" in refused(goexfs("run", "--base", goexfs.cwd / "README", "--", "true"), 65)
    assert goexfs.json("ls", "--all")["runs"] == []


def test_a_base_that_may_not_be_read(user: OrdinaryUser, area: Path) -> None:
    barred = area / "barred"
    barred.mkdir(mode=0o700)
    if os.geteuid() != 0:
        barred.chmod(0)
    refused(user.run([*GOEXFS, "run", "--base", str(barred), "--", "true"]), 65)


def test_another_directory_in_the_place_of_the_base(goexfs: Command, fresh_base: Path) -> None:
    run = goexfs.kept("echo precious > added")
    fresh_base.rename(fresh_base.with_name("moved"))
    fresh_base.mkdir()
    for words in (["diff", run], ["merge", run], ["run", "--run", run, "--", "true"]):
        refused(goexfs(*words), 82)
    fresh_base.rmdir()
    fresh_base.with_name("moved").rename(fresh_base)
    assert goexfs("merge", run).returncode == 0
    assert (fresh_base / "added").read_text() == "precious\n"


def test_two_merges_into_one_base(goexfs: Command, fresh_base: Path) -> None:
    run = goexfs.kept("echo precious > added")
    other = os.open(fresh_base, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(goexfs("merge", run), 80)
    finally:
        os.close(other)
    assert goexfs.json("show", run)["state"] == "kept"
    assert goexfs("merge", run).returncode == 0


def test_one_conflict_is_said_once(goexfs: Command, fresh_base: Path) -> None:
    fresh_base.joinpath("both").write_text("old\n")
    run = goexfs.kept("echo mine > both")
    fresh_base.joinpath("both").write_text("theirs\n")
    refused(goexfs("merge", run), 79)


def test_a_kept_run_whose_base_is_gone(goexfs: Command, fresh_base: Path) -> None:
    run = goexfs.kept("echo precious > added")
    gone = fresh_base.rename(fresh_base.with_name("gone"))
    done = goexfs("run", "--run", run, "--", "true", cwd=gone)
    refused(done, 65)
    assert "put it back" in done.stderr


def test_wishes_exclude_each_other(goexfs: Command, fresh_base: Path) -> None:
    done = goexfs("run", "--merge", "--discard", "--", "sh", "-c", "echo new > added")
    assert done.returncode == 2 and "--discard and --merge exclude each other" in done.stderr
    assert not fresh_base.joinpath("added").exists()


# the store


def test_a_store_inside_the_base(goexfs: Command, fresh_base: Path) -> None:
    inside = environment(GOEXFS_HOME=str(fresh_base / "store"))
    before = sorted(os.listdir(fresh_base))
    refused(goexfs("run", "--", "true", env=inside), 81)
    refused(goexfs("mount", str(fresh_base), str(fresh_base.parent), env=inside), 81)
    assert sorted(os.listdir(fresh_base)) == before, "a refusal writes nothing into the base"
    done = goexfs("run", "--allow-nested", "--discard", "--", "sh", "-c", "ls; test ! -e store", env=inside)
    assert done.returncode == 0, done.stderr


def test_a_store_of_a_newer_format(goexfs: Command, goexfs_home: Path) -> None:
    run = goexfs.kept("echo precious > added")
    with sqlite3.connect(goexfs_home / "store.db") as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version = 9999")
    database.close()
    before = goexfs_home.joinpath("store.db").read_bytes()
    for words in (["ls"], ["gc"], ["fsck", "--repair"], ["run", "--", "true"], ["discard", run]):
        refused(goexfs(*words), 75)
    assert goexfs_home.joinpath("store.db").read_bytes() == before
    with sqlite3.connect(goexfs_home / "store.db") as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    assert goexfs("diff", run).returncode == 0


def test_a_damaged_store(goexfs: Command, goexfs_home: Path) -> None:
    goexfs.kept("echo precious > added")
    for left in goexfs_home.glob("store.db-*"):
        left.unlink()
    (goexfs_home / "store.db").write_bytes(b"not a database\n" * 1000)
    for words in (["ls"], ["gc"], ["run", "--", "true"], ["fsck", "--repair"]):
        said = refused(goexfs(*words), 76)
        assert "move" in said and "fsck" not in said, "fsck cannot say more of what is no database"
    (goexfs_home / "store.db").unlink()
    for words in (["ls"], ["gc"], ["run", "--", "true"], ["show", "x"]):
        assert "store.db is gone" in refused(goexfs(*words), 76)
    assert not (goexfs_home / "store.db").exists(), "no new store over what is left of the old one"


def test_no_store(goexfs: Command) -> None:
    for words in (["gc"], ["fsck"], ["show", "x"], ["diff", "x"], ["merge", "x"], ["discard", "x"], ["umount", "x"]):
        refused(goexfs(*words), 74)


def test_a_store_that_is_no_directory_or_may_not_be_written(goexfs: Command, area: Path, user: OrdinaryUser) -> None:
    (area / "file").touch()
    refused(goexfs("run", "--", "true", env=environment(GOEXFS_HOME=str(area / "file"))), 78)
    done = user.run([*GOEXFS, "run", "--", "true"], env={"GOEXFS_HOME": "/proc/store"})
    refused(done, 78)


@pytest.fixture
def tiny(area: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = area / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tiny", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@root_only
def test_a_full_disk_below_the_store(goexfs: Command, tiny: Path, fresh_base: Path) -> None:
    before = picture(fresh_base)
    environ = environment(GOEXFS_HOME=str(tiny / "store"))
    done = goexfs("run", "--keep", "--", "sh", "-c", "head -c 20000000 /dev/urandom > big; echo wrote $?", env=environ)
    assert "wrote 1" in done.stdout, "the writer is told, not goexfs's user afterwards"
    assert "Traceback" not in done.stderr
    assert differences(before, picture(fresh_base)) == []
    (tiny / "filler").write_bytes(b"")
    with (tiny / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass
    refused(goexfs("run", "--keep", "--", "true", env=environment(GOEXFS_HOME=str(tiny / "other"))), 77)


# runs


@pytest.mark.parametrize("name", ["", "two words", "a/b", "@", "line\nbreak", "\x1b[2J", "x" * 101])
def test_a_name_that_cannot_be_one(name: str, goexfs: Command) -> None:
    refused(goexfs("run", "--name", name, "--", "true"), 66)


def test_a_name_that_is_taken(goexfs: Command) -> None:
    goexfs.kept("echo x > added", name="work")
    refused(goexfs("run", "--name", "work", "--", "true"), 69)


# the machine


def path_without(area: Path, *programs: str) -> str:
    """A PATH with everything but these."""
    place = area / "bin"
    place.mkdir()
    for directory in reversed(os.environ["PATH"].split(":")):
        if os.path.isdir(directory):
            for entry in os.scandir(directory):
                if entry.name not in programs:
                    (place / entry.name).unlink(missing_ok=True)
                    (place / entry.name).symlink_to(entry.path)
    return str(place)


def test_no_bubblewrap(goexfs: Command, area: Path) -> None:
    environ = environment(PATH=path_without(area, "bwrap"))
    said = refused(goexfs("run", "--", "/bin/sh", "-c", "echo x > added", env=environ), 93)
    assert "--no-sandbox" in said
    assert goexfs.json("ls", "--all")["runs"] == [], "nothing ran, so nothing is kept"
    assert goexfs("run", "--no-sandbox", "--discard", "--", "/bin/true", env=environ).returncode == 0


def test_no_fuse_device(user: OrdinaryUser, fresh_base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can take the device away")
    device = Path("/dev/fuse")
    device.chmod(0o600)
    done = user.run([*GOEXFS, "run", "--", "true"], cwd=fresh_base)
    device.chmod(0o666)
    assert "/dev/fuse" in refused(done, 87)


def test_mounting_where_the_user_may_not(user: OrdinaryUser, fresh_base: Path, area: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a directory of another user")
    (area / "roots").mkdir()
    refused(user.run([*GOEXFS, "mount", str(fresh_base), str(area / "roots")]), 89)


def test_a_current_directory_that_is_gone(goexfs: Command, area: Path) -> None:
    goexfs.kept("true")
    script = 'rmdir "$PWD"; exec "$@"'
    for words in (["run", "--", "true"], ["merges"], ["undo"], ["import", "x"]):
        gone = area / "gone"
        gone.mkdir()
        done = subprocess.run(
            ["sh", "-c", script, "sh", *GOEXFS, *words],
            cwd=gone, env=environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "the current directory is not there any more" in refused(done, 65)


def test_a_name_that_is_nearly_one(goexfs: Command) -> None:
    goexfs.kept("true", name="parser")
    assert "did you mean 'parser'? `goexfs ls" in refused(goexfs("show", "praser"), 67)
    assert "'elsewhere' or has an id beginning so; `goexfs" in refused(goexfs("show", "elsewhere"), 67)


# errors that only a table can show


@pytest.mark.parametrize("kind", errors.STATUS, ids=lambda kind: kind.__name__)
def test_every_error_is_one_harmless_line(kind: type[GoexfsError]) -> None:
    failure = errors.Failure(kind("bad \x1b[2J\nnews"))
    assert failure.exit_code == errors.STATUS[kind]
    assert errors.describe(failure.error) == ["goexfs: bad \\x1b[2J\\nnews"]


def test_no_fusermount(user: OrdinaryUser, fresh_base: Path) -> None:
    """Whoever installed it elsewhere is helped by the usual places, so it is taken away by an empty file over it."""
    if os.geteuid() != 0:
        pytest.skip("only root can take the program away")
    found = shutil.which("fusermount3")
    assert found is not None
    script = 'mount --bind /dev/null "$0" && exec "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, os.path.realpath(found)]
    done = subprocess.run(
        [*argv, *user.wrap([*GOEXFS, "run", "--", "true"])],
        cwd=fresh_base, env=user.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    refused(done, 88)
