"""The benchmark's machinery, at a size that means nothing: it runs, and what it writes can be read again."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from bench import pages, report
from bench.chart import SUMMARY, draw
from bench.document import Document, Figure, Measured
from bench.history import SIZES, HistoryBench
from bench.measure import TooLong, shell
from bench.programs import PROGRAMS
from bench.subjects import FLOOR
from bench.trees import BUILDERS, Trees
from bench.workloads import WORKLOADS
from tests.support.commands import CHECKOUT

DRAWS = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="no matplotlib to draw with")
PNG = b"\x89PNG\r\n"


def bench(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """As ``scripts/bench`` ends, with what is there."""
    argv = [sys.executable, "-m", "bench", *map(str, words)]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def made_up() -> Document:
    document = Document({"cpu": "one"}, ["native", "fuse-overlayfs", "unionfs-fuse", "goexfs"], repeat=3, scale=1)
    for place, name in enumerate((*SUMMARY, "C build, warm")):
        measured = Measured(name, ("reading", "large")[place % 2], "warm", requests={"open": 1200, "read": 34})
        measured.seconds = {"native": [0.1, 0.2, 0.4], "fuse-overlayfs": [0.4, 0.6, 0.4], "goexfs": [0.2, 0.2, 0.8]}
        measured.failures = {"unionfs-fuse": "timeout after 120 s"}
        document.workloads.append(measured)
    document.figures.append(Figure("run --discard -- true", "ms", [300.0, 310.0, 500.0], "start"))
    return document


def test_ratios_are_of_the_pairs() -> None:
    measured = made_up().workloads[0]
    assert measured.ratio("goexfs", "native") == 2.0, "the median of 2, 1 and 2, not the ratio of the medians"
    assert measured.median("goexfs") == 0.2
    assert measured.ratio("goexfs", "unionfs-fuse") is None


def test_every_workload_has_its_program_and_its_tree() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    for workload in WORKLOADS:
        assert workload.tree in BUILDERS
        if "programs.py" in workload.script:
            assert workload.script.split()[2] in PROGRAMS
    names = {workload.name for workload in WORKLOADS}
    assert names >= {*SUMMARY, *(name for name, _, _ in pages.TARGETS)}


def test_a_workload_that_takes_too_long_is_ended_with_its_children(area: Path) -> None:
    with pytest.raises(TooLong, match="timeout after 1 s"):
        shell("sleep 60 & sleep 60; true", area, scale=1, limit=1)


def test_a_workload_may_hold_the_clock_itself(area: Path) -> None:
    assert shell("echo hello; echo 0.125", area, scale=1, limit=20, clocked=True) == 0.125


def test_a_failure_says_what_the_workload_said(area: Path) -> None:
    with pytest.raises(RuntimeError, match="status 3: out of paper"):
        shell("echo out of paper >&2; exit 3", area, scale=1, limit=20)


def test_a_small_measurement_from_end_to_end(area: Path) -> None:
    small = ("--scale", "1000", "--repeat", "1", "--place", area, "--subject", "native", "--subject", "goexfs")
    file = area / "small.json"
    first = bench(*small, "--only", "rename", "--no-lifecycle", "--json", file)
    assert first.returncode == 0, first.stderr
    document = Document.read(file)
    (renamed,) = document.workloads
    assert len(renamed.seconds["native"]) == len(renamed.seconds["goexfs"]) == 1, first.stderr
    assert 1 <= renamed.requests["rename"] <= sum(renamed.requests.values()) <= 8
    resumed = bench(*small, "--only", "rename", "--only", "edit", "--only", "start", "--resume", file)
    assert resumed.returncode == 0, resumed.stderr
    assert "rename" not in resumed.stderr, "what was measured is not measured again"
    document = Document.read(file)
    assert [workload.name for workload in document.workloads] == ["edit of 50 MiB", renamed.name], "in their own order"
    assert document.finished == ["start"], document.broken
    assert document.figures[1].name == "run --discard -- true"
    assert "edit of 50 MiB" in resumed.stdout
    assert [path.name for path in area.iterdir() if path.is_dir()] == [], "nothing is left"


@pytest.mark.skipif(os.geteuid() != 0, reason="the filesystem that does nothing is mounted by root only")
def test_the_floor_shows_the_tree_and_is_measured_where_nothing_is_written(area: Path) -> None:
    small = ("--scale", "200", "--repeat", "1", "--place", area, "--subject", FLOOR, "--subject", "goexfs")
    done = bench(*small, "--only", "grep, warm", "--only", "edit", "--no-lifecycle", "--json", area / "floor.json")
    assert done.returncode == 0, done.stderr
    read, edited = Document.read(area / "floor.json").workloads
    assert read.seconds.keys() == {FLOOR, "goexfs"}, read.failures
    assert edited.seconds.keys() == {"goexfs"}, edited.failures
    base, mountpoint = area / "base", area / "mnt"
    shutil.copytree(CHECKOUT / "bench", base / "bench", symlinks=True)
    (base / "link").symlink_to("bench")
    mountpoint.mkdir()
    subprocess.run([sys.executable, "-m", "bench.floor", base, mountpoint], cwd=CHECKOUT, check=True)
    try:
        for place in base.rglob("*"):
            shown = mountpoint / place.relative_to(base)
            told, there = shown.lstat(), place.lstat()
            assert (told.st_ino, told.st_mode, told.st_size) == (there.st_ino, there.st_mode, there.st_size)
            if place.is_symlink():
                assert shown.readlink() == place.readlink()
            elif place.is_file():
                assert shown.read_bytes() == place.read_bytes()
            else:
                assert sorted(os.listdir(shown)) == sorted(os.listdir(place))
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_what_history_costs_is_measured_by_changes_and_by_base(area: Path) -> None:
    figures = list(HistoryBench(area, Trees(area, 2000), 2, str, SIZES).figures())
    names = {figure.name: figure for figure in figures}
    assert SIZES == (10, 100, 1_000, 10_000, 100_000)
    verbs = ("recovery of all of them", "snapshot, 10 unsealed", "fork", "rewind of 10, mounted", "rewind of one path")
    for about in ("10 changes", "base of 10 files", "base of 25 files"):
        assert all(any(name.startswith(f"{about}: {verb}") for name in names) for verb in verbs), about
    for verb in ("snapshot of 10 changes", "fork", "rewind of 10 changes"):
        assert {f"mounted, base of {files} files: {verb}" for files in (10, 25)} <= names.keys()
    assert names["fork: large base to small base"].unit == "times"
    assert 0 < names["base of 10 files: journal, bytes per operation, with contents"].value < 400
    assert min(figure.value for figure in figures if "processor" not in figure.name) > 0


def test_a_measurement_is_not_continued_with_another_choice(area: Path) -> None:
    made_up().write(area / "a.json")
    done = bench("--resume", area / "a.json", "--scale", "2", "--place", area)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith("was measured with other --repeat, --scale or --subject")


def test_bad_files_are_told_in_one_line(area: Path) -> None:
    (area / "bad.json").write_text(json.dumps({"no": "measurement"}))
    for words in (("--chart", area / "bad.json", area / "out"), ("--table", area / "none.json")):
        done = bench(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("bench: ")
        assert len(done.stderr.splitlines()) == 1


@DRAWS
@pytest.mark.filterwarnings("default")  # of matplotlib's own making
def test_the_pages_are_written_from_the_file(area: Path) -> None:
    (area / "docs").mkdir()
    for page in ("README.md", "docs/performance.md"):
        shutil.copy(CHECKOUT / page, area / page)
    document = made_up()
    document.subjects.append(FLOOR)
    document.workloads[0].seconds[FLOOR] = [0.1, 0.1, 0.1]
    pages.write(document, area)
    performance, readme = (area / "docs/performance.md").read_text(), (area / "README.md").read_text()
    assert "| grep, warm | 200 | 400 | timeout | 200 | 2.00 | 0.50 | - | 1,234 |" in performance
    assert f"| {document.workloads[0].name} | 200 | 400 | 100 | 200 | 0.50 | 0.25 | 2.00 |" in performance
    times = performance.partition("<!-- bench:times -->")[2].partition("<!-- /bench:times -->")[0]
    assert FLOOR not in times, "it has a table of its own"
    assert "| run --discard -- true | 310 ms | 3 |" in performance
    assert "| grep, warm, to native | 1.2 | 2.00 |" in performance, "a target that is missed is not hidden"
    assert "| first 4 KiB into 4 GiB | 10 ms | 200 ms |" in performance
    assert f"quicker than fuse-overlayfs in {len(document.workloads)} of {len(document.workloads)}" in readme
    for place, text in ((area / "docs", performance), (area, readme)):
        picture = text.partition("relative to native](")[2].partition(")")[0]
        words = "".join(xml.etree.ElementTree.parse(place / picture).getroot().itertext())
        assert all(word in words for word in ("goexfs", "unionfs-fuse", "timeout", *SUMMARY))
        assert ("C build, warm" in words) == (text is performance)
        assert (place / picture).with_suffix(".png").read_bytes().startswith(PNG)
    (area / "README.md").write_text("no place")
    with pytest.raises(ValueError, match="must have one place"):
        pages.write(document, area)
    with pytest.raises(ValueError, match="no workload"):
        draw(Document({}, ["goexfs"], 1, 1), area / "none")


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [report.milliseconds(value) for value in (None, 0.0123, 1.5)] == ["-", "12.3", "1,500"]
    assert [report.ratio(value) for value in (None, 0.0123, 0.5, 12.4)] == ["-", "0.012", "0.50", "12"]
    assert report.amount(Figure("", "ms", [12_345.0])) == "12.3 s"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may drop caches and mount overlayfs")
def test_every_workload_runs_in_every_filesystem_that_is_here(area: Path) -> None:
    small = ("--scale", "200", "--repeat", "1", "--place", area, "--skip", "test suite")
    done = bench(*small, "--json", area / "all.json")
    assert done.returncode == 0, done.stderr
    document = Document.read(area / "all.json")
    for measured in document.workloads:
        assert not measured.failures.keys() & {"native", "overlayfs", "goexfs"}, measured
    assert len(document.finished) == 8, done.stderr
