"""What one invocation measured, as it is kept in a JSON file.

Owns the form of the file and what is computed from it (medians, ratios), so that a table, a picture and the pages of
the documentation can be made again from the file alone.  Knows no subject and no workload, and measures nothing.
"""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec


class Measured(msgspec.Struct):
    """The times of one workload, by subject, in the order of the repetitions; or why there are none."""

    name: str
    group: str
    caches: str
    seconds: dict[str, list[float]] = msgspec.field(default_factory=dict)
    failures: dict[str, str] = msgspec.field(default_factory=dict)
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    """of the kernel to goexfs, by kind, without those that nobody waits for"""

    def median(self, subject: str) -> float | None:
        """In seconds; None when it was not measured."""
        times = self.seconds.get(subject)
        return statistics.median(times) if times else None

    def ratio(self, of: str, to: str) -> float | None:
        """Median of the ratios of the pairs that were measured in the same repetition; None when there are none."""
        pairs = list(zip(self.seconds.get(of, ()), self.seconds.get(to, ()), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


class Figure(msgspec.Struct):
    """One value that has no peer: the median of its samples."""

    name: str
    unit: str
    samples: list[float]
    group: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.samples)


class Document(msgspec.Struct):
    """Everything that was measured, and on what."""

    machine: dict[str, Any]
    subjects: list[str]
    repeat: int
    scale: int
    workloads: list[Measured] = msgspec.field(default_factory=list)
    figures: list[Figure] = msgspec.field(default_factory=list)
    finished: list[str] = msgspec.field(default_factory=list)
    """names of the parts of the lifecycle that are measured to their end"""
    broken: dict[str, str] = msgspec.field(default_factory=dict)
    """parts that are not, and why"""

    @classmethod
    def read(cls, path: Path) -> "Document":
        """The document of a file; ValueError when it is none."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path} was not written by scripts/bench: {error}") from None

    def write(self, path: Path) -> None:
        """Replace the file as a whole: whoever interrupts us finds the last one."""
        making = path.with_name(f".{path.name}.new")
        making.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        making.replace(path)

    def measured(self, name: str) -> Measured | None:
        """The workload of this name, when it was measured."""
        return next((workload for workload in self.workloads if workload.name == name), None)

    def about(self) -> str:
        """The machine and the method, in one line."""
        machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.machine.items())
        return f"{machine}, repetitions {self.repeat}" + (f", sizes divided by {self.scale}" if self.scale > 1 else "")


def machine(place: Path, versions: Sequence[str]) -> dict[str, Any]:
    """What is measured on: the hardware, the kernel, the disk below ``place``."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "unknown")  # fmt: skip
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    kind = max((m for m in mounts if str(place).startswith(m[1])), key=lambda m: len(m[1]))[2]
    return {
        "cpu": cpu,
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "filesystem": kind,
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "peers": ", ".join(versions),
    }
