"""What history costs: the journal per operation, snapshots, forks, rewinds and recovery by the number of changes.

Owns these measurements.  All but the last are made in one process, on an overlay without a mount that is recorded and
sealed as a server does it: what is measured is what goexfs itself does, "inside", without the start of a process and
without the kernel.  The last ones ask the server of a mounted run.
"""

import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.document import Figure
from bench.trees import Trees
from goexfs.fuse import rewinding
from goexfs.fuse.recording import Recording
from goexfs.overlay import Dir, Overlay, store_batch
from snapshots.history.forks import fork
from snapshots.history.history import History
from snapshots.history.journal import segments
from snapshots.history.recovery import recover
from snapshots.history.rewind import Aim, rewind
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store

SIZES = (10, 100, 1_000, 10_000, 100_000)
SMALL_BASE = 10
FEW = 10
"""changes that a snapshot finds unsealed, and that a rewind takes back"""
CONTENT = b"a line of some text that a program writes\n" * 4
PER_DIRECTORY = 500


@dataclass
class Scene:
    """One run over one base, served without a mount."""

    store: Store
    base: BaseTree
    run_id: str
    overlay: Overlay
    recording: Recording | None

    @classmethod
    def new(cls, store: Store, base: BaseTree, *, recorded: bool = True) -> "Scene":
        """A fresh run."""
        run = store.runs.create(base=base.path, name=None, command=(), options={})
        directory = store.runs.directory(run.id)
        overlay = Overlay(base, store.upper(run.id).load(), store.objects, directory / "spool")
        recording = Recording(directory / "journal", 1) if recorded else None
        if recording is not None:
            overlay.record_in(recording.append)
        return cls(store, base, run.id, overlay, recording)

    def change(self, count: int, prefix: bytes) -> None:
        """Make files, in directories."""
        overlay, directory = self.overlay, self.overlay.root
        for number in range(count):
            if number % PER_DIRECTORY == 0:
                made = overlay.mkdir(overlay.root, b"%s%d" % (prefix, number), 0o755, 0, 0)
                assert isinstance(made, Dir)
                directory = made
            _, handle = overlay.create(directory, b"n%d" % number, 0o644, os.O_RDWR, 0, 0)
            overlay.write(handle, 0, CONTENT)
            overlay.release(handle)

    def seal(self) -> None:
        """What is dirty goes into the store, and survives a power cut, as after an fsync."""
        assert self.recording is not None
        batch = self.overlay.collect(self.recording.rotate())
        if batch is not None:
            stored = store_batch(batch, self.store, self.run_id)
            self.store.sync()
            self.overlay.finish(batch, stored)
            self.recording.sealed(batch.journal)

    def snapshot(self, name: str) -> int:
        """Seal, and name it; its position."""
        self.seal()
        return History(self.store, self.run_id).snapshot(name).position

    def rewind(self, position: int) -> None:
        """What a server does while requests wait."""
        planned = rewinding.plan(self.overlay, self.run_id, Aim(position), self.store)
        rewinding.carry_out(self.overlay, planned, self.recording)
        self.seal()

    def close(self) -> None:
        """Let go, without sealing: as a crash does."""
        self.overlay.close()
        if self.recording is not None:
            self.recording.close()


