"""A run's mount from outside: flushing it, finding who uses it, taking it down.

Owns these three; mounting itself, and reading what is mounted where, is ``goexfs.fuse.device``.  Knows no run and no
store.

Nothing here touches a file below a mount from this process: a mount whose server hangs would take the caller with it.
What must touch it runs in a child with a time limit, and a process that waits for FUSE can be killed.  Never to be
called by the process that serves the mount, except for ``programs_to_leave``.  Any thread.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from goexfs.fuse import device
from goexfs.fuse.errors import MountpointBusy, UnmountFailed
from goexfs.session.errors import MountBusy
from snapshots.names import is_inside, readable

FLUSH_SECONDS = 60.0
"""How long the kernel may take to write its dirty pages to a server before the flush is given up."""


class Holder(NamedTuple):
    """A process that keeps a mount busy."""

    pid: int
    command: str
    how: str
    """``working directory``, ``root directory``, ``program`` or ``open file NAME``"""

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.how})"


def is_mounted(path: bytes) -> bool:
    """Whether a goexfs mount, alive or dead, is at ``path`` in this process's mount namespace."""
    mounted = device.mounted_at(path)
    return mounted is not None and mounted.type == device.TYPE


def unmount(path: bytes) -> None:
    """Take the mount at ``path`` down; nothing mounted there is no error.

    Raises ``MountBusy``, naming who uses it, or ``UnmountFailed``.
    """
    if not is_mounted(path):
        return
    try:
        device.detach(path)
    except (MountpointBusy, UnmountFailed) as error:
        found = tuple(holders(path))
        if not found and isinstance(error, UnmountFailed):
            raise
        who = ", ".join(map(str, found[:3])) or "a process that this user cannot see"
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise MountBusy(f"{readable(path)} is in use by {who}{more}; end that and try again", found) from None


def unmount_now(path: bytes) -> tuple[Holder, ...]:
    """Take the mount at ``path`` out of the tree whoever uses it; returns who did, to be told about it."""
    try:
        unmount(path)
    except (MountBusy, UnmountFailed) as error:
        device.detach(path, lazy=True)
        return error.holders if isinstance(error, MountBusy) else ()
    return ()


def holders(path: bytes) -> Iterator[Holder]:
    """Processes (that this user may look at) with their working directory, root, program or an open file at or below
    ``path``.  Reads only links of ``/proc``, so it never waits for the mount."""
    for entry in os.scandir(b"/proc"):
        if entry.name.isdigit():
            how = _use(entry.path, path)
            if how is not None:
                yield Holder(int(entry.name), _command(entry.path), how)


def _use(process: bytes, path: bytes) -> str | None:
    for link, how in ((b"cwd", "working directory"), (b"root", "root directory"), (b"exe", "program")):
        if is_inside(_link(process + b"/" + link), path):
            return how
    try:
        descriptors = os.listdir(process + b"/fd")
    except OSError:
        return None
    for descriptor in descriptors:
        target = _link(process + b"/fd/" + descriptor)
        if is_inside(target, path):
            return f"open file {readable(target)}"
    return None


def _link(path: bytes) -> bytes:
    try:
        return os.readlink(path)
    except OSError:
        return b""


def _command(process: bytes) -> str:
    try:
        with open(process + b"/comm", "rb") as file:
            return readable(file.read().strip())
    except OSError:
        return "a process"
