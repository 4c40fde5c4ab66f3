"""Attributes: times, modes, owners, privileges, extended attributes, and what ordinary users may do."""

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snapshots.merging.merge import merge
from snapshots.storage.store import Store
from tests.posix.conftest import fill
from tests.posix.test_names import EXCHANGE, renameat2
from tests.posix.test_open_files import fails
from tests.support.mounts import mounted

Forked = Callable[[Callable[[], object]], int]
ALICE, BOB = 4001, 4002

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes several users")


def as_user(forked: Forked, uid: int, work: Callable[[], object], gids: tuple[int, ...] = ()) -> None:
    """Run *work* in a child as another user."""

    def become() -> None:
        os.setgroups(list(gids))
        os.setgid(uid)
        os.setuid(uid)
        work()

    assert forked(become) == 0


# -- times

Step = tuple[str, Callable[[Path], object], str, str]
STEPS: list[Step] = [
    # what, how, the paths of which ctime and mtime change, the paths of which only ctime changes
    ("write", lambda t: append(t / "file"), "file", ""),
    ("write big", lambda t: append(t / "big"), "big", ""),
    ("truncate", lambda t: os.truncate(t / "file", 5), "file", ""),
    ("truncate by opening", lambda t: open(t / "file", "w").close(), "file", ""),
    ("truncate an empty file by opening", lambda t: open(t / "empty", "w").close(), "empty", ""),
    ("chmod", lambda t: (t / "file").chmod(0o611), "", "file"),
    ("chmod of a directory", lambda t: (t / "dir").chmod(0o711), "", "dir"),
    ("chown", lambda t: os.chown(t / "file", 1, 1), "", "file"),
    ("lchown", lambda t: os.lchown(t / "link", 1, 1), "", "link"),
    ("setxattr", lambda t: os.setxattr(t / "file", "user.x", b"1"), "", "file"),
    ("create", lambda t: (t / "dir" / "new").touch(), "dir dir/new", ""),
    ("mkdir", lambda t: (t / "dir" / "new").mkdir(), "dir dir/new", ""),
    ("symlink", lambda t: (t / "dir" / "new").symlink_to("x"), "dir dir/new", ""),
    ("mkfifo", lambda t: os.mkfifo(t / "dir" / "new"), "dir dir/new", ""),
    ("link", lambda t: os.link(t / "file", t / "dir" / "new"), "dir", "file dir/new"),
    ("unlink", lambda t: (t / "dir" / "inner").unlink(), "dir", ""),
    ("unlink of one of two", lambda t: (t / "hard").unlink(), ".", "dir/hard too"),
    ("rmdir", lambda t: ((t / "dir/sub/deep").unlink(), (t / "dir/sub").rmdir()), "dir", ""),
    ("rename", lambda t: (t / "file").rename(t / "renamed"), ".", "renamed"),
    ("rename into another directory", lambda t: (t / "file").rename(t / "dir" / "f"), ". dir", "dir/f"),
    ("rename over", lambda t: (t / "file").rename(t / "dir" / "hard too"), ". dir", "dir/hard too hard"),
    ("rename of a directory", lambda t: (t / "dir/sub").rename(t / "sub"), ". dir", "sub"),
    ("exchange", lambda t: renameat2(t / "file", t / "dir" / "inner", EXCHANGE), ". dir", "file dir/inner"),
    ("read", lambda t: (t / "file").read_bytes(), "", ""),
    ("list", lambda t: os.listdir(t / "dir"), "", ""),
    ("open for writing", lambda t: (t / "file").open("r+b").close(), "", ""),
    ("nothing written", lambda t: write_nothing(t / "file"), "", ""),
]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def write_nothing(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        os.write(file.fileno(), b"")


@pytest.mark.parametrize(("what", "how", "modified", "changed"), STEPS, ids=[step[0] for step in STEPS])
def test_which_times_change(top: Path, what: str, how: Callable[[Path], object], modified: str, changed: str) -> None:
    def names() -> list[str]:
        return [".", *(str(path.relative_to(top)) for path in top.rglob("*"))]

    def paths(listed: str) -> set[str]:
        return set(listed.replace("hard too", "hard*").split()) if listed else set()

    old = {name.replace("hard too", "hard*"): (top / name).lstat() for name in names()}
    time.sleep(0.03)
    began = time.time_ns() - 20_000_000  # the kernel's stamps come from a clock that ticks every few milliseconds
    how(top)
    new = {name.replace("hard too", "hard*"): (top / name).lstat() for name in names()}
    for name, st in new.items():
        before = old.get(name)
        if name in paths(modified):
            assert began <= st.st_mtime_ns <= time.time_ns(), (name, "mtime")
            assert began <= st.st_ctime_ns <= time.time_ns(), (name, "ctime")
        elif name in paths(changed):
            assert began <= st.st_ctime_ns <= time.time_ns(), (name, "ctime")
            assert st.st_mtime_ns == 10**18, (name, "mtime")
        elif before is not None:
            assert (st.st_mtime_ns, st.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns), name


def test_setting_times(top: Path) -> None:
    now, omit = (1 << 30) - 1, (1 << 30) - 2
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def utimensat(name: str, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
        times = (ctypes.c_long * 4)(*atime, *mtime)
        assert libc.utimensat(-100, os.fsencode(top / name), times, 0x100) == 0

    for name in ("file", "dir", "link", "fifo"):
        utimensat(name, (0, omit), (5, 6))
        st = (top / name).lstat()
        assert st.st_mtime_ns == 5_000_000_006
        utimensat(name, (7, 999_999_999), (0, omit))
        st = (top / name).lstat()
        assert (st.st_atime_ns, st.st_mtime_ns) == (7_999_999_999, 5_000_000_006)
        ctime = st.st_ctime_ns
        time.sleep(0.01)
        utimensat(name, (0, omit), (0, omit))
        assert (top / name).lstat().st_ctime_ns == ctime, "nothing was set"
        utimensat(name, (0, now), (0, now))
        st = (top / name).lstat()
        assert abs(st.st_mtime_ns - time.time_ns()) < 10**9
        assert abs(st.st_atime_ns - time.time_ns()) < 10**9
        utimensat(name, (-5, 1), (1 << 33, 3))
        st = (top / name).lstat()
        assert (st.st_atime_ns, st.st_mtime_ns) == (-5 * 10**9 + 1, (1 << 33) * 10**9 + 3)


def test_times_that_were_set_survive_what_was_written_before(top: Path) -> None:
    with (top / "big").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * 200_000, 1000)
        os.utime(file.fileno(), ns=(1, 2))
        assert os.fstat(file.fileno()).st_mtime_ns == 2
    assert (top / "big").stat().st_mtime_ns == 2
    time.sleep(0.05)
    assert (top / "big").stat().st_mtime_ns == 2


# -- modes and owners


def test_modes(top: Path) -> None:
    for mode in (0, 0o777, 0o1777, 0o4755, 0o2755, 0o6711, 0o644):
        for name in ("file", "dir", "fifo"):
            (top / name).chmod(mode)
            assert stat.S_IMODE((top / name).stat().st_mode) == mode
    (top / "link").chmod(0o600)
    assert stat.S_IMODE((top / "file").stat().st_mode) == 0o600
    fd = os.open(top / "big", os.O_RDONLY)
    os.fchmod(fd, 0o4700)
    os.fchown(fd, 5, 6)
    assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid, stat.S_IMODE(os.fstat(fd).st_mode)) == (5, 6, 0o700)
    os.close(fd)


