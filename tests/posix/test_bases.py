"""Bases that are not a plain directory of the user's: other filesystems, forbidden parts, slow ones, the root."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.posix.conftest import BIG, fill
from tests.posix.test_open_files import fails
from tests.support import trees
from tests.support.commands import Goexfs
from tests.support.mounts import mounted
from tests.support.users import OrdinaryUser

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems of all kinds")


@contextmanager
def kernel_mount(point: Path, *words: str) -> Iterator[Path]:
    """mount(8), and its opposite afterwards; skips where the kernel does not have it."""
    point.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, point], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


@pytest.fixture
def goexfs(goexfs_home: Path) -> Goexfs:
    """The command, with a store of its own."""
    return Goexfs(goexfs_home)


@pytest.fixture
def base(area: Path) -> Path:
    """A little of everything."""
    fill(area / "base")
    return area / "base"


def usual_work(top: Path) -> None:
    """Changes of every kind, and what is to be seen of them."""
    with (top / "file").open("ab") as file:
        file.write(b"more")
    with (top / "big").open("r+b") as file:
        file.seek(BIG // 2)
        file.write(b"patched")
    (top / "dir").rename(top / "moved")
    (top / "moved" / "inner").unlink()
    (top / "hard").chmod(0o600)
    (top / "new").mkdir()
    (top / "link").rename(top / "new" / "link")
    assert (top / "file").read_bytes() == b"content\n" * 100 + b"more"
    assert (top / "big").read_bytes()[BIG // 2 : BIG // 2 + 7] == b"patched"
    assert (top / "moved" / "sub" / "deep").read_text() == "deep\n"
    assert (top / "moved" / "hard too").stat().st_nlink == 2
    assert sorted(os.listdir(top / "moved")) == ["hard too", "sub"]


def test_another_filesystem_below_the_base(base: Path, area: Path) -> None:
    with kernel_mount(base / "other", "-t", "tmpfs", "none"):
        fill(base / "other" / "tree")
        before = trees.picture(base)
        with mounted(base, area) as mount:
            top = mount.path / "other" / "tree"
            with os.scandir(mount.path / "other") as entries:
                (entry,) = entries
                assert entry.inode() == top.stat().st_ino
            numbers = [path.lstat().st_ino for path in mount.path.rglob("*") if "hard" not in path.name]
            assert len(numbers) == len(set(numbers)), "inode numbers of two filesystems are confused"
            os.rename(top / "dir", mount.path / "across")  # one filesystem to the programs in the mount
            assert (mount.path / "across" / "sub" / "deep").read_text() == "deep\n"
            os.link(top / "empty", mount.path / "linked")
            os.rename(mount.path / "across", top / "dir")
            usual_work(top)
            run = mount.run_id
        with mounted(base, area, run_id=run) as mount:
            assert (mount.path / "other/tree/moved/sub/deep").read_text() == "deep\n"
        assert trees.picture(base) == before


def test_a_read_only_base(base: Path, area: Path) -> None:
    with kernel_mount(area / "read only", "--bind", "-o", "ro", str(base)) as point:
        fails(errno.EROFS, os.mkdir, point / "x")
        with mounted(point, area) as mount:
            usual_work(mount.path)


def test_a_base_that_is_an_overlay(base: Path, area: Path) -> None:
    # Its upper must not be on an overlay itself, so it gets a filesystem in memory.
    with kernel_mount(area / "memory", "-t", "tmpfs", "none") as memory:
        for name in ("upper", "work"):
            (memory / name).mkdir()
        options = f"lowerdir={base},upperdir={memory}/upper,workdir={memory}/work"
        with kernel_mount(area / "merged", "-t", "overlay", "overlay", "-o", options) as merged:
            (merged / "above").write_text("above\n")
            (merged / "empty").unlink()
            with mounted(merged, area) as mount:
                assert (mount.path / "above").read_text() == "above\n"
                assert not (mount.path / "empty").exists()
                usual_work(mount.path)
            assert (merged / "dir" / "inner").exists()


def test_a_base_that_is_a_goexfs_mount(goexfs: Goexfs, base: Path, area: Path) -> None:
    before = trees.picture(base)
    lower, above = area / "lower", area / "above"
    with goexfs.mounted(lower, "--name", "lower", base):
        (lower / "file").write_text("of the run below\n")
        above.mkdir()
        goexfs("mount", "--name", "above", "--allow-nested", lower, above)
        try:
            assert (above / "file").read_text() == "of the run below\n"
            (above / "file").write_bytes(b"content\n" * 100)
            usual_work(above)
            assert (lower / "file").read_text() == "of the run below\n"
        finally:
            goexfs("umount", above)
    assert trees.picture(base) == before


def test_the_store_and_the_mountpoint_below_the_base(base: Path) -> None:
    (base / "state").mkdir()
    goexfs = Goexfs(base / "state" / "store")
    with goexfs.mounted(base / "mnt", "--name", "inside", "--allow-nested", base):
        top = base / "mnt"
        assert "mnt" not in os.listdir(top)
        assert os.listdir(top / "state") == []
        fails(errno.ENOENT, os.stat, top / "mnt")
        fails(errno.ENOENT, os.stat, top / "state" / "store")
        fails(errno.EPERM, os.mkdir, top / "mnt")
        look = ["find", top, "-type", "f", "-exec", "cat", "{}", "+"]
        subprocess.run(look, capture_output=True, check=True, timeout=60)
        usual_work(top)


def test_the_root_as_base(goexfs: Goexfs, area: Path) -> None:
    with goexfs.mounted(area / "root", "--name", "root", "--allow-nested", Path("/")) as top:
        assert (top / "etc" / "passwd").read_bytes() == Path("/etc/passwd").read_bytes()
        (top / "etc" / "passwd").write_text("changed in the run\n")
        (top / "new").mkdir()
        fails(errno.ENOENT, os.stat, f"{top}{area}/root")
        walk = ["find", top / "etc", top / "usr" / "bin", f"{top}{area}", "-xdev", "-type", "f"]
        subprocess.run(walk, capture_output=True, check=True, timeout=120)
        run = subprocess.run(["chroot", top, "/bin/cat", "/etc/passwd"], capture_output=True, check=True, timeout=60)
        assert run.stdout == b"changed in the run\n"
    assert not Path("/new").exists()
    assert Path("/etc/passwd").read_text() != "changed in the run\n"


def test_what_an_ordinary_user_may_not_read(base: Path, area: Path, user: OrdinaryUser) -> None:
    (base / "secret").write_text("root's")
    (base / "secret").chmod(0o600)
    (base / "closed").mkdir(0o700)
    (base / "closed" / "x").touch()
    (base / "passing").mkdir()
    (base / "passing" / "x").write_text("x")
    (base / "passing").chmod(0o711)
    subprocess.run(["chown", f"{user.uid}:{user.gid}", base, base / "file", base / "dir"], check=True)
    with mounted(base, area, user=user) as mount:
        script = """
            exec 2>&1; cat secret; ls closed; cat closed/x; cat passing/x; ls passing; echo x > secret; echo x >> big
            chmod 600 secret; mv secret taken && ls; rm -rf taken && echo gone; mkdir closed; mv dir moved
            cat moved/inner; mv closed shut; ls
        """
        said = user.run(["sh", "-c", f"cd {mount.path}; {script}"]).stdout.replace("cannot", "can't")
        native = area / "native"
        subprocess.run(["cp", "-a", base, native], check=True)
        expected = user.run(["sh", "-c", f"cd {native}; {script}"]).stdout.replace("cannot", "can't")
        assert said == expected
        done = user.run(["rmdir", f"{mount.path}/shut"])
        assert "Permission denied" in done.stderr  # whether it is empty cannot be known: natively ENOTEMPTY
    assert (base / "secret").read_text() == "root's"


SLOW = """
import errno, os, stat, sys, time
import pyfuse3, trio

