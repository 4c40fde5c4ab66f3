"""Sequences of filesystem operations for Hypothesis, run on a real directory; what the kernel refuses is skipped."""

import os
import stat
import struct

from hypothesis import strategies as st

NAMES = [b"a", b"b", b"d", b"e"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
contents = st.sampled_from([b"", b"one", b"one two three four", b"\0" * 16 + b"end", b"base content of 24 bytes"])
times = st.integers(min_value=10**18, max_value=10**18 + 10)

operation = st.one_of(
    st.tuples(st.just("write"), paths, contents, times),
    st.tuples(st.just("append"), paths, contents, times),
    st.tuples(st.just("replace"), paths, contents),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("symlink"), paths, contents.filter(lambda c: c and b"\0" not in c)),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmtree"), paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("swap"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o600, 0o755, 0o4755])),
    st.tuples(st.just("chown"), paths, st.sampled_from([0, 1000])),
    st.tuples(st.just("utime"), paths, times),
    st.tuples(st.just("setxattr"), paths, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("removexattr"), paths),
    st.tuples(st.just("acl"), paths, st.sampled_from([4, 6])),
    st.tuples(st.just("hole"), paths, st.sampled_from([300_000, 5])),
    st.tuples(st.just("device"), paths),
    st.tuples(st.just("retype"), paths),
)
sequences = st.lists(operation, max_size=12)

base_operation = st.one_of(
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("write"), paths, contents, times),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), paths, contents.filter(lambda c: c and b"\0" not in c)),
    st.tuples(st.just("setxattr"), paths, st.just(b"0")),
    st.tuples(st.just("acl"), paths, st.just(7)),
)
base_sequences = st.lists(base_operation, min_size=2, max_size=14)


def access_list(bits, uid=1000):
    """An access control list that gives a user these bits, as the kernel stores it."""
    entries = ((1, 6, -1), (2, bits, uid), (4, 4, -1), (16, 7, -1), (32, 4, -1))
    packed = (struct.pack("<HHI", tag, mode, who & 0xFFFFFFFF) for tag, mode, who in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def rmtree(path):
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            rmtree(os.path.join(path, name))
        os.rmdir(path)
    else:
        os.unlink(path)


def perform(root, op):
    """Perform one operation below ``root``; whether the kernel let it."""
    kind, first, *rest = op
    path = os.path.join(root, first)
    try:
        if kind in ("write", "append"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(path, flags | (os.O_TRUNC if kind == "write" else os.O_APPEND), 0o644)
            os.write(fd, rest[0])
            os.close(fd)
            os.utime(path, ns=(rest[1], rest[1]), follow_symlinks=False)
        elif kind == "replace":  # as editors save
            temporary = os.path.join(root, b".tmp")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, rest[0])
            os.close(fd)
            try:
                os.rename(temporary, path)
            except OSError:
                os.unlink(temporary)
        elif kind == "mkdir":
            os.mkdir(path)
        elif kind == "symlink":
            os.symlink(rest[0], path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "unlink":
            os.unlink(path)
        elif kind == "rmtree":
            rmtree(path)
        elif kind == "rename":
            os.rename(path, os.path.join(root, rest[0]))
        elif kind == "swap":
            other, spare = os.path.join(root, rest[0]), os.path.join(root, b".spare")
            if path.startswith(other) or other.startswith(path) or not os.path.lexists(other):
                return False
            os.rename(path, spare)
            os.rename(other, path)
            os.rename(spare, other)
        elif kind == "link":
            os.link(path, os.path.join(root, rest[0]), follow_symlinks=False)
        elif kind == "chmod":
            if os.path.islink(path):
                return False
            os.chmod(path, rest[0])
        elif kind == "chown":
            os.chown(path, rest[0], rest[0], follow_symlinks=False)
        elif kind == "utime":
            os.utime(path, ns=(rest[0], rest[0]), follow_symlinks=False)
        elif kind == "setxattr":
            os.setxattr(path, b"user.x", rest[0], follow_symlinks=False)
        elif kind == "removexattr":
            os.removexattr(path, b"user.x", follow_symlinks=False)
        elif kind == "acl":
            if os.path.islink(path):
                return False
            os.setxattr(path, b"system.posix_acl_access", access_list(rest[0]))
            if os.path.isdir(path):
                os.setxattr(path, b"system.posix_acl_default", access_list(rest[0]))
        elif kind == "hole":
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            os.ftruncate(fd, rest[0])
            os.pwrite(fd, b"end", rest[0])
            os.close(fd)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o620, os.makedev(1, 3))
        elif kind == "retype":
            if os.path.isdir(path) and not os.path.islink(path):
                rmtree(path)
                os.symlink(b"was a directory", path)
            else:
                os.unlink(path)
                os.mkdir(path, 0o711)
    except OSError:
        return False
    return True