def test_umask(top: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(top / "f", os.O_CREAT | os.O_WRONLY, 0o777))
        os.mkdir(top / "d", 0o777)
        os.mkfifo(top / "p", 0o666)
        os.mknod(top / "n", 0o666)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((top / name).stat().st_mode) for name in "fdpn"]
    assert modes == [0o750, 0o750, 0o640, 0o640]


def test_setgid_directories(top: Path, forked: Forked) -> None:
    os.chown(top / "dir", ALICE, BOB)
    (top / "dir").chmod(0o2777)
    (top / "dir" / "f").touch()
    (top / "dir" / "d").mkdir()
    assert (top / "dir" / "f").stat().st_gid == BOB
    assert (top / "dir" / "d").stat().st_gid == BOB
    assert (top / "dir" / "d").stat().st_mode & stat.S_ISGID
    as_user(forked, ALICE, lambda: os.close(os.open(top / "dir" / "g", os.O_CREAT | os.O_WRONLY, 0o2775)))
    st = (top / "dir" / "g").stat()
    assert (st.st_uid, st.st_gid) == (ALICE, BOB)
    assert not st.st_mode & stat.S_ISGID, "not a member of the group"


def test_writing_takes_privileges_away(top: Path, forked: Forked) -> None:
    def prepare(mode: int) -> None:
        (top / "file").chmod(mode)
        assert stat.S_IMODE((top / "file").stat().st_mode) == mode

    def mode() -> int:
        return stat.S_IMODE((top / "file").stat().st_mode)

    ways: dict[str, Callable[[], object]] = {
        "write": lambda: append(top / "file"),
        "truncate": lambda: os.truncate(top / "file", 3),
        "open": lambda: (top / "file").open("w").close(),
    }
    for what, way in ways.items():
        prepare(0o6777)
        as_user(forked, ALICE, way)
        assert mode() == 0o777, what
        prepare(0o2767)  # setgid without execution by the group means something else
        as_user(forked, ALICE, way)
        assert mode() & 0o4000 == 0, what
        prepare(0o6777)
        way()
        assert mode() == 0o6777, f"{what} by root"
    for uid, gid in ((BOB, -1), (-1, BOB), (BOB, BOB)):
        prepare(0o6777)
        os.chown(top / "file", uid, gid)
        assert mode() == 0o777, "a change of owner by root"


