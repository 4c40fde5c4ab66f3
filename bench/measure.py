"""The order of the repetitions, and the clock.

Owns fairness: subjects take turns within every repetition, in an order that rotates, so that what drifts on the machine
meets all of them; each repetition has a fresh mount with nothing written yet.
"""

import importlib.util
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.subjects import Subject
from bench.trees import Trees
from bench.workloads import Workload


@dataclass
class Result:
    """The times of one workload, in seconds, by subject, in the order of the repetitions; or why there are none."""

    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    """of the kernel to goexfs, by kind, without those that nobody waits for"""

    def median(self, subject: str) -> float | None:
        """In seconds; None when it was not measured."""
        times = self.seconds.get(subject)
        return statistics.median(times) if times else None

    def ratio(self, of: str, to: str) -> float | None:
        """Median of the ratios of the pairs that were measured in the same repetition."""
        pairs = list(zip(self.seconds.get(of, ()), self.seconds.get(to, ()), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


def drop_caches() -> None:
    """Write out and forget everything that was read from disks; only root can."""
    os.sync()
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def shell(script: str, place: Path) -> float:
    """Run a workload's script in ``place``; the seconds it took.  RuntimeError when it fails."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        ["sh", "-euc", script], cwd=place, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr.strip()[-300:]}")
    return seconds


def once(workload: Workload, subject: Subject, base: Path, place: Path) -> float:
    """One repetition in a fresh mount; the seconds of its script."""
    work = Path(tempfile.mkdtemp(dir=place))
    try:
        with subject.mount(base, work, workload.writes) as root:
            if workload.before:
                shell(workload.before, root)
            if workload.caches == "warm":
                shell(workload.script, root)
                if workload.before:
                    shell(workload.before, root)
            elif workload.caches == "cold":
                drop_caches()
            return shell(workload.script, root)
    finally:
        shutil.rmtree(work)


def measure(
    workload: Workload, subjects: Sequence[Subject], trees: Trees, place: Path, repeat: int,
    told: Callable[[str], None],
) -> Result:  # fmt: skip
    """All repetitions of one workload in every subject; a subject that fails is left out of the rest."""
    result = Result(workload)
    if workload.needs and importlib.util.find_spec(workload.needs.partition(".")[0]) is None:
        result.failures = {subject.name: f"no module {workload.needs}" for subject in subjects}
        return result
    base = trees.get(workload.tree)
    for number in range(repeat):
        turn = number % len(subjects)
        for subject in [*subjects[turn:], *subjects[:turn]]:
            if subject.name in result.failures:
                continue
            told(f"{workload.name}: {subject.name}, {number + 1} of {repeat}")
            try:
                result.seconds.setdefault(subject.name, []).append(once(workload, subject, base, place))
            except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
                result.failures[subject.name] = str(error)
                result.seconds.pop(subject.name, None)
    return result
