"""Other people's suites and tools at work in a mount."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.posix.conftest import fill
from tests.support import trees
from tests.support.mounts import Mounted, mounted

STRESSORS = (
    "access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dnotify", "dup",
    "eventfd", "fallocate", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fstat", "getdent", "hdd",
    "inode-flags", "inotify", "io", "iomix", "lease", "link", "locka", "lockf", "lockofd", "mknod", "msync",
    "open", "rename", "revio", "seek", "sendfile", "splice", "symlink", "sync-file", "touch", "utime",
    "verity", "xattr", "mmap", "mmapfork", "readahead",
)  # fmt: skip
QUICK_STRESSORS = ("dentry", "rename", "link", "iomix", "filename", "xattr")


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of the programs is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def sh(script: str, cwd: Path, seconds: float = 600) -> str:
    """Run a shell script to its end; what it printed."""
    done = subprocess.run(
        ["sh", "-euc", script], cwd=cwd, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
        check=False, env={**os.environ, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, (script, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout + done.stderr


@pytest.fixture
def mount(area: Path) -> Iterator[Mounted]:
    """A mount over a small base."""
    fill(area / "base")
    with mounted(area / "base", area) as mount:
        mount.wait_watched()
        yield mount


def stress(mount: Mounted, stressor: str, seconds: int) -> None:
    """One stressor of stress-ng with two workers that verify what they do."""
    place = mount.path / "stress"
    place.mkdir()
    sh(
        f"stress-ng --{stressor} 2 --timeout {seconds}s --verify --temp-path {place} --metrics-brief",
        place,
        seconds + 120,
    )
    assert os.listdir(place) == []


@needs("stress-ng")
@pytest.mark.parametrize("stressor", QUICK_STRESSORS)
def test_a_few_stressors(mount: Mounted, stressor: str) -> None:
    stress(mount, stressor, 1)


@pytest.mark.long
@needs("stress-ng")
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressors(mount: Mounted, stressor: str) -> None:
    stress(mount, stressor, 2)


FIO = (
    "fio --name=t --filename={name} --size=16m --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal "
    "--rw={rw} --bs={bs} --ioengine={engine} {more}"
)


def fio(top: Path, name: str, rw: str, engine: str, bs: str, more: str = "") -> None:
    """A job of fio that reads back what it wrote."""
    sh(FIO.format(name=name, rw=rw, engine=engine, bs=bs, more=more), top)


@needs("fio")
def test_fio_verifies_a_file_of_the_base(mount: Mounted) -> None:
    (mount.base / "fio").write_bytes(os.urandom(16 << 20))
    fio(mount.path, "fio", "randwrite", "psync", "4k", "--io_size=4m")


@pytest.mark.long
@needs("fio")
@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize("engine", ["psync", "mmap", "libaio", "vsync"])
@pytest.mark.parametrize("rw", ["write", "randwrite", "randrw"])
def test_fio_verifies(mount: Mounted, rw: str, engine: str, direct: int) -> None:
    if engine == "mmap" and direct:
        pytest.skip("a map is never direct")
    (mount.base / "fio").write_bytes(os.urandom(16 << 20))
    for name in ("fio", "new"):
        fio(mount.path, name, rw, engine, "4k", f"--direct={direct} --iodepth=4")
        fio(mount.path, name, rw, engine, "4k-64k", f"--direct={direct} --fsync=32")


@pytest.mark.long
@needs("dbench")
@pytest.mark.parametrize("more", ["", "-s", "-F", "-S"])
def test_dbench(mount: Mounted, more: str) -> None:
    load = next(path for path in (Path("/usr/share/dbench/client.txt"), Path("/dev/null")) if path.exists())
    assert "Throughput" in sh(f"dbench -c {load} -t 10 {more} -D . 3", mount.path)


@needs("git")
def test_git(mount: Mounted, area: Path) -> None:
    said = sh(
        """
        mkdir origin && cd origin && git init -q . && git config user.email a@b && git config user.name n
        for n in $(seq 60); do echo "$n" > "file$n"; mkdir -p "d$((n % 7))"; seq "$n" 200 > "d$((n % 7))/f$n"; done
        git add . && git commit -qm one && git mv d1 moved && git rm -q file3 && git commit -qm two
        git checkout -q HEAD~1 && git checkout -q - && git branch other && git gc -q --aggressive --prune=now
        cd .. && git clone -q --no-hardlinks origin clone && git clone -q --shared origin shared
        cd clone && git fsck --strict --no-dangling && git status --porcelain && git stash list
        git config user.email a@b && git config user.name n && echo x >> file4 && git stash -q && git stash pop -q
        git commit -qam three && git rebase -q HEAD~1 && git worktree add -q ../tree HEAD~1
        git status --porcelain && git repack -adq && git fsck --full --no-dangling && git rev-list --count HEAD
        """,
        mount.path,
    )
    assert "error" not in said
    assert said.split()[-1] == "3"


@needs("sqlite3")
def test_sqlite_in_a_file_of_the_base(mount: Mounted) -> None:
    with closing(sqlite3.connect(mount.base / "base.db")) as db:
        db.execute("create table t (n integer primary key, data blob)")
        db.executemany("insert into t (data) values (randomblob(900))", [() for _ in range(3000)])
        db.commit()
    said = sh(
        """
        for mode in delete wal truncate persist; do
            sqlite3 base.db "pragma journal_mode=$mode; pragma mmap_size=10000000; update t set data=randomblob(500)
                where n % 7 = 0; delete from t where n % 100 = 3; insert into t (data) values (randomblob(5000));
                begin; update t set data = zeroblob(10); rollback; pragma integrity_check;"
        done
        sqlite3 base.db "vacuum; pragma integrity_check; select count(*) from t;"
        """,
        mount.path,
    )
    assert said.split()[-2:] == ["ok", "2973"]


@needs("rsync", "tar", "cp")
def test_round_trips(mount: Mounted, area: Path) -> None:
    """A tree with all there is comes into the mount, around in it, and out of it again, unchanged."""
    source = area / "source"
    fill(source)
    os.setxattr(source / "file", "user.x", b"1")
    os.setxattr(source / "dir", "trusted.x", b"2")
    os.chown(source / "big", 1, 2)
    (source / "file").chmod(0o4751)
    with (source / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        os.pwrite(file.fileno(), b"x", 3 << 20)
    os.utime(source, ns=(10**18, 10**18))
    sh(f"rsync -aHAX --sparse {source}/ rsynced", mount.path)
    sh(f"cp -a --sparse=always {source} copied", mount.path)
    sh(f"tar cf - --xattrs --xattrs-include='*' -S -C {source} . | tar xpf - --xattrs --xattrs-include='*' -C tarred",
       made(mount.path, "tarred"))  # fmt: skip
    sh(f"rsync -aHAX copied/ {area}/back && rsync -aHAX rsynced/ around", mount.path)
    os.utime(source, ns=(10**18, 10**18))
    expected = trees.picture(source)
    for place in (
        mount.path / "rsynced", mount.path / "copied", mount.path / "tarred", mount.path / "around", area / "back"
    ):  # fmt: skip
        os.utime(place, ns=(10**18, 10**18))  # rsync -H makes links after it has set the times of directories
        assert trees.differences(expected, trees.picture(place)) == [], place
        assert (place / "hard").stat().st_nlink == 2
        if place.name in ("rsynced", "copied", "tarred"):
            assert (place / "sparse").stat().st_blocks * 512 < 1 << 20
        assert os.getxattr(place / "dir", "trusted.x") == b"2"
    assert sh(f"rsync -aHAXn --itemize-changes --checksum {source}/ rsynced/", mount.path) == ""
    assert sh(f"tar cf - -C {source} . | tar df - -C tarred", mount.path) == ""


def made(top: Path, name: str) -> Path:
    """*top*, with a new directory in it."""
    (top / name).mkdir()
    return top
