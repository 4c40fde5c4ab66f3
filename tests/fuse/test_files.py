"""Programs at work in a mount: what they see is what they did, and the base never notices."""

import errno
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.mounts import Mounted, mounted
from tests.support.users import OrdinaryUser


def listing(top: Path) -> dict[str, object]:
    return {
        str(path.relative_to(top)): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in sorted(top.rglob("*"))
    }


def test_the_base_is_seen_as_it_is(mount: Mounted) -> None:
    assert listing(mount.path) == listing(mount.base)
    for name in ("small", "big", "dir", "dir/sub/deep"):
        ours, theirs = (mount.path / name).lstat(), (mount.base / name).lstat()
        for field in ("mode", "ino", "uid", "gid", "size", "mtime_ns", "ctime_ns", "nlink", "blocks"):
            assert getattr(ours, f"st_{field}") == getattr(theirs, f"st_{field}"), (name, field)


def test_the_usual_work_changes_the_mount_and_not_the_base(mount: Mounted) -> None:
    before = listing(mount.base)
    top = mount.path
    (top / "new").write_text("new\n")
    (top / "small").write_text("changed\n")
    (top / "made").mkdir()
    (top / "new").rename(top / "made" / "renamed")
    (top / "dir").rename(top / "elsewhere")
    (top / "empty").unlink()
    (top / "pointer").symlink_to("elsewhere/file1")
    os.link(top / "small", top / "small too")
    os.mkfifo(top / "fifo")
    assert (top / "made" / "renamed").read_text() == "new\n"
    assert (top / "pointer").read_text() == "1\n" * 100
    assert (top / "small too").stat().st_nlink == 2
    assert (top / "small too").read_text() == "changed\n"
    assert not (top / "empty").exists()
    assert not (top / "dir").exists()
    assert len(list((top / "elsewhere").iterdir())) == 21
    (top / "elsewhere" / "sub" / "deep").unlink()
    (top / "elsewhere" / "sub").rmdir()
    with pytest.raises(FileNotFoundError):
        os.listdir(top / "elsewhere" / "sub")
    assert listing(mount.base) == before


def test_what_was_done_is_there_in_the_next_mount(base: Path, area: Path) -> None:
    with mounted(base, area) as mount:
        (mount.path / "new").write_bytes(b"n" * 300_000)
        (mount.path / "dir" / "file1").unlink()
        (mount.path / "dir").rename(mount.path / "moved")
        with (mount.path / "big").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"patched")
        seen = listing(mount.path)
        run = mount.run_id
    with mounted(base, area, run_id=run) as mount:
        assert listing(mount.path) == seen
    assert (base / "dir" / "file1").exists()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 131_072, 131_073, 5_000_000])
def test_contents_of_any_size(mount: Mounted, size: int) -> None:
    data = os.urandom(size)
    (mount.path / "file").write_bytes(data)
    assert (mount.path / "file").read_bytes() == data
    assert (mount.path / "file").stat().st_size == size
    mount.ask("seal")
    assert (mount.path / "file").read_bytes() == data


def test_a_patch_in_the_middle_of_a_big_file(mount: Mounted) -> None:
    expected = bytearray((mount.base / "big").read_bytes())
    expected[1_000_000:1_000_007] = b"patched"
    with (mount.path / "big").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"patched")
    assert (mount.path / "big").read_bytes() == expected
    assert (mount.base / "big").read_bytes() != expected


def test_a_sparse_file_beyond_four_gigabytes(mount: Mounted) -> None:
    with (mount.path / "sparse").open("wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
    with (mount.path / "sparse").open("rb") as file:
        file.seek((5 << 30) - 10)
        assert file.read() == b"\0" * 10 + b"end"
    assert (mount.path / "sparse").stat().st_blocks < 1000


def test_shared_memory_maps_write_to_the_file(mount: Mounted) -> None:
    with (mount.path / "big").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[5000:5005] = b"hello"
        memory.flush()
        assert os.pread(file.fileno(), 5, 5000) == b"hello"
    assert (mount.path / "big").read_bytes()[4999:5006] == bytes([4999 % 256]) + b"hello" + bytes([5005 % 256])
    with (mount.path / "small").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
        private[0:1] = b"X"
    assert (mount.path / "small").read_text() == "small\n"


def test_what_is_written_while_open_is_in_the_store_after_sealing(mount: Mounted) -> None:
    with (mount.path / "log").open("ab", buffering=0) as file:
        file.write(b"first line\n")
        mount.ask("seal")
        from snapshots.storage.store import Store

        with Store.open(mount.store, create=False) as store:
            state = store.upper(mount.run_id).load()
            (content,) = [entry.content for entry in state.entries.values() if entry.content is not None]
            (extent,) = content.extents
            assert store.objects.read(extent.object) == b"first line\n"
        file.write(b"second line\n")
    assert (mount.path / "log").read_bytes() == b"first line\nsecond line\n"


def test_appending_from_many_processes_loses_nothing(mount: Mounted) -> None:
    script = (
        "import os\nfd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "for n in range(200): os.write(fd, b'%d %d\\n' % (os.getpid(), n))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script], cwd=mount.path) for _ in range(5)]
    assert [worker.wait() for worker in workers] == [0] * 5
    lines = (mount.path / "log").read_text().split("\n")
    assert len(lines) == 1001
    for worker in workers:
        assert [int(line.split()[1]) for line in lines if line.startswith(f"{worker.pid} ")] == list(range(200))


