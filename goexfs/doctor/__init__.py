"""What this machine has and lacks for goexfs, and the command that mends each lack.

Owns the list of checks; prints nothing.  Must work where everything is missing: it imports only the standard library,
and asks for the rest by name.  Each check tries the real thing (opens the device, mounts, creates the namespaces,
clones a file) and leaves nothing behind.  Any thread.
"""

from collections.abc import Iterator
from pathlib import Path

from goexfs.doctor import machine, places
from goexfs.doctor.check import Check as Check


def checks(base: Path, store: Path) -> Iterator[Check]:
    """Every check, one by one as it is made; ``base`` is the directory one means to run over."""
    yield machine.python()
    yield machine.kernel()
    yield from machine.libraries()
    yield machine.fuse_device()
    yield machine.fusermount()
    yield machine.fuse_mount()
    yield machine.user_namespaces()
    yield machine.bubblewrap()
    yield machine.libseccomp()
    yield machine.wait_loop()
    yield from places.inotify(base)
    yield from places.store_place(store)
    yield from places.reflink(base, store)
