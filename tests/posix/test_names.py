"""Names: links, renames, listings, special files, and what is told of changes."""

import ctypes
import errno
import os
import random
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix.conftest import Ground, Place
from tests.posix.test_open_files import fails

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for function in (libc.readdir, libc.telldir, libc.closedir, libc.rewinddir):
    function.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def renameat2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2) by paths."""
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), ctypes.c_uint(flags)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- renames


def test_rename_replaces(top: Path) -> None:
    os.rename(top / "file", top / "big")
    assert (top / "big").read_bytes() == b"content\n" * 100
    assert not (top / "file").exists()
    os.mkdir(top / "target")
    ino = (top / "dir").stat().st_ino
    os.rename(top / "dir", top / "target")
    assert (top / "target" / "sub" / "deep").read_text() == "deep\n"
    assert (top / "target").stat().st_ino == ino


def test_rename_refuses(top: Path) -> None:
    (top / "full").mkdir()
    (top / "full" / "x").touch()
    fails(errno.ENOTEMPTY, os.rename, top / "dir", top / "full")
    fails(errno.EISDIR, os.rename, top / "file", top / "dir")
    fails(errno.ENOTDIR, os.rename, top / "dir", top / "file")
    fails(errno.EINVAL, os.rename, top / "dir", top / "dir" / "sub" / "below")
    fails(errno.ENOTEMPTY, os.rename, top / "dir" / "sub", top / "dir")
    fails(errno.ENOENT, os.rename, top / "absent", top / "new")
    fails(errno.ENOENT, os.rename, top / "file", top / "absent" / "new")
    fails(errno.ENOTDIR, os.rename, top / "file", top / "big" / "new")
    fails(errno.EBUSY, os.rename, top / "dir", f"{top}/dir/..")
    fails(errno.EBUSY, os.rename, f"{top}/dir/.", top / "new")
    fails(errno.ENAMETOOLONG, os.rename, top / "file", top / ("n" * 256))


def test_rename_of_two_names_of_one_file_does_nothing(top: Path) -> None:
    os.rename(top / "hard", top / "dir" / "hard too")
    assert (top / "hard").stat().st_nlink == 2
    assert os.path.samefile(top / "hard", top / "dir" / "hard too")


def test_noreplace_and_exchange(top: Path) -> None:
    fails(errno.EEXIST, renameat2, top / "file", top / "big", NOREPLACE)
    fails(errno.EEXIST, renameat2, top / "file", top / "file", NOREPLACE)
    renameat2(top / "file", top / "new", NOREPLACE)
    fails(errno.ENOENT, renameat2, top / "new", top / "absent", EXCHANGE)
    fails(errno.EINVAL, renameat2, top / "new", top / "big", NOREPLACE | EXCHANGE)
    fails(errno.EINVAL, renameat2, top / "dir" / "sub", top / "dir", EXCHANGE)
    renameat2(top / "new", top / "dir", EXCHANGE)
    assert (top / "dir").read_bytes() == b"content\n" * 100
    assert (top / "new" / "sub" / "deep").read_text() == "deep\n"
    renameat2(top / "new" / "sub", top / "dir", EXCHANGE)
    assert (top / "dir" / "deep").read_text() == "deep\n"
    assert (top / "new" / "sub").read_bytes() == b"content\n" * 100
    assert (top / "new").stat().st_nlink == 2


# -- links


def test_hard_links_across_directories(top: Path) -> None:
    os.link(top / "file", top / "dir" / "sub" / "linked")
    os.link(top / "dir" / "sub" / "linked", top / "third")
    assert (top / "file").stat().st_nlink == 3
    with (top / "third").open("a") as file:
        file.write("more")
    assert (top / "dir" / "sub" / "linked").read_bytes().endswith(b"more")
    (top / "file").unlink()
    (top / "third").rename(top / "dir" / "fourth")
    assert (top / "dir" / "fourth").stat().st_nlink == 2
    assert os.path.samefile(top / "dir" / "fourth", top / "dir" / "sub" / "linked")
    fails(errno.EPERM, os.link, top / "dir", top / "no")
    fails(errno.EEXIST, os.link, top / "big", top / "empty")
    os.link(top / "link", top / "symlink too", follow_symlinks=False)
    assert os.readlink(top / "symlink too") == "file"
    assert (top / "link").lstat().st_nlink == 2


def test_hard_links_of_the_base_stay_one_file(top: Path) -> None:
    hard, too = top / "hard", top / "dir" / "hard too"
    assert os.path.samefile(hard, too)
    with too.open("r+b") as reader, hard.open("r+b", buffering=0) as writer:
        writer.write(b"HARD")
        assert reader.read() == b"HARD\n"
    assert too.read_text() == "HARD\n"
    too.chmod(0o600)
    assert stat.S_IMODE(hard.stat().st_mode) == 0o600
    os.setxattr(too, "user.of", b"both")
    assert os.getxattr(hard, "user.of") == b"both"
    hard.unlink()
    assert too.stat().st_nlink == 1
    assert too.read_text() == "HARD\n"


def test_unlinking_one_name_of_an_unchanged_hard_link(top: Path) -> None:
    (top / "dir" / "hard too").unlink()
    assert (top / "hard").stat().st_nlink == 1
    os.link(top / "hard", top / "again")
    assert (top / "again").stat().st_nlink == 2
    (top / "hard").unlink()
    assert (top / "again").read_text() == "hard\n"


@pytest.mark.parametrize("length", [1, 59, 60, 61, 255, 1024, 4094, 4095])
def test_symlinks_of_any_length(place: Place, length: int) -> None:
    target = ("x" * 200 + "/") * (length // 201) + "y" * (length % 201)
    try:
        os.symlink(target, place.path / "long")
    except OSError as e:
        # ext4 keeps a target in one block
        assert place.kind == "native"
        assert e.errno == errno.ENAMETOOLONG
        assert length >= 4095
        return
    assert os.readlink(place.path / "long") == target
    assert (place.path / "long").lstat().st_size == length


def test_symlinks(top: Path) -> None:
    assert (top / "link").lstat().st_size == 4
    fails(errno.EEXIST, os.symlink, "x", top / "link")
    fails(errno.ENOENT, os.symlink, "", top / "nothing")
    fails(errno.EINVAL, os.readlink, top / "file")
    (top / "link").unlink()
    (top / "link").symlink_to("big")
    assert os.readlink(top / "link") == "big"
    (top / "to dir").symlink_to("dir")
    assert (top / "to dir" / "inner").read_text() == "inner\n"
    fails(errno.ENOTDIR, os.rmdir, top / "to dir")


# -- directories


def test_link_counts_of_directories(top: Path) -> None:
    assert (top.stat().st_nlink, (top / "dir").stat().st_nlink) == (3, 3)
    (top / "one").mkdir()
    (top / "one" / "two").mkdir()
    assert (top.stat().st_nlink, (top / "one").stat().st_nlink) == (4, 3)
    (top / "dir" / "sub").rename(top / "one" / "sub")
    assert ((top / "dir").stat().st_nlink, (top / "one").stat().st_nlink) == (2, 4)
    renameat2(top / "one" / "sub", top / "file", EXCHANGE)
    assert (top.stat().st_nlink, (top / "one").stat().st_nlink) == (5, 3)
    (top / "one" / "two").rmdir()
    assert (top / "one").stat().st_nlink == 2


def test_removal_refuses(top: Path) -> None:
    fails(errno.ENOTEMPTY, os.rmdir, top / "dir")
    fails(errno.ENOTDIR, os.rmdir, top / "file")
    fails(errno.EISDIR, os.unlink, top / "dir")
    fails(errno.EINVAL, os.rmdir, f"{top}/dir/.")
    fails(errno.ENOTEMPTY, os.rmdir, f"{top}/dir/sub/..")
    fails(errno.ENOTDIR, os.unlink, str(top / "file") + "/")
    fails(errno.ENOENT, os.unlink, top / "absent")


def test_a_directory_made_anew_is_empty(top: Path) -> None:
    for path in sorted((top / "dir").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (top / "dir").rmdir()
    (top / "dir").mkdir()
    assert os.listdir(top / "dir") == []
    (top / "dir" / "sub").mkdir()
    assert os.listdir(top / "dir" / "sub") == []


def test_a_kind_is_replaced_by_another(top: Path) -> None:
    (top / "file").unlink()
    (top / "file").mkdir()
    (top / "file" / "below").touch()
    (top / "link").unlink()
    os.mkfifo(top / "link")
    (top / "fifo").unlink()
    (top / "fifo").symlink_to("big")
    assert stat.S_ISDIR((top / "file").stat().st_mode)
    assert stat.S_ISFIFO((top / "link").stat().st_mode)
    assert os.path.samefile(top / "fifo", top / "big")


# -- special files


def test_fifos_sockets_and_devices(place: Place) -> None:
    top = place.path
    reader = os.open(top / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(top / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    os.close(writer)
    fails(errno.ENXIO, os.open, top / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(top / "socket"))
        server.listen()
        client.connect(str(top / "socket"))
        assert stat.S_ISSOCK((top / "socket").stat().st_mode)
        with socket.socket(socket.AF_UNIX) as second:
            fails(errno.EADDRINUSE, second.bind, str(top / "socket"))
    fails(errno.ENXIO, os.open, top / "socket", os.O_RDONLY)
    os.mknod(top / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(top / "block", 0o600 | stat.S_IFBLK, os.makedev(200, 300))
    assert (top / "null").stat().st_rdev == os.makedev(1, 3)
    assert (top / "block").stat().st_rdev == os.makedev(200, 300)
    if place.kind == "native":
        (top / "null").write_bytes(b"gone")
    else:
        fails(errno.EACCES, os.open, top / "null", os.O_RDWR)  # the mount is nodev


# -- names and listings


def test_names_of_any_bytes(top: Path) -> None:
    names = {bytes([b]) for b in range(1, 256) if b not in b"/."}
    names |= {b"n" * 255, b"\xff" * 255, "ü".encode() * 127, b"...", b". ", b".. ", b"\n", b"-rf"}
    where = os.fsencode(top / "dir" / "sub")
    (top / "dir" / "sub" / "deep").unlink()
    for name in names:
        with open(where + b"/" + name, "xb") as file:
            file.write(name)
    assert set(os.listdir(where)) == names
    for name in names:
        with open(where + b"/" + name, "rb") as file:
            assert file.read() == name
    fails(errno.ENAMETOOLONG, os.mkdir, where + b"/" + b"n" * 256)
    fails(errno.ENAMETOOLONG, os.stat, where + b"/" + b"n" * 256)
    fails(errno.ENAMETOOLONG, os.stat, where + b"/n" * 2048)


def test_a_path_deeper_than_path_max(top: Path) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(20):
        os.mkdir(b"d" * 250, dir_fd=fd)
        below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.chmod("bottom", 0o600, dir_fd=fd)
    assert os.listdir(fd) == ["bottom"]
    os.close(fd)


class Stream:
    """opendir(3) and its relatives."""

    def __init__(self, path: Path) -> None:
        self.pointer = libc.opendir(os.fsencode(path))

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Names without dots, each with the position after it."""
        while entry := libc.readdir(self.pointer):
            name = ctypes.string_at(entry + 19)
            if name not in (b".", b".."):
                yield name, libc.telldir(self.pointer)

    def seek(self, position: int) -> None:
        libc.seekdir(self.pointer, position)

    def close(self) -> None:
        libc.closedir(self.pointer)


