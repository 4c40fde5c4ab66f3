"""The past of real runs, through the Python API."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from goexfs.session import RunStore
from goexfs.session.history import split
from snapshots.errors import HistoryGone, RunError, RunUnknown, SnapshotExists, SnapshotUnknown
from snapshots.history.retention import set_limit
from tests.session.test_runs import edited
from tests.support import trees
from tests.support.commands import eventually


def test_references() -> None:
    assert [split(ref) for ref in ("run", "run@name", "@", "@@name", "@~2", "@#5", "x@{5m ago}")] == [
        ("run", None), ("run", "name"), ("@", None), ("@", "name"), ("@", "~2"), ("@", "#5"), ("x", "{5m ago}"),
    ]  # fmt: skip


def test_snapshots_of_a_mounted_run(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        assert run.snapshot("empty").kind == "user"
        with open(run.mountpoint / "made", "w") as file:
            for number in range(1, 4):
                file.write(f"{number}\n")
                file.flush()
                run.snapshot(f"s{number}", f"wrote {number}")
        run.exec(["sh", "-c", "rm made; echo more >> README"])
        assert run.cat(b"made", at="s2") == b"1\n2\n"
        assert [(s.name, s.message) for s in run.snapshots()][1:3] == [("s1", "wrote 1"), ("s2", "wrote 2")]
        assert [str(c.status) for c in run.diff(at="s1")] == ["A"]
        assert run.diff(at="empty") == []
        assert edited(run) == {b"README": "M", b"docs/README.hard": "M"}
        with pytest.raises(SnapshotExists):
            run.snapshot("s1")
        with pytest.raises(SnapshotUnknown):
            run.cat(b"made", at="s9")
        with pytest.raises(RunError, match="no made"):
            run.cat(b"made")
        with pytest.raises(RunError, match="not a regular file"):
            run.cat(b"src")
        assert run.cat(b"README", at="~1") == (fresh_base / "README").read_bytes()
        run.keep()
    assert run.cat(b"made", at="~1") == b"1\n2\n3\n"
    assert run.cat(b"README").endswith(b"more\n")
    run.drop_snapshot("s2")
    with pytest.raises(SnapshotUnknown):
        run.diff(at="s2")


def test_a_point_is_no_run(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base, name="one") as run:
        run.keep()
    assert store.point("one@x")[1] == "x"
    with pytest.raises(RunUnknown, match="goexfs fork"):
        store.run("one@x")


def test_any_record_and_any_time(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        for number in range(3):
            run.exec(["sh", "-c", f"echo {number} > file; echo x{number} > other{number}"])
            run.seal()
        between = time.time_ns()
        time.sleep(0.05)
        run.exec(["sh", "-c", "echo last > file; rm other1"])
        assert run.cat(b"file", at=f"{{@{between / 1e9:.9f}}}") == b"2\n"
        last = run.position(None) - 1
        shown = set()
        for record in range(last + 1):
            paths = {c.path for c in run.diff(at=f"#{record}")}
            if b"file" in paths:
                shown.add(run.cat(b"file", at=f"#{record}"))
        assert shown == {b"", b"0\n", b"1\n", b"2\n", b"last\n"}
        with pytest.raises(HistoryGone):
            run.position(f"#{last + 1}")
        fork = run.fork("branch", at=f"{{@{between / 1e9:.9f}}}")
        run.keep()
    assert fork.cat(b"file") == b"2\n"
    assert set(edited(fork)) == {b"file", b"other0", b"other1", b"other2"}


def test_a_large_content_between_two_checkpoints(store: RunStore, fresh_base: Path) -> None:
    """Its bytes are in the store only as they were when they were sealed."""
    with store.start(fresh_base) as run:
        run.seal()
        start = run.position(None)
        run.exec(["sh", "-c", "head -c 300000 /dev/zero > big; echo x > small"])
        end = run.position(None)
        answers = []
        for record in range(start, end):
            try:
                answers.append(len(run.cat(b"big", at=f"#{record}")))
            except (HistoryGone, RunError):
                answers.append(-1)
            run.cat(b"README", at=f"#{record}")
        assert answers[-1] == 300000
        assert answers[0] <= 0
        run.keep()


def test_a_fork_is_mounted_merged_and_discarded_by_itself(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base, name="parent") as parent:
        parent.exec(["sh", "-c", "echo 1 > one; rm src/tool.sh; mv src/pkg src/parcel; echo y >> src/parcel/core.py"])
        fork = parent.fork("child")
        parent.exec(["sh", "-c", "echo 2 > two; rm one"])
        parent.keep()
    before = edited(fork)
    assert before[b"one"] == "A" and b"two" not in before
    with store.resume(fork) as session:
        shown = trees.picture(session.mountpoint)
        assert session.exec(["cat", "one"], capture=True).stdout == b"1\n"
        session.exec(["sh", "-c", "rm one; mv src/parcel src/pkg; echo 3 > three"])
        grandchild = session.fork("grandchild", at="~0")
        session.rewind("#0")
        assert edited(session) == before
        assert trees.differences(trees.picture(session.mountpoint), shown) == []
        session.rewind()
        assert b"three" in edited(session)
    parent.discard()
    assert b"three" in edited(fork) and b"one" not in edited(fork)
    with store.resume(grandchild) as session:
        session.exec(["sh", "-c", "echo 4 > four"])
    fork.discard()
    assert set(edited(grandchild)) >= {b"three", b"four"}
    with store.resume(grandchild) as session:
        shown = trees.picture(session.mountpoint)
    grandchild.merge()
    assert trees.differences(shown, trees.picture(fresh_base)) == []
    store.gc()
    assert store.runs() == []


def test_a_kept_run_is_rewound(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", "echo 1 > a; mkdir d; echo 1 > d/b"])
        run.snapshot("good")
        run.exec(["sh", "-c", "echo 2 > a; rm -r d; echo more >> README; mv docs papers"])
        run.keep()
    bad = edited(run)
    run.rewind("good", (b"d", b"docs"))
    now = edited(run)
    assert now[b"d/b"] == "A" and now[b"papers"] == "A" and b"docs" not in now
    assert run.cat(b"a") == b"2\n"
    run.rewind("good")
    assert edited(run) == {b"a": "A", b"d": "A", b"d/b": "A"}
    with store.resume(run) as session:
        assert session.exec(["sh", "-c", "cat a d/b; ls docs; echo 3 > c"], capture=True).stdout.startswith(b"1\n1\n")
    first = next(s for s in run.snapshots() if s.kind == "rewind")
    run.rewind(first.name)
    assert edited(run) == bad


def test_the_past_of_a_run_takes_no_more_than_it_may(store: RunStore, fresh_base: Path, goexfs_home: Path) -> None:
    with store.start(fresh_base) as run:
        set_limit(store.store, run.id, 1_000_000)
        for _ in range(8):
            run.exec(["sh", "-c", "head -c 500000 /dev/urandom > noise"], sandbox=False)
            run.seal()
        run.keep()
    report = store.gc()
    assert report.segments > 0 and report.objects >= 5
    held = sum(path.stat().st_size for path in (goexfs_home / "objects").rglob("*") if path.is_file())
    assert 500_000 <= held <= 1_600_000
    assert len(run.cat(b"noise")) == 500_000
    with pytest.raises(HistoryGone):
        run.diff(at="#5")
    assert os.listdir(store.store.runs.directory(run.id) / "journal")


def test_a_mounted_run_is_rewound(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        place = run.mountpoint
        run.exec(["sh", "-c", "echo 1 > a; mkdir d; echo 1 > d/b; echo more >> src/pkg/core.py; chmod 600 README"])
        run.snapshot("good")
        shown = trees.picture(place)
        inside = os.open(place / "d", os.O_RDONLY | os.O_DIRECTORY)
        with open(place / "a", "r+") as held, open(place / "d" / "b") as b:
            assert (place / "src" / "pkg" / "core.py").read_text().endswith("more\n")
            mess = "echo 22222 > a; rm d/b; echo x > d/new; mv docs papers; rm src/tool.sh; chmod 644 README"
            run.exec(["sh", "-c", f"{mess}; cat README src/pkg/*; echo evenmore >> src/pkg/core.py"], capture=True)
            wrong = trees.picture(place)
            done = run.rewind("good")
            assert done.nodes and done.before is not None
            assert trees.differences(shown, trees.picture(place)) == []
            assert (place / "a").read_text() == "1\n"
            assert held.read() == "22222\n", "an open file stays what it was"
            held.write("into nowhere")
            held.flush()
            assert b.read() == "1\n"
            assert (place / "a").read_text() == "1\n"
            assert os.listdir(inside) == ["b"], "the directory is the same one"
        os.close(inside)
        run.rewind()
        assert trees.differences(wrong, trees.picture(place)) == []
        run.rewind("good", (b"a", b"docs"))
        assert (place / "a").read_text() == "1\n" and (place / "docs").is_dir() and (place / "papers").is_dir()
        assert (place / "d" / "new").exists()
        run.rewind("#0")
        assert trees.differences(trees.picture(fresh_base), trees.picture(place)) == []
        assert run.diff() == []
        run.rewind("good")
        run.keep()
    with store.resume(run) as session:
        assert trees.differences(shown, trees.picture(session.mountpoint)) == []


def test_a_rewind_while_programs_write(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", "mkdir made; for i in $(seq 50); do echo $i > made/$i; done"])
        run.snapshot("fifty")
        each = "echo x >> made/$i; echo $i > made/new$i; mv made/new$i made/n$i"
        script = f"while :; do for i in 1 2 3 4 5; do {each}; done; done"
        writer = subprocess.Popen(["sh", "-c", script], cwd=run.mountpoint, stderr=subprocess.DEVNULL)
        try:
            for _ in range(5):
                time.sleep(0.1)
                run.rewind("fifty")
                assert len(os.listdir(run.mountpoint / "made")) >= 49
        finally:
            writer.kill()
            writer.wait()
        run.rewind("fifty")
        assert sorted(os.listdir(run.mountpoint / "made"), key=int) == [str(n) for n in range(1, 51)]
        assert all((run.mountpoint / "made" / str(n)).read_text() == f"{n}\n" for n in range(1, 51))


def test_a_server_that_dies_after_a_rewind(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", "echo 1 > a"])
        run.snapshot("good")
        run.exec(["sh", "-c", "echo 2 > a; echo b > b"])
        run.rewind("good")
        run.exec(["sh", "-c", "echo c > c"])
        os.kill(run.record.pid, signal.SIGKILL)
        while run.state == "active":
            time.sleep(0.01)
        run.recover()
        assert edited(run) == {b"a": "A", b"c": "A"}
        assert run.cat(b"a") == b"1\n"


def test_a_rewind_of_a_run_whose_server_has_just_died(store: RunStore, fresh_base: Path) -> None:
    with store.start(fresh_base) as run:
        run.exec(["sh", "-c", "echo 1 > a"])
        position = run.snapshot("good").position
        (run.mountpoint / "b").mkdir()
        os.kill(run.record.pid, signal.SIGKILL)
        while run.state == "active":
            time.sleep(0.01)
        assert run._rewind(position, ()).before is not None  # as if it had died after it was looked at
        run.recover()
        assert edited(run) == {b"a": "A"}
        run.rewind()
        assert edited(run) == {b"a": "A", b"b": "A"}


def test_automatic_snapshots(store: RunStore, fresh_base: Path) -> None:
    with pytest.raises(RunError, match="no occasion"):
        store.start(fresh_base, auto_snapshot=["often"])
    occasions = ["exit", "quiet=0.5", "every=30"]
    with store.start(fresh_base, auto_snapshot=occasions, history_limit=50_000_000) as run:
        run.exec(["sh", "-c", "echo 1 > a"])
        run.exec(["true"])
        assert [s.kind for s in run.snapshots()] == ["exit"], "one for both: nothing has changed in between"
        assert run.cat(b"a", at="~1") == b"1\n"
        (run.mountpoint / "b").write_text("b")
        assert eventually(lambda: [s.kind for s in run.snapshots()] == ["exit", "quiet"], within=20)
        for number in range(40):
            (run.mountpoint / f"n{number}").write_text("x")
        assert eventually(lambda: "every" in [s.kind for s in run.snapshots()], within=20)
        run.keep()
    with store.resume(run) as again:
        again.exec(["rm", "a"])
        assert again.snapshots()[-1].kind == "exit", "it was remembered"
