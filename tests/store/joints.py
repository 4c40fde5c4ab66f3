"""A store with a run over two bases on two filesystems, and what is done with it."""

import os
import shutil
import tempfile
from pathlib import Path

from snapshots.merging.jointmerge import Wanted, merge_parts
from snapshots.merging.merge import How
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.undo import undo
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.sessions import every_kind_of_base, every_kind_of_change, write
from tests.store.work import Work
from tests.support.trees import differences, picture

MEMORY = Path("/dev/shm")
ALL = How(None, None, None, None, False)


def little_base(base):
    write(base / "kept", "as it is")
    write(base / "edited", "before")
    write(base / "gone", "gone")
    (base / "closed").mkdir()
    write(base / "closed" / "in it", "in it")


def little_change(there):
    write(there / "edited", "after", 10**18 + 7)
    (there / "gone").unlink()
    (there / "new").mkdir()
    write(there / "new" / "file", "new")
    write(there / "closed" / "more", "more")
    (there / "closed").chmod(0o500)


class JointScene:
    """A run over two bases, the second on another filesystem where there is one."""

    def __init__(self, place: Path, *, everything: bool = False) -> None:
        self.store = place / "store"
        self.elsewhere = Path(tempfile.mkdtemp(prefix="goexfs-joint-", dir=MEMORY if MEMORY.is_dir() else None))
        self.bases = [place / "one", self.elsewhere / "two"]
        how = (every_kind_of_base, every_kind_of_change) if everything else (little_base, little_change)
        kinds = [how, (little_base, little_change)]
        self.works, self.old, self.new = [], [], []
        with Store.open(self.store) as store:
            for number, (base, (make, change)) in enumerate(zip(self.bases, kinds, strict=True)):
                base.mkdir(parents=True)
                make(base)
                whole = self.works[0].run.id if number else None
                work = Work(store, os.fsencode(base), place / f"there{number}", change, whole=whole)
                work.mirror.close()
                self.works.append(work)
                self.old.append(work.before)
                self.new.append(work.expected)
        self.runs = [work.run for work in self.works]

    def remove(self):
        shutil.rmtree(self.elsewhere)

    def merge(self, *, hows=(ALL, ALL), **options):
        with Store.open(self.store) as store:
            return merge_parts(store, [Wanted(run, how) for run, how in zip(self.runs, hows, strict=True)], **options)

    def undo(self, number=None):
        with Store.open(self.store) as store:
            return undo(store, number or MergeLog(store).records()[-1].number)

    def recover(self, **options):
        with Store.open(self.store) as store:
            return recover_merges(store, **options)

    def states(self):
        with Store.open(self.store) as store:
            return {store.runs.get(run.id).state for run in self.runs}

    def which(self, where=""):
        """``old`` or ``new``, the same in all bases, and nothing else."""
        now = [picture(base) for base in self.bases]
        if not any(differences(old, each) for old, each in zip(self.old, now, strict=True)):
            return "old"
        wrong = [differences(new, each) for new, each in zip(self.new, now, strict=True)]
        assert not any(wrong), (where, wrong)
        return "new"

    def check_recovered(self, where=""):
        which = self.which(where)
        with Store.open(self.store) as store:
            log = MergeLog(store)
            assert list(log.interrupted()) == [], where
            assert all(name.isdigit() for name in os.listdir(log.path)), where
            gc(store)
            assert fsck(store).findings == (), where
        return which
