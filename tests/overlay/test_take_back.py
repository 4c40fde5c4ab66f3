"""Taking back what one process did leaves what the other did: as if the one had never been there."""

import os
import random
from pathlib import Path

import pytest

from goexfs.overlay import Dir, File, Node, Overlay, store_batch
from snapshots.history.journal import JournalWriter, Process
from snapshots.history.rewind import rewind
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from tests.overlay.test_replay import dump

NAMES = (b"one", b"other")
KINDS = ("create", "create", "mkdir", "unlink", "rename", "write", "write", "cut", "chmod", "replace")
Shown = dict[bytes, object]


class Player:
    """Two processes, each with files of its own, in directories that both use."""

    def __init__(self, store: Store, run_id: str, tree: BaseTree) -> None:
        self.store, self.run_id = store, run_id
        directory = store.runs.directory(run_id)
        self.writer = JournalWriter(directory / "journal", 1, 0)
        self.overlay = Overlay(tree, store.upper(run_id).load(), store.objects, directory / "spool")
        self.overlay.record_in(self.writer.append)
        self.numbers = {
            name: self.writer.append(Process(at, 1, 0, name, (name, b"--work"), 0)) for at, name in enumerate(NAMES, 10)
        }

    def places(self, who: bytes) -> tuple[list[Dir], list[tuple[Dir, bytes, Node]]]:
        """Directories it may work in, and what is its own."""
        directories, own = [self.overlay.root], []
        waiting: list[Dir] = [self.overlay.root]
        while waiting:
            directory = waiting.pop()
            listing = self.overlay.readdir(self.overlay.opendir(directory), 2)
            for name, node in sorted(((name, node) for name, node, _ in listing), key=lambda each: each[0]):
                mine = name.startswith(who)
                if mine:
                    own.append((directory, name, node))
                if isinstance(node, Dir) and (mine or name.startswith(b"shared")):
                    directories.append(node)
                    waiting.append(node)
        return directories, own

    def step(self, who: bytes, rng: random.Random, number: int) -> None:
        overlay = self.overlay
        overlay.view.changes.process = self.numbers[who]
        directories, own = self.places(who)
        kind = rng.choice(KINDS)
        fresh = b"%s%d" % (who, number)
        files = [each for each in own if isinstance(each[2], File)]
        try:
            if kind == "create":
                _, handle = overlay.create(rng.choice(directories), fresh, 0o644, os.O_RDWR, 0, 0)
                overlay.write(handle, 0, fresh)
                overlay.release(handle)
            elif kind == "mkdir":
                overlay.mkdir(rng.choice(directories), fresh, 0o755, 0, 0)
            elif kind == "unlink" and own:
                directory, name, node = rng.choice(own)
                (overlay.rmdir if isinstance(node, Dir) else overlay.unlink)(directory, name)
            elif kind in ("rename", "replace") and own:
                directory, name, _ = rng.choice(own)
                target, into = fresh, rng.choice(directories)
                if kind == "replace" and files:
                    into, target, _ = rng.choice(files)
                overlay.rename(directory, name, into, target)
            elif kind == "write" and files:
                handle = overlay.open(rng.choice(files)[2], os.O_RDWR)
                overlay.write(handle, rng.choice([0, 3, 300_000]), fresh)
                overlay.release(handle)
            elif kind == "cut" and files:
                overlay.setattr(rng.choice(files)[2], size=rng.choice([0, 2]))
            elif kind == "chmod" and own:
                overlay.setattr(rng.choice(own)[2], mode=rng.choice([0o700, 0o755]))
        except OSError:
            pass

    def seal(self) -> None:
        batch = self.overlay.collect(self.writer.rotate(0))
        if batch is not None:
            self.overlay.finish(batch, store_batch(batch, self.store, self.run_id))


def play(store: Store, base: bytes, seed: int, players: tuple[bytes, ...], seals: bool) -> tuple[str, Shown]:
    run_id = store.runs.create(base=base, name=None, command=(), options={}).id
    rngs = {name: random.Random(f"{name!r} {seed}") for name in NAMES}
    order = random.Random(seed)
    with BaseTree(base) as tree:
        player = Player(store, run_id, tree)
        for number in range(40):
            who = order.choice(NAMES)
            if who in players:
                player.step(who, rngs[who], number)
            if seals and number % 9 == 8:
                player.seal()
        player.seal()
        seen = shown(player.overlay)
        player.overlay.close()
        player.writer.close()
    return run_id, seen


def shown(overlay: Overlay) -> Shown:
    """Without numbers and times."""
    return {path: (*known[1:6], *known[8:]) for path, known in dump(overlay).items()}


@pytest.mark.parametrize("seed", range(6))
def test_as_if_it_had_never_been_there(tmp_path: Path, seed: int) -> None:
    base = tmp_path / "base"
    (base / "shared" / "shared").mkdir(parents=True)
    for name in ("one", "other"):
        for above in ("", "shared", "shared/shared"):
            (base / above / f"{name}-{len(above)}").write_text(f"{name} {above}")
        (base / "shared" / f"{name}-dir").mkdir()
        (base / "shared" / f"{name}-dir" / f"{name}-in").write_text(name)
    path = os.fsencode(base)
    with Store.open(tmp_path / "store") as store:
        _, expected = play(store, path, seed, (b"other",), seals=False)
        run_id, before = play(store, path, seed, NAMES, seals=bool(seed % 2))
        done = rewind(store, run_id, 0, process="one --work")
        assert done.left == ()
        assert done.before is not None or before == expected
        with BaseTree(path) as tree:
            overlay = Overlay(tree, store.upper(run_id).load(), store.objects, tmp_path)
            assert shown(overlay) == expected
            overlay.close()
        assert fsck(store).findings == ()
