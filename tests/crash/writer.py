"""The load of the crash tests: a program that changes files in a mount and tells, outside of it, what was done.

``python writer.py MOUNT LOG SEED``.  A line ``> operation`` comes before an operation and ``<`` when it has returned;
operations are JSON: the name of a method of `Operations` and its arguments.  Ends when the mount is dead.
"""

import json
import os
import random
import sys
from pathlib import Path

SIZES = (0, 10, 3_000, 40_000, 200_000)


class Operations:
    """What can be done, by paths relative to a directory; the same on a mount and on a native directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, seed: int, size: int, offset: int, flags: int) -> None:
        """Write and close, which hands all of it on."""
        fd = os.open(self.root / path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
        try:
            os.pwrite(fd, random.Random(seed).randbytes(size), offset)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        """Cut or extend."""
        os.truncate(self.root / path, size)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        os.mkdir(self.root / path)

    def rmdir(self, path: str) -> None:
        """Remove one."""
        os.rmdir(self.root / path)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(self.root / path)

    def rename(self, old: str, new: str) -> None:
        """Rename or replace."""
        os.rename(self.root / old, self.root / new)

    def link(self, old: str, new: str) -> None:
        """A hard link."""
        os.link(self.root / old, self.root / new)

    def symlink(self, target: str, path: str) -> None:
        """A symbolic link."""
        os.symlink(target, self.root / path)

    def chmod(self, path: str, mode: int) -> None:
        """Other permissions."""
        os.chmod(self.root / path, mode)

    def setxattr(self, path: str, value: str) -> None:
        """An extended attribute."""
        os.setxattr(self.root / path, "user.k", value.encode())

    def do(self, operation: list) -> None:
        """Do one, as it stands in the log; what is refused changes nothing."""
        name, *arguments = operation
        getattr(self, name)(*arguments)


def choose(rng: random.Random, count: int) -> list:
    """The next operation: over few names, so that they meet."""
    def name() -> str:
        return rng.choice(("", "", "d0/", "d1/")) + f"f{rng.randrange(9)}"

    kind = rng.choice(("write", "write", "write", "over", "truncate", "mkdir", "rmdir", "unlink", "rename", "rename",
                       "link", "symlink", "chmod", "setxattr"))  # fmt: skip
    if kind == "write":
        return ["write", name(), count, rng.choice(SIZES), 0, os.O_TRUNC]
    if kind == "over":
        return ["write", name(), count, rng.choice(SIZES), rng.choice((0, 5, 100_000)), 0]
    if kind == "truncate":
        return ["truncate", name(), rng.choice((0, 100, 150_000))]
    if kind in ("mkdir", "rmdir"):
        return [kind, rng.choice(("d0", "d1"))]
    if kind in ("rename", "link"):
        return [kind, name(), name()]
    if kind == "symlink":
        return ["symlink", f"to{count}", name()]
    if kind == "chmod":
        return ["chmod", name(), rng.choice((0o600, 0o644, 0o755))]
    return [kind, name()] if kind == "unlink" else ["setxattr", name(), f"value {count}"]


def main(mount: str, log: str, seed: str) -> None:
    """Write until the mount is dead."""
    rng = random.Random(int(seed))
    operations = Operations(Path(mount))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = int(seed) << 24
    while True:
        count += 1
        operation = choose(rng, count)
        os.write(out, b"> " + json.dumps(operation).encode() + b"\n")
        try:
            operations.do(operation)
        except OSError as error:
            if error.errno in (103, 107, 5, 19):  # ECONNABORTED, ENOTCONN, EIO, ENODEV: the mount is dead
                return
            os.write(out, b"! %d\n" % error.errno)
            continue
        os.write(out, b"<\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
