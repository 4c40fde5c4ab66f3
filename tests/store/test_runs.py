"""The registry: ids, names, references, states, locks, directories."""

import os
import re
import subprocess
import sys
import time

import pytest

from snapshots.errors import BaseError, RunAmbiguous, RunBusy, RunError, RunExists, RunState, RunUnknown
from snapshots.storage.store import Store

OPENING = """
import sys
from pathlib import Path
from snapshots import Store
store = Store.open(Path(sys.argv[1]))
"""


def test_a_run_is_recorded(store, base):
    before = time.time_ns()
    options = {"hide": [b"\xff"], "n": 3}
    run = store.runs.create(base=base, name="try-1", command=("sh", "-c", "a\udcff\nb"), options=options)
    assert re.fullmatch("[0-9a-z]{12}", run.id)
    assert run == store.runs.get(run.id)
    assert (run.name, run.base, run.state) == ("try-1", base, "active")
    assert run.command == ("sh", "-c", "a\udcff\nb")
    assert run.options == options
    assert run.base_identity == (os.stat(base).st_dev, os.stat(base).st_ino)
    assert before <= run.created_ns == run.changed_ns <= time.time_ns()
    assert (run.exit_status, run.mountpoint, run.pid) == (None, None, None)


def test_a_run_has_a_private_directory(store, base):
    directory = store.runs.directory(store.runs.create(base=base).id)
    assert sorted(path.name for path in directory.iterdir()) == ["lock", "mnt", "spool"]
    assert {path.stat().st_mode & 0o077 for path in [directory, *directory.iterdir()]} == {0}


def test_names_of_bases_may_be_any_bytes(store, tmp_path):
    base = os.fsencode(tmp_path) + b"/\xff\nbase"
    os.mkdir(base)
    assert store.runs.create(base=base + b"//").base == base
    assert store.runs.resolve("@", cwd=base).base == base


@pytest.mark.parametrize("kind", ["missing", "file", "relative"])
def test_a_base_must_be_a_directory(store, tmp_path, kind):
    (tmp_path / "file").touch()
    path = b"relative" if kind == "relative" else os.fsencode(tmp_path / kind)
    with pytest.raises(BaseError, match=kind):
        store.runs.create(base=path)
    assert store.runs.list(all=True) == []


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a/b", "a@b", "@", "tab\t", "bell\a", "n" * 101, "\udc80", "non\u00a0breaking"]
)
def test_names_that_cannot_be(store, base, name):
    with pytest.raises(RunError, match="cannot name a run"):
        store.runs.create(base=base, name=name)
    run = store.runs.create(base=base)
    with pytest.raises(RunError, match="cannot name a run"):
        store.runs.update(run.id, name=name)


@pytest.mark.parametrize("name", ["x", "fix-bug_2", "ünïcode", "日本", "#7", "a.b:c~d^e{}"])
def test_names_that_can_be(store, base, name):
    assert store.runs.resolve(store.runs.create(base=base, name=name).name).name == name


def test_names_are_unique_among_live_runs(store, base):
    first = store.runs.create(base=base, name="same")
    with pytest.raises(RunExists, match=first.id):
        store.runs.create(base=base, name="same")
    other = store.runs.create(base=base, name="other")
    with pytest.raises(RunExists):
        store.runs.update(other.id, name="same")
    store.runs.update(first.id, state="kept")
    with pytest.raises(RunExists):
        store.runs.create(base=base, name="same")
    store.discard(first.id)
    second = store.runs.create(base=base, name="same")
    assert store.runs.resolve("same") == second
    with pytest.raises(RunExists):
        store.runs.update(first.id, state="kept")  # it would come back with a name that is taken
    assert len(list((store.path / "runs").iterdir())) == 2


def test_references(store, base):
    run = store.runs.create(base=base, name="name")
    assert store.runs.resolve(run.id) == store.runs.resolve("name") == run
    for length in range(1, 12):
        assert store.runs.resolve(run.id[:length]) == run
        assert store.runs.resolve(run.id[:length].upper()) == run


@pytest.mark.parametrize("ref", ["", "nothing", "%", "_", "-", "000000000000", "@x", "a/b", "\udcff"])
def test_unknown_references(store, base, ref):
    run = store.runs.create(base=base, name="zzz")
    if not run.id.startswith(ref) or not ref:
        with pytest.raises(RunUnknown):
            store.runs.resolve(ref)
    with pytest.raises(RunUnknown):
        store.runs.get("000000000000")


def test_an_ambiguous_reference_names_the_candidates(store, base):
    runs = [store.runs.create(base=base) for _ in range(70)]  # ids begin with one of 32 characters
    first = next(a for a in runs for b in runs if a is not b and a.id[0] == b.id[0])
    same = [run for run in runs if run.id[0] == first.id[0]]
    with pytest.raises(RunAmbiguous) as caught:
        store.runs.resolve(first.id[0])
    assert same[-1].id in str(caught.value)
    for run in same[1:]:
        store.discard(run.id)
    assert store.runs.resolve(first.id[0]) == first  # what is over does not count where something is not


def test_an_exact_name_is_no_prefix(store, base):
    run = store.runs.create(base=base)
    named = store.runs.create(base=base, name=run.id[:3])
    assert store.runs.resolve(run.id[:3]) == named
    assert store.runs.resolve(run.id[:4]) == run


