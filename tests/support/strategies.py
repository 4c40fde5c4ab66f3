"""Operations on a filesystem as values, and how they are drawn.

An operation is a tuple: the name of a method of `tests.support.model.Pair`, then its arguments.  Every argument comes
from a short list, so that names, handles and offsets meet often.
"""

import os
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from goexfs.overlay import acls

Operation = tuple[Any, ...]

NAMES = (b"a", b"b", b"c", b"p", b"q")
PATHS = (
    *NAMES,
    *(b"p/" + name for name in NAMES),
    *(b"q/" + name for name in (b"a", b"b", b"p")),
    b"p/p/a",
    b"p/p/b",
    b"q/p/a",
    b"q/p/b",
    b"p/q/a",
    b"p/p/p/a",
    b"",
)
"""Directories of the base are p, q, p/p, q/p and p/p/p; files and links are called a, b and c."""
DIRECTORIES = (b"", b"p", b"q", b"p/p", b"q/p", b"p/q", b"p/p/p", b"c", b"q/q")
TARGETS = (b"a", b"b", b"p", b"p/a", b"nowhere", b"q/p", b"p/p")
SLOTS = (0, 1, 2)
DIR_SLOTS = (0, 1)
MODES = (0o644, 0o600, 0o755, 0o444, 0o1777)
OFFSETS = (0, 1, 7, 16, 31, 32, 33, 50, 63, 64, 65, 90, 100, 128, 200, 400)
SIZES = (0, 1, 5, 16, 31, 32, 33, 63, 64, 65, 100, 150, 300)
SEEDS = (1, 2, 3, 4, 5)
FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR,
    os.O_WRONLY,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDWR | os.O_TRUNC,
    os.O_RDONLY | os.O_TRUNC,
    os.O_RDWR | os.O_APPEND,
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_DIRECTORY,
)
RENAME_FLAGS = (0, 0, 0, 0, 1, 2, 2, 3)
TIMES = (1_000_000_000, 2_000_000_001, 3_999_999_999)
XATTRS = (b"user.a", b"user.b", b"trusted.t")
VALUES = (b"", b"1", b"value")
NOBODY = 0xFFFFFFFF
ACLS = tuple(
    acls.pack(tuple(acls.Entry(*entry) for entry in entries))
    for entries in (
        ((1, 6, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY)),
        ((1, 7, NOBODY), (2, 5, 1000), (4, 5, NOBODY), (16, 7, NOBODY), (32, 4, NOBODY)),
        ((1, 6, NOBODY), (2, 7, 1), (4, 0, NOBODY), (8, 6, 1000), (16, 4, NOBODY), (32, 0, NOBODY)),
        ((1, 6, NOBODY), (2, 7, 1), (4, 0, NOBODY), (32, 0, NOBODY)),  # which needs a mask
    )
)
FOLLOW = (True, False)
OWNERS = (-1, 0, 1, 1000)

