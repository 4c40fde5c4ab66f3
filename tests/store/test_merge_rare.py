"""What rarely happens during a merge or an undo: signals to a program with threads, a terminal that is gone, a clock
that was set back, disks that fail where nothing is written, deaths in the middle of a journal."""

import os
import shutil
import signal
import threading
import time

import pytest

from snapshots.errors import BaseError, Conflict, MergeError, StoreUnusable
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.plan import ConflictKind
from snapshots.merging.undisturbed import undisturbed
from snapshots.merging.undo import undo
from snapshots.storage import durable
from snapshots.storage.store import Store
from tests.store.sessions import write
from tests.support.trees import differences, picture


@pytest.fixture
def seam():
    """Sets what is called before every step of merges and of the store, until the test is over."""

    def plant(called):
        durable.seam = called

    yield plant
    durable.seam = None


def test_a_signal_that_another_thread_takes_waits_too():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    came = []
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed():
            with undisturbed():
                signal.pthread_kill(thread.ident, signal.SIGINT)
                until = time.monotonic() + 10
                while not came and time.monotonic() < until:
                    came += [number for number in (signal.SIGINT,) if not _is_pending(thread)]
            came.append("inner")
        assert came == [signal.SIGINT, "inner"]
    finally:
        over.set()
        thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _is_pending(thread):
    """Whether a signal to a thread has not been taken yet."""
    with open(f"/proc/self/task/{thread.native_id}/status") as file:
        found = dict(line.split(":\t", 1) for line in file if ":\t" in line)
    return int(found["SigPnd"], 16) != 0


def test_nobody_to_tell_of_the_progress(work):
    """The terminal may go away in the middle; a program that wants to stop a merge can do so before it begins."""
    w = work()
    told = []

    def gone(done, total):
        told.append(done)
        if done >= total // 2:
            raise OSError(5, "the terminal is gone")

    def stop(done, total):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        w.merge(progress=stop)
    w.assert_untouched()

    def only_later(done, total):
        if any(name.isdigit() for name in os.listdir(w.base)) or (w.base / "moved").exists():
            gone(done, total)

    w.merge(progress=only_later)
    assert told
    w.assert_merged()


def test_a_clock_that_was_set_back(work, store):
    """Below a deleted directory times tell what changed; when they cannot, nothing is taken to be as it was."""
    w = work(lambda there: shutil.rmtree(there / "doomed"))
    with store.database.transaction():  # as if the run had begun before the clock was set back
        store.database.run("UPDATE runs SET created_ns = ?", (time.time_ns() + 3600 * 10**9,))
    write(w.base / "doomed" / "sub" / "f", "edited meanwhile")
    w.before = picture(w.base)
    with pytest.raises(Conflict) as refused:
        w.merge()
    assert ConflictKind.MODIFIED_IN_BASE in {conflict.kind for conflict in refused.value.conflicts}
    w.assert_untouched()


def test_a_base_that_fails_in_the_middle_is_no_conflict_later(work, seam):
    w = work()

    def fail(name, where, count=[0]):  # noqa: B006
        count[0] += name == "base rename"
        if count[0] == 12:
            raise BaseError("a directory of the base cannot be read")

    seam(fail)
    with pytest.raises(BaseError, match="cannot be read"):
        w.merge()
    seam(None)
    w.assert_untouched()
    w.merge()
    w.assert_merged()


def test_an_undo_that_died_with_half_a_journal_can_be_done_again(work, store, store_path):
    w = work()
    number = w.merge().number
    child = os.fork()
    if child == 0:
        try:
            durable.seam = lambda name, where: name == "base rename" and where in ("attach", "detach") and os._exit(9)
            with Store.open(store_path) as other:
                undo(other, number)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    recover_merges(store)
    assert differences(w.expected, picture(w.base)) == []
    undo(store, number)
    assert differences(w.before, picture(w.base)) == []


def test_a_run_that_could_not_be_cleared_away_comes_back_all_the_same(work, store, seam):
    w = work()

    def fail(name, where):
        if name == "rename" and "/incoming/" in str(where):
            raise OSError(5, "Input/output error")

    seam(fail)
    number = w.merge().number
    seam(None)
    assert store.runs.given_up() == (w.run.id,)
    assert undo(store, number).gave_all
    assert differences(w.before, picture(w.base)) == []
    assert w.state == "kept"
    w.merge()
    assert differences(w.expected, picture(w.base)) == []


def test_what_could_not_be_removed_is_said_of_every_failure(work, store, seam):
    w = work()
    broken = []

    def fail(name, where):
        if name == "base utime" or broken:
            broken.append(name)
            raise StoreUnusable("the store is gone") if len(broken) == 1 else OSError(30, "Read-only file system")

    seam(fail)
    with pytest.raises(StoreUnusable, match=r"gone, but .*in the base could not be removed"):
        w.merge()
    seam(None)
    recover_merges(store)
    assert MergeLog(store).pending_numbers() == []
    w.assert_untouched()
    with pytest.raises(MergeError, match="no merge"):
        undo(store, 99)
