"""The server of a mounted run is killed under a write load, at a random moment; the next command recovers all that was
acknowledged, as the writer noted it: rules 6 to 8 of docs/crash-safety.md.  Snapshots and forks are made meanwhile, and
some kills hit a rewind.
"""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import goexfs
from goexfs.session import RunHandle, RunStore
from snapshots.errors import GoexfsError
from snapshots.upkeep.findings import Kind
from tests.crash import writer
from tests.crash.writer import Operations

LONGEST_SECONDS = 0.6
LONGEST_REWIND_SECONDS = 0.2


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """What is in a directory, as far as it follows from the operations."""
    seen: dict[str, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder) / name
            st = path.lstat()
            key = str(path.relative_to(root))
            if stat.S_ISLNK(st.st_mode):
                seen[key] = ("link", os.readlink(path), st.st_nlink)
            elif stat.S_ISDIR(st.st_mode):
                seen[key] = ("dir", stat.S_IMODE(st.st_mode))
            else:
                xattrs = {each: os.getxattr(path, each) for each in os.listxattr(path)}
                seen[key] = ("file", stat.S_IMODE(st.st_mode), st.st_nlink, xattrs, path.read_bytes())
    return seen


def read_log(log: Path) -> tuple[list[list], list | None]:
    """What was acknowledged, and what was being done."""
    done: list[list] = []
    doing: list | None = None
    for line in log.read_text().splitlines():
        if line.startswith(">"):
            doing = json.loads(line[2:])
        elif doing is not None:
            if line == "<":
                done.append(doing)
            doing = None
    return done, doing


class Historian(threading.Thread):
    """Takes snapshots of a mounted run, and forks it, until its server dies."""

    def __init__(self, home: Path, run_id: str, number: int) -> None:
        super().__init__()
        self._home = home
        self._run_id = run_id
        self._number = number
        self.snapshots: list[str] = []
        self.forks: list[str] = []

    def run(self) -> None:
        with goexfs.open_store(self._home) as store:
            run = store.run(self._run_id)
            try:
                while run.state == "active":
                    name = f"k{self._number}-{len(self.snapshots)}"
                    if len(self.snapshots) % 3 == 1:
                        self.forks.append(run.fork().id)
                    self.snapshots.append(run.snapshot(name).name)
            except (GoexfsError, OSError):
                pass  # it is dead