OPERATIONS: dict[str, tuple[int, tuple[Sequence[Any], ...]]] = {
    # name: (weight, where each argument is drawn from)
    "open": (5, (SLOTS, PATHS, FLAGS, (0o644, 0o600))),
    "close": (2, (SLOTS,)),
    "read": (2, (SLOTS, OFFSETS, SIZES)),
    "write": (5, (SLOTS, OFFSETS, SIZES, SEEDS)),
    "ftruncate": (2, (SLOTS, SIZES)),
    "resize": (2, (SLOTS, SIZES, SIZES)),
    "fstat": (1, (SLOTS,)),
    "opendir": (1, (DIR_SLOTS, DIRECTORIES)),
    "listdir": (2, (DIR_SLOTS, (1, 2, 100))),
    "rewinddir": (1, (DIR_SLOTS,)),
    "mkdir_at": (1, (DIR_SLOTS, NAMES)),
    "open_at": (1, (SLOTS, DIR_SLOTS, NAMES, FLAGS)),
    "unlink_at": (1, (DIR_SLOTS, NAMES)),
    "stat": (2, (PATHS, FOLLOW)),
    "readlink": (1, (PATHS,)),
    "list": (1, (DIRECTORIES,)),
    "mkdir": (2, (PATHS, (0o755, 0o700))),
    "mknod": (1, (PATHS, (0o010644, 0o140755, 0o100640))),
    "symlink": (2, (PATHS, TARGETS)),
    "link": (3, (PATHS, PATHS)),
    "unlink": (4, (PATHS,)),
    "rmdir": (3, (PATHS,)),
    "rmtree": (1, (DIRECTORIES,)),
    "rename": (7, (PATHS, PATHS, RENAME_FLAGS)),
    "rename_dir": (3, (DIRECTORIES, DIRECTORIES, RENAME_FLAGS)),
    "truncate": (1, (PATHS, SIZES)),
    "chmod": (1, (PATHS, MODES)),
    "chmod_dir": (1, (DIRECTORIES, (0o2775, 0o1777, 0o700))),
    "chown": (1, (PATHS, OWNERS, OWNERS, FOLLOW)),
    "utime": (2, (PATHS, TIMES, TIMES, FOLLOW)),
    "setxattr": (2, (PATHS, XATTRS, VALUES, FOLLOW)),
    "getxattr": (1, (PATHS, XATTRS, FOLLOW)),
    "listxattr": (1, (PATHS, FOLLOW)),
    "removexattr": (1, (PATHS, XATTRS, FOLLOW)),
    "collect": (2, ()),
    "store_batch": (3, ((True, True, True, False),)),
    "forget": (2, ((0.3, 1.0),)),
    "remount": (1, ()),
    "crash": (1, ((True, False),)),
    "compare": (1, ()),
}


ON_ACLS: dict[str, tuple[int, tuple[Sequence[Any], ...]]] = {
    "setacl": (12, (PATHS, acls.NAMES, ACLS, FOLLOW)),
    "removeacl": (4, (PATHS, acls.NAMES, FOLLOW)),
}
"""For filesystems that have access control lists (tmpfs has none everywhere)."""


def operations() -> st.SearchStrategy[Operation]:
    """One operation."""
    return st.one_of(
        [
            st.tuples(st.just(name), *(st.sampled_from(choices) for choices in arguments))
            for name, (weight, arguments) in OPERATIONS.items()
            for _ in range(weight)
        ]
    )


_OFTENER = {"open": 3, "open_at": 2, "opendir": 2, "close": 0.5, "remount": 0.5, "crash": 0.5}
_DRAWN = tuple(
    name for name, (weight, _) in OPERATIONS.items() for _ in range(round(2 * weight * _OFTENER.get(name, 1)))
)
"""so that several are open at once: most attempts to open fail, and a remount closes all"""
_BYTES = 6
"""of an operation: one for what it is, one for each argument"""


def sequences(least: int, most: int) -> st.SearchStrategy[list[Operation]]:
    """From *least* to *most* operations, drawn as bytes: much faster than value by value, and what fails shrinks too,
    towards few operations and the first of what each argument is drawn from."""
    lengths = st.integers(least, most)
    return lengths.flatmap(lambda count: st.binary(min_size=count * _BYTES, max_size=count * _BYTES)).map(_decoded)


def _decoded(data: bytes) -> list[Operation]:
    found: list[Operation] = []
    for at in range(0, len(data), _BYTES):
        name = _DRAWN[data[at] % len(_DRAWN)]
        choices = OPERATIONS[name][1]
        drawn = zip(choices, data[at + 1 : at + _BYTES], strict=False)
        found.append((name, *(each[byte % len(each)] for each, byte in drawn)))
    return found


def random_operations(source: random.Random, count: int, *, on_acls: bool = False) -> list[Operation]:
    """*count* operations, much faster than Hypothesis draws them; nothing shrinks them."""
    known = {**OPERATIONS, **ON_ACLS} if on_acls else OPERATIONS
    names = list(known)
    weights = [weight for weight, _ in known.values()]
    return [
        (name, *(source.choice(choices) for choices in known[name][1]))
        for name in source.choices(names, weights, k=count)
    ]
