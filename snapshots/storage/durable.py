"""Every change that the library makes to a file or directory of a store, and what their failures mean.

Owns the write primitives, their order (write, sync, publish, sync the directory), the one table from ``OSError`` to the
store's errors, and the seam at which tests make the Nth step fail or the process die.  Knows no layout, no record
and no SQLite (the database announces its steps here too).  No state but the seam: any thread.

The rule that the order serves: *a name in the store is complete content*.  Content is written and synced under
another name and published by one ``link``, so a reader, a crash and a power cut see all of it or nothing.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from snapshots.errors import StoreError, StoreFull, StoreUnusable

PathLike = str | Path

seam: Callable[[str, str], None] | None = None
"""Called before every step that changes the store, with the step's name and what it is done to; for fault injection."""

WRITE_CHUNK = 1 << 20
"""Bytes per write step: a crash tears a file at a multiple of this."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NOT_IN_KERNEL = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})
"""What ``copy_file_range`` says where it cannot do it, and reading and writing can."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


def step(name: str, where: PathLike) -> None:
    """Announce a change about to be made."""
    if seam is not None:
        seam(name, os.fspath(where))


def failure(exc: OSError, what: str) -> StoreError:
    """The store's error for an operating-system error; ``what`` says what could not be done, to what."""
    if exc.errno in _FULL:
        return full(what)
    return StoreUnusable(f"{what}: {exc.strerror or exc}")


def full(what: str) -> StoreFull:
    """The store's error for a disk or quota without room."""
    return StoreFull(f"{what}: the disk (or the quota) is full; free some room, or discard runs")


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn the ``OSError`` of a block into the store's errors."""
    try:
        yield
    except OSError as exc:
        raise failure(exc, what) from exc


def mkdir(path: PathLike, mode: int) -> None:
    """Make a directory with exactly this mode, whatever the umask; fine if it is there."""
    step("mkdir", path)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    os.chmod(path, mode)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the file position."""
    view = memoryview(data)
    while view:
        step("write", f"fd {fd}")
        view = view[os.write(fd, view[:WRITE_CHUNK]) :]


def sync(fd: int) -> None:
    """Make the content of an open file survive a power cut."""
    step("sync", f"fd {fd}")
    os.fsync(fd)


def sync_directory(path: PathLike) -> None:
    """Make the names in a directory survive a power cut; fine if the directory is gone."""
    step("sync directory", path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(path: PathLike, mode: int) -> int:
    """Make a new file and open it for reading and writing; the caller closes."""
    step("create", path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def publish(source: PathLike, target: PathLike) -> None:
    """Give the finished file ``source`` the name ``target`` too, replacing what nobody can know by that name.

    A second name, not a new one: until the caller drops ``source`` nothing can be lost, whatever fails or dies in
    between.  Where the filesystem has no hard links, ``target`` is a copy.
    """
    step("publish", target)
    try:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            unlink(target)
            os.link(source, target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno not in _NO_HARD_LINKS:
            raise
        import shutil  # with all its archives, which hardly anybody needs

        beside = f"{os.fspath(source)}.copy"
        shutil.copy2(source, beside)
        fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync(fd)
        finally:
            os.close(fd)
        os.rename(beside, target)


def unlink(path: PathLike) -> None:
    """Remove a name; fine if it is gone."""
    step("unlink", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def rmdir(path: PathLike) -> bool:
    """Remove a directory if it is empty; whether it is gone now."""
    step("rmdir", path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as exc:
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def remove_tree(path: PathLike) -> int:
    """Remove a directory and all in it, or a file; fine if it is gone.  The bytes of the files removed.

    A directory on another device is a mount: ``OSError`` (EXDEV), and nothing in it is touched.  (Files on an overlay
    have other devices than its directories; one that is a mountpoint cannot be removed anyway: EBUSY.)
    """
    try:
        device = os.lstat(path).st_dev
    except FileNotFoundError:
        return 0
    return _remove_below(os.fspath(path), device)


def _remove_below(path: str, device: int) -> int:
    st = os.lstat(path)
    if not stat.S_ISDIR(st.st_mode):
        unlink(path)
        return st.st_size
    if st.st_dev != device:
        raise OSError(errno.EXDEV, "something is mounted there", path)
    freed = sum(_remove_below(f"{path}/{name}", device) for name in listdir(path))
    rmdir(path)
    return freed


def rename(source: PathLike, target: PathLike) -> None:
    """Rename, replacing what is there."""
    step("rename", target)
    os.rename(source, target)


def listdir(path: PathLike) -> list[str]:
    """The names in a directory; none if it is gone."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def write_file(path: PathLike, data: bytes, *, mode: int = 0o600) -> None:
    """Put ``data`` under ``path``, durably and all at once: written beside it, synced, renamed, directory synced."""
    beside = f"{os.fspath(path)}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = create(beside, mode)
    try:
        try:
            write_all(fd, data)
            sync(fd)
        finally:
            os.close(fd)
        rename(beside, path)
    except BaseException:
        unlink(beside)
        raise
    sync_directory(os.path.dirname(os.fspath(path)))