class Harness:
    """One run that is killed again and again, and a native directory to which the same is done."""

    def __init__(self, area: Path, store: RunStore, seed: int) -> None:
        self.area = area
        self.store = store
        self.random = random.Random(seed)
        self.base, self.native, self.mnt = area / "base", area / "native", area / "mnt"
        self.base.mkdir()
        for number in range(4):
            (self.base / f"f{number}").write_bytes(random.Random(number).randbytes(60_000 * number))
        shutil.copytree(self.base, self.native)
        self.mnt.mkdir()
        self.run: RunHandle | None = None
        self.acknowledged = 0
        self.rewinds = 0
        """that were done in spite of the kill"""

    def kill_once(self, number: int) -> None:
        if self.run is None:
            self.run = self.store.mount(self.base, self.mnt)
        assert picture(self.mnt) == picture(self.native)
        if number % 4 == 0:
            self.kill_in_rewind()
            return
        log = self.area / "log"
        log.unlink(missing_ok=True)
        historian = Historian(self.area / "store", self.run.id, number) if number % 4 == 1 else None
        with subprocess.Popen([sys.executable, writer.__file__, str(self.mnt), str(log), str(number)]) as load:
            pid = self.run.status().pid
            while not log.exists():
                time.sleep(0.001)
            if historian is not None:
                historian.start()
            time.sleep(self.random.random() ** 2 * LONGEST_SECONDS)
            os.kill(pid, signal.SIGKILL)
            assert load.wait(20) == 0
        while self.run.state == "active":  # then crashed, or kept already: the historian may have recovered it
            time.sleep(0.001)
        done, doing = read_log(log)
        self.acknowledged += len(done)
        native = Operations(self.native)
        for operation in done:
            native.do(operation)
        if historian is not None:
            historian.join(60)
            assert not historian.is_alive()
        if number % 3:
            self.run.recover()
            assert self.run.state == "kept"
        self.run = self.store.mount(self.run, self.mnt)  # recovers as well
        self.compare(doing, number)
        if historian is not None:
            self.check_history(historian)

    def check_history(self, historian: Historian) -> None:
        """What it was told is there."""
        assert self.run is not None
        assert {*historian.snapshots} <= {snapshot.name for snapshot in self.run.snapshots()}
        for name in historian.snapshots[-1:]:
            self.run.diff(at=name)
        for name in historian.snapshots:
            self.run.drop_snapshot(name)
        for fork_id in historian.forks:
            fork = self.store.run(fork_id)
            fork.diff()
            fork.discard(forget=True)

    def kill_in_rewind(self) -> None:
        """What is there afterwards is what was there before, or what was there at the snapshot."""
        assert self.run is not None
        then = picture(self.mnt)
        copy = self.area / "then"
        subprocess.run(["cp", "-a", self.native, copy], check=True)  # hard links stay such, those of symlinks too
        name = self.run.snapshot().name
        for operation in [writer.choose(self.random, self.random.getrandbits(30)) for _ in range(20)]:
            for root in (self.mnt, self.native):
                try:
                    Operations(root).do(operation)
                except OSError:
                    pass
        now = picture(self.mnt)
        assert now == picture(self.native)
        pid = self.run.status().pid
        killer = threading.Timer(self.random.random() ** 2 * LONGEST_REWIND_SECONDS, os.kill, (pid, signal.SIGKILL))
        killer.start()
        rewound = False
        try:
            self.run.rewind(name)
            rewound = True
        except (GoexfsError, OSError):
            pass
        killer.join()
        while self.run.state == "active":  # kept, if it died just before the rewind began
            time.sleep(0.001)
        self.run = self.store.mount(self.run, self.mnt)
        seen = picture(self.mnt)
        assert seen == then or (seen == now and not rewound), differences(seen, now)
        if seen == then:
            shutil.rmtree(self.native)
            copy.rename(self.native)
            self.rewinds += 1
        else:
            shutil.rmtree(copy)
        self.run.drop_snapshot(name)

    def compare(self, doing: list | None, number: int) -> None:
        """All that was acknowledged, and of what was being done a part or nothing."""
        seen, before = picture(self.mnt), picture(self.native)
        if seen == before:
            return
        assert doing is not None, f"kill {number}: {differences(seen, before)}"
        name, *arguments = doing
        try:
            Operations(self.native).do(doing)
        except OSError:
            pass
        after = picture(self.native)
        if seen == after:
            return
        # A write is several requests: create, truncate, write, times.  Only that file may be something in between.
        refused = [line for line in (self.area / "log").read_text().splitlines() if line.startswith("!")][-3:]
        assert name in ("write", "truncate"), f"kill {number}, {doing}, {refused}: {differences(seen, after)}"
        own = arguments[0]
        wrong = {path for path in differences(seen, before) if path != own}
        inode = {path for path in wrong if linked(self.native, path, own)}
        assert wrong == inode, f"kill {number}, {doing}: {differences(seen, before)}"
        target = self.native / own
        if own in seen:
            target.write_bytes((self.mnt / own).read_bytes())  # in place: its other names go along
            target.chmod(stat.S_IMODE((self.mnt / own).stat().st_mode))
        else:
            target.unlink()
        assert picture(self.mnt) == picture(self.native), f"kill {number}, {doing}"


def linked(root: Path, one: str, other: str) -> bool:
    return (root / other).exists() and (root / one).exists() and os.path.samefile(root / one, root / other)


def differences(one: dict[str, tuple[object, ...]], other: dict[str, tuple[object, ...]]) -> dict[str, object]:
    """Paths that differ, with what is to be known of them."""
    return {
        path: (brief(one.get(path)), brief(other.get(path)))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    }


def brief(value: tuple[object, ...] | None) -> object:
    return value if value is None or value[0] != "file" else (*value[:-1], len(value[-1]))  # type: ignore[arg-type]


def kill_often(area: Path, seed: int, kills: int) -> None:
    with goexfs.open_store(area / "store") as store:
        harness = Harness(area, store, seed)
        try:
            for number in range(1, kills + 1):
                harness.kill_once(seed * 100_000 + number)
            assert harness.run is not None
            harness.run.unmount()
        finally:
            if harness.run is not None and harness.run.state in ("active", "crashed"):
                harness.run.unmount(force=True)
        assert harness.acknowledged > kills
        assert {finding.kind for finding in store.fsck().findings} <= {Kind.ORPHAN_FILE}
        store.gc()  # what died while it was stored
        assert not store.fsck().findings
        harness.run.discard(forget=True)
        assert not store.fsck().findings


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_under_load(area: Path, seed: int) -> None:
    kill_often(area, seed, 12)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(10, 30))
def test_killed_under_load_for_long(area: Path, seed: int) -> None:
    kill_often(area, seed, 100)
