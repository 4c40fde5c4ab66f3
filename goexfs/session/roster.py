"""The note that says which processes the command of a run is made of: ``runs/<id>/command``.

Owns the file.  It is written when a command begins, removed when it ends, and never believed: whoever reads it checks
that the process is still the one that was meant.  Any thread, any process of the user.
"""

import os
from pathlib import Path

import msgspec

from goexfs.session import processes

NAME = "command"
PAUSED = "paused"
"""there while the command is stopped by signals, for want of a control group"""


class Running(msgspec.Struct, frozen=True):
    """A command at work."""

    session: int
    """pid of the goexfs process that started it and waits for it"""
    root: int
    """pid of process 1 of the sandbox; without a sandbox of the command itself"""
    born: int
    """when ``root`` began, as the kernel counts: a pid is used again, the two together are not"""
    sandboxed: bool
    freezer: str | None
    """the control group that can be frozen, None where there is none"""

    @property
    def place(self) -> Path | None:
        """``freezer`` as a path."""
        return None if self.freezer is None else Path(self.freezer)


def begin(directory: Path, running: Running) -> None:
    """Say that a command is at work."""
    # Not by ``snapshots.storage.durable``: after a power cut there is no command, so nothing has to survive one.
    fd = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, msgspec.json.encode(running))
    finally:
        os.close(fd)


def end(directory: Path) -> None:
    """Say that none is, any more; a second time is fine."""
    for name in (NAME, PAUSED):
        (directory / name).unlink(missing_ok=True)


def read(directory: Path) -> Running | None:
    """The command that is at work now; None when there is none."""
    try:
        running = msgspec.json.decode((directory / NAME).read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return running if processes.born(running.root) == running.born else None


def mark_paused(directory: Path, paused: bool) -> None:
    """Say whether the command has been stopped by signals."""
    if paused:
        os.close(os.open(directory / PAUSED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    else:
        (directory / PAUSED).unlink(missing_ok=True)


def is_marked_paused(directory: Path) -> bool:
    """Whether that was said."""
    return (directory / PAUSED).exists()