def many(top: Path, count: int) -> set[bytes]:
    """Make a directory with many entries."""
    (top / "many").mkdir()
    fd = os.open(top / "many", os.O_RDONLY)
    names = {b"%06d" % number + b"-" * (number % 90) for number in range(count)}
    for name in names:
        os.mknod(name, 0o600, dir_fd=fd)
    os.close(fd)
    return names


def test_positions_in_a_listing(top: Path) -> None:
    names = many(top, 3000)
    stream = Stream(top / "many")
    listed = list(stream)
    assert {name for name, _ in listed} == names
    assert len(listed) == len(names)
    source = random.Random(1)
    for at in source.sample(range(len(listed) - 1), 20):
        stream.seek(listed[at][1])
        assert next(iter(stream))[0] == listed[at + 1][0]
    libc.rewinddir(stream.pointer)
    assert {name for name, _ in stream} == names
    stream.close()


@pytest.mark.parametrize("where", ["many", "dir"])
def test_a_listing_while_entries_come_and_go(top: Path, where: str) -> None:
    if where == "many":
        many(top, 2000)
    there = set(os.listdir(os.fsencode(top / where)))
    removed = set(sorted(there)[::3])
    stream = Stream(top / where)
    seen: list[bytes] = []
    steps = iter(stream)
    for number, (name, _) in enumerate(steps):
        seen.append(name)
        (top / where / f"new{number}").touch()
        if number == 0:
            for gone in removed:
                path = os.fsencode(top / where) + b"/" + gone
                os.unlink(path) if not os.path.isdir(path) else os.rename(path, path + b"~")
        if number > 5000:
            break
    stream.close()
    assert len(seen) == len(set(seen))
    assert there - removed <= set(seen)


