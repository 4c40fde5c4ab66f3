"""``snapshot``, ``snapshots``, ``fork``, ``rewind`` and ``cat`` as processes, on real runs."""

import os
import signal
from pathlib import Path

import pytest

from goexfs.cli.errors import STATUS
from snapshots.errors import HistoryGone, RunExists, RunUnknown, SnapshotExists, SnapshotUnknown
from tests.cli.conftest import Command
from tests.support.commands import eventually


@pytest.fixture
def work(goexfs: Command) -> str:
    """A kept run with two snapshots: ``one`` and ``s1``."""
    run = goexfs.kept("echo 1 > file; echo x > other", name="work")
    assert goexfs("snapshot", run, "one", "-m", "the first").stdout == "work@one\n"
    for script, snapshot in (("echo 2 > file; mkdir dir; echo d > dir/d", "work@s1\n"), ("echo 3 > file; rm other", 0)):
        done = goexfs("run", "--run", run, "--keep", "--", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        assert not snapshot or goexfs("snapshot", run).stdout == snapshot
    return run


def names(goexfs: Command, ref: str) -> list[str]:
    done = goexfs("diff", ref, "--name-status")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_snapshots(goexfs: Command, work: str) -> None:
    listed = goexfs("snapshots", "work").stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["~2", "one"], ["~1", "s1"]]
    assert listed[1].endswith("the first")
    document = goexfs.json("snapshots", work)
    assert [(s["name"], s["kind"], s["message"]) for s in document["snapshots"]] == [
        ("one", "user", "the first"), ("s1", "user", ""),
    ]  # fmt: skip
    assert goexfs("snapshot", work, "one").returncode == STATUS[SnapshotExists]
    assert goexfs("snapshot", work, "--delete").returncode == 2
    assert goexfs("snapshot", work, "one", "--delete").returncode == 0
    assert goexfs("snapshot", work, "one", "--delete").returncode == STATUS[SnapshotUnknown]


def test_points(goexfs: Command, work: str) -> None:
    assert goexfs("cat", "work@one", "file").stdout == "1\n"
    assert goexfs("cat", "@@one", "file").stdout == "1\n"
    assert goexfs("cat", "@~1", "file").stdout == "2\n"
    assert goexfs("cat", work, "file").stdout == "3\n"
    assert goexfs("cat", work, "README", text=False).stdout == (goexfs.cwd / "README").read_bytes()
    assert names(goexfs, "work@one") == ["A\tfile", "A\tother"]
    assert names(goexfs, "work@~1") == ["A\tdir", "A\tdir/d", "A\tfile", "A\tother"]
    assert names(goexfs, "work@{1 hour ago}") == []
    for point, error in (("two", SnapshotUnknown), ("~9", SnapshotUnknown), ("#99999", HistoryGone)):
        done = goexfs("diff", f"work@{point}")
        assert done.returncode == STATUS[error], done
        assert done.stderr.count("\n") == 1
    for verb in ("discard", "umount"):
        done = goexfs(verb, "work@one")
        assert done.returncode == STATUS[RunUnknown] and "goexfs fork" in done.stderr


def test_merge_of_a_point(goexfs: Command, work: str) -> None:
    def listed() -> list[str]:
        return [run["name"] or "fork" for run in goexfs.json("ls")["runs"]]

    assert goexfs("merge", "work@one", "--dry-run").returncode == 0
    assert goexfs("merge", "work@two").returncode == STATUS[SnapshotUnknown]
    assert goexfs("merge", "work@one", "nothing").returncode != 0
    assert listed() == ["work"]
    done = goexfs("merge", "work@s1", "dir")
    assert (goexfs.cwd / "dir" / "d").read_text() == "d\n"
    assert "work itself stays as it is" in done.stderr and "the rest stays in" in done.stderr
    assert listed() == ["work", "fork"]
    assert goexfs("merge", "work@one").returncode == 0
    assert (goexfs.cwd / "file").read_text() == "1\n"
    assert goexfs("undo").returncode == 0
    assert not (goexfs.cwd / "file").exists()


