"""`RUN@POINT` wherever a run is accepted: every command that takes one does, or says why not and what does."""

import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import goexfs as api
from goexfs.cli.errors import STATUS
from goexfs.cli.group import THEMES, cli
from goexfs.cli.params import PointRef, RunRef
from snapshots.errors import RunUnknown, SnapshotUnknown
from tests.cli.conftest import Command

AT = "work@one"

ACCEPTED: dict[str, tuple[str, ...]] = {
    "run": ("--run", AT, "--keep", "--", "cat", "file"),
    "mount": ("--run", AT, "mountpoint"),
    "show": (AT,), "diff": (AT, "--name-status"), "hunks": (AT,), "merge": (AT,), "conflicts": (AT,), "rebase": (AT,),
    "reject": (AT, "file", "-m", "no"), "rejected": (AT,), "export": (AT, "--format", "patch"), "snapshots": (AT,),
    "fork": (AT,), "rewind": (AT,), "cat": (AT, "file"), "log": (AT,), "blame": (AT, "file"), "reads": (AT,),
}  # fmt: skip
"""What reads or decides about contents, and how it is called in this test."""

REFUSED: dict[str, tuple[str, ...]] = {
    "umount": (AT,), "ps": (AT,), "kill": (AT,), "pause": (AT,), "resume": (AT,), "discard": (AT,),
    "snapshot": (AT, "again"), "effects": (AT,), "effect list": (AT,), "effect run": (AT,), "effect show": (AT, "1"),
    "effect drop": (AT, "1"), "effect retry": (AT, "1"), "effect edit": (AT, "1", "--file", "file"),
    "effect undo": (AT, "1"), "policy allow": (AT,), "policy deny": (AT,), "policy show": ("--run", AT),
    "policy check": ("--run", AT, "file"),
}  # fmt: skip
"""What is about a run as it is now."""


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, f"{prefix}{name} ")
            elif not command.hidden:
                yield f"{prefix}{name}", command


@pytest.fixture
def work(goexfs: Command) -> str:
    """A kept run: the file is 1 at the snapshot ``one``, and 2 now."""
    run = goexfs.kept("echo 1 > file; cat README > /dev/null", name="work")
    assert goexfs("snapshot", run, "one").returncode == 0
    assert goexfs("run", "--run", run, "--keep", "--", "sh", "-c", "echo 2 > file; echo 2 > later").returncode == 0
    return run


def test_every_command_is_in_one_list() -> None:
    assert set(THEMES)
    takes = {
        name: any(isinstance(p.type, PointRef) for p in command.params)
        for name, command in commands(cli)
        if any(isinstance(p.type, RunRef) for p in command.params)
    }
    assert {name for name, point in takes.items() if point} == set(ACCEPTED)
    assert {name for name, point in takes.items() if not point} == set(REFUSED)


def test_the_table_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `goexfs ")]
    listed = {
        name.strip(" `").removeprefix("goexfs ").split(" RUN")[0].removesuffix(" --run"): point.strip()
        for name, point in rows
    }
    assert {name for name, point in listed.items() if point == "yes"} == set(ACCEPTED)
    assert {name for name, point in listed.items() if point == "no"} == set(REFUSED)


