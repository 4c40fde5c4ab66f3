"""A run and a base that has moved, as a user meets them: conflicts, sides, rebase, several runs."""

import json
import time
from pathlib import Path

import pytest

import goexfs as api
from snapshots.errors import Conflict
from tests.cli.conftest import Command
from tests.support.trees import differences, picture

LINES = [f"line {number}" for number in range(30)]


def text(**changed: str) -> str:
    return "".join(f"{changed.get(f'l{number}', line)}\n" for number, line in enumerate(LINES))


@pytest.fixture
def base(fresh_base: Path) -> Path:
    for name in ("a", "b", "c"):
        (fresh_base / name).write_text(text())
    return fresh_base


def edit(number: int, word: str, *names: str) -> str:
    return f"sed -i '{number + 1}s/.*/{word}/' {' '.join(names)}"


def test_conflicts_and_sides(goexfs: Command, base: Path) -> None:
    run = goexfs.kept(edit(3, "run", "a", "b"), name="mine")
    time.sleep(0.01)
    (base / "a").write_text(text(l3="user"))
    (base / "b").write_text(text(l20="user"))
    done = goexfs("conflicts", "mine")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("a: both modified; ")
    document = goexfs.json("conflicts", "mine")
    assert document["run"] == run
    assert [(each["path"], each["kind"]) for each in document["conflicts"]] == [("a", "both modified")]
    assert goexfs.json("conflicts", "mine", "--theirs=a")["conflicts"] == []
    assert goexfs("merge", "mine", "--ours=a", "--theirs=a").returncode == 80
    assert goexfs("merge", "mine", "--ours=nothing").returncode == 79
    planned = goexfs.json("merge", "mine", "--markers", "--dry-run")
    done_to = [(each["operation"], each["path"]) for each in planned["operations"]]
    assert done_to[:4] == [("make", "a"), ("make", "b"), ("replace", "a"), ("replace", "b")]
    before = picture(base)
    done = goexfs("merge", "--markers", "mine")
    assert done.returncode == 0, done.stderr
    assert "both are in it between markers: a" in done.stderr
    assert "changed on both sides, and merged: b" in done.stderr
    assert "<<<<<<< base\nuser\n=======\nrun\n>>>>>>> mine\n" in (base / "a").read_text()
    assert (base / "b").read_text() == text(l3="run", l20="user")
    assert goexfs("undo").returncode == 0
    assert differences(before, picture(base)) == []


def test_what_the_base_keeps_is_not_said_to_be_merged(goexfs: Command, base: Path) -> None:
    """Neither the change nor that of the directory around it."""
    (base / "dir").mkdir()
    (base / "dir" / "one").write_text("1\n")
    goexfs.kept(f"{edit(3, 'run', 'a', 'b')}; rm -r dir", name="mine")
    time.sleep(0.01)
    (base / "a").write_text(text(l3="user"))
    (base / "dir" / "one").write_text("2\n")
    planned = goexfs.json("merge", "mine", "--ours", "--dry-run")
    assert [each["path"] for each in planned["changes"]] == ["b"]
    done = goexfs("merge", "mine", "--ours")
    assert done.returncode == 0, done.stderr
    assert "1 change: 1 modified; merged into" in done.stdout
    assert "the base's version stays: a, dir/one" in done.stderr
    assert (base / "dir" / "one").read_text() == "2\n"


def test_rebase(goexfs: Command, base: Path) -> None:
    goexfs.kept(edit(3, "run", "a"), name="mine")
    time.sleep(0.01)
    (base / "a").write_text(text(l20="user"))
    before = picture(base)
    assert "can be brought onto" in goexfs("rebase", "mine", "--dry-run").stdout
    document = goexfs.json("rebase", "mine")
    assert document["settled"] == [{"path": "a", "how": "merged"}]
    assert differences(before, picture(base)) == []
    assert goexfs("cat", "mine", "a").stdout == text(l3="run", l20="user")
    assert "already" in goexfs("rebase", "mine").stdout
    assert goexfs("rewind", f"mine@{document['before']}").returncode == 0
    assert goexfs("cat", "mine", "a").stdout == text(l3="run")
    (base / "a").write_text(text(l3="user"))
    refused = goexfs("rebase", "mine", "--json")
    assert refused.returncode == 79
    assert [each["path"] for each in json.loads(refused.stdout)["conflicts"]] == ["a"]


def test_several_runs(goexfs: Command, base: Path) -> None:
    goexfs.kept(edit(3, "one", "a") + "; echo new > one", name="one")
    goexfs.kept(edit(20, "two", "a") + "; echo new > two", name="two")
    goexfs.kept(edit(3, "three", "a"), name="three")
    goexfs.kept("rm c", name="four")
    done = goexfs("merge", "one", "two", "three", "four")
    assert done.returncode == 79
    assert "1 of 4 runs are in conflict and were left: three; goexfs conflicts RUN lists where" in done.stderr
    assert (base / "a").read_text() == text(l3="one", l20="two")
    assert not (base / "c").exists()
    assert [each["state"] for each in goexfs.json("merges")["merges"]] == ["can be undone"] * 3
    assert goexfs.json("show", "three")["state"] == "kept"
    assert goexfs("undo", "3").returncode == 0  # the first two have nothing to do with it
    assert goexfs("undo", "2").returncode == 0
    assert (base / "a").read_text() == text(l3="one")


def test_runs_and_paths_are_told_apart(goexfs: Command, base: Path) -> None:
    goexfs.kept("echo 1 > one; echo 2 > two", name="one")
    goexfs.kept("echo 3 > three", name="two")
    for words in (["one", "two"], ["one", "two", "elsewhere"], ["two", "two"], ["two", "one", "--dry-run"]):
        assert goexfs("merge", *words).returncode == 2, words
    assert goexfs("merge", "one", "./two").returncode == 0
    assert (base / "two").exists()
    assert not (base / "one").exists()


def test_check_reads(goexfs: Command, base: Path) -> None:
    goexfs.kept("cat b > new", name="mine")
    time.sleep(0.01)
    (base / "b").write_text("changed")
    assert goexfs("merge", "mine", "--check-reads", "--theirs").returncode == 79
    done = goexfs("merge", "mine", "--check-reads")
    assert done.returncode == 79
    assert "b: read by the run, changed in the base" in done.stderr
    assert goexfs("merge", "mine").returncode == 0


def test_the_api(goexfs: Command, base: Path, goexfs_home: Path) -> None:
    for name, line in (("one", 3), ("two", 3)):
        goexfs.kept(edit(line, name, "a"), name=name)
    with api.open_store() as store:
        attempts = store.merge_all(["one", "two"])
        assert [attempt.refused is None for attempt in attempts] == [True, False]
        run = store.run("two")
        assert [conflict.path for conflict in run.conflicts()] == [b"a"]
        assert run.conflicts(resolve={"theirs": ["a"]}) == ()
        with pytest.raises(Conflict):
            run.rebase()
        with pytest.raises(ValueError, match="nobody"):
            run.merge(resolve={"nobody": ["a"]})
        assert [each.how for each in run.rebase(resolve="ours").settled] == ["ours"]
        assert run.diff() == []
