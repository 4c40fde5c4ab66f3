"""Every system call on every kind of name, natively and in a mount: the same errors, and the same times changed.

In the style of pjdfstest, with the native filesystem as the oracle instead of a list: nothing here says what is right,
but a table of calls meets a table of names, by root, by the owner and by somebody else.
"""

import errno
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.posix.conftest import Ground
from tests.posix.test_names import EXCHANGE, NOREPLACE, renameat2
from tests.support.mounts import mounted
from tests.support.users import OrdinaryUser

ALICE, BOB = 4001, 4002

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs files of several owners")

NAMES = (
    "file", "dir", "full", "link", "link to dir", "dangling", "loop", "fifo", "absent", "file/below", "absent/below",
    "dir/", "file/", "link to dir/", "dir/.", "full/..", "suid", "secret", "read only", "others", "closed/file",
    "fixed/file", "fixed/new", "sticky/others", "sticky/mine", "sticky/dir", "hard", "a" * 255, "a" * 256,
    "dir/" * 1100, "dir/" + "a" * 255,
)  # fmt: skip


def fill(top: Path, owner: int = ALICE) -> None:
    """One of each kind; Alice's (or another *owner*'s) but for what is Bob's."""
    top.mkdir()
    for name in ("dir", "full", "closed", "fixed", "sticky"):
        (top / name).mkdir()
    for name in (
        "file", "suid", "secret", "read only", "others", "closed/file", "fixed/file", "sticky/others", "sticky/mine",
        "full/file", "hard", "source",
    ):  # fmt: skip
        (top / name).write_text("content")
    (top / "sticky" / "dir").mkdir()
    (top / "source dir").mkdir()
    os.link(top / "hard", top / "full" / "hard")
    os.mkfifo(top / "fifo")
    for name, target in (("link", "file"), ("link to dir", "dir"), ("dangling", "absent"), ("loop", "loop")):
        (top / name).symlink_to(target)
    for path in (top, *top.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
    for name in ("others", "sticky/others", "sticky/dir"):
        os.chown(top / name, BOB, BOB)
    os.chown(top / "sticky", BOB, BOB)
    modes = {"suid": 0o6755, "secret": 0o600, "read only": 0o444, "others": 0o644, "closed": 0o600, "fixed": 0o555}
    for name, mode in {**modes, "sticky": 0o1777, "full": 0o2775}.items():
        (top / name).chmod(mode)
    for path in (*top.rglob("*"), top):
        os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


def opening(flags: int) -> Callable[[str], Any]:
    return lambda path: os.close(os.open(path, flags | os.O_NONBLOCK, 0o640))


CALLS: dict[str, Callable[[str], Any]] = {
    "stat": lambda path: stat.S_IFMT(os.stat(path).st_mode),
    "lstat": lambda path: stat.S_IFMT(os.lstat(path).st_mode),
    "open to read": opening(os.O_RDONLY),
    "open to write": opening(os.O_WRONLY),
    "open to read and write": opening(os.O_RDWR),
    "open to truncate": opening(os.O_WRONLY | os.O_TRUNC),
    "open to append": opening(os.O_WRONLY | os.O_APPEND),
    "create": opening(os.O_RDWR | os.O_CREAT),
    "create anew": opening(os.O_RDWR | os.O_CREAT | os.O_EXCL),
    "create and truncate": opening(os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    "open a directory": opening(os.O_RDONLY | os.O_DIRECTORY),
    "not follow": opening(os.O_RDONLY | os.O_NOFOLLOW),
    "open the path": opening(os.O_PATH | os.O_NOFOLLOW),
    "mkdir": lambda path: os.mkdir(path, 0o750),
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkfifo": lambda path: os.mkfifo(path, 0o640),
    "mknod of a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "symlink": lambda path: os.symlink("somewhere", path),
    "readlink": os.readlink,
    "link to": lambda path: os.link("source", path, follow_symlinks=False),
    "link from": lambda path: os.link(path, "made", follow_symlinks=False),
    "rename to": lambda path: os.rename("source", path),
    "rename a directory to": lambda path: os.rename("source dir", path),
    "rename from": lambda path: os.rename(path, "made"),
    "rename into": lambda path: os.rename(path, "source dir/made"),
    "rename unless there": lambda path: renameat2(Path("source"), Path(path), NOREPLACE),
    "exchange": lambda path: renameat2(Path("source"), Path(path), EXCHANGE),
    "exchange with a directory": lambda path: renameat2(Path("source dir"), Path(path), EXCHANGE),
    "truncate": lambda path: os.truncate(path, os.stat(path).st_size // 2),
    "extend": lambda path: os.truncate(path, os.stat(path).st_size + 20),
    "chmod": lambda path: os.chmod(path, 0o4711),
    "chmod to the same": lambda path: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode)),
    "chown to nobody": lambda path: os.chown(path, -1, -1),
    "chown to Bob": lambda path: os.chown(path, BOB, -1),
    "chown to Alice's group": lambda path: os.lchown(path, -1, ALICE),
    "utime now": os.utime,
    "utime": lambda path: os.utime(path, ns=(5, 6), follow_symlinks=False),
    "access to read": lambda path: os.access(path, os.R_OK),
    "access to write": lambda path: os.access(path, os.W_OK),
    "access to execute": lambda path: os.access(path, os.X_OK),
    "list": lambda path: sorted(os.listdir(path)),
    "chdir": lambda path: (os.chdir(path), os.chdir(START)),
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    # (Not the same value twice: not every filesystem takes that for a change.)
    "setxattr": lambda path: os.setxattr(path, "user.new", b"%d" % time.monotonic_ns()),
    "set a trusted one": lambda path: os.setxattr(path, "trusted.new", b"%d" % time.monotonic_ns()),
    "getxattr": lambda path: os.getxattr(path, "user.absent"),
    "listxattr": lambda path: os.listxattr(path, follow_symlinks=False),
    "execute": lambda path: os.execv(path, ["x"]),
}
START = -1
TICK_S = 0.012
"""The clock that files are stamped with moves on in this time."""


def times(path: str, *, follow: bool = False) -> tuple[int, int] | None:
    try:
        st = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return st.st_mtime_ns, st.st_ctime_ns


def look(path: str) -> list[tuple[int, int] | None]:
    above = os.path.dirname(path.rstrip("/")) or "."
    return [times(path), times(path, follow=True), times(above), times("source"), times("source dir"), times(".")]


def meet(call: Callable[[str], Any], name: str) -> list[Any]:
    """What becomes of a call: the error or the answer, what is there then, and whose times have changed."""
    before = look(name)
    try:
        answer, failed = call(name), ""
    except OSError as e:
        answer, failed = None, errno.errorcode.get(e.errno or 0, "?")
    after = look(name)
    changed = [
        "gone or new" if (a is None) != (b is None) else a and b and [x != y for x, y in zip(a, b, strict=True)]
        for a, b in zip(before, after, strict=True)
    ]
    if before != after:
        time.sleep(TICK_S)
    try:
        st = os.lstat(name)
        left: Any = [oct(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, -1 if stat.S_ISDIR(st.st_mode) else st.st_size]
    except OSError as e:
        left = errno.errorcode[e.errno or 0]
    return [failed, answer, left, changed]


def table(top: Path, uid: int) -> Callable[[], dict[str, list[Any]]]:
    """Begin with every call by that user, each in a tree of its own; the names are met one after the other.

    Answers what waits for the end, since most of the time is spent in waiting for the clock.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        global START
        try:
            os.umask(0o022)
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            found = {}
            for number, (what, call) in enumerate(CALLS.items()):
                os.chdir(top / f"{number}")
                START = os.open(".", os.O_RDONLY)
                for name in NAMES:
                    found[f"{what}: {name[:20]} ({len(name)})"] = meet(call, name)
                os.close(START)
            with os.fdopen(write, "w") as out:
                json.dump(found, out)
        finally:
            os._exit(0)
    os.close(write)

    def finish() -> dict[str, list[Any]]:
        with os.fdopen(read) as answer:
            said = answer.read()
        os.waitpid(pid, 0)
        return dict(json.loads(said))

    return finish


def trees(top: Path, owner: int = ALICE) -> None:
    top.mkdir()
    for number in range(len(CALLS)):
        fill(top / f"{number}", owner)


Tops = tuple[Path, Path]
"""the same trees natively and in a mount"""


def tops_for(kind: str, ground: Ground, uid: int) -> Tops:
    name = f"calls by {uid} in the {kind}"
    native, top = ground.native / name, ground.mount.path / name
    trees(native)
    if kind == "upper":
        trees(top)
    else:
        trees(ground.area / name)
        (ground.area / name).rename(ground.mount.base / name)
    return native, top


def compare(*tables: tuple[Tops, int]) -> None:
    """All at once."""
    time.sleep(0.02)  # the clock that files are stamped with has moved on
    begun = [(uid, table(native, uid), table(top, uid)) for (native, top), uid in tables]
    different = []
    for uid, native_end, end in begun:
        expected, got = native_end(), end()
        assert len(expected) == len(CALLS) * len(NAMES)
        different += [
            f"{each} (by {uid}): {expected[each]} natively, {got[each]} here"
            for each in expected
            if expected[each] != got[each]
        ]
    assert not different, "\n".join(different)


@pytest.mark.parametrize("kind", ["base", "upper"])
def test_every_call(kind: str, ground: Ground) -> None:
    compare(*((tops_for(kind, ground, uid), uid) for uid in (0, ALICE, BOB)))


def test_every_call_in_a_mount_of_ones_own(area: Path, user: OrdinaryUser) -> None:
    """Made by an ordinary user: permissions are checked by the kernel, for that user only."""
    trees(area / "native", user.uid)
    trees(area / "base", user.uid)
    os.chown(area / "base", user.uid, user.gid)
    with mounted(area / "base", area, user=user) as mount:
        mount.wait_watched()
        compare(((area / "native", mount.path), user.uid))
