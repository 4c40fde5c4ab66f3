"""The results as a table, as JSON and as pictures.

Owns their forms.  A bar chart shows ratios to native on a logarithmic scale, since the workloads differ by a thousand.
"""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.lifecycle import Figure
from bench.measure import Result

COLORS = {"overlayfs": "#9aa7b5", "fuse-overlayfs": "#e0a458", "unionfs-fuse": "#c06c5b", "goexfs": "#2f6f9f"}


def machine(place: Path) -> dict[str, Any]:
    """What was measured on."""
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
        "load_before": os.getloadavg()[0],
    }


def table(results: Sequence[Result], subjects: Sequence[str]) -> None:
    """Print medians in milliseconds, and goexfs's ratios."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("workload")
    for subject in subjects:
        shown.add_column(f"{subject}\nms", justify="right")
    for other in ("native", "fuse-overlayfs"):
        if other in subjects:
            shown.add_column(f"goexfs /\n{other}", justify="right")
    shown.add_column("requests", justify="right")
    for result in results:
        cells = [_milliseconds(result.median(subject)) for subject in subjects]
        for other in ("native", "fuse-overlayfs"):
            if other in subjects:
                ratio = result.ratio("goexfs", other)
                cells.append("-" if ratio is None else f"{ratio:.2f}")
        shown.add_row(result.workload.name, *cells, str(sum(result.requests.values()) or "-"))
    Console(width=140).print(shown)
    for result in results:
        for subject, reason in result.failures.items():
            print(f"{result.workload.name}: {subject}: {reason}")


def line(result: Result, subjects: Sequence[str]) -> str:
    """One workload's medians, while the others are still to be measured."""
    cells = [f"{subject} {_milliseconds(result.median(subject))}" for subject in subjects]
    ratios = [f"{ratio:.2f} of {other}" for other in subjects if (ratio := result.ratio("goexfs", other)) is not None]
    return f"{result.workload.name}: {', '.join(cells)} ms; goexfs {', '.join(ratios)}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"


def figures_table(figures: Sequence[Figure]) -> None:
    """Print the lifecycle."""
    for figure in figures:
        print(f"{figure.name:<58} {figure.value:10.1f} {figure.unit}")


def write_json(path: Path, results: Sequence[Result], figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """Everything that was measured, every repetition."""
    document = {
        "machine": about,
        "workloads": [
            {
                "name": result.workload.name,
                "caches": result.workload.caches,
                "seconds": result.seconds,
                "failures": result.failures,
                "requests": result.requests,
            }
            for result in results
        ],
        "lifecycle": [{"name": figure.name, "value": figure.value, "unit": figure.unit} for figure in figures],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def draw(stem: Path, results: Sequence[Result], subjects: Sequence[str]) -> None:
    """A bar chart of times relative to native, as ``stem.svg`` and ``stem.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [subject for subject in subjects if subject != "native"]
    rows = [result for result in results if result.median("native")]
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(rows) + 1.4), layout="constrained")
    height = 0.8 / len(compared)
    for place, subject in enumerate(compared):
        drawn = [(row, ratio) for row, result in enumerate(rows) if (ratio := result.ratio(subject, "native"))]
        axes.barh(
            [row + place * height for row, _ in drawn], [ratio for _, ratio in drawn], height,
            color=COLORS.get(subject), label=subject,
        )  # fmt: skip
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(rows))], [result.workload.name for result in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time relative to native (logarithmic; shorter is better)")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for ending in ("svg", "png"):
        figure.savefig(stem.with_suffix(f".{ending}"), dpi=110)
    pyplot.close(figure)
