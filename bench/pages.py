"""The measurements in the documentation: tables and pictures made from a JSON file, never typed by hand.

Owns the marked places of ``docs/performance.md`` and ``README.md``, and ``docs/pictures``.  A place is what stands
between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``; the rest of a page is written by people and
stays as it is.
"""

import re
from pathlib import Path

from bench import chart, report
from bench.document import Document

ALL = "![All workloads as bars, relative to native](pictures/speed-all.svg)"
ORDINARY = "![Times of ordinary work as bars, relative to native](docs/pictures/speed.svg)"
TARGETS = (
    ("walk and stat, warm", "fuse-overlayfs", 1.0), ("grep, warm", "native", 1.2), ("git status, warm", "native", 1.2),
    ("C build, warm", "native", 1.2), ("test suite, warm", "native", 1.2), ("tar extract", "fuse-overlayfs", 0.5),
    ("cp -r", "fuse-overlayfs", 0.5), ("npm-like tree", "fuse-overlayfs", 0.5), ("rm -rf", "fuse-overlayfs", 0.5),
    ("sequential read, 1 MiB, cold", "native", 2.0), ("sequential write, 1 MiB", "native", 2.0),
    ("sequential read, 1 MiB, cold", "fuse-overlayfs", 1.5), ("sequential write, 1 MiB", "fuse-overlayfs", 1.5),
)  # fmt: skip
"""(workload, compared with, at most): besides "quicker than fuse-overlayfs and unionfs-fuse", which is for every one"""
TIMES = (("first 4 KiB into 4 GiB", 10), ("rename of 10,000 files' directory", 5))
"""(workload, milliseconds at most)"""
FIGURES = (
    ("run --discard -- true", 350, "ms"),
    ("mounted, base of 50,000 files: snapshot of 10 changes", 10, "ms"),
    ("mounted, base of 50,000 files: fork", 5, "ms"),
    ("first 4 KiB into 4 GiB: stored", 1024, "KiB"),
    ("rename of 10,000 files' directory: stored", 64, "KiB"),
    ("memory of a file that the kernel knows", 1024, "B"),
    ("100 runs at once: memory in all, each knows every file", 4096, "MiB"),
    ("open, read and close of a known file", 1, "requests"),
    ("stat of a known file", 0, "requests"),
    ("create, write and close of a small file", 5, "requests"),
)
"""(figure of the lifecycle or of single operations, at most, its unit)"""


def write(document: Document, root: Path) -> list[Path]:
    """Bring the pages and the pictures below ``root`` up to date; what was written.

    ValueError when a page has lost its place, or when there is nothing to draw.
    """
    pictures = root / "docs" / "pictures"
    pictures.mkdir(exist_ok=True)
    written = chart.draw(document, pictures / "speed-all")
    written += chart.draw(document, pictures / "speed", only=chart.SUMMARY)
    about = f"Measured with `scripts/bench`: {document.about()}.\n"
    performance = root / "docs" / "performance.md"
    workloads = report.markdown(*report.rows(document))
    _replace(performance, "times", f"{about}\n{ALL}\n\n{workloads}")
    head, body = report.floor(document)
    _replace(performance, "floor", report.markdown(head, body) if body else "")
    _replace(performance, "targets", _targets(document))
    figures = [[figure.name, report.amount(figure), str(len(figure.samples))] for figure in document.figures]
    _replace(performance, "lifecycle", report.markdown(["what", "median", "repetitions"], figures) if figures else "")
    readme = root / "README.md"
    _replace(readme, "summary", f"{ORDINARY}\n\n{_summary(document)}")
    return [*written, performance, readme]


def _summary(document: Document) -> str:
    ratios = [(result.name, result.ratio("goexfs", "fuse-overlayfs")) for result in document.workloads]
    known = [(name, value) for name, value in ratios if value is not None]
    quicker = [name for name, value in known if value < 1]
    slower = ", ".join(f"{name} ({value:.2f})" for name, value in known if value >= 1) or "none"
    return (
        f"goexfs is quicker than fuse-overlayfs in {len(quicker)} of {len(known)} workloads; its time divided by that"
        f" of fuse-overlayfs in the others: {slower}. All numbers, and on what"
        ": [docs/performance.md](docs/performance.md).\n"
    )


def _targets(document: Document) -> str:
    """Every target, with what was measured and whether that reaches it."""
    body = [_everywhere(document, peer) for peer in ("fuse-overlayfs", "unionfs-fuse")]
    for name, other, most in TARGETS:
        result = document.measured(name)
        value = result.ratio("goexfs", other) if result else None
        body.append([f"{name}, to {other}", f"{most:g}", *_verdict(value, most, report.ratio(value))])
    for name, most in TIMES:
        result = document.measured(name)
        seconds = result.median("goexfs") if result else None
        value = None if seconds is None else seconds * 1000
        body.append([name, f"{most} ms", *_verdict(value, most, f"{report.milliseconds(seconds)} ms")])
    figures = {figure.name: figure for figure in document.figures}
    for name, most, unit in FIGURES:
        figure = figures.get(name)
        shown = report.amount(figure) if figure else ""
        body.append([name, f"{most:,} {unit}", *_verdict(figure.value if figure else None, most, shown)])
    return report.markdown(["target", "at most", "is", "met"], body)


def _verdict(value: float | None, most: float, shown: str) -> tuple[str, str]:
    return ("not measured", "-") if value is None else (shown, "yes" if value <= most else "**no**")


def _everywhere(document: Document, peer: str) -> list[str]:
    """The target for every workload: quicker than a peer."""
    known = [(each.name, value) for each in document.workloads if (value := each.ratio("goexfs", peer)) is not None]
    slower = [f"{name} {report.ratio(value)}" for name, value in known if value >= 1]
    but = f"; not in {', '.join(slower)}" if slower else ""
    met = "-" if not known else "**no**" if slower else "yes"
    return [f"every workload, to {peer}", "below 1", f"in {len(known) - len(slower)} of {len(known)}{but}", met]


def _replace(page: Path, name: str, text: str) -> None:
    place = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    replaced, count = place.subn(lambda found: found[1] + text + found[2], page.read_text())
    if count != 1:
        raise ValueError(f"{page} must have one place between <!-- bench:{name} --> and <!-- /bench:{name} -->")
    page.write_text(replaced)
