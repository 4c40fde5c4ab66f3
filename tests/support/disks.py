"""A disk of one's own, whose reads can be made slow for one process, and a machine that has forgotten what it read.

Needs root, loop devices and the block controller of cgroups (version 1); `why_not` says what is missing.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THROTTLES = Path("/sys/fs/cgroup/blkio")
_READS = "blkio.throttle.read_iops_device"


def why_not() -> str:
    """Why there can be no such disk here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in ("mkfs.ext4", "losetup", "mount") if shutil.which(program) is None]
    if missing or not Path("/dev/loop-control").exists():
        return f"needs {', '.join(missing) or 'loop devices'}"
    if not os.access(THROTTLES / _READS, os.W_OK) and not os.access(THROTTLES, os.W_OK):
        return "needs the blkio controller of cgroups"
    if not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        return "needs /proc/sys/vm/drop_caches"
    return ""


def forget_everything() -> None:
    """Nothing of any disk is in memory afterwards, but for what is dirty or in use."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Watcher:
    """Looks again and again whether the first thread of a process waits for a disk.

    Not how late it is, which depends on what else the machine does: a thread that could run is in another state.
    """

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/task/{pid}/status")
        self._stack = Path(f"/proc/{pid}/task/{pid}/stack")
        self._ended = threading.Event()
        self.looks = 0
        self.longest = 0.0
        """seconds of the longest single wait that was seen from its beginning, or later, to its end, or earlier"""
        self.where = ""
        """what the kernel did in it"""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        began, number = 0.0, -1
        while not self._ended.wait(0.01):
            facts = dict(line.split(":\t", 1) for line in self._status.read_text().splitlines())
            now, count = time.monotonic(), int(facts["voluntary_ctxt_switches"])
            self.looks += 1
            if not facts["State"].startswith("D"):
                number = -1
            elif count != number:  # it has been running in between
                began, number = now, count
            elif now - began > self.longest:
                self.longest, self.where = now - began, self._stack.read_text()


class Disk:
    """An ext4 filesystem at ``path`` on a loop device."""

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self.device = device

    @contextmanager
    def slow(self, pid: int, reads_per_second: int) -> Iterator[None]:
        """Meanwhile each read of this disk by that process takes its time."""
        group = Path(tempfile.mkdtemp(prefix="gxt-", dir=THROTTLES))
        number = os.stat(self.device).st_rdev
        try:
            (group / _READS).write_text(f"{os.major(number)}:{os.minor(number)} {reads_per_second}")
            (group / "cgroup.procs").write_text(str(pid))
            yield
        finally:
            try:
                (THROTTLES / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                pass
            group.rmdir()


@contextmanager
def disk(area: Path, size: int = 128 << 20, *, without: str = "") -> Iterator[Disk]:
    """Such a filesystem, mounted at ``area/disk``; *without* a feature of ext4."""
    image, place = area / "disk.img", area / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    place.mkdir()
    features = ["-O", f"^{without}"] if without else []
    subprocess.run(["mkfs.ext4", "-q", "-F", *features, "-E", "lazy_itable_init=1,nodiscard", image], check=True)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", image], check=True, capture_output=True, text=True
    )
    device = made.stdout.strip()
    try:
        subprocess.run(["mount", "-t", "ext4", device, place], check=True)
        try:
            yield Disk(place, device)
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()
