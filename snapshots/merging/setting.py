"""Setting the attributes of what is in a base, and entering directories that already have their own mode.

Owns the order of these system calls.  Knows operations of a plan and no merge.  Any thread.
"""

import os
import stat
from collections.abc import Callable, Sequence

from snapshots.merging import disk
from snapshots.merging.plan import Attrs, Operation, SetAttrs
from snapshots.review.compare import carried

OWNER_MAY = stat.S_IWUSR | stat.S_IXUSR
"""What an owner needs to change names in a directory."""


def set_attrs(dir_fd: int, name: bytes, attrs: Attrs) -> None:
    """Set what is given; the owner first, for a change of it may take bits of the mode away."""
    if attrs.uid is not None and attrs.gid is not None:
        disk.chown(dir_fd, name, attrs.uid, attrs.gid)
    if attrs.xattrs is not None:
        disk.set_xattrs(dir_fd, name, carried(disk.xattrs(dir_fd, name)), attrs.xattrs)
    if attrs.mode is not None:
        disk.chmod(dir_fd, name, attrs.mode)
    if attrs.times_ns is not None:
        disk.utime(dir_fd, name, attrs.times_ns)


def unlock_again(operations: Sequence[Operation], where: Callable[[bytes], tuple[int, bytes]]) -> None:
    """After a crash among the last operations of a plan, of which these are left: directories that have got their own
    mode already must be entered to set attributes once more.
    """
    if not operations or not isinstance(operations[0], SetAttrs):
        return
    for op in reversed(operations):
        assert isinstance(op, SetAttrs)
        if op.after.mode is not None and op.after.mode & OWNER_MAY != OWNER_MAY:
            dir_fd, name = where(op.path)
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode) and st.st_mode & OWNER_MAY != OWNER_MAY:
                disk.chmod(dir_fd, name, op.after.mode | OWNER_MAY)
