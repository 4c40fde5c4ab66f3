"""``goexfs log``, ``blame``, ``reads`` and ``diff`` by process, on runs of real commands."""

import json
import os
import subprocess
import time
from pathlib import Path

from tests.cli.conftest import GOEXFS, Command, environment

SCRIPT = """
cat README.md > /dev/null
mkdir out
cp README.md out/copy
sh -c 'echo 1 > out/one; sleep 0; touch out/two'
mv out/one out/uno
for i in 1 2 3 4 5; do echo $i; done > out/numbers
rm out/two
"""


def test_what_happened_and_who_did_it(goexfs: Command) -> None:
    (goexfs.cwd / "README.md").write_text("read me\n")
    (goexfs.cwd / "unread").write_text("not read\n")
    goexfs.kept(SCRIPT)

    events = goexfs.json("log", "@")["events"]
    made = [(event["op"], event["path"], event["command"][0]) for event in events]
    assert ("create", "out", "mkdir") in made
    assert ("create", "out/copy", "cp") in made
    assert ("create", "out/two", "touch") in made
    assert ("rename", "out/uno", "mv") in made
    assert ("unlink", "out/two", "rm") in made
    assert [event["record"] for event in events] == sorted(event["record"] for event in events)
    (renamed,) = [event for event in events if event["op"] == "rename"]
    assert renamed["old_path"] == "out/one"
    (numbers,) = [event for event in events if event["path"] == "out/numbers" and event["op"] == "write"]
    assert numbers["bytes"] == 10

    text = goexfs("log", "@", "out/copy").stdout.splitlines()
    assert any("create" in line and "out/copy" in line and "cp README.md out/copy" in line for line in text)
    assert all("out/copy" in line for line in text)
    nothing = goexfs("log", "@", "unread")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "has nothing about unread" in nothing.stderr
    nothing = goexfs("hunks", "@", "unread")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "changed nothing at unread" in nothing.stderr

    blamed = goexfs.json("blame", "@", "out/uno")
    assert blamed["command"][:2] == ["sh", "-c"]
    fork = goexfs.json("fork", "@", "forked")["id"]
    theirs = goexfs.json("blame", fork, "out/uno")
    assert (theirs["of_run"], theirs["record"]) == (blamed["run"], blamed["record"]) and blamed["of_run"] is None
    assert f"{blamed['run']}@#{blamed['record']}  " in goexfs("blame", fork, "out/uno").stdout
    goexfs("discard", fork)
    assert len(blamed["lineage"]) == 2
    assert "started by sh -c" in goexfs("blame", "@", "out/uno").stdout
    assert goexfs.json("blame", "@", "out/two")["op"] == "unlink"
    unknown = goexfs("blame", "@", "unread")
    assert unknown.returncode != 0
    assert unknown.stderr.count("\n") == 1

    reads = goexfs.json("reads", "@")["reads"]
    assert [read["path"] for read in reads] == ["README.md"]

    then = f"@#{renamed['record'] - 1}"
    assert [event["record"] for event in goexfs.json("log", then)["events"]] == [
        event["record"] for event in events if event["record"] < renamed["record"]
    ]
    assert goexfs("blame", then, "out/uno").returncode != 0
    assert goexfs.json("blame", then, "out/one")["op"] == "write"
    assert [read["path"] for read in goexfs.json("reads", then)["reads"]] == ["README.md"]
    assert goexfs.json("reads", "@#1")["reads"] == []
    assert goexfs("log", then, "--follow").returncode == 2
    found = os.stat(goexfs.cwd / "README.md")
    assert reads[0]["identity"]["ino"] == found.st_ino
    assert reads[0]["identity"]["mtime_ns"] == found.st_mtime_ns
    assert goexfs("reads", "@").stdout == "README.md\n"

    groups = goexfs.json("diff", "@", "--by-process")["groups"]
    by = {tuple(group["lineage"][0]["command"][:2]): {c["path"] for c in group["changes"]} for group in groups}
    assert by[("cp", "README.md")] == {"out/copy"}
    assert by[("mkdir", "out")] == {"out"}
    assert "cp README.md out/copy" in goexfs("diff", "@", "--by-process").stdout
    selected = goexfs("diff", "@", "--name-status", "--process", "cp *").stdout
    assert selected == "C\tREADME.md\tout/copy\n"
    assert goexfs("diff", "@", "--by-process", "--stat").returncode == 2


def test_a_mounted_run_is_told_of_as_it_goes(goexfs: Command, area: Path) -> None:
    place = area / "mnt"
    place.mkdir()
    assert goexfs("mount", ".", place, "--name", "live").returncode == 0
    with subprocess.Popen(
        [*GOEXFS, "log", "live", "--follow", "--json"], stdout=subprocess.PIPE, text=True, env=environment(),
        cwd=goexfs.cwd,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        time.sleep(1.5)
        subprocess.run(["sh", "-c", "echo now > new; mkdir made"], cwd=place, check=True)
        assert any(event["path"] == "made" for event in goexfs.json("log", "live")["events"])
        assert goexfs.json("blame", "live", "made")["command"][0] == "mkdir"
        assert goexfs("umount", "live").returncode == 0
        lines = [json.loads(line) for line in follower.stdout]
    assert follower.returncode == 0
    assert {"new", "made"} <= {line["path"] for line in lines}
