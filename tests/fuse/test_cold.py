"""A cold disk: whoever asks for what is on it waits, and nobody else does.

In the long mode: a real disk and a real store on it, and so only as good as the clock.  `test_blocking` has a disk that
answers when it is told to.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.disks import Watcher, disk, forget_everything, why_not
from tests.support.mounts import mounted

READS_PER_SECOND = 3
NOT_STALLED_S = 0.2
"""how long the event loop may wait for a disk: less than one read takes (0.33 s)"""

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.long,
    pytest.mark.timeout(240),
]


def make_base(base: Path) -> None:
    """Directories, files, long links and attributes that fill a block."""
    for number in range(4):
        (base / f"dir{number}").mkdir(parents=True)
        for name in range(6):
            file = base / f"dir{number}" / f"file{name}"
            file.write_bytes(b"%d" % name * 20_000)
            os.setxattr(file, "user.large", os.urandom(900))
        os.symlink("x" * 300, base / f"dir{number}" / "link")
    (base / "large").write_bytes(os.urandom(3 << 20))


def look_at_everything(top: Path) -> None:
    """Walk, stat, read, in two programs at once."""
    script = "find . -printf '%s %l\\n'; getfattr -h -R -m - . ; find . -type f -size -500k -exec cat {} +"
    more = "tail -c 5000 large; tail -c 5000 run/large; tail -c 5000 run/dirty; cat dir2/file*"
    running = [
        subprocess.Popen(["sh", "-euc", each], cwd=top, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for each in (script, more)
    ]
    assert [process.wait(200) for process in running] == [0, 0]


def read_from_disk(pid: int) -> tuple[int, int]:
    """Bytes that the first thread of a process, and all of its threads ever, have had read from a disk."""
    places = Path(f"/proc/{pid}/task/{pid}/io"), Path(f"/proc/{pid}/io")
    first, every = (dict(line.split(": ") for line in place.read_text().splitlines()) for place in places)
    return int(first["read_bytes"]), int(every["read_bytes"])


def test_the_event_loop_never_waits_for_a_cold_disk(area: Path) -> None:
    with disk(area) as own:
        base, place = own.path / "base", own.path / "place"
        make_base(base)
        place.mkdir()
        with mounted(base, place) as mount:
            mount.wait_watched()
            (mount.path / "run").mkdir()
            for number in range(10):  # rows of the store
                (mount.path / "run" / f"small{number}").write_bytes(os.urandom(30_000))
            (mount.path / "run" / "large").write_bytes(os.urandom(2 << 20))  # a file of the store
            with (mount.path / "dir1" / "file1").open("r+b") as file:
                file.write(b"changed")
            mount.ask("seal")
        with mounted(base, place, run_id=mount.run_id) as mount:  # which remembers nothing
            mount.wait_watched()
            with (mount.path / "run" / "dirty").open("wb") as file:  # a working file
                file.write(os.urandom(2 << 20))
                file.flush()
                os.fsync(file.fileno())
                held = os.open(mount.path / "run" / "dirty", os.O_RDONLY)
            with (mount.path / "large").open("r+b") as file:  # one with a hole through which the base is seen
                file.write(b"changed")
            forget_everything()
            before = read_from_disk(mount.pid)
            mount.ask("heartbeat")
            began = time.monotonic()
            watcher = Watcher(mount.pid)
            with own.slow(mount.pid, READS_PER_SECOND), watcher.watching():
                look_at_everything(mount.path)
            took = time.monotonic() - began
            worst = mount.ask("heartbeat")
            after = read_from_disk(mount.pid)
            os.close(held)
    loop, workers = after[0] - before[0], after[1] - before[1] - (after[0] - before[0])
    print(
        f"{took:.1f} s; the loop was away for {worst * 1e3:.0f} ms, in {watcher.looks} looks waited "
        f"{watcher.longest * 1e3:.0f} ms for a disk, began {loop} bytes, workers read {workers}"
    )
    assert took > 2, "nothing was cold"
    assert watcher.looks > 50
    assert watcher.longest < NOT_STALLED_S, f"the event loop waited: {watcher.where}"
    assert workers > 0, "the worker threads read from the disk"