class Slow(pyfuse3.Operations):
    # "quick" answers, "slow" waits in read, "lost" in getattr and lookup, until somebody makes *flag*.
    names = {b"quick": 2, b"slow": 3, b"lost": 4, b"dir": 5}

    def __init__(self, flag):
        super().__init__()
        self.flag = flag

    async def wait(self):
        while not os.path.exists(self.flag):
            await trio.sleep(0.02)

    def entry(self, ino):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink = ino, 1
        entry.st_mode = stat.S_IFDIR | 0o755 if ino in (1, 5) else stat.S_IFREG | 0o644
        entry.st_size = 0 if ino in (1, 5) else 5
        entry.entry_timeout = 0 if ino == 4 else 1000
        entry.attr_timeout = 0
        return entry

    async def getattr(self, ino, ctx=None):
        if ino == 4:
            await self.wait()
        return self.entry(ino)

    async def lookup(self, parent, name, ctx=None):
        if name == b"lost":
            await self.wait()
        if parent != 1 or name not in self.names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.entry(self.names[name])

    async def opendir(self, ino, ctx):
        return ino

    async def readdir(self, fh, start, token):
        for at, (name, ino) in enumerate(self.names.items() if fh == 1 else ()):
            if at >= start and not pyfuse3.readdir_reply(token, name, self.entry(ino), at + 1):
                return

    async def open(self, ino, flags, ctx):
        return pyfuse3.FileInfo(fh=ino)

    async def read(self, fh, offset, size):
        if fh == 3:
            await self.wait()
        return b"text\\n"[offset:offset + size]

pyfuse3.init(Slow(sys.argv[2]), sys.argv[1], {"fsname=slow", "default_permissions"})
trio.run(pyfuse3.main)
"""


@pytest.mark.timeout(100)
def test_a_reader_stuck_on_a_slow_base_stops_nobody_else(goexfs: Goexfs, area: Path) -> None:
    slow, flag, top = area / "slow", area / "flag", area / "mnt"
    slow.mkdir()
    (area / "slow.py").write_text(SLOW)
    server = subprocess.Popen([sys.executable, area / "slow.py", slow, flag])
    stuck: list[subprocess.Popen[bytes]] = []
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(slow):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for name in ("quick", "slow", "dir"):  # pyfuse3 has one lookup per directory at a time
            (slow / name).stat()
        with goexfs.mounted(top, "--name", "slow", slow):
            # More than there are threads would be for one base: each waits by itself.
            for name in ("slow", "lost") * 5:
                stuck.append(subprocess.Popen(["cat", top / name], stdout=subprocess.PIPE))
            time.sleep(0.3)
            began = time.monotonic()
            assert (top / "quick").read_text() == "text\n"
            # Not where the lookup is stuck: the kernel makes nobody create in a directory in which it looks for a name.
            for number in range(50):
                (top / "dir" / f"new{number}").write_text("new")
            assert (top / "dir" / "new7").read_text() == "new"
            (top / "dir" / "new8").rename(top / "dir" / "renamed")
            assert len(os.listdir(top / "dir")) == 50
            assert time.monotonic() - began < 5
            assert all(reader.poll() is None for reader in stuck)
            flag.touch()
            assert [reader.communicate(timeout=30)[0] for reader in stuck] == [b"text\n"] * 10
    finally:
        flag.touch()
        for reader in stuck:
            reader.kill()
            reader.communicate()
        subprocess.run(["umount", "-l", slow], check=True)
        server.wait(timeout=20)
