"""How many processes, and how much memory, the command of a run may have.

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


def bound(init: int, name: str, processes: int | None, memory: int | None) -> Group | None:
    """Limit what process ``init`` will start: to so many ``processes`` and threads (0: any number, None: as is usual)
    and bytes of ``memory``, with what the kernel keeps for it (0 and None: any).

    The group, when there is one: it can be frozen.  Raises ``SandboxError`` if a limit that was asked for cannot be
    kept.
    """
    most = USUAL if processes is None else processes
    counts = os.geteuid() == 0 or not _counts_by_namespace()
    wished = {**({"pids": most} if counts and most else {}), **({"memory": memory} if memory else {})}
    group = Group.make(name, wished)
    if group is not None and not group.add(init):
        group.remove()
        group = None
    kept = group.counters if group is not None else {}
    refusal = None
    if memory and "memory" not in kept:
        refusal = "memory cannot be limited here: that needs a control group that goexfs may divide"
    elif counts and processes and "pids" not in kept:
        refusal = (
            "the number of processes cannot be limited here: that needs, for an ordinary user, Linux 5.14, or else a "
            "control group that goexfs may divide"
        )
    if refusal is not None:
        if group is not None:
            group.remove()
        raise SandboxError(f"{refusal} (a writable /sys/fs/cgroup, or systemd-run --user --scope -p Delegate=yes)")
    if not counts and most:
        _, hard = resource.prlimit(init, resource.RLIMIT_NPROC)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.prlimit(init, resource.RLIMIT_NPROC, (most, most))
    return group


def _counts_by_namespace() -> bool:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return found is not None and (int(found[1]), int(found[2])) >= _COUNTED_BY_NAMESPACE
