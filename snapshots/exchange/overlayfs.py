"""An upper directory as kernel overlayfs has it.

Owns its notation: a character device 0/0 for a name that is gone, extended attributes for what hides the directory
below.  Writing needs none of these attributes, because what a directory hides is written name by name; so what is
written mounts with and without ``userxattr``, also for an ordinary user.  Renamed directories are written whole: not
every overlayfs follows redirects.  Knows no run.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from snapshots.errors import BaseError, ExportFailed, ImportRefused
from snapshots.exchange.arrivals import Arrival, What, carried
from snapshots.exchange.layers import Item
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join
from snapshots.layers.content import CHUNK
from snapshots.names import readable

_PREFIXES = (b"trusted.overlay.", b"user.overlay.")


def write(items: Sequence[Item], directory: Path) -> list[str]:
    """Fill an empty directory; what it cannot carry, one line each."""
    left_out: list[str] = []
    root = os.fsencode(directory)
    directories: list[Item] = []
    for item in items:
        with _explained(item, root):
            _write(item, root, left_out)
        if item.side is not None and item.side.is_dir:
            directories.append(item)
    # Last, and the lowest first: until then their lists and modes must not meet what is made in them.
    for item in reversed(directories):
        with _explained(item, root):
            _attributes(item, root, left_out)
    return left_out


@contextmanager
def _explained(item: Item, root: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportFailed(
            f"{readable(item.path) or '.'} cannot be written to {readable(root)}: {error.strerror}"
        ) from None


def _place(item: Item, root: bytes) -> bytes:
    return join(root, item.path) if item.path else root


def _write(item: Item, root: bytes, left_out: list[str]) -> None:
    path = _place(item, root)
    side = item.side
    if side is None:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        return
    if item.link_to is not None:
        os.link(join(root, item.link_to), path, follow_symlinks=False)
        return
    if side.is_dir:
        if item.path:
            os.mkdir(path, 0o700)
        return
    if side.target is not None:
        os.symlink(side.target, path)
    elif stat.S_ISREG(side.mode):
        _write_content(item, path)
    elif stat.S_ISSOCK(side.mode):
        left_out.append(f"{readable(item.path)}: a socket")
        return
    else:
        os.mknod(path, stat.S_IFMT(side.mode) | 0o600, side.rdev)
    _attributes(item, root, left_out)


def _attributes(item: Item, root: bytes, left_out: list[str]) -> None:
    side, path = item.side, _place(item, root)
    assert side is not None
    try:
        os.lchown(path, side.uid, side.gid)
    except PermissionError:
        left_out.append(f"{readable(item.path) or '.'}: its owner {side.uid}:{side.gid}")
    if side.target is None:
        os.chmod(path, stat.S_IMODE(side.mode))
    for name, value in carried(side.xattrs).items():
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError:
            left_out.append(f"{readable(item.path) or '.'}: the extended attribute {readable(name)}")
    os.utime(path, ns=(side.mtime_ns, side.mtime_ns), follow_symlinks=False)


def _write_content(item: Item, path: bytes) -> None:
    assert item.side is not None
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as out, item.side.open() as content:
        os.ftruncate(fd, content.size)
        at = content.next_data(0)
        while at < content.size:
            data = content.read(at, CHUNK)
            os.pwrite(fd, data, at)
            at = content.next_data(at + len(data))
        out.flush()


def read(directory: str) -> Iterator[Arrival]:
    """What an upper directory says, parents first.  ImportRefused."""
    source = readable(os.fsencode(directory))
    try:
        with BaseTree(os.fsencode(os.path.abspath(directory))) as tree:
            paths = BasePaths(tree)
            first: dict[tuple[int, int], bytes] = {}
            waiting = [b""]
            while waiting:
                path = waiting.pop()
                st = paths.stat(path)
                if st is None:
                    continue
                xattrs = paths.xattrs(path)
                yield from _arrivals(paths, path, st, xattrs, first, source)
                if stat.S_ISDIR(st.st_mode):
                    waiting += [join(path, name) for name in reversed(paths.list(path))]
    except BaseError as error:
        raise ImportRefused(f"{error}; nothing was imported") from None


def _arrivals(
    paths: BasePaths, path: bytes, st: os.stat_result, xattrs: dict[bytes, bytes],
    first: dict[tuple[int, int], bytes], source: str,
) -> Iterator[Arrival]:  # fmt: skip
    is_whiteout = stat.S_ISCHR(st.st_mode) and st.st_rdev == 0
    if is_whiteout or _own(xattrs, b"whiteout") is not None:
        yield Arrival(What.GONE, path)
        return
    for attribute, how in ((b"redirect", "redirect_dir=off"), (b"metacopy", "metacopy=off")):
        if _own(xattrs, attribute) is not None:
            raise ImportRefused(
                f"{source} was made with an option of overlayfs that it cannot be read without its lower directory for:"
                f" {readable(path)} has a {attribute.decode()}; make it with {how} (nothing was imported)"
            )
    if _own(xattrs, b"opaque") == b"y":
        yield Arrival(What.EMPTY, path)
    if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
        before = first.setdefault((st.st_dev, st.st_ino), path)
        if before != path:
            yield Arrival(What.LINK, path, target=before)
            return
    is_file = stat.S_ISREG(st.st_mode)
    yield Arrival(
        What.NODE, path, mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, mtime_ns=st.st_mtime_ns, rdev=st.st_rdev,
        target=(paths.readlink(path) or b"") if stat.S_ISLNK(st.st_mode) else b"", xattrs=carried(xattrs),
        open=(lambda: _content(paths, path)) if is_file else None,
    )  # fmt: skip


def _own(xattrs: dict[bytes, bytes], name: bytes) -> bytes | None:
    return next((xattrs[prefix + name] for prefix in _PREFIXES if prefix + name in xattrs), None)


def _content(paths: BasePaths, path: bytes) -> IO[bytes]:
    fd = paths.open(path)
    if fd is None or not stat.S_ISREG(os.fstat(fd).st_mode):
        if fd is not None:
            os.close(fd)
        raise ImportRefused(f"{readable(path)} went away while it was read; nothing was imported")
    return os.fdopen(fd, "rb")
