"""How many requests of the kernel a workload costs goexfs: the figure without noise.

Owns the counting, in a server that is asked over a socket (see ``tests.support.mounts``).  Requests that no program
waits for (release, forget) are left out.
"""

import tempfile
from pathlib import Path

from bench.measure import drop_caches, shell
from bench.trees import Trees
from bench.workloads import Workload
from tests.support.mounts import ASYNCHRONOUS, mounted


def requests(workload: Workload, trees: Trees, place: Path) -> dict[str, int]:
    """Requests by kind of one repetition of the workload's script."""

    def run(script: str, root: Path) -> None:
        shell(script, root, scale=trees.scale, limit=workload.limit)

    base = trees.get(workload.tree)
    with tempfile.TemporaryDirectory(dir=place) as work, mounted(base, Path(work)) as mount:
        mount.wait_watched()
        if workload.before:
            run(workload.before, mount.path)
        if workload.caches == "warm":
            run(workload.script, mount.path)
            if workload.before:
                run(workload.before, mount.path)
        if workload.caches == "cold":
            drop_caches()
        with mount.counting() as counted:
            run(workload.script, mount.path)
    return {name: number for name, number in counted.most_common() if name not in ASYNCHRONOUS}
