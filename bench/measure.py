"""The order of the repetitions, and the clock.

Owns fairness: subjects take turns within every repetition, in an order drawn anew for each, so that neither what drifts
on the machine nor what one leaves behind (freed memory that the host takes back, a disk with much to forget) always
meets the same; each repetition has a fresh mount with nothing written yet, on a disk that has nothing left to write.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.document import Measured
from bench.interpreter import ABSENT, with_tests
from bench.subjects import Subject, clean_environment, cut_off
from bench.trees import Trees
from bench.workloads import Workload

GRACE = 10
"""seconds in which a killed workload ends"""


class TooLong(Exception):
    """A repetition took longer than its workload allows."""


def drop_caches() -> None:
    """Forget everything that was read from disks; only root can."""
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def shell(script: str, place: Path, *, scale: int, limit: float, clocked: bool = False) -> float:
    """Run a workload's script in ``place``; the seconds it took.  RuntimeError when it fails, TooLong when late.

    With ``clocked`` the script says it itself, in the last line of its output.
    """
    found = with_tests()
    environ = clean_environment() | {"SCALE": str(scale), "INTERPRETER": found.command if found else "false"}
    with open(os.memfd_create("printed"), "w+b") as printed, open(os.memfd_create("said"), "w+b") as said:
        started = time.perf_counter()
        running = subprocess.Popen(
            ["sh", "-euc", script], cwd=place, env=environ, stdin=subprocess.DEVNULL, stdout=printed,
            stderr=said, start_new_session=True,
        )  # fmt: skip
        # Popen.wait with a timeout looks every 50 ms, which is longer than some workloads take.
        kill = threading.Timer(limit, _kill, [running])
        force = threading.Timer(limit + GRACE, cut_off, [place])  # it waits for a filesystem that does not answer
        for timer in (kill, force):
            timer.daemon = True
            timer.start()
        try:
            status = running.wait()
        except BaseException:
            _kill(running)
            running.wait(GRACE)
            raise
        finally:
            kill.cancel()
            force.cancel()
        seconds = time.perf_counter() - started
        if seconds >= limit:
            raise TooLong(f"timeout after {limit:.0f} s")
        if status:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"status {status}: {last[-300:]}")
        if clocked:
            printed.seek(0)
            return float(printed.read().split()[-1])
    return seconds


def remove(directory: Path) -> None:
    """With all that is below; but a removal must not walk into what did not unmount."""
    if f" {directory}/" not in Path("/proc/self/mountinfo").read_text():
        shutil.rmtree(directory, ignore_errors=True)


def _kill(running: subprocess.Popen[bytes]) -> None:
    """With everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)


def once(workload: Workload, subject: Subject, trees: Trees, place: Path) -> float:
    """One repetition in a fresh mount; the seconds of its script."""
    base = trees.get(workload.tree)
    work = Path(tempfile.mkdtemp(dir=place))

    def run(script: str, root: Path) -> float:
        return shell(script, root, scale=trees.scale, limit=workload.limit)

    try:
        with subject.mount(base, work, workload.writes == "yes") as root:
            if workload.before:
                run(workload.before, root)
            if workload.caches == "warm":
                run(workload.script, root)
                if workload.before:
                    run(workload.before, root)
            os.sync()
            if workload.caches == "cold":
                drop_caches()
            return shell(
                workload.script, root, scale=trees.scale, limit=workload.limit, clocked=workload.clocked
            )
    finally:
        remove(work)


def measure(
    workload: Workload, subjects: Sequence[Subject], trees: Trees, place: Path, repeat: int,
    told: Callable[[str], None],
) -> Measured:  # fmt: skip
    """All repetitions of one workload in every subject; a subject that fails is left out of the rest."""
    result = Measured(workload.name, workload.group, workload.caches)
    if workload.tree == "interpreter" and with_tests() is None:
        result.failures = {subject.name: ABSENT for subject in subjects}
        return result
    for number in range(repeat):
        for subject in random.Random(f"{workload.name} {number}").sample(subjects, len(subjects)):
            if subject.name in result.failures or (subject.reads_only and workload.writes != "no"):
                continue
            told(f"{workload.name}: {subject.name}, {number + 1} of {repeat}")
            try:
                result.seconds.setdefault(subject.name, []).append(once(workload, subject, trees, place))
            except (TooLong, RuntimeError, subprocess.SubprocessError, OSError) as error:
                result.failures[subject.name] = str(error)
                result.seconds.pop(subject.name, None)
    return result
