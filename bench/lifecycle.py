"""What a run costs from its beginning to its end: times from shell to shell, memory and disk of many runs at once.

Owns these measurements, which have no peer to compare with.  Everything is done through the ``goexfs`` command.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.trees import Trees


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str


class Lifecycle:
    """Measures with a store of its own in ``place``."""

    def __init__(self, place: Path, trees: Trees, repeat: int) -> None:
        self._place = place / "lifecycle"
        self._place.mkdir()
        self._trees = trees
        self._repeat = repeat
        self._environ = {**os.environ, "GOEXFS_HOME": str(self._place / "store")}

    def figures(self) -> Iterator[Figure]:
        """All of them, as they are measured."""
        base = self._trees.get("project")
        yield from self._whole_runs(base)
        yield from self._verbs(base)
        yield from self._large_base(100_000)
        yield from self._at_once(base, 10)
        yield from self._at_once(base, 100)

    def _goexfs(self, *words: str | Path, cwd: Path | None = None) -> float:
        started = time.perf_counter()
        argv = [sys.executable, "-m", "goexfs", *map(str, words)]
        subprocess.run(argv, check=True, env=self._environ, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL)
        return (time.perf_counter() - started) * 1000

    def _median(self, name: str, measured: Callable[[], float]) -> Figure:
        return Figure(name, statistics.median(measured() for _ in range(self._repeat)), "ms")

    def _whole_runs(self, base: Path) -> Iterator[Figure]:
        nothing = ("run", "--base", base, "--discard", "--", "true")
        self._goexfs(*nothing)  # makes the store
        yield self._median("goexfs --version", lambda: self._goexfs("--version"))
        yield self._median("run --discard -- true", lambda: self._goexfs(*nothing))

    def _verbs(self, base: Path) -> Iterator[Figure]:
        ten = 'for n in $(seq 10); do echo changed >> "$(ls *.py | sed -n ${n}p)"; done'
        thousand = "mkdir new && for n in $(seq 1000); do echo $n > new/$n; done"
        for changes, script in ((10, ten), (1000, thousand)):
            copy = self._place / "base"
            times: dict[str, list[float]] = {}
            for _ in range(self._repeat):
                shutil.copytree(base / "lib", copy, symlinks=True)
                run = ("run", "--base", copy, "--name", "bench", "--keep", "--", "sh", "-c")
                self._goexfs(*run, script)
                times.setdefault("diff", []).append(self._goexfs("diff", "bench", "--name-status"))
                times.setdefault("merge", []).append(self._goexfs("merge", "bench"))
                self._goexfs(*run, script.replace("new", "newer"))
                times.setdefault("discard", []).append(self._goexfs("discard", "bench"))
                shutil.rmtree(copy)
            for verb, measured in times.items():
                yield Figure(f"{verb} of {changes} changes", statistics.median(measured), "ms")

    def _large_base(self, files: int) -> Iterator[Figure]:
        """A diff must cost what the run changed, not what the base holds."""
        base = self._place / "large"
        for number in range(files):
            if number % 100 == 0:
                (base / f"d{number // 100}").mkdir(parents=True)
            (base / f"d{number // 100}" / f"f{number % 100}").write_text(f"content of {number}\n")
        script = "for n in 1 2 3 4 5; do echo changed >> d$n/f1; echo new > d$n/new; done"
        self._goexfs("run", "--base", base, "--name", "large", "--keep", "--", "sh", "-c", script)
        for form in ("--patch", "--rich"):
            name = f"diff {form} of 10 changes over {files:,} files"
            yield self._median(name, lambda form=form: self._goexfs("diff", "large", form))  # type: ignore[misc]
        self._goexfs("discard", "large")
        shutil.rmtree(base)

    def _at_once(self, base: Path, count: int) -> Iterator[Figure]:
        held = _bytes_below(self._place)
        points = [self._place / f"mnt{number}" for number in range(count)]
        started = time.perf_counter()
        for number, point in enumerate(points):
            point.mkdir()
            self._goexfs("mount", base, point, "--name", f"at-once-{number}")
        try:
            yield Figure(f"mount, one of {count} at once", (time.perf_counter() - started) * 1000 / count, "ms")
            for point in points:
                subprocess.run(["find", point, "-size", "+1k"], check=True, stdout=subprocess.DEVNULL)
                (point / "written").write_bytes(b"x" * 10_000)
            yield Figure(f"memory of one of {count} servers", _proportional_memory() / count / 1024, "MiB")
        finally:
            for point in points:
                self._goexfs("umount", point)
                point.rmdir()
        yield Figure(f"disk of one of {count} runs", (_bytes_below(self._place) - held) / count / 1024, "KiB")
        self._goexfs("discard", *[f"at-once-{number}" for number in range(count)])


def _bytes_below(place: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*"))


def _proportional_memory() -> int:
    """KiB of all goexfs servers, memory that they share counted once (PSS)."""
    total = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "comm").read_text().startswith("goexfs-server"):
                rollup = (process / "smaps_rollup").read_text()
                total += int(rollup.partition("Pss:")[2].split()[0])
        except OSError:
            continue  # ended meanwhile
    return total