def test_removing_while_listing_removes_all(top: Path) -> None:
    many(top, 2000)
    stream = Stream(top / "many")
    for name, _ in stream:
        os.unlink(os.fsencode(top / "many") + b"/" + name)
    stream.close()
    os.rmdir(top / "many")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["base", "upper"])
def test_a_hundred_thousand_entries(ground: Ground, kind: str) -> None:
    top, _ = ground.tree(kind)
    if kind == "upper":
        names = many(top, 100_000)
    else:
        names = many(ground.area, 100_000)
        (ground.area / "many").rename(ground.mount.base / top.name / "many")
    stream = Stream(top / "many")
    listed = list(stream)
    assert len(listed) == 100_000
    assert {name for name, _ in listed} == names
    stream.seek(listed[77_777][1])
    assert next(iter(stream))[0] == listed[77_778][0]
    stream.close()
    with os.scandir(os.fsencode(top / "many")) as entries:
        for number, entry in enumerate(entries):
            if number % 2:
                os.unlink(entry.path)
    assert len(os.listdir(top / "many")) == 50_000


def test_types_and_numbers_in_a_listing(top: Path) -> None:
    with os.scandir(top) as entries:
        for entry in entries:
            st = os.lstat(entry.path)
            assert entry.inode() == st.st_ino
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(st.st_mode)
            assert entry.is_symlink() == stat.S_ISLNK(st.st_mode)