def test_at_means_the_latest_run_of_this_directory(store, base):
    os.makedirs(base + b"/sub/deep")
    outer = store.runs.create(base=base)
    inner = store.runs.create(base=base + b"/sub")
    resolve = store.runs.resolve
    assert resolve("@", cwd=base + b"/sub/deep") == inner
    assert resolve("@", cwd=base + b"/sub/") == inner
    assert resolve("@", cwd=base) == outer
    assert resolve("@", cwd=base + b"/subway") == outer
    for cwd in (b"/", base + b"x", None):
        with pytest.raises(RunUnknown):
            resolve("@", cwd=cwd)
    newest = store.runs.create(base=base)
    assert resolve("@", cwd=base + b"/sub") == newest
    store.discard(newest.id)
    assert resolve("@", cwd=base + b"/sub") == inner
    store.discard(inner.id)
    store.discard(outer.id)
    assert resolve("@", cwd=base + b"/sub").id == newest.id  # all are over: the latest of those
    root = store.runs.create(base=b"/")
    assert resolve("@", cwd=b"/anything") == root


def test_lists_are_newest_last(store, base):
    runs = [store.runs.create(base=base) for _ in range(4)]
    store.discard(runs[1].id)
    store.runs.update(runs[0].id, state="kept")
    store.runs.update(runs[3].id, state="merged")
    assert [run.id for run in store.runs.list()] == [runs[0].id, runs[2].id]
    assert [run.id for run in store.runs.list(all=True)] == [run.id for run in runs]


def test_a_clock_set_back_does_not_change_the_order(store, base, monkeypatch):
    first = store.runs.create(base=base)
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    second = store.runs.create(base=base)
    assert [run.id for run in store.runs.list()] == [first.id, second.id]
    assert store.runs.resolve("@", cwd=base) == second


def test_fields_are_updated(store, base):
    run = store.runs.create(base=base, command=("a",))
    changes = {
        "state": "kept",
        "exit_status": 3,
        "pid": 77,
        "mountpoint": b"/\xff",
        "name": "n",
        "command": ("b\udc80",),
        "options": {},
    }
    updated = store.runs.update(run.id, **changes)
    assert updated == store.runs.get(run.id)
    assert {field: getattr(updated, field) for field in changes} == changes
    assert updated.changed_ns > run.changed_ns
    assert (updated.id, updated.base, updated.created_ns) == (run.id, run.base, run.created_ns)


def test_wrong_updates_are_refused(store, base):
    run = store.runs.create(base=base)
    with pytest.raises(TypeError, match="no field 'bass'"):
        store.runs.update(run.id, bass=b"/")
    with pytest.raises(TypeError, match="no field 'id'"):
        store.runs.update(run.id, id="x")
    with pytest.raises(ValueError, match="no such state"):
        store.runs.update(run.id, state="lost")
    with pytest.raises(RunUnknown):
        store.runs.update("000000000000", state="kept")
    assert store.runs.get(run.id) == run


def test_a_lock_excludes_everybody(store, base, store_path):
    run = store.runs.create(base=base)
    assert not store.runs.is_locked(run.id)
    with Store.open(store_path) as other, store.runs.lock(run.id) as lock:
        for runs in (store.runs, other.runs):
            assert runs.is_locked(run.id)
            with pytest.raises(RunBusy):
                runs.lock(run.id)
        assert lock.held
    assert not lock.held
    assert not store.runs.is_locked(run.id)
    store.runs.lock(run.id).release()


def test_asking_does_not_take_the_lock(store, base, store_path):
    """``goexfs ls`` looks at the very moment of a mount: that must not fail the mount."""
    run = store.runs.create(base=base)
    script = OPENING + "print(flush=True)\nwhile True: store.runs.is_locked(sys.argv[2])"
    asking = subprocess.Popen([sys.executable, "-c", script, store_path, run.id], stdout=subprocess.PIPE)
    asking.stdout.readline()
    try:
        for _ in range(2000):
            store.runs.lock(run.id).release()
    finally:
        asking.kill()
        asking.communicate()


def test_a_lock_passes_to_a_forked_child_and_ends_with_it(store, base):
    run = store.runs.create(base=base)
    lock = store.runs.lock(run.id)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    lock.release()
    assert store.runs.is_locked(run.id)
    with pytest.raises(RunBusy):
        store.runs.lock(run.id)
    os.close(theirs)
    os.waitpid(child, 0)
    assert not store.runs.is_locked(run.id)


def test_a_killed_holder_leaves_no_lock(store, base, store_path):
    run = store.runs.create(base=base)
    script = OPENING + "lock = store.runs.lock(sys.argv[2])\nprint(flush=True)\nsys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, store_path, run.id], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    holder.stdout.readline()
    assert store.runs.is_locked(run.id)
    holder.kill()
    holder.communicate()
    assert not store.runs.is_locked(run.id)
    assert store.runs.get(run.id).state == "active"  # how a crash is told


def test_what_is_over_cannot_be_locked(store, base):
    run = store.runs.create(base=base)
    with pytest.raises(RunUnknown):
        store.runs.lock("000000000000")
    store.discard(run.id)
    assert not store.runs.is_locked(run.id)
    with pytest.raises(RunState, match="has been discarded"):
        store.runs.lock(run.id)


def test_only_a_discarded_run_is_forgotten(store, base):
    run = store.runs.create(base=base)
    with pytest.raises(RunState, match="is active"):
        store.runs.forget(run.id)
    store.discard(run.id)
    store.runs.forget(run.id)
    assert store.runs.list(all=True) == []
    with pytest.raises(RunUnknown):
        store.runs.forget(run.id)
