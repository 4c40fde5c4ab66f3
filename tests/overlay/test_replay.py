"""Any prefix of the journal replays to exactly the state that the overlay showed at that moment."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from goexfs.overlay import Dir, File, Node, Overlay, WouldBlock, store_batch
from goexfs.overlay import content as content_module
from goexfs.overlay import files as files_module
from snapshots.entries import UpperState
from snapshots.history import journal
from snapshots.history.replay import Replay
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store

STEPS = 60
T = TypeVar("T")


def unblocked(operation: Callable[[], T]) -> T:
    """Do what may have to wait for the disk first."""
    while True:
        try:
            return operation()
        except WouldBlock as blocked:
            blocked.prepare()


def dump(overlay: Overlay, node: Node | None = None, path: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """Everything the view shows, by path."""
    node = overlay.root if node is None else node
    seen: dict[bytes, tuple[object, ...]] = {}
    data: object = None
    if isinstance(node, File):
        handle = overlay.open(node, os.O_RDONLY)
        data = unblocked(lambda: bytes(overlay.read(handle, 0, node.size)))
        overlay.release(handle)
    elif stat.S_ISLNK(node.mode):
        data = overlay.readlink(node)
    # The length of a directory and when it was read are the base's business.
    size = None if isinstance(node, Dir) else node.size
    xattrs = {name: overlay.getxattr(node, name) for name in overlay.listxattr(node)}
    seen[path] = (node.ino, node.mode, node.uid, node.gid, node.nlink, size, node.mtime_ns, node.ctime_ns, xattrs, data)
    if isinstance(node, Dir):
        for name, child, _ in overlay.readdir(overlay.opendir(node), 2):
            seen |= dump(overlay, child, os.path.join(path, name))
    return seen


class Driver:
    """Random operations on one overlay."""

    def __init__(self, overlay: Overlay, seed: int) -> None:
        self.overlay = overlay
        self.random = random.Random(seed)
        self.made = 0

    def everything(self) -> list[tuple[Dir, bytes, Node]]:
        """All (directory, name, node) triples."""
        found: list[tuple[Dir, bytes, Node]] = []
        todo = [self.overlay.root]
        while todo:
            directory = todo.pop()
            for name, child, _ in self.overlay.readdir(self.overlay.opendir(directory), 2):
                found.append((directory, name, child))
                if isinstance(child, Dir):
                    todo.append(child)
        return found

    def step(self) -> None:
        """One operation that changes something, or is refused."""
        made, state = self.made, self.random.getstate()

        def again() -> None:
            self.made = made
            self.random.setstate(state)
            self._step()

        unblocked(again)

    def _step(self) -> None:
        overlay, choose = self.overlay, self.random.choice
        all_names = self.everything()
        directories = [overlay.root, *[node for _, _, node in all_names if isinstance(node, Dir)]]
        files = [node for _, _, node in all_names if isinstance(node, File)]
        self.made += 1
        fresh = b"n%d" % self.made
        operation = choose(
            [
                "create",
                "mkdir",
                "symlink",
                "link",
                "unlink",
                "rename",
                "swap",
                "write",
                "write",
                "cut",
                "chmod",
                "xattr",
            ]
        )
        try:
            if operation == "create":
                overlay.create(choose(directories), fresh, 0o644, os.O_RDWR, 1, 2)
            elif operation == "mkdir":
                overlay.mkdir(choose(directories), fresh, 0o755, 0, 0)
            elif operation == "symlink":
                overlay.symlink(choose(directories), fresh, b"to/" + fresh, 0, 0)
            elif operation == "link" and files:
                overlay.link(choose(files), choose(directories), fresh)
            elif operation == "unlink" and all_names:
                directory, name, node = choose(all_names)
                (overlay.rmdir if node.is_dir else overlay.unlink)(directory, name)
            elif operation == "rename" and all_names:
                directory, name, _ = choose(all_names)
                target = choose([fresh, choose(all_names)[1]])
                overlay.rename(directory, name, choose(directories), target)
            elif operation == "swap" and len(all_names) > 1:
                one, other = self.random.sample(all_names, 2)
                overlay.rename(*one[:2], *other[:2], 2)
            elif operation == "write" and files:
                handle = overlay.open(choose(files), os.O_RDWR)
                data = self.random.randbytes(self.random.choice([1, 10, 100, 300]))
                overlay.write(handle, self.random.randrange(0, 600), data)
            elif operation == "cut" and files:
                overlay.setattr(choose(files), size=self.random.choice([0, 5, 100, 700]))
            elif operation == "chmod" and all_names:
                overlay.setattr(choose(all_names)[2], mode=self.random.choice([0o600, 0o4755]), mtime_ns=self.made)
            elif operation == "xattr" and files:
                overlay.setxattr(choose(files), b"user.k", fresh)
        except OSError:
            pass


@pytest.mark.parametrize("seed", range(12))
def test_every_prefix_replays_to_what_was_shown(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in [
        (files_module, "INLINE_LIMIT", 64),
        (files_module, "COPY_WHOLE_LIMIT", 200),
        (content_module, "COPY_WHOLE_LIMIT", 200),
    ]:
        monkeypatch.setattr(module, name, value)
    base = tmp_path / "base"
    (base / "d" / "e").mkdir(parents=True)
    for number, size in enumerate([0, 10, 150, 500]):
        (base / "d" / f"f{number}").write_bytes(random.Random(number).randbytes(size))
    os.link(base / "d" / "f3", base / "linked")
    with Store.open(tmp_path / "store") as store:
        run = store.runs.create(base=os.fsencode(base), name=None, command=(), options={})
        directory = store.runs.directory(run.id)
        with store.runs.lock(run.id), BaseTree(os.fsencode(base)) as tree:
            spool = directory / "spool"
            overlay = Overlay(tree, store.upper(run.id).load(), store.objects, spool)
            records: list[journal.Change] = []
            overlay.record_in(records.append)
            driver = Driver(overlay, seed)
            shown = [(0, dump(overlay), store.upper(run.id).load())]
            checkpoint: UpperState = shown[0][2]
            begins = 0
            for step in range(STEPS):
                if step in (STEPS // 3, STEPS // 2):
                    batch = overlay.collect()
                    if batch is not None:
                        begins = len(records)
                        overlay.finish(batch, store_batch(batch, store, run.id))
                        checkpoint = store.upper(run.id).load()
                driver.step()
                shown.append((len(records), dump(overlay), checkpoint))
                # What was removed is lost to an earlier moment with its working file, so look at once.
                replay = Replay(checkpoint)
                for number, record in enumerate(records[begins:]):
                    replay.apply(journal.Numbered(number, record))
                state = replay.state(replay.contents(store.objects, spool))
                assert not replay.lost
                with BaseTree(os.fsencode(base)) as again:
                    recovered = Overlay(again, state, store.objects, tmp_path)
                    assert dump(recovered) == shown[-1][1], records[-1]
                    recovered.close()
            overlay.close()
