"""Why a mount did not come about, each reason a type of its own with a one-line message.

Owns the exception types of mounting and nothing else.
"""

from snapshots.errors import GoexfsError


class MountError(GoexfsError):
    """The overlay could not be mounted."""


class FuseMissing(MountError):
    """This machine cannot mount FUSE filesystems: no /dev/fuse, or one that this user may not open."""


class FusermountMissing(MountError):
    """An ordinary user needs fusermount3 to mount, and it is not there (or not setuid root)."""


class MountpointUnusable(MountError):
    """The mountpoint does not exist, is not a directory, or something is in the way."""


class MountpointBusy(MountpointUnusable):
    """Something is mounted at the mountpoint already, or a dead mount was left there."""


class MountNotPermitted(MountError):
    """The kernel or fusermount3 refused: wrong owner of the mountpoint, allow_other not allowed, too many mounts."""


class UnmountFailed(MountError):
    """The mount could not be taken down."""