def test_many_writers_in_one_directory(mount: Mounted) -> None:
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(60):
                path = mount.path / "dir" / f"w{worker}.{number}"
                path.write_text(f"{worker} {number}" * 50)
                path.rename(path.with_suffix(".done"))
                if number % 3 == 0:
                    path.with_suffix(".done").unlink()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    names = [name for name in os.listdir(mount.path / "dir") if name.startswith("w")]
    assert len(names) == len(set(names)) == 0 or all(name.endswith("done") for name in names)


def test_unlinked_and_renamed_while_open(mount: Mounted) -> None:
    with (mount.path / "small").open("r+") as file:
        (mount.path / "small").unlink()
        (mount.path / "small").write_text("another\n")
        file.seek(0, os.SEEK_END)
        file.write("more\n")
        file.flush()
        file.seek(0)
        assert file.read() == "small\nmore\n"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert (mount.path / "small").read_text() == "another\n"
    with (mount.path / "big").open("rb") as file:
        (mount.path / "empty").rename(mount.path / "big")
        assert len(file.read()) == 256 * 4096 * 3
    assert (mount.path / "big").read_bytes() == b""


def test_rename_flags(mount: Mounted) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def renameat2(old: str, new: str, flags: int) -> int:
        done = libc.renameat2(
            -100, os.fsencode(mount.path / old), -100, os.fsencode(mount.path / new), ctypes.c_uint(flags)
        )
        return 0 if done == 0 else ctypes.get_errno()

    assert renameat2("small", "empty", 1) == errno.EEXIST
    assert renameat2("small", "absent", 1) == 0
    assert renameat2("absent", "dir", 2) == 0
    assert (mount.path / "dir").read_text() == "small\n"
    assert (mount.path / "absent" / "sub" / "deep").read_text() == "deep\n"


def test_a_large_directory_is_listed_once_and_whole(mount: Mounted) -> None:
    (mount.path / "many").mkdir()
    names = {f"{number:05d}{'x' * (number % 200)}" for number in range(3000)}
    for name in names:
        (mount.path / "many" / name).touch()
    listed = os.listdir(mount.path / "many")
    assert len(listed) == 3000
    assert set(listed) == names
    everything = subprocess.run(["ls", "-fa"], cwd=mount.path / "many", capture_output=True, text=True, check=True)
    assert {".", ".."} < set(everything.stdout.split("\n"))


