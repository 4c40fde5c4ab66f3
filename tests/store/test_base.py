"""The base through directory descriptors: depth, eviction, replaced directories, symlinks, permissions."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading

import pytest

from snapshots.errors import BaseError
from snapshots.layers.base import BaseTree


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "base"
    path.mkdir()
    return path


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_answers_what_the_directory_says(root):
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"hello")
    (root / "d" / "l").symlink_to("f")
    with BaseTree(os.fsencode(root)) as tree:
        d = tree.dir(b"d")
        assert d.path == b"d"
        assert tree.child(d, b"x").path == b"d/x"
        assert tree.dir(b"") is tree.root
        assert sorted(tree.list(d)) == [b"f", b"l"]
        assert sorted(tree.list(d)) == [b"f", b"l"]  # the offset was rewound
        assert tree.stat(d, b"f").st_size == 5
        assert stat.S_ISLNK(tree.stat(d, b"l").st_mode)
        assert tree.stat_dir(d).st_ino == (root / "d").stat().st_ino
        assert tree.readlink(d, b"l") == b"f"
        fd = tree.open(d, b"f")
        assert os.read(fd, 10) == b"hello"
        os.close(fd)
        with pytest.raises(OSError) as e:
            tree.open(d, b"l")
        assert e.value.errno == errno.ELOOP
        with pytest.raises(FileNotFoundError):
            tree.stat(d, b"missing")
        with pytest.raises(FileNotFoundError):
            tree.list(tree.dir(b"d/missing"))
        with pytest.raises(NotADirectoryError):
            tree.list(tree.dir(b"d/f"))


def test_unusable_bases_are_base_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaseError, match="does not exist"):
        BaseTree(os.fsencode(tmp_path / "missing"))
    with pytest.raises(BaseError, match="not a directory"):
        BaseTree(os.fsencode(tmp_path / "file"))


def test_names_that_would_leave_the_base_are_refused(root):
    with BaseTree(os.fsencode(root)) as tree:
        for path in (b"..", b"a/../..", b"/etc", b"a//b", b"."):
            with pytest.raises(ValueError):
                tree.dir(path)


def test_never_follows_a_symlinked_directory(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    (root / "link").symlink_to(outside)
    with BaseTree(os.fsencode(root)) as tree, pytest.raises(NotADirectoryError):
        tree.list(tree.dir(b"link"))


def test_descriptors_are_bounded_and_reopened(root):
    for i in range(40):
        (root / f"d{i}" / "e").mkdir(parents=True)
        (root / f"d{i}" / "e" / "f").write_text(str(i))
    before = open_descriptors()
    with BaseTree(os.fsencode(root), max_open=5) as tree:
        dirs = [tree.dir(b"d%d/e" % i) for i in range(40)]
        for _ in range(3):
            for i, d in enumerate(dirs):
                assert tree.stat(d, b"f").st_size == len(str(i))
                assert open_descriptors() <= before + 1 + 5
    assert open_descriptors() == before


def test_a_replaced_directory_is_stale_when_reopened(root):
    (root / "d" / "e").mkdir(parents=True)
    with BaseTree(os.fsencode(root)) as tree:
        d, e = tree.dir(b"d"), tree.dir(b"d/e")
        tree.fd(d)
        tree.fd(e)
        tree.trim(0)
        (root / "d").rename(root / "moved")
        (root / "d" / "e").mkdir(parents=True)
        for stale in (d, e):
            with pytest.raises(OSError) as caught:
                tree.fd(stale)
            assert caught.value.errno == errno.ESTALE
        tree.release(d)
        assert tree.stat_dir(d).st_ino == (root / "d").stat().st_ino


def test_a_tree_deeper_than_path_max(root):
    depth, name = 60, b"n" * 200
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.setxattr(f"/proc/self/fd/{fd}/leaf", "user.a", b"1")
    os.close(fd)
    with BaseTree(os.fsencode(root), max_open=4) as tree:
        deepest = tree.dir(b"/".join([name] * depth))
        assert len(deepest.path) > 4096 * 2
        assert tree.list(deepest) == [b"leaf"]
        assert tree.xattrs(deepest, b"leaf") == {b"user.a": b"1"}
    subprocess.run(["rm", "-rf", root / name.decode()], check=True)


def test_more_levels_than_the_interpreter_recurses(root):
    depth = sys.getrecursionlimit() + 200
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with BaseTree(os.fsencode(root)) as tree:
        assert tree.list(tree.dir(b"/".join([b"d"] * depth))) == []
    subprocess.run(["rm", "-rf", root / "d"], check=True)


def test_xattrs_of_files_symlinks_and_fifos(root):
    (root / "f").write_text("")
    os.symlink("f", root / "l")
    os.mkfifo(root / "p")
    os.setxattr(root / "f", "user.one", b"1")
    os.setxattr(root / "f", "user.empty", b"")
    with BaseTree(os.fsencode(root)) as tree:
        d = tree.root
        assert tree.xattrs(d, b"f") == {b"user.one": b"1", b"user.empty": b""}
        assert sorted(tree.listxattr(d, b"f")) == [b"user.empty", b"user.one"]
        assert tree.getxattr(d, b"f", b"user.one") == b"1"
        assert tree.xattrs(d, b"l") == {}  # not the target's
        assert tree.xattrs(d, b"p") == {}
        assert tree.xattrs(d, b".") == {}
        with pytest.raises(OSError) as e:
            tree.getxattr(d, b"l", b"user.one")
        assert e.value.errno in (errno.ENODATA, errno.EPERM)


def test_opening_a_fifo_does_not_hang(root):
    os.mkfifo(root / "p")
    with BaseTree(os.fsencode(root)) as tree:
        done = []
        thread = threading.Thread(target=lambda: done.append(tree.open(tree.root, b"p")), daemon=True)
        thread.start()
        thread.join(5)
        assert done
        os.close(done[0])


def test_odd_names(root):
    names = [b"\xff\xfe", b"a\nb", b"x" * 255, "é".encode(), b" "]
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(root), name), os.O_CREAT))
    with BaseTree(os.fsencode(root)) as tree:
        assert sorted(tree.list(tree.root)) == sorted(names)


def test_reading_leaves_access_times_alone(root):
    (root / "f").write_text("x")
    os.utime(root / "f", ns=(0, 10**18))
    os.utime(root, ns=(0, 10**18))
    with BaseTree(os.fsencode(root)) as tree:
        fd = tree.open(tree.root, b"f")
        os.read(fd, 1)
        os.close(fd)
        tree.list(tree.root)
    assert os.stat(root / "f").st_atime_ns == 0
    assert os.stat(root).st_atime_ns == 0


def test_room_is_made_when_the_process_runs_out_of_descriptors(root):
    for i in range(30):
        (root / f"d{i}").mkdir()
    with BaseTree(os.fsencode(root)) as tree:
        for i in range(30):
            tree.fd(tree.dir(b"d%d" % i))

        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        hog = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
            while True:
                try:
                    hog.append(os.dup(tree.fd(tree.root)))
                except OSError:
                    break
            assert tree.list(tree.dir(b"d0")) == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in hog:
                os.close(fd)


def test_a_directory_that_may_only_be_traversed(area, user):
    (area / "d").mkdir()
    (area / "d" / "f").write_text("hello")
    (area / "d" / "f").chmod(0o644)
    (area / "d").chmod(0o711)
    code = """
import os, sys
from snapshots.layers.base import BaseTree
tree = BaseTree(os.fsencode(sys.argv[1]))
d = tree.dir(b"d")
print(tree.stat(d, b"f").st_size)
fd = tree.open(d, b"f")
print(os.read(fd, 10).decode())
try:
    tree.list(d)
except PermissionError:
    print("refused")
"""
    done = user.run([sys.executable, "-c", code, str(area)])
    assert done.stdout.split() == ["5", "hello", "refused"] or os.geteuid() != 0, done.stderr


def test_an_unreadable_base_is_a_base_error(area, user):
    (area / "base").mkdir(mode=0o711)
    code = """
import os, sys
from snapshots.layers.base import BaseTree
from snapshots.errors import BaseError
try:
    BaseTree(os.fsencode(sys.argv[1]))
except BaseError as e:
    print(e)
"""
    done = user.run([sys.executable, "-c", code, str(area / "base")])
    assert "may not be read" in done.stdout or os.geteuid() != 0, done.stderr