class HistoryBench:
    """Measures with stores of its own in ``place``."""

    def __init__(
        self, place: Path, trees: Trees, repeat: int, say: Callable[[str], None], sizes: Sequence[int] = SIZES
    ) -> None:
        self._place = place / "history"
        self._place.mkdir()
        self._trees = trees
        self._repeat = repeat
        self._sizes = [size for size in sizes if size * trees.scale <= sizes[-1]]
        self._say = say

    def figures(self) -> Iterator[Figure]:
        """All of them, as they are measured."""
        small, large = self._small(), self._trees.get("fifty_thousand")
        bases = ((small, SMALL_BASE), (large, 50_000 // self._trees.scale))
        for base, files in bases:
            yield from self._journal(base, f"base of {files:,} files")
        for size in self._sizes:
            self._say(f"history of {size:,} changes")
            yield from self._by_changes(small, size, f"{size:,} changes")
        changes = min(1000, self._sizes[-1])
        by_base = [list(self._by_changes(base, changes, f"base of {files:,} files")) for base, files in bases]
        for few, many in zip(*by_base, strict=True):
            yield few
            yield many
            what = many.name.partition(": ")[2]
            yield Figure(f"{what}: large base to small base", "times", [many.value / few.value])
        for base, files in bases:
            yield from self._mounted(base, f"mounted, base of {files:,} files")

    def _small(self) -> Path:
        base = self._place / "small"
        base.mkdir()
        for number in range(SMALL_BASE):
            (base / f"f{number}").write_bytes(b"x")
        return base

    def _journal(self, base: Path, about: str) -> Iterator[Figure]:
        """Per operation (create, write or close of a small file): with a journal, less without one."""
        count = min(10_000, self._sizes[-1])
        times: dict[bool, list[float]] = {True: [], False: []}
        length = 0
        for _ in range(self._repeat):
            for recorded in (False, True):
                with self._store() as store, BaseTree(os.fsencode(base)) as tree:
                    scene = Scene.new(store, tree, recorded=recorded)
                    times[recorded].append(_processor_seconds(lambda: scene.change(count, b"j")))  # noqa: B023
                    written = segments(store.runs.directory(scene.run_id) / "journal")
                    length = sum(path.stat().st_size for _, path in written) if recorded else length
                    scene.close()
        records = 2 * count
        cost = statistics.median(times[True]) - statistics.median(times[False])
        yield Figure(f"{about}: journal, processor per operation", "us", [cost / records * 1e6])
        yield Figure(f"{about}: journal, bytes per operation, with contents", "B", [length / records])
        yield Figure(f"{about}: journal, contents in that", "B", [len(CONTENT) * count / records])

    def _by_changes(self, base: Path, size: int, about: str) -> Iterator[Figure]:
        measured: dict[str, list[float]] = {}

        def note(name: str, work: Callable[[], object]) -> None:
            measured.setdefault(name, []).append(_milliseconds(work))

        for _ in range(self._repeat if size < 10_000 else 1):
            with self._store() as store, BaseTree(os.fsencode(base)) as tree:
                scene = Scene.new(store, tree)
                scene.change(size, b"a")
                scene.close()
                note("recovery of all of them", lambda: recover(store, scene.run_id))  # noqa: B023
            with self._store() as store, BaseTree(os.fsencode(base)) as tree:
                self._verbs(Scene.new(store, tree), size, note)
        for name, times in measured.items():
            yield Figure(f"{about}: {name}", "ms", times)

    def _verbs(self, scene: Scene, size: int, note: Callable[[str, Callable[[], object]], None]) -> None:
        scene.change(size, b"a")
        note("snapshot, all of them unsealed", lambda: scene.snapshot("all"))
        everything = History(scene.store, scene.run_id).position("all")
        scene.change(FEW, b"b")
        note(f"snapshot, {FEW} unsealed", lambda: scene.snapshot("few"))
        note("fork", lambda: fork(scene.store, scene.run_id, everything, name="fork"))
        note(f"rewind of {FEW}, mounted", lambda: scene.rewind(everything))
        note("rewind of all of them, mounted", lambda: scene.rewind(1))
        scene.close()
        note("rewind of all of them, not mounted", lambda: rewind(scene.store, scene.run_id, everything))
        note("rewind of one path, not mounted", lambda: rewind(scene.store, scene.run_id, 1, (b"a0/n0",)))

    def _mounted(self, base: Path, about: str) -> Iterator[Figure]:
        import goexfs

        times: dict[str, list[float]] = {}
        with goexfs.open_store(self._place / "mounted") as store:
            with store.start(base, on_exit="forget") as run:
                for number in range(self._repeat):
                    for file in range(FEW):
                        (run.mountpoint / f"{number}-{file}").write_bytes(CONTENT)
                    name = f"snapshot of {FEW} changes"
                    times.setdefault(name, []).append(_milliseconds(lambda: run.snapshot(f"n{number}")))  # noqa: B023
                    at = f"n{number}"
                    times.setdefault("fork", []).append(_milliseconds(lambda: run.fork(f"f{number}", at=at)))  # noqa: B023
                for number in range(self._repeat - 1, 0, -1):
                    times.setdefault(f"rewind of {FEW} changes", []).append(
                        _milliseconds(lambda: run.rewind(f"n{number - 1}"))  # noqa: B023
                    )
            for fork_ in store.runs():
                fork_.discard(forget=True)
        for name, measured in times.items():
            yield Figure(f"{about}: {name}", "ms", measured)

    def _store(self) -> Store:
        path = self._place / "store"
        shutil.rmtree(path, ignore_errors=True)
        return Store.open(path)


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _processor_seconds(work: Callable[[], object]) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    started = used()
    work()
    return used() - started
