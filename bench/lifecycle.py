"""What a run costs from its beginning to its end, from shell to shell.

Owns these measurements.  Everything is done through the ``goexfs`` command, in the sandbox where there is one, with the
built-in policy, in a store of its own.  The only peer is ``cp`` for what a merge copies.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.crowd import crowd
from bench.document import Figure
from bench.history import HistoryBench
from bench.operations import operations
from bench.subjects import clean_environment, goexfs_command
from bench.trees import Trees

PATIENCE = 600
"""seconds for one command"""
FEW, MANY = 10, 1000
"""changes of a small and of a large run"""
MOST_PAIRS = 3
"""repetitions of the merges that are compared with cp"""


@dataclass(frozen=True)
class Part:
    """Some figures that are measured together."""

    name: str
    figures: Callable[[], Iterator[Figure]]


class Lifecycle:
    """Measures with stores of its own in ``place``."""

    def __init__(self, place: Path, trees: Trees, repeat: int, say: Callable[[str], None]) -> None:
        self._place = place / "lifecycle"
        self._place.mkdir()
        self._trees = trees
        self._repeat = repeat
        self._say = say
        self._environ = clean_environment() | {"GOEXFS_HOME": str(self._place / "store")}
        self.parts: Sequence[Part] = (
            Part("start", self._start),
            Part("operations", lambda: operations(self._place, self._trees)),
            Part("verbs", self._verbs),
            Part("diff", self._diff),
            Part("merge", self._merge),
            Part("huge merge", self._huge_merge),
            Part("history", self._history),
            Part("ten at once", lambda: self._at_once(10)),
            Part("a hundred at once", lambda: self._at_once(100)),
        )

    def _run(self, *argv: str | Path, cwd: Path | None = None) -> float:
        """The milliseconds that a command takes; RuntimeError when it fails."""
        started = time.perf_counter()
        done = subprocess.run(
            list(map(str, argv)), env=self._environ, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        taken = (time.perf_counter() - started) * 1000
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, argv))}: {done.stderr.decode(errors='replace').strip()[-300:]}")
        return taken

    def _goexfs(self, *words: str | Path) -> float:
        return self._run(*goexfs_command(), *words)

    def _repeated(self, name: str, measured: Callable[[], float]) -> Figure:
        return Figure(name, "ms", [measured() for _ in range(self._repeat)])

    def _start(self) -> Iterator[Figure]:
        base = self._trees.get("project")
        nothing = ("run", "--base", base, "--discard")
        self._goexfs(*nothing, "--", "true")  # makes the store
        yield self._repeated("goexfs --version", lambda: self._goexfs("--version"))
        yield self._repeated("run --discard -- true", lambda: self._goexfs(*nothing, "--", "true"))
        yield self._repeated(
            "run --discard --no-sandbox -- true", lambda: self._goexfs(*nothing, "--no-sandbox", "--", "true")
        )

    def _verbs(self) -> Iterator[Figure]:
        source = self._trees.get("project") / "lib"
        for count, script in (
            (FEW, f'for n in $(seq {FEW}); do echo changed >> "$(ls *.py | sed -n ${{n}}p)"; done'),
            (MANY, f"mkdir new && for n in $(seq {MANY}); do echo $n > new/$n; done"),
        ):
            base = self._place / "base"
            times: dict[str, list[float]] = {}
            for _ in range(self._repeat):
                shutil.copytree(source, base, symlinks=True)
                run = ("run", "--base", base, "--name", "bench", "--keep", "--", "sh", "-c")
                self._goexfs(*run, script)
                times.setdefault("diff", []).append(self._goexfs("diff", "bench", "--name-status"))
                times.setdefault("merge", []).append(self._goexfs("merge", "bench"))
                self._goexfs(*run, script.replace("new", "newer"))
                times.setdefault("discard", []).append(self._goexfs("discard", "bench"))
                shutil.rmtree(base)
            for verb, samples in times.items():
                yield Figure(f"{verb} of {count:,} changes", "ms", samples)

    def _diff(self) -> Iterator[Figure]:
        """A diff must cost what the run changed, not what the base holds."""
        base = self._trees.get("hundred_thousand")
        files = f"{100_000 // self._trees.scale:,} files"
        script = "for n in 1 2 3 4 5; do echo changed >> d$n/f1; echo new > d$n/new; done"
        self._goexfs("run", "--base", base, "--name", "large", "--keep", "--", "sh", "-c", script)
        for form in ("--patch", "--rich"):
            yield self._repeated(
                f"diff {form} of 10 changes over {files}",
                lambda form=form: self._goexfs("diff", "large", form),  # type: ignore[misc]
            )
        self._goexfs("discard", "large")
        self._trees.drop("hundred_thousand")

    def _merge(self) -> Iterator[Figure]:
        """Of 10,000 new files, with the same done by ``cp -r`` after it."""
        base = self._trees.get("fifty_thousand")
        directories = max(100 // self._trees.scale, 1)
        script = "mkdir new && cp -r " + " ".join(f"d{number}" for number in range(directories)) + " new/"
        yield from self._beside_cp(base, f"{directories * 100:,} files", script, base / "new")

    def _huge_merge(self) -> Iterator[Figure]:
        """Of one file of 3 GiB, with the same done by ``cp`` after it."""
        base = self._trees.get("large")
        yield from self._beside_cp(base, "a file of 3 GiB", "cat large large large > new", base / "new")

    def _beside_cp(self, base: Path, what: str, script: str, new: Path) -> Iterator[Figure]:
        merges, copies = [], []
        for _ in range(min(self._repeat, MOST_PAIRS)):
            self._goexfs("run", "--base", base, "--name", "merged", "--keep", "--", "sh", "-c", script)
            self._run("sync")
            merges.append(self._goexfs("merge", "merged"))
            self._run("sync")
            copies.append(self._run("cp", "-r", new, self._place / "copied"))
            self._run("rm", "-rf", new, self._place / "copied")
        yield Figure(f"merge of {what}", "ms", merges)
        yield Figure(f"cp -r of {what}, for comparison", "ms", copies)
        self._goexfs("gc")

    def _history(self) -> Iterator[Figure]:
        yield from HistoryBench(self._place, self._trees, self._repeat, self._say).figures()

    def _at_once(self, count: int) -> Iterator[Figure]:
        store = self._place / f"store{count}"
        yield from crowd(self._trees.get("fifty_thousand"), store, count)
        shutil.rmtree(store, ignore_errors=True)
