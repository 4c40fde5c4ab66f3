"""Small bases for tests that make thousands of them, and proof that a base was not touched."""

import itertools
import os
import random
import stat
from pathlib import Path


def fill(top: Path, shape: int, *, hard_links: bool = True) -> None:
    """Make a small tree below *top*, in a way that depends on *shape* only."""
    source = random.Random(shape)
    root = os.open(top, os.O_RDONLY)
    dirs, files = [b""], list[bytes]()
    for path in (b"p", b"q", b"p/p", b"q/p", b"p/p/p"):
        if path.rpartition(b"/")[0] in dirs and source.random() < 0.9:
            os.mkdir(path, 0o755, dir_fd=root)
            dirs.append(path)
    for directory, name in itertools.product(dirs, (b"a", b"b", b"c")):
        path = directory + b"/" + name if directory else name
        kind = source.random()
        if kind < 0.55 or (kind < 0.75 and not files):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=root)
            os.write(fd, pattern(source.randrange(9), source.choice((0, 3, 20, 31, 32, 33, 64, 65, 100, 130, 260))))
            if source.random() < 0.2:
                os.setxattr(fd, source.choice(("user.a", "trusted.t")), b"base")
            os.close(fd)
            files.append(path)
        elif kind < 0.75 and hard_links:
            os.link(source.choice(files), path, src_dir_fd=root, dst_dir_fd=root)
        elif kind < 0.85:
            os.symlink(source.choice((b"a", b"p/b", b"q", b"nowhere")), path, dir_fd=root)
        elif kind < 0.88:
            os.mknod(path, stat.S_IFIFO | 0o600, dir_fd=root)
    for number, path in enumerate(sorted(_walk(root, b"."), reverse=True)):  # from the leaves up
        os.utime(path, ns=(1000 + number, 2000 + number), dir_fd=root, follow_symlinks=False)
    os.close(root)


def pattern(seed: int, size: int) -> bytes:
    """Bytes without a zero, so that they never look like a hole."""
    return bytes((seed * 37 + at) % 251 + 1 for at in range(size))


def _walk(root: int, path: bytes) -> list[bytes]:
    found = [path]
    if stat.S_ISDIR(os.stat(path, dir_fd=root, follow_symlinks=False).st_mode):
        fd = os.open(path, os.O_RDONLY, dir_fd=root)
        for name in os.listdir(fd):
            found += _walk(root, path + b"/" + os.fsencode(name))
        os.close(fd)
    return found


def traces(top: Path) -> dict[bytes, tuple[int, int, int]]:
    """Inode, ctime and link count of every path: a change of anything changes one of them."""
    root = os.open(top, os.O_RDONLY)
    try:
        found = {}
        for path in _walk(root, b"."):
            st = os.stat(path, dir_fd=root, follow_symlinks=False)
            found[path] = (st.st_ino, st.st_ctime_ns, st.st_nlink)
        return found
    finally:
        os.close(root)
