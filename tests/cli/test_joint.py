"""A run with several bases is one run: reviewed, gone on with, merged and undone as one."""

import os
import re
import select
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import GOEXFS, Command, Terminal, environment
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
    assert "takes 2 mountpoints" in goexfs("mount", "--run", "three", other).stderr
    said("discard", "three")
    assert goexfs.json("ls")["runs"] == []
    assert "sound" in said("fsck")


def test_the_agents_own_verbs_are_about_all_bases(goexfs: Command, other: Path) -> None:
    """Its diff, snapshots and rewinds, by how it calls a path in each; and nothing outside of them."""
    script = f"""
set -e
echo 1 > added; echo 2 > {other}/old
goexfs snapshot then -m both
echo 3 > added; echo 4 > {other}/more
goexfs diff --name-status; echo --
(cd {other}; goexfs diff more --json) | grep -o '"path": "[^"]*"'; echo --
goexfs diff | grep -e ^In -e ^+
echo --
goexfs rewind @then {other}/more; cat added; ls {other}; echo --
goexfs rewind @then; cat added {other}/old
goexfs snapshots --json | grep -o 'rewind' | sort -u
for wrong in /etc {other}/../x {other}x; do goexfs diff $wrong || echo $?; done
"""
    done = goexfs("run", "--name", "two", "--cow", other, "--keep", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    listed, one, patch, partly, back = (part.split("\n") for part in done.stdout.split("\n--\n"))
    assert listed[1:] == ["A\tadded", f"A\t{other}/more", f"M\t{other}/old"]
    assert one == [f'"path": "{other}/more"']
    assert [line for line in patch if line.startswith("In")][-1] == f"In {other}:"
    assert {"+3", "+4", "+2"} <= set(patch)
    assert partly == ["3", "old"]
    assert back == ["1", "2", "rewind", "2", "2", "2", ""]
    assert goexfs("diff", "two", "--name-status").stdout == f"A\tadded\nM\t{other}/old\n"
    assert goexfs("diff", "two@then", "--name-status").stdout == f"A\tadded\nM\t{other}/old\n"


def test_hunks_are_asked_about_in_both_bases(
    goexfs: Command, other: Path, fresh_base: Path, terminals: list[Terminal]
) -> None:
    """Each question names the base that it is about; what is chosen is one merge, and the rest stays."""
    (other / "lines").write_text("".join(f"{n}\n" for n in range(30)))
    script = f"echo 1 > added; sed -i 's/^3$/three/; s/^25$/more/' {other}/lines; rm {other}/old"
    goexfs("run", "--name", "two", "--cow", other, "--keep", "--", "sh", "-c", script)
    terminal = goexfs.terminal("merge", "-p", "two", COLUMNS="200")
    terminals.append(terminal)
    for place, answer in ((fresh_base, "y"), (other, "n"), (other, "y"), (other, "y")):
        terminal.expect(rf"Merge this [a-z ]+ into {re.escape(str(place))} \[")
        terminal.type(answer + "\n")
    assert terminal.wait() == 0, terminal.shown
    assert f"+++ {other}/lines" in terminal.shown
    assert (fresh_base / "added").read_text() == "1\n"
    words = (other / "lines").read_text().split()
    assert ("three" in words, "more" in words, (other / "old").exists()) == (False, True, False)
    assert goexfs("diff", "two", "--name-status").stdout == f"M\t{other}/lines\n"
    assert goexfs("undo").returncode == 0
    assert (other / "old").exists() and not (fresh_base / "added").exists()


def test_each_base_at_a_place_of_its_own(goexfs: Command, other: Path, area: Path, fresh_base: Path) -> None:
    """A kept run is mounted with all its bases; what is done in either is followed, and unmounted as one."""
    goexfs("run", "--name", "two", "--cow", other, "--keep", "--", "sh", "-c", f"echo 1 > added; echo 2 > {other}/new")
    places = [area / "one", area / "other"]
    for place in places:
        place.mkdir()
    inside = goexfs("mount", "--run", "two", places[0], fresh_base / "src")
    assert (inside.returncode != 0, "is inside the base" in inside.stderr) == (True, True)
    (area / "full").mkdir()
    (area / "full/file").touch()
    assert goexfs("mount", "--run", "two", places[0], area / "full").returncode != 0
    assert goexfs.json("show", "two")["state"] == "kept", "nothing remains mounted"
    assert goexfs("mount", "--run", "two", *places).returncode == 0
    log = subprocess.Popen(
        [*GOEXFS, "log", "two", "--follow"], cwd=goexfs.cwd, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert (places[0] / "added").read_text() + (places[1] / "new").read_text() == "1\n2\n"
        assert log.stdout is not None
        told = b""
        while not {b"seen", os.fsencode(other / "seen")} <= set(told.split()):
            for place in places:  # again and again: it tells what happens once it is there
                (place / "seen").write_text("x")
                (place / "seen").unlink()
            if select.select([log.stdout], [], [], 0.3)[0]:
                piece = os.read(log.stdout.fileno(), 1 << 16)
                assert piece, "it ended"
                told += piece
    finally:
        assert goexfs("umount", "two").returncode == 0
        rest, _ = log.communicate(timeout=60)
    assert log.returncode == 0, rest
    assert goexfs("diff", "two", "--name-status").stdout == f"A\tadded\nA\t{other}/new\n"


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
