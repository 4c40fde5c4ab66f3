"""A disk that fails when it is told to, for programs that are started with it: libc calls are answered in its place.

Python and SQLite call the same library, so both are caught; what the kernel does by itself is not.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CALLS = ("nothing", "write", "sync", "truncate", "open", "link", "rename", "unlink", "allocate", "read")
"""kinds of calls, in the order of ``faults.c``"""
_LAYOUT = struct.Struct("=iiiii1004s")
EVER = 1 << 30


def why_not() -> str:
    """Why there can be no such disk here; empty when there can."""
    return "" if shutil.which("cc") else "needs a C compiler"


class Faults:
    """For programs with ``environ``, on what is *below* a directory."""

    def __init__(self, place: Path, below: Path) -> None:
        library = place / "faults.so"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
        self._below = os.fsencode(below)
        self._control = place / "faults"
        self._control.write_bytes(bytes(_LAYOUT.size))
        self.environ = {"LD_PRELOAD": str(library), "GOEXFS_TEST_FAULTS": str(self._control)}

    @contextmanager
    def striking(self, call: str, error: int, *, skip: int = 0, times: int = EVER, below: str = "") -> Iterator[None]:
        """Meanwhile calls of this kind fail, after *skip* of them and that often, perhaps only *below* a part."""
        place = os.path.join(self._below, os.fsencode(below))
        self._set(_LAYOUT.pack(CALLS.index(call), error, skip, times, 0, place))
        try:
            yield
        finally:
            self._hits = _LAYOUT.unpack(self._control.read_bytes())[4]
            self._set(bytes(_LAYOUT.size))

    @property
    def hits(self) -> int:
        """How many calls failed in the last block."""
        return self._hits

    def _set(self, what: bytes) -> None:
        with self._control.open("r+b", buffering=0) as file:  # the same file: it is mapped
            file.write(what)
