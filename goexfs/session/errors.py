"""Errors of running a command over a base: what can go wrong around a run, outside the store and the mount.

Owns the exception types that ``goexfs.session`` adds to those of ``snapshots.errors`` and ``goexfs.fuse.errors``.
Knows no exit status but the two that shells fix for a command that cannot be started.
"""

from typing import TYPE_CHECKING

from goexfs.fuse.errors import MountpointBusy, MountpointUnusable
from goexfs.policy.rules import PolicyError as PolicyError
from snapshots.errors import BaseError, GoexfsError, RunError

if TYPE_CHECKING:
    from goexfs.session.mounts import Holder


class BaseReplaced(BaseError):
    """The base is not the directory that the run was made over (removed and created anew, or on another disk)."""


class NestedStore(BaseError):
    """The store lies inside the base, or the base inside the store."""


class MountpointInsideBase(MountpointUnusable):
    """The mountpoint is the base, or lies inside it."""


class MountBusy(MountpointBusy):
    """Processes are using the mount, so it was not unmounted; ``holders`` names them."""

    def __init__(self, message: str, holders: "tuple[Holder, ...]" = ()) -> None:
        super().__init__(message)
        self.holders = holders


class ServerError(RunError):
    """The process that serves a run's mount could not be started, or died, or does not answer."""


class SandboxError(GoexfsError):
    """Bubblewrap is missing, or this machine does not let it work."""


class SocketGone(SandboxError):
    """A socket of the host that was to be covered is not there any more: the command was not started."""


class NotInside(GoexfsError):
    """A command that is for the user, given inside a run."""


class PolicyViolated(GoexfsError):
    """A merge would change what its run was not to see, or not to change."""


class CanaryFound(GoexfsError):
    """A merge or effect carries a canary: a secret that nobody had a reason to read."""


class CommandError(GoexfsError):
    """The command could not be started; ``status`` is the exit status that shells give it."""

    status = 126


class CommandNotFound(CommandError):
    """No such command in the run's view."""

    status = 127


class CommandNotExecutable(CommandError):
    """The command is there, but it is a directory or may not be executed."""