def test_points_are_accepted(goexfs: Command, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(goexfs.cwd)
    runner = CliRunner()

    def call(name: str, *more: str) -> Result:
        done = runner.invoke(cli, [*name.split(), *ACCEPTED[name], *more])
        assert done.exit_code in (0, 1 if name == "diff" else 0), (name, done.output)
        return done

    def runs() -> list[str]:
        return [run["id"] for run in json.loads(runner.invoke(cli, ["ls", "--json"]).output)["runs"]]

    quiet = set(ACCEPTED) - {"run", "mount", "fork", "merge", "rebase", "rewind"}
    told = {name: call(name).stdout for name in sorted(quiet)}
    assert runs() == [work], "none of these left a run behind"
    assert told["cat"] == "1\n" and told["diff"] == "A\tfile\n"
    assert "A file" in told["hunks"] and "+1" in told["export"] and "later" not in told["hunks"] + told["export"]
    assert "changes      1" in told["show"] and "later" not in told["log"] and "README" in told["reads"]
    for name in sorted(quiet):
        done = runner.invoke(cli, [*name.split(), *(part.replace(AT, "work@two") for part in ACCEPTED[name])])
        assert done.exit_code == STATUS[SnapshotUnknown], (name, done.output)

    (goexfs.cwd / "file").write_text("the base's\n")
    assert "file" in call("conflicts").stdout and runs() == [work]
    assert runner.invoke(cli, ["rebase", AT]).exit_code != 0 and runs() == [work]
    (goexfs.cwd / "file").unlink()
    (goexfs.cwd / "elsewhere").write_text("the base's\n")
    assert "stays as it is" in call("rebase").output
    assert call("rebase", "--dry-run") and len(runs()) == 2
    call("fork")
    assert len(runs()) == 3 and goexfs("cat", work, "file").stdout == "2\n"
    assert goexfs("merge", work, "--dry-run", "--json").returncode == 0

    done = goexfs("run", *ACCEPTED["run"])
    assert done.stdout == "1\n" and "a fork of what work was then" in done.stderr, done.stderr
    before = runs()
    assert goexfs("run", "--run", "work@two", "--keep", "--", "true").returncode == STATUS[SnapshotUnknown]
    assert goexfs("run", "--run", AT, "--discard", "--", "true").returncode == 0
    assert runs() == before
    os.mkdir(goexfs.cwd.parent / "mountpoint")
    mountpoint = str(goexfs.cwd.parent / "mountpoint")
    assert goexfs("mount", "--run", AT, mountpoint).returncode == 0
    try:
        assert Path(mountpoint, "file").read_text() == "1\n"
    finally:
        assert goexfs("umount", mountpoint).returncode == 0

    other = goexfs.kept("echo o > other", name="other")
    goexfs("snapshot", other, "s")
    goexfs("run", "--run", other, "--keep", "--", "sh", "-c", "echo p > other")
    done = goexfs("merge", AT, "other@s")
    assert done.returncode == 0, done.stderr
    assert (goexfs.cwd / "file").read_text() == "1\n" and (goexfs.cwd / "other").read_text() == "o\n"
    assert goexfs("cat", "other", "other").stdout == "p\n" and goexfs("cat", work, "file").stdout == "2\n"
    assert call("rewind") and goexfs("cat", work, "file").stdout == "1\n"


def test_points_are_refused(goexfs: Command, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(goexfs.cwd)
    runner = CliRunner()
    for (name, words), point in product(REFUSED.items(), ("one", "~1", "#1", "{1 hour ago}")):
        done = runner.invoke(cli, [*name.split(), *(word.replace(AT, f"work@{point}") for word in words)])
        assert done.exit_code == STATUS[RunUnknown], (name, done.output)
        assert "goexfs fork work@" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_every_notation_is_accepted(goexfs: Command, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(goexfs.cwd)
    with api.open_store(create=False) as store:
        run = store.run(work)
        record = run.position("one") - 1
        last = next(event for event in run.log(at="one").events if event.path == b"file")
    for point in ("one", "~1", f"#{record}", f"#{last.last}"):
        for name in ("show", "hunks", "conflicts", "rejected", "snapshots"):
            done = CliRunner().invoke(cli, [name, f"work@{point}", "--json"])
            assert done.exit_code == 0, (name, point, done.output)
    shown = json.loads(CliRunner().invoke(cli, ["show", "work@~1", "--json"]).output)["at"]
    assert (shown["record"], shown["snapshots"], shown["changes"]) == (record, ["one"], 1)
    assert json.loads(CliRunner().invoke(cli, ["snapshots", "work@#1", "--json"]).output)["snapshots"] == []
