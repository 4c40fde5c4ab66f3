"""Asking the kernel to keep directory listings.

Owns two bits in the reply to an opendir, ``keep_cache`` and ``cache_readdir``, which pyfuse3 has no way to set.  With
them a directory that was listed is listed again without a READDIR; the kernel drops what it kept when the directory
changes, through the mount or because it was told so.

Not always: under the writeback cache every close makes the kernel doubt a file's ``st_blocks`` and ask at the next
stat, and a listing made by READDIRPLUS answers that for a whole directory at once.  So a directory in which a file was
closed since is listed by READDIRPLUS once more.

pyfuse3 carries the reply in a ``_Container``, an object of C fields without names in Python, and hands it to a function
that it looks up among its globals at every call (``wait`` relies on that, too).  The function put there notes the reply
and calls the stock one.  Where the bits are follows from the declaration of the class and libfuse's ABI; whether
that is so is asked of every single object: the word before must hold the flags of an open directory, and those to be
changed must be zero.  Anything else is left alone, and the directory is listed as ever.

Threading: the event loop's thread.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from goexfs.overlay import Dir, Node

KNOWN_VERSIONS = ("3.4.", "3.5.")
"""versions of pyfuse3 whose declaration of ``_Container`` was read"""

_HEAD = 16  # of every object of CPython: reference count and type
_FIELDS = struct.Struct("=QiI8xQ")  # rdev; then struct fuse_file_info: flags, bits, padding, fh
_BITS_AT = _HEAD + 8 + 4
_KEEP_CACHE = 1 << 2
_CACHE_READDIR = 1 << 6

_reply: ContextVar[object] = ContextVar("reply to the opendir that this task answers", default=None)


class Listings:
    """Which directories the kernel may list from what it kept."""

    def __init__(self) -> None:
        self._doubtful: set[int] = set()
        """inode numbers of directories in which files were closed since they were listed"""

    def closed(self, node: Node) -> None:
        """A file was closed."""
        for directory, _ in node.names():
            self._doubtful.add(directory.ino)

    def listed(self, directory: Dir) -> None:
        """The kernel was told of all that is in a directory."""
        self._doubtful.discard(directory.ino)

    def forget(self, ino: int) -> None:
        """The kernel forgot a node."""
        self._doubtful.discard(ino)

    def keep(self, directory: Dir) -> None:
        """Amend the reply to the opendir that is being answered."""
        reply = _reply.get()
        if reply is not None:
            _set(reply, _KEEP_CACHE if directory.ino in self._doubtful else _KEEP_CACHE | _CACHE_READDIR)


def can_install(module: Any) -> bool:
    """Whether *module* (pyfuse3) is one whose replies are known to be laid out as they are here."""
    container = getattr(module, "_Container", None)
    return (
        sys.implementation.name == "cpython"
        and struct.calcsize("P") == 8
        and str(getattr(module, "__version__", "")).startswith(KNOWN_VERSIONS)
        and callable(getattr(module, "fuse_opendir_async", None))
        and isinstance(container, type)
        and container.__basicsize__ >= _HEAD + _FIELDS.size
    )


def install(module: Any) -> Callable[[], None]:
    """Let *module* hand its replies to `Listings.keep`; returns what puts the stock function back."""
    stock = module.fuse_opendir_async

    def opendir(reply: object) -> Coroutine[Any, Any, None]:
        _reply.set(reply)
        answer: Coroutine[Any, Any, None] = stock(reply)
        return answer

    def restore() -> None:
        module.fuse_opendir_async = stock

    module.fuse_opendir_async = opendir
    return restore


def _set(reply: object, wanted: int) -> bool:
    """Set the bits in a reply that is not yet filled in; False, and nothing changed, if it is not what it should be."""
    rdev, flags, bits, handle = _FIELDS.unpack(ctypes.string_at(id(reply) + _HEAD, _FIELDS.size))
    if rdev or bits or handle or not flags & os.O_DIRECTORY:
        return False
    ctypes.c_uint32.from_address(id(reply) + _BITS_AT).value = wanted
    return True
