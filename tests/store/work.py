"""A kept run over a base, made without a mount, for tests of what becomes of it."""

import os
import time
from pathlib import Path

from snapshots.entries import Checkpoint, Link
from snapshots.merging import disk, mergelog
from snapshots.merging.merge import merge
from tests.store.mirror import Mirror
from tests.support.trees import differences, picture


class Work:
    """A kept run over a base, with a mirror of what it shows."""

    def __init__(self, store, base, there, change, *, whole=None, **kwargs):
        self.store, self.base, self.there = store, Path(os.fsdecode(base)), there
        self.mirror = Mirror(self.base, there)
        time.sleep(0.01)  # the clock of ctimes is a coarse one
        self.run = store.runs.create(base=base, name=None, command=("sh",), options={"kept": 1}, whole=whole)
        change(there)
        self.expected = picture(there)
        state = self.mirror.state(store.objects, **kwargs)
        links = tuple(
            Link(parent, name, ino, state.hides.get(parent, {}).get(name))
            for parent, names in state.links.items()
            for name, ino in names.items()
        )
        store.upper(self.run.id).commit(Checkpoint(tuple(state.entries.values()), (), links, (), state.next_ino))
        self.run = store.runs.update(self.run.id, state="kept")
        self.before = picture(self.base)

    @property
    def state(self):
        return self.store.runs.get(self.run.id).state

    def merge(self, **kwargs):
        return merge(self.store, self.run, **kwargs)

    def assert_untouched(self):
        assert differences(self.before, picture(self.base)) == []
        assert self.state == "kept"
        assert self.store.upper(self.run.id).load().entries

    def assert_merged(self):
        assert differences(self.expected, picture(self.base)) == []
        assert self.state == "merged"
        assert not self.store.upper(self.run.id).load().entries


def keep_elsewhere(monkeypatch):
    """Have the log of merges be on another filesystem than the base, as far as renames can tell."""
    rename = disk.rename

    def within(from_fd, from_name, to_fd, to_name):
        if {from_name, to_name} & {mergelog.KEPT} and from_name != b"kept.part":
            raise OSError(18, "Invalid cross-device link")
        rename(from_fd, from_name, to_fd, to_name)

    monkeypatch.setattr(disk, "rename", within)
