"""Open files: flags, offsets, holes, maps, and what happens to them when their names change."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.conftest import BIG, Place
from tests.support.mounts import eventually, mounted

Forked = Callable[[Callable[[], object]], int]
libc = ctypes.CDLL(None, use_errno=True)


def fails(number: int, operation: Callable[..., object], *arguments: object, **options: object) -> None:
    """The call fails with that errno."""
    with pytest.raises(OSError) as caught:
        operation(*arguments, **options)
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


# -- flags


def test_exclusive_creation(top: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    fails(errno.EEXIST, os.open, top / "file", flags)
    fails(errno.EEXIST, os.open, top / "link", flags)
    fails(errno.EEXIST, os.open, top / "dir", flags)
    (top / "dangling").symlink_to("nowhere")
    fails(errno.EEXIST, os.open, top / "dangling", flags)
    os.close(os.open(top / "new", flags, 0o600))
    fails(errno.EEXIST, os.open, top / "new", flags)


def test_creation_through_a_dangling_symlink(top: Path) -> None:
    (top / "dangling").symlink_to("born")
    os.close(os.open(top / "dangling", os.O_CREAT | os.O_WRONLY, 0o640))
    assert stat.S_IMODE((top / "born").stat().st_mode) == 0o640


def test_opening_with_truncation(top: Path) -> None:
    for name, flags in (("file", os.O_WRONLY), ("big", os.O_RDWR), ("hard", os.O_RDONLY)):
        os.close(os.open(top / name, flags | os.O_TRUNC))
        assert (top / name).stat().st_size == 0
        assert (top / name).stat().st_mtime_ns > 10**18
    assert (top / "dir" / "hard too").read_bytes() == b""


def test_not_following(top: Path) -> None:
    fails(errno.ELOOP, os.open, top / "link", os.O_RDONLY | os.O_NOFOLLOW)
    fails(errno.ENOTDIR, os.open, top / "file", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.open, top / "dir", os.O_WRONLY)
    (top / "self").symlink_to("self")
    fails(errno.ELOOP, os.open, top / "self", os.O_RDONLY)


def test_path_descriptors(top: Path) -> None:
    fd = os.open(top / "file", os.O_PATH)
    try:
        assert os.fstat(fd).st_size == 800
        fails(errno.EBADF, os.read, fd, 1)
        fails(errno.EBADF, os.fchmod, fd, 0o600)
        (top / "file").unlink()
        assert os.fstat(fd).st_nlink == 0
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"content\n" * 100
    finally:
        os.close(fd)
    fd = os.open(top / "link", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=fd) == "file"
    os.close(fd)


def test_path_descriptors_of_directories(top: Path) -> None:
    """They go along when the directory is renamed, and lead to what is below by any call that takes one."""
    fd = os.open(top / "dir", os.O_PATH | os.O_DIRECTORY)
    fails(errno.EBADF, os.listdir, fd)
    (top / "dir").rename(top / "moved")
    inner = os.open("inner", os.O_RDWR, dir_fd=fd)
    os.write(inner, b"INNER")
    os.close(inner)
    assert (top / "moved" / "inner").read_bytes() == b"INNER\n"
    os.mkdir("new", dir_fd=fd)
    os.rename("new", "newer", src_dir_fd=fd, dst_dir_fd=fd)
    assert sorted(os.listdir(top / "moved")) == ["hard too", "inner", "newer", "sub"]
    file = os.open(top / "file", os.O_PATH)
    assert libc.linkat(file, b"", fd, b"linked", 0x1000) == 0, os.strerror(ctypes.get_errno())  # AT_EMPTY_PATH
    assert os.fstat(file).st_nlink == 2
    os.close(file)
    os.close(fd)


def test_appending(top: Path) -> None:
    fd = os.open(top / "file", os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"one")
    os.pwrite(fd, b"two", 0)  # Linux: at the end all the same
    assert os.lseek(fd, 0, os.SEEK_END) == 806
    os.truncate(top / "file", 10)
    os.write(fd, b"three")
    os.close(fd)
    assert (top / "file").read_bytes() == b"content\nco" + b"three"


@pytest.mark.parametrize("name", ["file", "big"])
def test_appending_from_several_processes(top: Path, name: str) -> None:
    before = (top / name).read_bytes()
    script = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)\n"
        "for n in range(300): os.write(fd, b'%d %d\\n' % (os.getpid(), n))"
    )
    workers = [subprocess.Popen([sys.executable, "-S", "-c", script, top / name]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0] * 3
    after = (top / name).read_bytes()
    assert after.startswith(before)
    lines = after[len(before) :].decode().splitlines()
    assert len(lines) == 900
    for worker in workers:
        assert [int(line.split()[1]) for line in lines if line.startswith(f"{worker.pid} ")] == list(range(300))


def test_direct_io(top: Path) -> None:
    memory = mmap.mmap(-1, 8192)
    fd = os.open(top / "big", os.O_RDWR | os.O_DIRECT)
    assert os.preadv(fd, [memory], 4096) == 8192
    assert memory[:] == (top / "big").read_bytes()[4096:12288]
    memory[:] = b"D" * 8192
    assert os.pwritev(fd, [memory], 8192) == 8192
    os.close(fd)
    assert (top / "big").read_bytes()[8190:16386].strip(b"D") != b""
    assert (top / "big").read_bytes()[8192:16384] == b"D" * 8192


def test_a_mixture_of_direct_and_cached_writes(top: Path) -> None:
    memory = mmap.mmap(-1, 4096)
    memory[:] = b"D" * 4096
    with (top / "big").open("r+b", buffering=0) as cached:
        direct = os.open(top / "big", os.O_RDWR | os.O_DIRECT)
        os.pwrite(cached.fileno(), b"c" * 8192, 0)
        os.pwritev(direct, [memory], 4096)
        assert os.pread(cached.fileno(), 8192, 0) == b"c" * 4096 + b"D" * 4096
        os.close(direct)


# -- offsets and sizes


def test_reading_and_writing_at_offsets(top: Path) -> None:
    expected = bytearray((top / "big").read_bytes())
    fd = os.open(top / "big", os.O_RDWR)
    for offset, data in ((0, b"a"), (4095, b"bb"), (131_071, b"ccc"), (BIG - 1, b"dd"), (BIG + 5000, b"eee")):
        assert os.pwrite(fd, data, offset) == len(data)
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset : offset + len(data)] = data
    assert os.pread(fd, 10, BIG + 6000) == b""
    assert os.pread(fd, 100, BIG + 5000) == b"eee"
    fails(errno.EINVAL, os.pread, fd, 1, -1)
    os.close(fd)
    assert (top / "big").read_bytes() == expected


def test_vectored_io(top: Path) -> None:
    fd = os.open(top / "file", os.O_RDWR)
    assert os.writev(fd, [b"one ", b"", b"two\n"]) == 8
    buffers = [bytearray(3), bytearray(5)]
    assert os.preadv(fd, buffers, 0) == 8
    assert buffers == [b"one", b" two\n"]
    os.close(fd)


@pytest.mark.parametrize("name", ["file", "big", "empty"])
def test_truncation_both_ways(top: Path, name: str) -> None:
    expected = (top / name).read_bytes()
    for size in (500, 10_000, 3, 1_400_000, 1_200_000, 0, 7):
        os.truncate(top / name, size)
        expected = expected[:size] + bytes(max(0, size - len(expected)))
        assert (top / name).stat().st_size == size
        assert (top / name).read_bytes() == expected
    fails(errno.EINVAL, os.truncate, top / name, -1)
    fails(errno.EISDIR, os.truncate, top / "dir", 0)
    fd = os.open(top / name, os.O_RDONLY)
    fails(errno.EINVAL, os.ftruncate, fd, 0)
    os.close(fd)


def test_a_truncation_does_not_bring_back_what_was_cut_off(top: Path) -> None:
    os.truncate(top / "big", 4097)
    os.truncate(top / "big", 12_000)
    assert (top / "big").read_bytes()[4096:] == pattern_at(4096) + bytes(12_000 - 4097)


def pattern_at(offset: int) -> bytes:
    from tests.support.bases import pattern

    return pattern(1, 251)[offset % 251 : offset % 251 + 1]


def test_holes_take_no_space(top: Path) -> None:
    with (top / "sparse").open("wb") as file:
        file.truncate(50 << 20)
        os.pwrite(file.fileno(), b"x", 20 << 20)
    st = (top / "sparse").stat()
    assert st.st_size == 50 << 20
    assert st.st_blocks * 512 <= 1 << 20
    with (top / "sparse").open("rb") as file:
        file.seek((20 << 20) - 4)
        assert file.read(9) == b"\0\0\0\0x\0\0\0\0"


def test_blocks_of_a_file_with_holes_in_the_base(area: Path) -> None:
    """Honest when nothing was written, when a little was, and in the next mount."""
    base = area / "base"
    base.mkdir()
    for name in ("seen", "patched", "cut"):
        with (base / name).open("wb") as file:
            file.truncate(50 << 20)
            os.pwrite(file.fileno(), b"x" * 100_000, 20 << 20)
    native = (base / "seen").stat().st_blocks
    with mounted(base, area) as mount:
        assert (mount.path / "seen").stat().st_blocks == native
        with (mount.path / "patched").open("r+b") as file:
            file.write(b"y" * 10_000)
        os.truncate(mount.path / "cut", 21 << 20)
        run = mount.run_id
    for _ in range(2):
        with mounted(base, area, run_id=run) as mount:
            sizes = {path.name: (path.stat().st_size, path.stat().st_blocks) for path in mount.path.iterdir()}
            assert sizes["seen"] == (50 << 20, native)
            assert sizes["patched"][0] == 50 << 20
            assert native <= sizes["patched"][1] <= native + 64
            assert sizes["cut"][0] == 21 << 20
            assert 0 < sizes["cut"][1] <= native


def test_beyond_four_gigabytes(top: Path) -> None:
    fd = os.open(top / "big", os.O_RDWR)
    for offset in ((4 << 30) - 2, (5 << 30) + 1, (1 << 40) + 3):
        assert os.pwrite(fd, b"far away", offset) == 8
        assert os.pread(fd, 10, offset - 1) == b"\0far away"
    assert os.fstat(fd).st_size == (1 << 40) + 11
    os.ftruncate(fd, (4 << 30) + 1)
    assert os.pread(fd, 10, (4 << 30) - 3) == b"\0far "[:4]
    os.close(fd)
    assert (top / "big").stat().st_blocks * 512 < 2 * BIG


def test_a_size_limit(top: Path, forked: Forked) -> None:
    import resource

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        fd = os.open(top / "file", os.O_WRONLY)
        assert os.pwrite(fd, b"x" * 300, 800) == 200
        fails(errno.EFBIG, os.pwrite, fd, b"x", 1000)
        fails(errno.EFBIG, os.ftruncate, fd, 1001)

    assert forked(limited) == 0


# -- maps


@pytest.mark.parametrize("name", ["file", "big"])
def test_shared_and_private_maps(top: Path, name: str) -> None:
    with (top / name).open("r+b") as file:
        before = file.read()
        with (
            mmap.mmap(file.fileno(), 0) as shared,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private,
        ):
            assert shared[:] == before
            shared[100:103] = b"map"
            assert os.pread(file.fileno(), 3, 100) == b"map"
            private[100:103] = b"own"
            os.pwrite(file.fileno(), b"wrt", 200)
            assert shared[200:203] == b"wrt"
            shared.flush()
            assert private[100:103] == b"own"
            assert shared[100:103] == b"map"
    assert (top / name).read_bytes() == before[:100] + b"map" + before[103:200] + b"wrt" + before[203:]


@pytest.mark.parametrize("name", ["file", "big"])
def test_a_file_is_copied_up_while_another_process_has_it_mapped(top: Path, name: str, forked: Forked) -> None:
    ready, go = os.pipe(), os.pipe()

    def reader() -> None:
        fd = os.open(top / name, os.O_RDONLY)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            assert memory[:7] == (b"content" if name == "file" else memory[251:258])
            os.write(ready[1], b".")
            os.read(go[0], 1)
            assert memory[3:6] == b"NEW"
            assert os.pread(fd, 3, 3) == b"NEW"

    pid = os.fork()
    if pid == 0:
        os._exit(forked(reader))
    os.read(ready[0], 1)
    with (top / name).open("r+b") as file:
        file.seek(3)
        file.write(b"NEW")
    os.write(go[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (*ready, *go):
        os.close(fd)


def test_a_map_outlives_its_descriptor_and_its_name(top: Path) -> None:
    fd = os.open(top / "big", os.O_RDWR)
    memory = mmap.mmap(fd, 0)
    os.close(fd)
    (top / "big").unlink()
    memory[0:5] = b"alive"
    memory.flush()
    assert memory[0:5] == b"alive"
    assert memory[BIG - 1 :] != b"\0"
    memory.close()


def test_touching_a_map_beyond_the_end_is_a_bus_error(top: Path, forked: Forked) -> None:
    def beyond() -> None:
        with (top / "big").open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
            file.truncate(100)
            memory[8192]

    assert forked(beyond) == -signal.SIGBUS


# -- names that change under open files


def test_unlinked_but_open(top: Path) -> None:
    for name in ("file", "big"):
        with (top / name).open("r+b", buffering=0) as file:
            before = file.read()
            (top / name).unlink()
            (top / name).write_bytes(b"another")
            assert os.fstat(file.fileno()).st_nlink == 0
            os.pwrite(file.fileno(), b"+", len(before))
            os.fchmod(file.fileno(), 0o600)
            os.ftruncate(file.fileno(), len(before) + 2)
            assert os.pread(file.fileno(), len(before) + 10, 0) == before + b"+\0"
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        assert (top / name).read_bytes() == b"another"


def test_an_unlinked_file_is_not_linked_again(top: Path) -> None:
    with (top / "file").open("rb") as file:
        (top / "file").unlink()
        following = 0x400
        done = libc.linkat(-100, b"/proc/self/fd/%d" % file.fileno(), -100, os.fsencode(top / "again"), following)
        assert (done, ctypes.get_errno()) == (-1, errno.ENOENT)


def test_renamed_but_open(top: Path) -> None:
    with (top / "big").open("r+b", buffering=0) as file:
        (top / "big").rename(top / "dir" / "elsewhere")
        file.write(b"written under its new name")
        assert (top / "dir" / "elsewhere").read_bytes().startswith(b"written under its new name")
        assert os.path.samestat(os.fstat(file.fileno()), (top / "dir" / "elsewhere").stat())


def test_renamed_over_while_open(top: Path) -> None:
    with (top / "big").open("r+b", buffering=0) as file:
        before = file.read()
        (top / "file").rename(top / "big")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), BIG, 0) == before
        os.pwrite(file.fileno(), b"old", 0)
        assert os.pread(file.fileno(), 3, 0) == b"old"
    assert (top / "big").read_bytes() == b"content\n" * 100


def test_an_open_directory_that_is_renamed_and_one_that_is_removed(top: Path) -> None:
    fd = os.open(top / "dir", os.O_RDONLY)
    (top / "dir").rename(top / "moved")
    assert sorted(os.listdir(fd)) == ["hard too", "inner", "sub"]
    os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert (top / "moved" / "made").exists()
    os.close(fd)
    fd = os.open(top / "moved" / "sub", os.O_RDONLY)
    (top / "moved" / "sub" / "deep").unlink()
    (top / "moved" / "sub").rmdir()
    assert os.listdir(fd) == []
    fails(errno.ENOENT, os.open, "child", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    fails(errno.ENOENT, os.mkdir, "child", dir_fd=fd)
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_a_working_directory_that_moves(top: Path, forked: Forked) -> None:
    def work() -> None:
        os.chdir(top / "dir" / "sub")
        (top / "dir").rename(top / "moved")
        assert os.getcwd() == str(top / "moved" / "sub")
        assert Path("../inner").read_text() == "inner\n"
        assert Path("deep").read_text() == "deep\n"

    assert forked(work) == 0


# -- bringing to the disk, and locks


def test_sync(top: Path) -> None:
    for name in ("file", "big", "dir"):
        fd = os.open(top / name, os.O_RDONLY)
        os.fsync(fd)
        os.fdatasync(fd)
        assert libc.syncfs(fd) == 0
        os.close(fd)
    with (top / "file").open("r+b") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
    for flag in (os.O_SYNC, os.O_DSYNC):
        fd = os.open(top / "big", os.O_WRONLY | flag)
        os.write(fd, b"written through")
        os.close(fd)


@pytest.mark.parametrize("kind", ["flock", "posix", "description"])
def test_locks_between_processes(top: Path, forked: Forked, kind: str) -> None:
    import struct

    def lock(fd: int, how: int) -> None:
        if kind == "flock":
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        elif kind == "posix":
            fcntl.lockf(fd, how if how == fcntl.LOCK_UN else how | fcntl.LOCK_NB, 10, 5)
        else:
            type_ = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}[how]
            fcntl.fcntl(fd, 37, struct.pack("hhqqi", type_, 0, 5, 10, 0))  # F_OFD_SETLK

    def other(how: int) -> int:
        def attempt() -> None:
            with (top / "file").open("r+b") as file:
                lock(file.fileno(), how)

        return forked(attempt)

    with (top / "file").open("r+b") as file:
        lock(file.fileno(), fcntl.LOCK_SH)
        assert other(fcntl.LOCK_SH) == 0
        assert other(fcntl.LOCK_EX) == 1
        lock(file.fileno(), fcntl.LOCK_EX)
        assert other(fcntl.LOCK_SH) == 1
        lock(file.fileno(), fcntl.LOCK_UN)
        assert other(fcntl.LOCK_EX) == 0
    with (top / "dir" / "hard too").open("r+b") as file:
        lock(file.fileno(), fcntl.LOCK_EX)
        with (top / "hard").open("r+b") as same:
            if kind != "posix":
                fails(errno.EAGAIN, lock, same.fileno(), fcntl.LOCK_EX)


def test_a_lock_is_waited_for(top: Path) -> None:
    with (top / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        script = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('mine')"
        waiting = subprocess.Popen(
            [sys.executable, "-S", "-c", script, top / "file"], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.2)
        assert waiting.poll() is None
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert waiting.communicate(timeout=20)[0] == "mine\n"


def test_a_lease(top: Path) -> None:
    with (top / "file").open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# -- what is not there


def test_fallocate_seek_and_copy_fall_back(place: Place) -> None:
    top = place.path
    with (top / "big").open("r+b", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, BIG + 10_000)  # the C library writes zeros where there is no fallocate
        assert os.fstat(file.fileno()).st_size == BIG + 10_000
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) > 0
        fails(errno.ENXIO, os.lseek, file.fileno(), BIG + 10_000, os.SEEK_DATA)
        PUNCH = 3
        done = libc.fallocate(file.fileno(), PUNCH, ctypes.c_long(0), ctypes.c_long(4096))
        assert done == 0 or (place.kind != "native" and ctypes.get_errno() == errno.EOPNOTSUPP)
        with (top / "copy").open("wb") as copy:
            assert os.copy_file_range(file.fileno(), copy.fileno(), 5000, 0, 0) == 5000
            os.lseek(copy.fileno(), 5000, os.SEEK_SET)
            assert os.sendfile(copy.fileno(), file.fileno(), 5000, 5000) == 5000
        assert (top / "copy").read_bytes() == (top / "big").read_bytes()[:10_000]
        FICLONE = 0x40049409
        with (top / "clone").open("wb") as clone:
            with pytest.raises(OSError) as caught:
                fcntl.ioctl(clone.fileno(), FICLONE, file.fileno())
            assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV)
    try:
        os.close(os.open(top, os.O_TMPFILE | os.O_RDWR, 0o600))
    except OSError as e:
        assert place.kind != "native"
        assert e.errno == errno.EOPNOTSUPP


def test_ioctls_fail_as_where_there_are_none(place: Place) -> None:
    """So that lsattr, chattr, filefrag, cp and fs-verity's tools know that there is nothing for them."""
    GETFLAGS, SETFLAGS, GETVERSION, FSGETXATTR = 0x80086601, 0x40086602, 0x80087601, 0x801C581F
    FIEMAP, ENABLE_VERITY, NONSENSE = 0xC020660B, 0x40806685, 0x40047A7A
    for name in ("file", "dir"):
        fd = os.open(place.path / name, os.O_RDONLY)
        for number in (GETFLAGS, SETFLAGS, GETVERSION, FSGETXATTR, FIEMAP, ENABLE_VERITY, NONSENSE):
            try:
                fcntl.ioctl(fd, number, bytearray(256))
            except OSError as e:
                none = (errno.ENOTTY, errno.EOPNOTSUPP)
                if number in (SETFLAGS, ENABLE_VERITY):
                    none = (*none, errno.EBADF, errno.EISDIR, errno.EINVAL, errno.EPERM)
                assert place.kind == "native" or e.errno in none, (name, hex(number), e)
                continue
            assert place.kind == "native", (name, hex(number))
        os.close(fd)


def test_terminals_are_not_files(top: Path) -> None:
    with (top / "file").open("rb") as file:
        assert not os.isatty(file.fileno())
        import termios

        with pytest.raises(termios.error) as caught:
            termios.tcgetattr(file.fileno())
        assert caught.value.args[0] == errno.ENOTTY


def test_a_program_that_runs_is_not_written_to(top: Path) -> None:
    import shutil

    shutil.copy("/bin/sleep", top / "program")
    running = subprocess.Popen([top / "program", "60"])
    try:
        eventually(lambda: os.readlink(f"/proc/{running.pid}/exe") == str(top / "program"))
        fails(errno.ETXTBSY, os.open, top / "program", os.O_WRONLY)
        (top / "program").unlink()
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()
    shutil.copy("/bin/true", top / "program")
    with (top / "program").open("r+b"):
        fails(errno.ETXTBSY, subprocess.run, [top / "program"])