def test_dot_and_dot_dot(top: Path) -> None:
    assert (top / "dir" / ".").stat().st_ino == (top / "dir").stat().st_ino
    assert os.stat(f"{top}/dir/sub/..").st_ino == (top / "dir").stat().st_ino
    (top / "dir" / "sub").rename(top / "sub")
    assert os.stat(f"{top}/sub/..").st_ino == top.stat().st_ino
    fails(errno.EEXIST, os.mkdir, f"{top}/dir/.")


# -- inotify


def test_inotify_tells_of_changes(top: Path) -> None:
    fd = libc.inotify_init1(os.O_NONBLOCK)
    interesting = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # MODIFY ATTRIB CLOSE_WRITE MOVED CREATE DELETE
    assert libc.inotify_add_watch(fd, os.fsencode(top), interesting) > 0
    (top / "file").write_bytes(b"x")
    (top / "file").chmod(0o600)
    (top / "file").rename(top / "renamed")
    (top / "made").mkdir()
    (top / "big").unlink()
    with (top / "empty").open("ab") as file:
        file.write(b"y")
    data, told = os.read(fd, 65536), list[tuple[str, int]]()
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        told.append((data[16 : 16 + length].rstrip(b"\0").decode(), mask & 0xFFF))
        data = data[16 + length :]
    os.close(fd)
    told = [event for at, event in enumerate(told) if event not in told[:at]]
    expected = [
        ("file", 0x2), ("file", 0x8), ("file", 0x4), ("file", 0x40), ("renamed", 0x80), ("made", 0x100),
        ("big", 0x4), ("big", 0x200), ("empty", 0x2), ("empty", 0x8),
    ]  # fmt: skip
    assert [event for event in told if event in expected] == [event for event in expected if event in told]
    assert set(expected) - {("big", 0x4)} <= set(told)


def test_inotify_tells_of_what_becomes_of_the_watched(place: Place) -> None:
    """ATTRIB of a link more or less, MOVE_SELF, and DELETE_SELF when nobody has it open any more."""
    fd, top = libc.inotify_init1(os.O_NONBLOCK), place.path
    names = ("file", "big", "dir", "hard")
    watches = {
        libc.inotify_add_watch(fd, os.fsencode(top / name), 0x4 | 0x20 | 0x400 | 0x800): name for name in names
    }  # ATTRIB OPEN DELETE_SELF MOVE_SELF
    with (top / "big").open("rb"):
        (top / "big").unlink()
    (top / "file").rename(top / "dir" / "renamed")
    (top / "dir").rename(top / "moved")
    (top / "hard").unlink()
    os.rename(top / "empty", top / "moved" / "renamed")
    data, told = os.read(fd, 65536), set[tuple[str, int]]()
    while data:
        watch, mask, _, length = struct.unpack_from("iIII", data)
        told.add((watches.get(watch, "?"), mask & 0xFFF))
        data = data[16 + length :]
    os.close(fd)
    assert told >= {("big", 0x20), ("big", 0x4), ("file", 0x800), ("dir", 0x800), ("hard", 0x4)}
    gone = {("big", 0x400), ("file", 0x400)}
    assert told & gone == (set() if place.kind == "copied" else gone)  # where somebody has all files open


def test_statfs(place: Place) -> None:
    st = os.statvfs(place.path / "file")
    assert st.f_namemax == 255
    assert 0 < st.f_bavail <= st.f_bfree <= st.f_blocks
    assert st.f_bsize >= 512
    assert os.pathconf(place.path, "PC_NAME_MAX") == 255
