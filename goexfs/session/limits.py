"""How many processes the command of a run may have.

Owns the choice between a control group and the kernel's limit per user.  Knows no run.  Any thread.

Root needs a control group: no other limit holds for it.  An ordinary user has a user namespace in the sandbox, and
since Linux 5.14 the limit on a user's processes counts by namespace: it counts this run's processes and no others.
"""

import os
import platform
import re
import resource

from goexfs.session.cgroups import Group
from goexfs.session.errors import SandboxError

USUAL = 4096
"""Processes and threads, when nothing else was asked for: room for any build, and the end of a fork bomb."""

_COUNTED_BY_NAMESPACE = (5, 14)


def bound(init: int, name: str, wished: int | None) -> Group | None:
    """Limit what process ``init`` will start: to ``wished`` processes and threads, 0 for no limit, None as is usual.

    The group, when there is one: it can be frozen.  Raises ``SandboxError`` if a limit that was asked for cannot be
    kept.
    """
    most = USUAL if wished is None else wished
    counts = os.geteuid() == 0 or not _counts_by_namespace()
    group = Group.make(name, most if counts and most else None)
    if group is not None and not group.add(init):
        group.remove()
        group = None
    if not most or (group is not None and group.counter is not None):
        return group
    if not counts:
        _, hard = resource.prlimit(init, resource.RLIMIT_NPROC)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(init, resource.RLIMIT_NPROC, (most, most))
    elif wished:
        if group is not None:
            group.remove()
        raise SandboxError(
            "the number of processes cannot be limited here: that needs a control group that goexfs may divide "
            "(a writable /sys/fs/cgroup), or, for an ordinary user, Linux 5.14"
        )
    return group


def _counts_by_namespace() -> bool:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return found is not None and (int(found[1]), int(found[2])) >= _COUNTED_BY_NAMESPACE