def test_chmod_by_somebody_outside_of_the_group_loses_setgid(top: Path, forked: Forked) -> None:
    os.chown(top / "file", ALICE, BOB)
    as_user(forked, ALICE, lambda: (top / "file").chmod(0o2755))
    assert stat.S_IMODE((top / "file").stat().st_mode) == 0o755
    as_user(forked, ALICE, lambda: (top / "file").chmod(0o2755), gids=(BOB,))
    assert stat.S_IMODE((top / "file").stat().st_mode) == 0o2755


def test_who_may_change_what(top: Path, forked: Forked) -> None:
    os.chown(top / "file", ALICE, ALICE)
    (top / "dir").chmod(0o777)

    def stranger() -> None:
        fails(errno.EPERM, os.chmod, top / "file", 0o777)
        fails(errno.EPERM, os.chown, top / "file", BOB, -1)
        fails(errno.EPERM, os.utime, top / "file", (1, 1))
        fails(errno.EACCES, os.utime, top / "file")
        fails(errno.EACCES, os.truncate, top / "file", 0)
        fails(errno.EACCES, os.open, top / "file", os.O_WRONLY)
        fails(errno.EACCES, os.setxattr, top / "file", "user.x", b"")
        fails(errno.EACCES, os.unlink, top / "file")
        fails(errno.EACCES, os.mkdir, top / "new")
        fails(errno.EACCES, os.rename, top / "file", top / "new")
        fails(errno.EACCES, os.mknod, top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        fails(errno.EPERM, os.mknod, top / "dir" / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert (top / "file").read_bytes()

    def owner() -> None:
        (top / "file").chmod(0o400)
        fails(errno.EACCES, os.open, top / "file", os.O_WRONLY)
        fails(errno.EPERM, os.chown, top / "file", BOB, -1)
        os.chown(top / "file", -1, BOB)
        os.utime(top / "file", (1, 1))
        (top / "file").chmod(0)
        fails(errno.EACCES, os.open, top / "file", os.O_RDONLY)

    as_user(forked, BOB, stranger)
    as_user(forked, ALICE, owner, gids=(BOB,))


def test_search_permission(top: Path, forked: Forked) -> None:
    (top / "dir").chmod(0o700)
    (top / "dir" / "sub").chmod(0o777)

    def stranger() -> None:
        fails(errno.EACCES, os.listdir, top / "dir")
        fails(errno.EACCES, os.stat, top / "dir" / "inner")
        fails(errno.EACCES, os.stat, top / "dir" / "sub" / "deep")

    as_user(forked, ALICE, stranger)
    (top / "dir").chmod(0o711)

    def passer() -> None:
        fails(errno.EACCES, os.listdir, top / "dir")
        assert (top / "dir" / "sub" / "deep").read_text() == "deep\n"

    as_user(forked, ALICE, passer)
    (top / "dir").chmod(0o744)

    def looker() -> None:
        assert "inner" in os.listdir(top / "dir")
        fails(errno.EACCES, os.stat, top / "dir" / "inner")

    as_user(forked, ALICE, looker)


def test_sticky_directories(top: Path, forked: Forked) -> None:
    (top / "dir").chmod(0o1777)
    (top / "dir" / "inner").chmod(0o666)
    os.chown(top / "dir" / "sub", BOB, BOB)

    def stranger() -> None:
        fails(errno.EPERM, os.unlink, top / "dir" / "inner")
        fails(errno.EPERM, os.rename, top / "dir" / "inner", top / "dir" / "mine")
        fails(errno.EPERM, os.rename, top / "dir" / "sub", top / "dir" / "mine")
        (top / "dir" / "own").touch()
        fails(errno.EPERM, os.rename, top / "dir" / "own", top / "dir" / "inner")
        (top / "dir" / "own").rename(top / "dir" / "renamed")
        (top / "dir" / "renamed").unlink()

    as_user(forked, ALICE, stranger)
    os.chown(top / "dir", ALICE, ALICE)
    as_user(forked, ALICE, (top / "dir" / "inner").unlink)


def test_the_owner_of_what_is_made(top: Path, forked: Forked) -> None:
    top.chmod(0o777)

    def make() -> None:
        (top / "f").touch()
        (top / "d").mkdir()
        (top / "l").symlink_to("x")

    as_user(forked, ALICE, make)
    assert {((top / name).lstat().st_uid, (top / name).lstat().st_gid) for name in "fdl"} == {(ALICE, ALICE)}


def test_access(top: Path, forked: Forked) -> None:
    (top / "file").chmod(0o640)

    def stranger() -> None:
        assert not os.access(top / "file", os.R_OK)
        assert os.access(top / "file", os.F_OK)
        assert os.access(top / "big", os.R_OK)
        assert not os.access(top / "big", os.W_OK)

    as_user(forked, ALICE, stranger)
    assert os.access(top / "file", os.R_OK | os.W_OK)
    assert not os.access(top / "file", os.X_OK)


# -- extended attributes


def test_extended_attributes(top: Path) -> None:
    for name in ("file", "big", "dir"):
        path = top / name
        assert os.listxattr(path) == []
        for attribute in ("user.one", "user." + "n" * 250, "trusted.two", "security.three"):
            value = attribute.encode() * 3
            os.setxattr(path, attribute, value, os.XATTR_CREATE)
            fails(errno.EEXIST, os.setxattr, path, attribute, b"", os.XATTR_CREATE)
            assert os.getxattr(path, attribute) == value
            os.setxattr(path, attribute, b"", os.XATTR_REPLACE)
            assert os.getxattr(path, attribute) == b""
        assert len(os.listxattr(path)) == 4
        os.removexattr(path, "user.one")
        fails(errno.ENODATA, os.getxattr, path, "user.one")
        fails(errno.ENODATA, os.removexattr, path, "user.one")
        fails(errno.ENODATA, os.setxattr, path, "user.one", b"", os.XATTR_REPLACE)
        fails(errno.EOPNOTSUPP, os.setxattr, path, "nonsense", b"")
        fails(errno.EOPNOTSUPP, os.getxattr, path, "nonsense.x")
        fails(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"")
    with (top / "file").open("rb") as file:
        assert len(os.listxattr(file.fileno())) == 3
        os.setxattr(file.fileno(), "user.fd", b"by descriptor")
    fails(errno.EPERM, os.setxattr, top / "link", "user.x", b"", follow_symlinks=False)
    os.setxattr(top / "link", "trusted.x", b"on the link", follow_symlinks=False)
    assert os.getxattr(top / "link", "trusted.x", follow_symlinks=False) == b"on the link"
    fails(errno.EPERM, os.setxattr, top / "fifo", "user.x", b"")


def test_extended_attributes_survive_copy_up_and_rename(top: Path) -> None:
    os.setxattr(top / "big", "user.before", b"before")
    append(top / "big")
    (top / "big").rename(top / "dir" / "big")
    assert os.getxattr(top / "dir" / "big", "user.before") == b"before"


def test_others_do_not_see_trusted_attributes(top: Path, forked: Forked) -> None:
    os.setxattr(top / "file", "trusted.x", b"1")
    os.setxattr(top / "file", "user.x", b"1")

    def stranger() -> None:
        assert os.listxattr(top / "file") == ["user.x"]
        fails(errno.ENODATA, os.getxattr, top / "file", "trusted.x")
        fails(errno.EPERM, os.setxattr, top / "file", "trusted.y", b"")

    as_user(forked, ALICE, stranger)


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def test_writing_takes_file_capabilities_away(top: Path, forked: Forked) -> None:
    (top / "file").chmod(0o777)
    os.setxattr(top / "file", "security.capability", CAPABILITY)
    assert os.getxattr(top / "file", "security.capability") == CAPABILITY
    as_user(forked, ALICE, lambda: append(top / "file"))
    fails(errno.ENODATA, os.getxattr, top / "file", "security.capability")
    os.setxattr(top / "file", "security.capability", CAPABILITY)
    os.chown(top / "file", ALICE, -1)
    fails(errno.ENODATA, os.getxattr, top / "file", "security.capability")


def test_attributes_and_acls_of_the_base_survive_copy_up_and_merge(area: Path) -> None:
    base = area / "base"
    fill(base)

    def acl(name: str) -> bytes:
        return os.getxattr(base / name, "system.posix_acl_access")

    for name in ("file", "big", "hard", "empty"):
        subprocess.run(["setfacl", "-m", "u:4001:rw", base / name], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:4001:rw", base / "dir"], check=True)
    before = {name: acl(name) for name in ("file", "big", "hard", "empty")}
    others = {"user.u": b"1", "trusted.t": b"2", "security.s": b"3"}
    for name in ("file", "big", "hard", "dir"):
        for attribute, value in others.items():
            os.setxattr(base / name, attribute, value)
    with mounted(base, area) as mount:
        path = mount.path / "file"
        assert os.getxattr(path, "system.posix_acl_access") == before["file"]
        subprocess.run(["cp", "-a", path, mount.path / "copy"], check=True)
        append(path)
        append(mount.path / "big")
        os.setxattr(mount.path / "hard", "user.x", b"1")
        (mount.path / "empty").chmod(0o600)
        (mount.path / "dir" / "new").touch()
    with Store.open(area / "store") as store:
        merge(store, store.runs.get(mount.run_id))
    assert (base / "file").read_bytes().endswith(b"more")
    for name in ("file", "big", "hard", "dir", "copy"):
        assert {attribute: os.getxattr(base / name, attribute) for attribute in others} == others, name
    assert {name: acl(name) for name in ("file", "big", "hard")} == {
        name: before[name] for name in ("file", "big", "hard")
    }
    assert stat.S_IMODE((base / "empty").stat().st_mode) == 0o600
    assert os.getxattr(base / "dir", "system.posix_acl_default")
    assert acl("copy") == before["file"]
    assert acl("dir/new")
