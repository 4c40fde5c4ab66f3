"""The measurements as text: one line per workload while measuring, and tables at the end.

Owns their forms, on a terminal and as Markdown.  Computes nothing that a document does not know.
"""

from collections.abc import Sequence

from bench.document import Document, Figure, Measured
from bench.subjects import FLOOR

COMPARED = ("native", "fuse-overlayfs", "unionfs-fuse")
"""what goexfs's ratio is shown to"""


def milliseconds(seconds: float | None) -> str:
    """With as many digits as mean something; a dash for nothing."""
    return "-" if seconds is None else f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:,.0f}"


def ratio(value: float | None) -> str:
    """With two or three digits; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 0.095 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def amount(figure: Figure) -> str:
    """The value and its unit; long times in seconds."""
    value, unit = figure.value, figure.unit
    if unit == "ms" and value >= 10_000:
        value, unit = value / 1000, "s"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def line(result: Measured, subjects: Sequence[str]) -> str:
    """One workload's medians, while the others are still to be measured."""
    measured = [subject for subject in subjects if subject in result.seconds or subject in result.failures]
    cells = [f"{subject} {milliseconds(result.median(subject))}" for subject in measured]
    ratios = [f"{ratio(result.ratio('goexfs', other))} of {other}" for other in COMPARED if other in subjects]
    return f"{result.name}: {', '.join(cells)} ms; goexfs {', '.join(ratios)}"


def rows(document: Document) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table of workloads: medians, goexfs's ratios pair by pair, requests."""
    subjects = [subject for subject in document.subjects if subject != FLOOR]
    compared = [other for other in COMPARED if other in subjects and "goexfs" in subjects]
    head = ["workload", *(f"{subject}, ms" for subject in subjects), *(f"goexfs / {other}" for other in compared)]
    body = []
    for result in document.workloads:
        cells = [
            milliseconds(result.median(subject)) if subject not in result.failures else failure(result, subject)
            for subject in subjects
        ]
        ratios = [ratio(result.ratio("goexfs", other)) for other in compared]
        body.append([result.name, *cells, *ratios, f"{sum(result.requests.values()):,}" if result.requests else "-"])
    return [*head, "requests"], body


def floor(document: Document) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table that shows what of the time is pyfuse3, for what only reads."""
    head = ["workload", "native, ms", "fuse-overlayfs, ms", "pyfuse3 alone, ms", "goexfs, ms"]
    compared = ((FLOOR, "native"), (FLOOR, "fuse-overlayfs"), ("goexfs", FLOOR))
    body = []
    for result in document.workloads:
        if result.median(FLOOR) is None:
            continue
        times = [milliseconds(result.median(subject)) for subject in ("native", "fuse-overlayfs", FLOOR, "goexfs")]
        body.append([result.name, *times, *(ratio(result.ratio(of, to)) for of, to in compared)])
    return [*head, *(f"{of} / {to}" for of, to in compared)], body


def failure(result: Measured, subject: str) -> str:
    """In one word."""
    return "timeout" if result.failures[subject].startswith("timeout") else "fails"


def table(document: Document) -> None:
    """Print everything for a terminal of any width."""
    from rich.console import Console
    from rich.table import Table

    print(document.about())
    head, body = rows(document)
    shown = Table(box=None, pad_edge=False)
    for number, title in enumerate(head):
        shown.add_column(title.replace(" / ", " /\n").replace(", ms", "\nms"), justify="right" if number else "left")
    for cells in body:
        shown.add_row(*cells)
    console = Console(width=150)
    if body:
        console.print(shown)
    for cells in floor(document)[1]:
        print(f"{cells[0]}: pyfuse3 alone {cells[3]} ms, {cells[6]} of fuse-overlayfs; goexfs {cells[7]} of that")
    for result in document.workloads:
        for subject, reason in result.failures.items():
            print(f"{result.name}: {subject}: {reason}")
    for part, reason in document.broken.items():
        print(f"{part}: {reason}")
    for figure in document.figures:
        print(f"{figure.name:<66} {amount(figure):>14}  ({len(figure.samples)})")


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in body]
    return "\n".join(lines) + "\n"
