"""``python -m bench``: choose, measure, report."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.lifecycle import Figure, Lifecycle
from bench.measure import Result, measure
from bench.requests import requests
from bench.subjects import SUBJECTS
from bench.trees import Trees
from bench.workloads import WORKLOADS


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compare goexfs with native and with its peers.")
    parser.add_argument("--only", metavar="WORD", action="append", default=[], help="workloads with WORD in their name")
    parser.add_argument("--subject", metavar="NAME", action="append", default=[], help="only these filesystems")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    parser.add_argument("--scale", type=int, default=1, help="divide the large sizes by this, for a quick look")
    parser.add_argument("--place", type=Path, default=Path("/var/tmp"), help="where, on the disk to measure")
    parser.add_argument("--json", type=Path, help="write every repetition to this file")
    parser.add_argument("--chart", type=Path, help="draw a bar chart: the name without its ending")
    parser.add_argument("--history", action="store_true", help="only what history costs: journal, rewinds, …")
    parser.add_argument("--no-requests", action="store_true", help="do not count requests")
    parser.add_argument("--no-lifecycle", action="store_true", help="do not measure the verbs of a run")
    return parser.parse_args()


def main() -> None:
    """Measure and report."""
    chosen = parse()
    if chosen.history:
        history(chosen)
        return
    workloads = [w for w in WORKLOADS if not chosen.only or any(word in w.name for word in chosen.only)]
    subjects = []
    for subject in SUBJECTS:
        reason = subject.lacks()
        if reason:
            say(f"without {subject.name}: {reason}")
        elif not chosen.subject or subject.name in chosen.subject:
            subjects.append(subject)
    names = [subject.name for subject in subjects]
    place = Path(tempfile.mkdtemp(prefix="goexfs-bench-", dir=chosen.place))
    about = report.machine(place)
    results: list[Result] = []
    figures: list[Figure] = []
    try:
        trees = Trees(place, chosen.scale)
        for workload in workloads:
            result = measure(workload, subjects, trees, place, chosen.repeat, say)
            if "goexfs" in result.seconds and not chosen.no_requests:
                result.requests = requests(workload, trees, place)
            results.append(result)
            say(report.line(result, names))
            if chosen.json:  # as far as it came: a long measurement may be interrupted
                report.write_json(chosen.json, results, figures, about)
        if not chosen.no_lifecycle and "goexfs" in names:
            for figure in Lifecycle(place, trees, chosen.repeat).figures():
                say(f"{figure.name}: {figure.value:.1f} {figure.unit}")
                figures.append(figure)
    except KeyboardInterrupt:
        say("interrupted; what was measured so far:")
    finally:
        shutil.rmtree(place)
    print(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()))
    report.table(results, names)
    report.figures_table(figures)
    if chosen.json:
        report.write_json(chosen.json, results, figures, about)
    if chosen.chart:
        report.draw(chosen.chart, results, names)


def history(chosen: argparse.Namespace) -> None:
    """Measure and report what history costs."""
    from bench.history import HistoryBench

    place = Path(tempfile.mkdtemp(prefix="goexfs-bench-", dir=chosen.place))
    about = report.machine(place)
    figures: list[Figure] = []
    try:
        for figure in HistoryBench(place, chosen.repeat, chosen.scale, say).figures():
            say(f"{figure.name}: {figure.value:.2f} {figure.unit}")
            figures.append(figure)
    finally:
        shutil.rmtree(place)
    print(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()))
    report.figures_table(figures)
    if chosen.json:
        report.write_json(chosen.json, [], figures, about)


def say(what: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
