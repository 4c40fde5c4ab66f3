"""A run with several bases is one run: reviewed, gone on with, merged and undone as one."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.commands import eventually


@pytest.fixture
def other(area: Path) -> Path:
    other = area / "cache"
    other.mkdir()
    (other / "old").write_text("old\n")
    return other


def test_both_bases_have_one_verdict(goexfs: Command, other: Path, area: Path, fresh_base: Path) -> None:
    script = f"echo 1 > added; echo 2 > {other}/old; echo 3 > {other}/new"
    assert goexfs("run", "--discard", "--cow", other, "--", "sh", "-c", script).returncode == 0
    assert sorted(path.name for path in other.iterdir()) == ["old"]
    assert goexfs.json("ls", "--all")["runs"] == []
    assert goexfs("run", "--name", "two", "--cow", other, "--keep", "--", "sh", "-c", script).returncode == 0
    (run,) = goexfs.json("ls")["runs"]
    assert [base["base"] for base in run["bases"]] == [str(fresh_base), str(other)]
    assert run["changes"] == 3
    assert goexfs("merge", "two").returncode == 0
    assert ((other / "old").read_text(), (fresh_base / "added").read_text()) == ("2\n", "1\n")
    assert goexfs.json("ls", "--all")["runs"][0]["state"] == "merged"
    (merge,) = goexfs.json("merges", cwd=other)["merges"]
    assert len(merge["bases"]) == 2
    assert goexfs("undo", cwd=other).returncode == 0
    assert ((other / "old").read_text(), (fresh_base / "added").exists()) == ("old\n", False)
    for wrong in (fresh_base / "src", area):
        done = goexfs("run", "--cow", wrong, "--", "true")
        assert done.returncode == 2
        assert "inside one another" in done.stderr


def test_what_is_asked_of_a_run_is_asked_of_all_its_bases(goexfs: Command, other: Path, fresh_base: Path) -> None:
    def said(*args: str | Path) -> str:
        done = goexfs(*args)
        assert done.returncode == 0, (args, done.stderr)
        return done.stdout

    begin = f"echo 1 > added; echo 2 > {other}/old; sleep 0.01; cat {other}/old"
    goexfs("run", "--name", "two", "--cow", other, "--keep", "--", "sh", "-c", begin)
    assert said("snapshot", "two", "then") == "two@then\n"
    more = f"grep 2 {other}/old && echo 4 > {other}/more"
    assert goexfs("run", "--run", "two", "--", "sh", "-c", more).returncode == 0  # at their places again
    assert said("diff", "two", "--name-status") == f"A\tadded\nA\t{other}/more\nM\t{other}/old\n"
    assert f"In {other}:" in said("diff", "two", "--patch")
    assert "--base" in goexfs("export", "two").stderr
    assert said("export", "two", "--base", other).count("diff --git") == 2
    assert str(other / "old") in said("log", "two")
    assert str(other / "old") in said("blame", "two", other / "old")
    assert said("cat", "two", other / "more") == "4\n"
    said("fork", "two", "three")
    said("rewind", "two@then")
    assert str(other / "more") not in said("diff", "two", "--name-status")
    assert said("diff", "two", "three", "--name-status") == f"A\t{other}/more\n"
    said("reject", "two", other / "old", "-m", "not so")
    assert str(other / "old") in said("rejected", "two")
    (other / "old").write_text("by somebody else\n")
    conflicts = goexfs.json("conflicts", "two")["conflicts"]
    assert [each["path"] for each in conflicts] == [str(other / "old")]
    assert goexfs("merge", "two").returncode == 79
    assert not (fresh_base / "added").exists()
    said("merge", "two", fresh_base)  # one of its bases
    assert (fresh_base / "added").read_text() == "1\n"
    assert goexfs.json("show", "two")["state"] == "kept"
    (other / "old").write_text("old\n")
    said("merge", "two", "--theirs", "--verify", f"test -f added && grep 2 {other}/old")
    assert (other / "old").read_text() == "2\n"
    assert "2 bases" in goexfs("mount", "--run", "three", other).stderr
    said("discard", "three")
    assert goexfs.json("ls")["runs"] == []
    assert "sound" in said("fsck")


def test_a_session_that_dies_leaves_one_run(goexfs: Command, other: Path) -> None:
    script = f"echo 1 > added; echo 2 > {other}/old; echo ready; exec sleep 60"
    command = subprocess.Popen(
        [*GOEXFS, "run", "--name", "two", "--cow", other, "--", "sh", "-c", script],
        cwd=goexfs.cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        assert goexfs("snapshot", "two", "then").returncode == 0
        assert len(goexfs.json("ps", "two")["processes"]) >= 1
    finally:
        command.kill()
        command.wait()
        command.communicate()
    assert eventually(lambda: goexfs.json("show", "two")["state"] == "kept", within=30, every=0.1)
    assert goexfs("diff", "two@then", "--name-status").stdout == f"A\tadded\nM\t{other}/old\n"
    assert goexfs("discard", "two").returncode == 0
