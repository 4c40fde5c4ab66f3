"""The measurements as a picture: bars of times relative to native, on a logarithmic scale, as SVG and PNG.

Owns its looks.  The background is transparent and every colour is told apart on white and on black, so that one file
serves light and dark pages.  Needs matplotlib, which only this module imports, and only when something is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.document import Document, Measured
from bench.subjects import FLOOR

COLORS = {
    "goexfs": "#1f9e89", "overlayfs": "#a8b1bd", "fuse-overlayfs": "#e08e3c", "unionfs-fuse": "#a4508b",
    "agentfs": "#5b7fd1", "branchfs": "#b8a23a",
}  # fmt: skip
INK = "#808890"
"""of words and lines: as far from white as from black"""
TITLES = {
    "reading": "reading", "git": "git", "making": "making and deleting", "building": "building", "large": "large files",
    "constant": "what must not depend on the size",
}  # fmt: skip
SUMMARY = (
    "walk and stat, warm", "grep, warm", "git status, warm", "git clone", "git checkout", "tar extract", "cp -r",
    "rm -rf", "npm-like tree", "pip install", "C build", "SQLite, random updates", "sequential write, 1 MiB",
    "first 4 KiB into 4 GiB", "rename of 10,000 files' directory",
)  # fmt: skip
"""the workloads of the small picture"""
MINIMUM = 1e-3
"""the scale begins here: what is quicker than a thousandth of native is not told apart"""


def draw(document: Document, stem: Path, only: Sequence[str] = ()) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png``: one panel for each group of workloads; the paths that were written.

    ValueError when nothing in the document can be compared, ImportError when there is nothing to draw with.
    """
    try:
        import matplotlib
    except ImportError:
        raise ImportError("there is no matplotlib: pip install 'goexfs[bench]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    subjects = [subject for subject in document.subjects if subject not in ("native", FLOOR)]
    subjects.sort(key="goexfs".__ne__)  # ours on top
    chosen = [result for result in document.workloads if not only or result.name in only]
    chosen = [result for result in chosen if any(result.ratio(subject, "native") for subject in subjects)]
    if not chosen:
        raise ValueError("the file holds no workload that was measured in the native filesystem and in another")
    groups: dict[str, list[Measured]] = {}
    for result in chosen:
        groups.setdefault("" if only else result.group, []).append(result)
    height = 0.1 + 0.13 * len(subjects)
    style: dict[Any, Any] = {
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
        "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "goexfs", "font.family": "sans-serif",
    }  # fmt: skip
    with pyplot.rc_context(style):
        figure, panels = pyplot.subplots(
            len(groups), 1, squeeze=False, sharex=True, layout="constrained",
            figsize=(8.4, height * len(chosen) + 0.4 * len(groups) + 1.1),
            height_ratios=[len(results) + 0.3 for results in groups.values()],
        )  # fmt: skip
        for axes, (group, results) in zip(panels[:, 0], groups.items(), strict=True):
            _panel(axes, TITLES.get(group, group), results, subjects)
        panels[-1, 0].set_xlabel("time relative to native, logarithmic: left of the line is quicker than native")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
        written = []
        for ending in ("svg", "png"):
            path = stem.with_name(f"{stem.name}.{ending}")
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(path, dpi=130, transparent=True, metadata=metadata)
            written.append(path)
        pyplot.close(figure)
    return written


def _panel(axes: Any, title: str, results: Sequence[Measured], subjects: Sequence[str]) -> None:
    """Bars grow from native's line to either side; what failed is said in its place."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    thick = 0.8 / len(subjects)
    for place, subject in enumerate(subjects):
        found = [(row, value) for row, result in enumerate(results) if (value := result.ratio(subject, "native"))]
        where = [row - 0.4 + (place + 0.5) * thick for row, _ in found]
        bars = [max(value, MINIMUM) for _, value in found]
        axes.barh(where, [bar - 1 for bar in bars], thick * 0.92, left=1, color=COLORS.get(subject, INK), label=subject)
        for row, result in enumerate(results):
            if subject in result.failures:
                words, height = f" {report.failure(result, subject)}", row - 0.4 + (place + 0.5) * thick
                axes.text(1, height, words, va="center", fontsize=6, color=COLORS.get(subject))
        if subject == "goexfs":
            for position, bar, (_, value) in zip(where, bars, found, strict=True):
                axes.annotate(
                    f"{value:.2g}" if value < 10 else f"{value:.0f}", (max(bar, 1), position), (3, 0), fontsize=6.5,
                    textcoords="offset points", va="center", color=COLORS["goexfs"],
                )  # fmt: skip
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(1, color=INK, linewidth=1)
    axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=9, fontweight="bold", color=INK)