def test_take_back(goexfs: Command) -> None:
    goexfs.kept("sh -c 'echo 1 > a; echo 1 > b; : first'; sh -c 'echo 2 >> b; : second'", name="work")
    assert goexfs("rewind", "work@~1", "--process", "x").returncode == 2
    assert goexfs("rewind", "work", "--process", "").returncode == 2
    assert "nothing to do" in goexfs("rewind", "work", "--process", "no such command").stderr
    document = goexfs.json("rewind", "work", "--process", "sh -c")
    assert document["nodes"] > 0 and document["left"] == []
    assert names(goexfs, "work") == []
    goexfs("rewind", "work")
    assert names(goexfs, "work") == ["A\ta", "A\tb"]


def test_fork(goexfs: Command, work: str, fresh_base: Path) -> None:
    made = goexfs("fork", "work@one", "branch")
    assert made.returncode == 0, made.stderr
    assert goexfs("fork", "work", "branch").returncode == STATUS[RunExists]
    goexfs("run", "--run", "branch", "--keep", "--", "sh", "-c", "echo b > file; echo new > new")
    assert goexfs("discard", "work").returncode == 0
    assert names(goexfs, "branch") == ["A\tfile", "A\tnew", "A\tother"]
    assert goexfs.json("fork", "branch")["name"] is None
    assert goexfs("merge", "branch").returncode == 0
    assert (fresh_base / "file").read_text() == "b\n"
    assert goexfs("fsck").returncode == 0


def test_rewind(goexfs: Command, work: str) -> None:
    done = goexfs("rewind", "work@one", "file")
    assert done.returncode == 0, done.stderr
    assert names(goexfs, work) == ["A\tdir", "A\tdir/d", "A\tfile"]
    assert goexfs("cat", work, "file").stdout == "1\n"
    done = goexfs("rewind", "work@one")
    assert names(goexfs, work) == names(goexfs, "work@one")
    assert done.stderr.startswith("goexfs: took back ")
    assert goexfs.json("rewind", "work@one") == {"run": work, "nodes": 0, "before": None, "left": []}
    assert goexfs("rewind", "work").returncode == 0
    assert names(goexfs, work) == ["A\tdir", "A\tdir/d", "A\tfile"], "a rewind can be rewound"
    assert goexfs("fsck").returncode == 0


def test_a_crash_is_listed_recovered_and_told(goexfs: Command, goexfs_home: Path, area: Path) -> None:
    place = area / "mnt"
    place.mkdir()
    assert goexfs("mount", ".", place, "--name", "live").returncode == 0
    (place / "one").write_text("1\n")
    (place / "two").mkdir()
    run = goexfs.json("show", "live")
    os.kill(run["pid"], signal.SIGKILL)
    assert eventually(lambda: goexfs.json("ls")["runs"][0]["state"] == "crashed", within=20)
    assert "crashed" in goexfs("ls").stdout
    (last,) = sorted((goexfs_home / "runs" / run["id"] / "journal").glob("0*"))[-1:]
    data = last.read_bytes()
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = goexfs("diff", "live", "--name-status")
    assert done.stdout == "A\tone\n", "all but the damaged record"
    assert done.stderr.startswith("goexfs: run live: the journal was damaged at its end: ")
    assert done.stderr.count("\n") == 1
    assert goexfs.json("ls")["runs"][0]["state"] == "kept" and os.listdir(place) == []
    assert goexfs("mount", "--run", "live", place).returncode == 0
    assert (place / "one").read_text() == "1\n" and not (place / "two").exists()
    assert goexfs("umount", "live").returncode == 0


def test_automatic_snapshots(goexfs: Command) -> None:
    done = goexfs("run", "--keep", "--auto-snapshot", "exit", "--history-limit", "1M", "--", "sh", "-c", "echo 1 > f")
    assert done.returncode == 0, done.stderr
    (snapshot,) = goexfs.json("snapshots", "@")["snapshots"]
    assert snapshot["kind"] == "exit"
    assert goexfs("run", "--keep", "--auto-snapshot", "never", "--", "true").returncode == 2
    assert goexfs("run", "--keep", "--history-limit", "much", "--", "true").returncode == 2
    assert "automatic snapshot" in goexfs("gc").stdout
