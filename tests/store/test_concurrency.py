"""Many processes on one store: writers wait and never fail; nothing that is about to be named is collected (rule 4)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snapshots.storage.store import Store
from snapshots.upkeep.fsck import fsck
from snapshots.upkeep.gc import gc
from tests.store.uppers import read_back, save

WORKER = """
import os, random, sys
from pathlib import Path
from snapshots.upkeep.gc import gc
from snapshots.upkeep.fsck import fsck
from snapshots.storage.store import Store
from tests.store.uppers import read_back, save
path, base, number, seconds = Path(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
source = random.Random(number)
sys.stdin.read()
store = Store.open(path)
import time
end = time.monotonic() + seconds
"""

# Contents come from a small set, so that processes put, find, drop and collect the same objects all the time.
WRITE = """
def content():
    return bytes([source.randrange(6)]) * source.choice([0, 10, 5000, 140_000])

rounds = 0
while time.monotonic() < end or not rounds:
    run = store.runs.create(base=base, name=f"writer-{number}")
    with store.runs.lock(run.id):
        expected = {}
        for step in range(source.randrange(1, 6)):
            files = {b"%d-%d" % (step, i): content() for i in range(source.randrange(1, 9))}
            save(store, run.id, files, hold=())
            expected |= files
            assert read_back(store, run.id) == expected
        store.discard(run.id)
    store.runs.forget(run.id)
    rounds += 1
print(rounds)
"""

COLLECT = """
while time.monotonic() < end:
    gc(store)
print(1)
"""

CHECK = """
while time.monotonic() < end:
    findings = fsck(store).findings
    assert findings == (), findings
print(1)
"""


def start(script: str, store_path: Path, base: bytes, number: int, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER + script, store_path, base, str(number), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workers: list[subprocess.Popen]) -> list[int]:
    """Let them all go at once; what each printed."""
    for worker in workers:
        worker.stdin.close()
        worker.stdin = None
    answers = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), "".join(errors for _, errors in answers)
    return [int(output) for output, _ in answers]


def test_writers_collectors_and_a_checker_at_once(store, store_path, base):
    kept = store.runs.create(base=base)
    mine = {b"%d" % number: bytes([number]) * size for number in range(6) for size in (10, 140_000)}
    save(store, kept.id, mine)
    workers = [start(WRITE, store_path, base, number, 4) for number in range(4)]
    workers += [start(COLLECT, store_path, base, number, 4) for number in (10, 11)]
    workers += [start(CHECK, store_path, base, 20, 4)]
    rounds = finish(workers)
    assert min(rounds[:4]) > 0
    assert read_back(store, kept.id) == mine
    store.discard(kept.id)
    assert len(store.objects) == 0
    assert list((store_path / "objects").iterdir()) == []


def test_ten_processes_commit_at_the_same_time(store, store_path, base):
    script = """
run = store.runs.create(base=base)
for step in range(20):
    save(store, run.id, {b"%d-%d" % (step, i): os.urandom(20_000) for i in range(20)})
print(len(store.upper(run.id).load().entries))
"""
    assert finish([start(script, store_path, base, number, 0) for number in range(10)]) == [400] * 10
    for run in store.runs.list():
        assert len(read_back(store, run.id)) == 400


def test_a_busy_store_waits(store, store_path, base):
    """Longer than SQLite's own patience."""
    from snapshots.storage import database

    patience = database._BUSY_TIMEOUT_MS
    database._BUSY_TIMEOUT_MS = 50
    try:
        with Store.open(store_path) as impatient:
            blocker = start("print(1, end='', flush=True)", store_path, base, 0, 0)
            blocker.communicate("")
            script = "with store.database.transaction():\n    print(1, flush=True)\n    time.sleep(1.5)\n"
            blocker = start(script, store_path, base, 0, 0)
            blocker.stdin.close()
            blocker.stdin = None
            assert blocker.stdout.readline() == "1\n"
            before = time.monotonic()
            name = impatient.objects.put(b"waited for")
            assert time.monotonic() - before > 0.5
            assert impatient.objects.read(name) == b"waited for"
            blocker.communicate()
    finally:
        database._BUSY_TIMEOUT_MS = patience


def test_a_stopped_process_does_not_block_for_ever(store, store_path, base, monkeypatch):
    from snapshots.errors import StoreUnusable
    from snapshots.storage import database

    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(database, "BUSY_LIMIT_S", 0.3)
    script = "with store.database.transaction():\n    print(1, flush=True)\n    time.sleep(100)\n"
    blocker = start(script, store_path, base, 0, 0)
    blocker.stdin.close()
    blocker.stdin = None
    try:
        assert blocker.stdout.readline() == "1\n"
        blocker.send_signal(signal.SIGSTOP)
        with Store.open(store_path) as other:
            assert len(other.objects) == 0  # readers are not blocked
            with pytest.raises(StoreUnusable, match="locked by another process"):
                other.objects.put(b"x")
    finally:
        blocker.kill()
        blocker.communicate()
    store.objects.put(b"x")  # the lock died with it


def test_killed_writers_leave_a_sound_store(store, store_path, base):
    """SIGKILL at any moment: whatever was committed is whole, and one collection removes the rest."""
    script = """
while True:
    run = store.runs.create(base=base)
    save(store, run.id, {b"%d" % i: source.randbytes(source.choice([10, 50_000, 300_000])) for i in range(4)})
    store.runs.update(run.id, state="kept")
    print(run.id, flush=True)
    if source.random() < 0.5:
        store.discard(run.id)
"""
    finished = set()
    for number in range(8):
        worker = start(script, store_path, base, number, 0)
        worker.stdin.close()
        worker.stdin = None
        finished.add(worker.stdout.readline().strip())
        time.sleep(0.03 * number)
        worker.kill()
        finished |= set(worker.communicate()[0].split())
        for run in store.runs.list():
            assert len(read_back(store, run.id)) in ((4,) if run.id in finished else (0, 4))
    gc(store)
    assert fsck(store).findings == ()
    for run in store.runs.list():
        store.discard(run.id)
    assert len(store.objects) == 0


def test_a_forked_childs_lease_outlives_the_parents_store(store_path):
    """The lease belongs to the open file: as long as a child has it, what was put is held."""
    with Store.open(store_path) as parent:
        name = parent.objects.put(b"held by both")
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(theirs)
            os.read(ours, 1)
            os._exit(0)
        os.close(ours)
    with Store.open(store_path) as other:
        other.objects.collect()
        assert other.objects.exists(name)
        os.close(theirs)
        os.waitpid(child, 0)
        assert other.objects.collect().objects == 1
