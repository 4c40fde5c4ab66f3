"""Many runs at once over one base: how long they take to begin, and what they hold of memory and disk.

Owns these measurements.  The runs are begun side by side by ``goexfs run``, in the sandbox where there is one; each
then waits to be told to look at every file of the base and to write one.  Memory is the proportional set size (PSS) of
all their processes, in which what several share is counted once.
"""

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.document import Figure
from bench.subjects import clean_environment, goexfs_command

PATIENCE = 900
"""seconds for all of it"""
SCRIPT = """
echo begun; read -r _
find . -size +1k > /dev/null
head -c 10000 /dev/urandom > written
echo walked; read -r _
"""


def crowd(base: Path, store: Path, count: int) -> Iterator[Figure]:
    """The figures of ``count`` runs."""
    environ = clean_environment() | {"GOEXFS_HOME": str(store)}
    command = goexfs_command()
    subprocess.run([*command, "run", "--base", base, "--discard", "--", "true"], env=environ, check=True)
    empty = _bytes_below(store)
    about = f"{count} runs at once"
    running: list[subprocess.Popen[str]] = []
    patience = threading.Timer(PATIENCE, _end, [running])
    patience.daemon = True
    patience.start()
    try:
        started = time.perf_counter()
        for number in range(count):
            argv = [*command, "run", "--base", str(base), "--name", f"one{number}", "--keep", "--", "sh", "-c", SCRIPT]
            with (store / f"said{number}").open("wb") as said:
                running.append(subprocess.Popen(
                    argv, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
                ))  # fmt: skip
        _await(running, "begun", store)
        yield Figure(f"{about}: begin, all", "s", [time.perf_counter() - started])
        yield Figure(f"{about}: memory in all, begun", "MiB", [_memory(running, store)])
        started = time.perf_counter()
        _go_on(running)
        _await(running, "walked", store)
        yield Figure(f"{about}: each looks at every file, all", "s", [time.perf_counter() - started])
        yield Figure(f"{about}: memory in all, each knows every file", "MiB", [_memory(running, store)])
        started = time.perf_counter()
        _go_on(running)
        for run in running:
            run.communicate(timeout=600)
        yield Figure(f"{about}: end, all", "s", [time.perf_counter() - started])
        yield Figure(f"{about}: disk of one run", "KiB", [(_bytes_below(store) - empty) / count / 1024])
        failed = [run.returncode for run in running if run.returncode]
        if failed:
            raise RuntimeError(f"{len(failed)} of {count} runs failed, one with status {failed[0]}")
    finally:
        patience.cancel()
        _end(running)


def _end(running: Sequence[subprocess.Popen[str]]) -> None:
    for run in running:
        if run.poll() is None:
            run.terminate()
    for run in running:
        run.wait()


def _await(running: Sequence[subprocess.Popen[str]], word: str, store: Path) -> None:
    for number, run in enumerate(running):
        assert run.stdout is not None
        line = run.stdout.readline()
        if line.strip() != word:
            said = (store / f"said{number}").read_text(errors="replace").strip()
            raise RuntimeError(f"a run ended before it had {word}: {said[-300:]}")


def _go_on(running: Sequence[subprocess.Popen[str]]) -> None:
    for run in running:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()


def _memory(running: Sequence[subprocess.Popen[str]], store: Path) -> float:
    """MiB of everything that was started for the runs, their servers and their commands."""
    processes: dict[int, psutil.Process] = {}
    for run in running:
        parent = psutil.Process(run.pid)
        for process in (parent, *parent.children(recursive=True)):
            processes[process.pid] = process
    for process in psutil.process_iter():  # servers live on their own
        try:
            if process.environ().get("GOEXFS_HOME") == str(store):
                processes[process.pid] = process
        except psutil.Error:
            continue
    total = 0
    for process in processes.values():
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # ended meanwhile
    return total / (1 << 20)


def _bytes_below(place: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*"))