def test_names_of_any_bytes(mount: Mounted) -> None:
    top = os.fsencode(mount.path)
    for name in (b"\xff\xfe", b"with\nnewline", b" ", b"-rf", b"n" * 255):
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
        assert name in os.listdir(top)
        with open(top + b"/" + name, "rb") as file:
            assert file.read() == name
    with pytest.raises(OSError, match="too long") as caught:
        os.stat(top + b"/" + b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_attributes(mount: Mounted) -> None:
    path = mount.path / "small"
    path.chmod(0o640)
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    found = path.stat()
    assert found.st_mode & 0o7777 == 0o640
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    os.truncate(path, 3)
    assert path.read_text() == "sma"
    os.truncate(path, 5)
    assert path.read_bytes() == b"sma\0\0"
    os.setxattr(path, "user.note", b"hello")
    assert os.getxattr(path, "user.note") == b"hello"
    assert os.listxattr(path) == ["user.note"]
    with pytest.raises(OSError, match="exists"):
        os.setxattr(path, "user.note", b"again", os.XATTR_CREATE)
    os.removexattr(path, "user.note")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.note")
    assert os.statvfs(mount.path).f_namemax == 255


def test_access_tells_what_may_be_executed(mount: Mounted) -> None:
    assert not os.access(mount.path / "small", os.X_OK)
    assert os.access(mount.path / "small", os.R_OK | os.W_OK)
    assert os.access(mount.path / "dir", os.X_OK)
    (mount.path / "small").chmod(0o755)
    assert os.access(mount.path / "small", os.X_OK)
    assert not os.access(mount.path / "absent", os.F_OK)


def test_fsync(mount: Mounted) -> None:
    for name, data in (("little", b"little"), ("large", b"l" * 1_000_000)):
        with (mount.path / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
    directory = os.open(mount.path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_an_ordinary_user_mounts_and_works(base: Path, area: Path, user: OrdinaryUser) -> None:
    subprocess.run(["chown", "-R", f"{user.uid}:{user.gid}", base], check=True)
    (base / "secret").write_text("root's")
    (base / "secret").chmod(0o600)
    with mounted(base, area, user=user) as mount:
        script = f"""
            set -e
            cd {mount.path}
            cat small; echo new > new; mv dir moved; rm empty; chmod 444 small
            cat moved/sub/deep
            if echo x 2>/dev/null >> small; then echo "wrote to a read-only file"; fi
            if cat secret 2>/dev/null; then echo "read a secret"; fi
            ls
        """
        done = user.run(["sh", "-c", script])  # root cannot start it there: not even root sees this mount
        assert done.stderr == ""
        assert done.stdout == "small\ndeep\nbig\nlink\nmoved\nnew\nsecret\nsmall\n"
        with pytest.raises(PermissionError):
            os.listdir(mount.path)
    assert (base / "dir").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_others_are_checked_when_root_lets_them_in(base: Path, area: Path, user: OrdinaryUser) -> None:
    (base / "secret").write_text("root's")
    (base / "secret").chmod(0o600)
    with mounted(base, area, allow_other=True) as mount:
        done = user.run(["sh", "-c", "cat small; cat secret; echo x > new; echo x > small"], cwd=mount.path)
        assert done.stdout == "small\n"
        assert done.stderr.count("Permission denied") + done.stderr.count("cannot create") >= 3


@pytest.mark.skipif(os.geteuid() != 0, reason="needs privileges to lose")
def test_privileges_are_lost_by_writing_and_by_a_new_owner(base: Path, area: Path, user: OrdinaryUser) -> None:
    with mounted(base, area, allow_other=True) as mount:

        def privileged(name: str) -> Path:
            path = mount.path / name
            path.write_text("program\n")
            path.chmod(0o6777)
            assert path.stat().st_mode & 0o7777 == 0o6777
            return path

        path = privileged("a")
        user.run(["sh", "-c", "echo x >> a"], cwd=mount.path)
        assert path.stat().st_mode & 0o7777 == 0o777, "a write by somebody else"
        path = privileged("b")
        user.run(["truncate", "-s", "2", "b"], cwd=mount.path)
        assert path.stat().st_mode & 0o7777 == 0o777, "a truncation by somebody else"
        path = privileged("c")
        user.run(["sh", "-c", ": > c"], cwd=mount.path)
        assert path.stat().st_mode & 0o7777 == 0o777, "opening with O_TRUNC by somebody else"
        path = privileged("d")
        os.chown(path, user.uid, user.gid)
        assert path.stat().st_mode & 0o7777 == 0o777, "a new owner"
        path = privileged("f")
        script = "import os; f = os.open('f', 2); os.pwrite(f, b'x', 0); print(oct(os.fstat(f).st_mode & 0o7777))"
        done = user.run([sys.executable, "-c", script], cwd=mount.path)
        assert done.stdout == "0o777\n", "seen at once by the one who wrote"
        path = privileged("e")
        with path.open("a") as file:
            file.write("more\n")
        os.truncate(path, 3)
        assert path.stat().st_mode & 0o7777 == 0o6777, "root may write without loss"


def test_a_program_that_is_executed_while_it_has_written(mount: Mounted) -> None:
    """execve(2) closes what is to be closed, which tells times, and /proc keeps silent about the process till then:
    of a program outside the mount nobody is told beforehand.
    """
    program = (
        "import os\n"
        "fd = os.open('written', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)\n"
        "os.write(fd, b'x' * 5000)\n"
        "os.execv('/bin/true', ['true'])\n"
    )
    for _ in range(10):
        subprocess.run([sys.executable, "-Sc", program], cwd=mount.path, check=True, timeout=60)
    assert (mount.path / "written").stat().st_size == 5000
