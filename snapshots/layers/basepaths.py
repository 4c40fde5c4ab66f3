"""The base by path, for readers that walk by path (diff, merge plans) rather than by directory.

Owns a bounded memory of ``BaseDir`` values, so that a walk in path order opens each directory once, and the rule that
"not there" is a value, not an error.  Knows no upper and never writes.  Belongs to one thread, like its ``BaseTree``.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from snapshots.errors import BaseError
from snapshots.layers.base import BaseDir, BaseTree
from snapshots.names import readable

_REMEMBERED = 4096
_MANY = 8
_LONG = 256
"""Names from which on a directory is listed to see which are there, and the bytes that it may have for each."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

T = TypeVar("T")


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory of a path, and the name in it; ``(b"", name)`` at the top."""
    above, _, name = path.rpartition(b"/")
    return above, name


def join(above: bytes, name: bytes) -> bytes:
    """The path of a name in a directory (``b""`` is the base itself)."""
    return above + b"/" + name if above else name


def is_below(path: bytes, above: bytes) -> bool:
    """Whether a path lies strictly below a directory; everything lies below ``b""``."""
    return path.startswith(above + b"/") if above else path != b""


class BasePaths:
    """Reads the base by path.  A path that is not there, or below something that is no directory, is None or empty.

    BaseError where the base cannot be read.
    """

    def __init__(self, tree: BaseTree) -> None:
        self.tree = tree
        self._dirs: dict[bytes, BaseDir] = {b"": tree.root}

    def dir(self, path: bytes) -> BaseDir:
        """The directory at a path, remembered."""
        found = self._dirs.get(path)
        if found is not None:
            return found
        missing: list[bytes] = []
        step = path
        while step not in self._dirs:
            missing.append(step)
            step = split(step)[0]
        d = self._dirs[step]
        if len(self._dirs) > _REMEMBERED:
            self._dirs = {b"": self.tree.root}
        for step in reversed(missing):
            d = self._dirs[step] = self.tree.child(d, split(step)[1])
        return d

    def forget(self) -> None:
        """Look every directory up anew: names have moved."""
        self.tree.trim(0)
        self._dirs = {b"": self.tree.root}

    def stat(self, path: bytes) -> os.stat_result | None:
        """``lstat``; None when nothing is there."""
        if not path:
            return self.tree.stat_dir(self.tree.root)
        return self._ask(path, lambda: self.tree.stat(*self._at(path)))

    def stat_some(self, path: bytes, names: Collection[bytes]) -> dict[bytes, os.stat_result]:
        """Name and ``lstat`` of those of some names of a directory that are there."""
        directory = self.dir(path)
        try:
            # Most of many names are new ones: one listing, if it is not much longer, and no question about each.
            if len(names) > _MANY and self.tree.stat_dir(directory).st_size <= _LONG * len(names):
                names = set(names).intersection(self.tree.list(directory))
        except OSError:
            pass  # it may be one that cannot be listed; what is wrong otherwise the questions tell
        found = {}
        for name in names:
            try:
                found[name] = self.tree.stat(directory, name)
            except FileNotFoundError:
                continue
            except OSError:
                if (st := self.stat(join(path, name))) is not None:
                    found[name] = st
        return found

    def list(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; none when there is no such directory."""
        return sorted(self._ask(path, lambda: self.tree.list(self.dir(path))) or ())

    def stats(self, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Name and ``lstat`` of what is in a directory, sorted by name; nothing when there is no such directory."""
        directory = self.dir(path)
        for name in self.list(path):
            try:
                yield name, self.tree.stat(directory, name)
            except OSError:
                if (st := self.stat(join(path, name))) is not None:
                    yield name, st

    def open(self, path: bytes) -> int | None:
        """A descriptor for reading that is the caller's to close; None when nothing is there."""
        return self._ask(path, lambda: self.tree.open(*self._at(path)))

    def readlink(self, path: bytes) -> bytes | None:
        """The target of a symlink; None when there is none."""
        return self._ask(path, lambda: self.tree.readlink(*self._at(path)))

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """All extended attributes; none when nothing is there."""
        return self._ask(path, lambda: self.tree.xattrs(*self._at(path))) or {}

    def _at(self, path: bytes) -> tuple[BaseDir, bytes]:
        above, name = split(path)
        return self.dir(above), name or b"."

    def _ask(self, path: bytes, question: Callable[[], T]) -> T | None:
        for attempt in (1, 2):
            try:
                return question()
            except OSError as e:
                if e.errno in _NOT_THERE:
                    return None
                if e.errno == errno.ESTALE and attempt == 1:
                    self.forget()
                    continue
                raise BaseError(f"{readable(path)} in the base cannot be read: {e.strerror}") from e
        return None
