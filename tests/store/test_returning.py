"""What an undo gives back to the run, and when it leaves the run alone."""


from snapshots.history.forks import fork
from snapshots.merging.merge import merge
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.settle import Resolution
from snapshots.merging.undo import undo
from snapshots.storage.store import Store
from snapshots.upkeep.gc import gc
from tests.store.sessions import every_kind_of_change, write
from tests.store.test_merge_partial import changed, chosen, several
from tests.support.trees import differences, picture


def test_a_whole_run_comes_back_and_can_be_merged_in_part(work, store):
    w = work(every_kind_of_change)
    everything = changed(w)
    named = store.runs.update(w.run.id, name="mine")
    number = merge(store, named).number
    gc(store)
    result = undo(store, number)
    assert result.gave_all
    assert store.runs.get(w.run.id).label == "mine"
    assert changed(w) == everything
    assert merge(store, named, choose=chosen(b"edited")).settled == ()
    assert changed(w) == everything - {b"edited"}
    merge(store, named)
    assert {line for line in differences(w.expected, picture(w.base)) if "nlink" not in line} == set()


def test_the_undo_of_the_undo_takes_them_again(work, store):
    w = work(several)
    number = merge(store, w.run, choose=chosen(b"edited", b"new", b"new/f")).number
    rest = changed(w)
    again = undo(store, undo(store, number).number)
    assert not again.gave
    assert again.returning.why_not == ""
    assert changed(w) == rest
    whole = undo(store, merge(store, w.run).number)
    undo(store, whole.number)
    assert w.state == "merged"


def test_a_name_that_is_taken_meanwhile(work, store, base):
    w = work(several)
    store.runs.update(w.run.id, name="mine")
    number = merge(store, store.runs.get(w.run.id)).number
    store.runs.create(base=base, name="mine")
    assert undo(store, number).gave
    assert store.runs.get(w.run.id).name is None


def test_a_locked_run_stays_as_it_is(work, store):
    w = work(several)
    number = merge(store, w.run, choose=chosen(b"edited")).number
    rest = changed(w)
    with Store.open(store.path) as other, other.runs.lock(w.run.id):
        result = undo(store, number)
    assert result.returning.why_not == "is mounted, and stays as it is"
    assert (w.base / "edited").read_text() == "content of edited"
    assert changed(w) == rest


def test_a_run_that_is_gone_or_has_forks(work, store):
    w = work(several)
    number = merge(store, w.run, choose=chosen(b"edited")).number
    other = fork(store, w.run.id, store.upper(w.run.id).load().journal)
    whole = merge(store, w.run).number
    result = undo(store, whole)
    assert "forks" in result.returning.why_not
    assert w.state == "merged"
    store.discard(other.id)
    assert "has been merged" in undo(store, number).returning.why_not
    assert differences(w.before, picture(w.base)) == []


def test_what_the_merge_settled_is_as_the_run_had_it(work, store):
    w = work(several)
    write(w.base / "edited", "by the user, meanwhile")
    number = merge(store, w.run, resolve=lambda _: Resolution.OURS).number
    gc(store)
    undo(store, number)
    merge(store, w.run, resolve=lambda _: Resolution.THEIRS)
    assert (w.base / "edited").read_text() == "edited by the run"


def test_it_goes_with_the_pre_images(work, store):
    number = merge(store, work(several).run).number
    merge(store, work(lambda there: write(there / "edited", "later")).run)
    log = MergeLog(store)
    assert (log.directory(number) / "run").exists()
    log.prune(keep_bytes=0)
    assert not (log.directory(number) / "run").exists()
