"""Which objects live: random sequences over two open stores, compared with a model of who may still name what."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snapshots.entries import INLINE_LIMIT, ROOT_INO, Link
from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.uppers import checkpoint, entry, whole

CONTENTS = [b"", b"a", b"b", b"row" * 1000, b"x" * (INLINE_LIMIT + 1), b"y" * (INLINE_LIMIT + 1)]
contents = st.sampled_from(CONTENTS)
which = st.integers(0, 1)


class Lifetimes(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.place = Path(tempfile.mkdtemp(prefix="gxl-"))
        (self.place / "base").mkdir()
        self.stores = [self.open(), self.open()]
        self.fresh: list[set[bytes]] = [set(), set()]  # put by each store since its last commit
        self.held: list[set[tuple[int, bytes]]] = [set(), set()]  # (run, content) kept for open files
        self.names: dict[bytes, bytes] = {}
        self.runs = [self.new_run(), self.new_run()]
        self.files: list[dict[int, bytes]] = [{}, {}]  # what each run's entries hold
        self.next_ino = 10

    def open(self) -> Store:
        return Store.open(self.place / "store")

    def new_run(self) -> str:
        return self.stores[0].runs.create(base=str(self.place / "base").encode()).id

    @rule(i=which, data=contents)
    def put(self, i, data):
        self.names[data] = self.stores[i].objects.put(data)
        self.fresh[i].add(data)

    @rule(i=which, data=contents)
    def put_file(self, i, data):
        path = self.place / "store" / "runs" / "spool"
        path.write_bytes(data)
        self.names[data] = self.stores[i].objects.put_file(path)
        self.fresh[i].add(data)

    @rule(i=which, run=which, hold=st.sampled_from(["nothing", "everything", "unsaid"]), drop=st.booleans())
    def commit(self, i, run, hold, drop):
        """All that was put becomes files of a run; perhaps one of its files goes."""
        entries, links, gone, unlinked = [], [], [], []
        dropped = set()
        if drop and self.files[run]:
            ino, data = self.files[run].popitem()
            gone, unlinked = [ino], [(ROOT_INO, b"%d" % ino)]
            dropped.add((run, data))
        for data in self.fresh[i]:
            entries.append(entry(self.next_ino, content=whole(self.names[data], len(data))))
            links.append(Link(ROOT_INO, b"%d" % self.next_ino, self.next_ino))
            self.files[run][self.next_ino] = data
            self.next_ino += 1
        kept = {(owner, data) for owner, data in self.held[i] if owner == run} | dropped
        names = {"nothing": (), "everything": {self.names[data] for _, data in kept}, "unsaid": None}[hold]
        self.stores[i].upper(self.runs[run]).commit(checkpoint(entries, links, gone, unlinked), hold=names)
        self.held[i] = (self.held[i] - kept) if hold == "nothing" else (self.held[i] | kept)
        self.fresh[i] = set()

    @rule(i=which, run=which)
    def discard(self, i, run):
        self.stores[i].discard(self.runs[run])
        self.stores[i].runs.forget(self.runs[run])
        self.runs[run] = self.new_run()
        self.files[run] = {}
        self.held = [{(owner, data) for owner, data in held if owner != run} for held in self.held]

    @rule(i=which)
    def collect(self, i):
        gc(self.stores[i])

    @rule(i=which)
    def reopen(self, i):
        self.stores[i].close()
        self.stores[i] = self.open()
        self.fresh[i], self.held[i] = set(), set()

    @rule(i=which)
    @precondition(lambda self: any(self.fresh))
    def release(self, i):
        self.stores[i].objects.release()
        self.fresh[i], self.held[i] = set(), set()

    @invariant()
    def everything_that_may_be_named_can_be_read(self):
        for run in (0, 1):
            entries = self.stores[run].upper(self.runs[run]).load().entries
            assert {ino: self.content(run, e.content) for ino, e in entries.items()} == self.files[run]
        for i in (0, 1):
            for data in self.fresh[i] | {data for _, data in self.held[i]}:
                assert self.stores[1 - i].objects.read(self.names[data]) == data

    def content(self, i, content):
        return b"".join(self.stores[i].objects.read(x.object, x.start, x.length) for x in content.extents)

    def teardown(self):
        try:
            for i in (0, 1):
                self.stores[i].objects.release()
            gc(self.stores[0])
            assert fsck(self.stores[0]).findings == ()
            used = {data for files in self.files for data in files.values() if data}
            assert len(self.stores[0].objects) == len(used)  # and nothing else is left
        finally:
            for store in self.stores:
                store.close()
            shutil.rmtree(self.place)


TestLifetimes = Lifetimes.TestCase
TestLifetimes.settings = settings(max_examples=25, stateful_step_count=30)
