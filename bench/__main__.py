"""``python -m bench``: choose, measure, report."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench import chart, pages, report
from bench.document import Document, Figure, machine
from bench.measure import TooLong, measure, remove
from bench.requests import requests
from bench.subjects import SUBJECTS, Subject, compile_goexfs, version
from bench.trees import Trees
from bench.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parents[1]
ORDER = {workload.name: number for number, workload in enumerate(WORKLOADS)}
"""of the workloads in the tables, also when they were measured in several goes"""


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compare goexfs with native and with its peers.")
    choose = parser.add_argument_group("what is measured")
    choose.add_argument("--only", metavar="WORD", action="append", default=[], help="workloads with WORD in their name")
    choose.add_argument("--skip", metavar="WORD", action="append", default=[], help="none with WORD in their name")
    choose.add_argument("--subject", metavar="NAME", action="append", default=[], help="only these filesystems")
    choose.add_argument("--no-requests", action="store_true", help="do not count requests")
    choose.add_argument("--no-lifecycle", action="store_true", help="do not measure the verbs of a run")
    choose.add_argument("--lifecycle", action="store_true", help="only the verbs of a run (--only and --skip choose)")
    choose.add_argument("--history", action="store_true", help="only what history costs, up to 100,000 changes")
    how = parser.add_argument_group("how")
    how.add_argument("--repeat", type=int, default=5, help="repetitions (default: 5)")
    how.add_argument("--scale", type=int, default=1, help="divide the sizes by this, for a quick look")
    how.add_argument("--limit", type=float, metavar="SECONDS", help="give a repetition up after this (default: 120)")
    how.add_argument("--budget", type=float, metavar="MINUTES", help="begin nothing new after this")
    how.add_argument("--place", type=Path, default=Path("/var/tmp"), help="where, on the disk to measure")
    write = parser.add_argument_group("what is written")
    write.add_argument("--json", type=Path, metavar="FILE.json", help="every repetition, and FILE.svg and FILE.png")
    write.add_argument("--resume", type=Path, metavar="FILE.json", help="go on with an interrupted measurement")
    write.add_argument("--chart", nargs=2, type=Path, metavar=("FILE.json", "OUT"), help="only draw: OUT.svg, OUT.png")
    write.add_argument("--table", type=Path, metavar="FILE.json", help="only print the tables again")
    write.add_argument("--write-docs", type=Path, metavar="FILE.json", help="only bring README and docs up to date")
    chosen = parser.parse_args()
    if chosen.repeat < 1 or chosen.scale < 1:
        parser.error("--repeat and --scale are at least 1")
    unknown = set(chosen.subject) - {subject.name for subject in SUBJECTS}
    if unknown:
        parser.error(f"--subject is one of {', '.join(subject.name for subject in SUBJECTS)}")
    return chosen


def main() -> None:
    """Do what was chosen; bad input is told in one line."""
    chosen = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unmount, and report, then too
    try:
        if chosen.chart:
            told(chart.draw(Document.read(chosen.chart[0]), chosen.chart[1]))
        elif chosen.write_docs:
            told(pages.write(Document.read(chosen.write_docs), ROOT))
        elif chosen.table:
            report.table(Document.read(chosen.table))
        else:
            Bench(chosen).run()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"bench: {error}")


def told(written: Sequence[Path]) -> None:
    """Say which files there are now."""
    for path in written:
        say(f"wrote {os.path.relpath(path)}")


class Bench:
    """One measurement, from its choice to its files."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self._chosen = chosen
        self._file: Path | None = chosen.resume or chosen.json
        self._deadline = time.monotonic() + chosen.budget * 60 if chosen.budget else None
        self._subjects = [subject for subject in SUBJECTS if self._wanted_subject(subject)]
        names = [subject.name for subject in self._subjects]
        if chosen.resume:
            self._document = Document.read(chosen.resume)
            if (self._document.repeat, self._document.scale, self._document.subjects) != (
                chosen.repeat, chosen.scale, names,
            ):  # fmt: skip
                raise ValueError(f"{chosen.resume} was measured with other --repeat, --scale or --subject")
        else:
            about = machine(chosen.place, [version(s) for s in self._subjects if s.version])
            self._document = Document(about, names, chosen.repeat, chosen.scale)

    def _wanted_subject(self, subject: Subject) -> bool:
        reason = subject.lacks()
        if reason:
            say(f"without {subject.name}: {reason}")
        return reason is None and (not self._chosen.subject or subject.name in self._chosen.subject)

    def _wanted(self, name: str) -> bool:
        only, skip = self._chosen.only, self._chosen.skip
        return (not only or any(word in name for word in only)) and not any(word in name for word in skip)

    def run(self) -> None:
        """Measure, and report what there is even when interrupted."""
        chosen = self._chosen
        compile_goexfs()
        place = Path(tempfile.mkdtemp(prefix="goexfs-bench-", dir=chosen.place))
        try:
            trees = Trees(place, chosen.scale)
            if not chosen.lifecycle and not chosen.history:
                self._workloads(trees, place)
            if "goexfs" in self._document.subjects:
                self._figures(trees, place)
        except KeyboardInterrupt:
            say("interrupted; what was measured so far:")
        finally:
            remove(place)
        report.table(self._document)
        self._write()
        if self._file and self._document.workloads:
            try:
                told(chart.draw(self._document, self._file.with_suffix("")))
            except (ValueError, ImportError) as error:
                say(f"drew no picture: {error}")

    def _workloads(self, trees: Trees, place: Path) -> None:
        waiting = [w for w in WORKLOADS if self._wanted(w.name) and not self._document.measured(w.name)]
        for number, workload in enumerate(waiting):
            if self._late(workload.name):
                return
            began = time.monotonic()
            result = measure(self._limited(workload), self._subjects, trees, place, self._chosen.repeat, say)
            if "goexfs" in result.seconds and not self._chosen.no_requests:
                try:
                    result.requests = requests(workload, trees, place)
                except (RuntimeError, TooLong, AssertionError, OSError) as error:
                    say(f"{workload.name}: the requests were not counted: {error}")
            if not any(later.tree == workload.tree for later in waiting[number + 1 :]):
                trees.drop(workload.tree)
            self._document.workloads.append(result)
            self._document.workloads.sort(key=lambda measured: ORDER.get(measured.name, len(ORDER)))
            self._write()
            say(f"{report.line(result, self._document.subjects)} (in {time.monotonic() - began:.0f} s)")

    def _limited(self, workload: Workload) -> Workload:
        return replace(workload, limit=self._chosen.limit) if self._chosen.limit else workload

    def _figures(self, trees: Trees, place: Path) -> None:
        for name, figures in self._parts(trees, place):
            if name in self._document.finished or not self._wanted(name):
                continue
            if self._late(name):
                return
            began = time.monotonic()
            found: list[Figure] = []
            try:
                for figure in figures():
                    say(f"{figure.name}: {report.amount(figure)}")
                    figure.group = name
                    found.append(figure)
            except (RuntimeError, subprocess.SubprocessError, OSError) as error:
                say(f"{name}: {error}")
                self._document.broken[name] = str(error)
                continue
            self._document.figures += found
            self._document.finished.append(name)
            self._document.broken.pop(name, None)
            self._write()
            say(f"{name}: in {time.monotonic() - began:.0f} s")

    def _parts(self, trees: Trees, place: Path) -> Iterator[tuple[str, Callable[[], Iterator[Figure]]]]:
        """The parts of the lifecycle that were chosen."""
        if self._chosen.history:
            from bench.history import HistoryBench

            yield "history", HistoryBench(place, trees, self._chosen.repeat, say).figures
        elif not self._chosen.no_lifecycle:
            from bench.lifecycle import Lifecycle

            for part in Lifecycle(place, trees, self._chosen.repeat, say).parts:
                yield part.name, part.figures

    def _late(self, name: str) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline
        if late:
            say(f"out of time before {name}; go on with --resume {self._file or 'FILE.json (and --json, next time)'}")
        return late

    def _write(self) -> None:
        """As far as it came: a long measurement may be interrupted."""
        if self._file:
            self._document.write(self._file)


def say(what: str) -> None:
    """Progress, on standard error."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
