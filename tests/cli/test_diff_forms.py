"""``diff`` for people, and of two states: on real runs, in a process of its own, without and with a terminal."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Terminal

WORK = r"""
mkdir -p .git/hooks; printf '#!/bin/sh\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
ln -s /etc/passwd leak; cp README copy; rm src/tool.sh; printf '#!/bin/sh\necho tool\n' > tool
printf 'token = ghp_%s\n' a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1 > conf
sed -i 's/line_7 = 7/line_7 = seven/' src/pkg/core.py; printf 'if a \342\200\256 b\n' > odd.py
setfattr -n user.x -v 1 docs/data.bin; printf '\0' >> docs/data.bin
touch -- "$(printf 'in\342\200\213visible')" "$(printf 'line\n\033[2J')"
"""


@pytest.fixture
def worked(goexfs: Command) -> str:
    return goexfs.kept(WORK, name="work")


def test_rich_is_for_people_and_says_what_deserves_a_second_look(
    goexfs: Command, worked: str, terminals: list[Terminal]
) -> None:
    terminal = goexfs.terminal("diff", "work")
    terminals.append(terminal)
    assert terminal.wait() == 0
    shown = terminal.shown.replace("\r\n", "\n")
    marks, _, rest = shown.partition("\n\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", marks).splitlines()
    assert plain[0] == "deserves a second look (5 paths):"
    assert [line.split("  ")[2] for line in plain[1:]] == [
        "conf", "leak", ".git/hooks/pre-commit", '"in\\342\\200\\213visible"', "odd.py",
    ]  # fmt: skip
    assert "\x1b[2J" not in shown
    assert "copy from README" in rest
    assert "rename from src/tool.sh" in rest
    assert "GIT binary patch" not in rest
    assert "@@ binary @@" in rest
    assert "extended attribute user.x of docs/data.bin: none" in rest
    assert "<U+202E>" in rest
    assert "reorders text" in rest
    assert "\x1b[7m" in rest, "the words that differ stand out"


def test_off_a_terminal_it_is_a_patch(goexfs: Command, worked: str, fresh_base: Path, area: Path) -> None:
    done = goexfs("diff", "work", text=False)
    assert b"second look" not in done.stdout
    assert b"copy from" not in done.stdout
    assert b"# copy is a copy of README\n" in done.stdout
    subprocess.run(["cp", "-a", fresh_base, area / "copy"], check=True)
    for options in ([], ["-R"]):
        command = ["git", "apply", "--exclude=.git/*", *options]
        applied = subprocess.run(command, cwd=area / "copy", input=done.stdout, capture_output=True, check=False)
        assert applied.returncode == 0, applied.stderr
    assert not (area / "copy" / "copy").exists()


def test_json_has_the_marks_and_how_a_pair_was_found(goexfs: Command, worked: str) -> None:
    document = goexfs.json("diff", "work")
    by_path = {change["path"]: change for change in document["changes"]}
    assert (by_path["copy"]["status"], by_path["copy"]["old_path"]) == ("C", "README")
    assert (by_path["tool"]["status"], by_path["tool"]["found_by"]) == ("R", "content")
    assert by_path["docs/data.bin"]["xattrs"]["user.x"]["after"]["hex"] == "31"
    assert {"path": "leak", "status": "A", "kind": "link-outside"}.items() <= next(
        mark for mark in document["second_look"] if mark["path"] == "leak"
    ).items()
    assert document["not_looked_into"] == 0
    names = goexfs("diff", "work", "--name-status", "--no-renames").stdout
    assert "D\tsrc/tool.sh\n" in names
    assert "A\tcopy\n" in names


def test_words_and_context(goexfs: Command, worked: str) -> None:
    assert " = [-7-]{+seven+}\n" in goexfs("diff", "work", "--word-diff", "src").stdout
    assert "\x1b[31m7\x1b[0m\x1b[32mseven\x1b[0m" in goexfs("diff", "work", "--color-words", "src").stdout
    bare = goexfs("diff", "work", "-U0", "src/pkg").stdout
    assert bare.count("\n line_") == 0
    assert "@@ -8 +8 @@" in bare
    assert goexfs("diff", "work", "--word-diff", "--patch").returncode == 2


def test_times_on_request(goexfs: Command) -> None:
    run = goexfs.kept("touch -d 2001-02-03T04:05:06Z README")
    assert goexfs("diff", run, "--name-status").stdout == ""
    assert goexfs("diff", run, "--times", "--name-status").stdout.splitlines()[0] == "X\tREADME"
    assert "# mtime of README: 2020-09-13T12:26:40.123456789Z -> 2001-02-03T04:05:06.000000000Z\n" in (
        goexfs("diff", run, "--times").stdout
    )


def test_the_summary_of_a_run_and_the_listing_of_a_merge_begin_with_the_marks(goexfs: Command, worked: str) -> None:
    done = goexfs("run", "--run", "work", "--keep", "--", "true")
    assert re.search(r"changes: .*\ndeserves a second look \(\d+ paths\):\n  ! A  conf ", done.stderr), done.stderr
    merged = goexfs("merge", "work", "--dry-run")
    assert merged.stdout.startswith("deserves a second look"), merged.stdout
    assert json.loads(goexfs("merge", "work", "--json").stdout)["second_look"]


def test_two_runs_and_two_points(goexfs: Command, fresh_base: Path) -> None:
    goexfs.kept("echo one > f; echo same > both; echo x > gone", name="one")
    goexfs("snapshot", "one", "early")
    goexfs.kept("echo two > f; echo same > both; rm README", name="two")
    done = goexfs("diff", "one", "two", "--name-status")
    assert done.stdout == "D\tREADME\nM\tf\nD\tgone\n", done.stderr
    patch = goexfs("diff", "one", "two").stdout
    assert "-one\n+two\n" in patch
    assert goexfs("diff", "one", "two", "f", "--name-status").stdout == "M\tf\n"
    goexfs("run", "--run", "one", "--keep", "--", "sh", "-c", "echo more >> f")
    assert goexfs("diff", "one@early", "one", "--name-status").stdout == "M\tf\n"
    assert "+more" in goexfs("diff", "one@early", "one@~0").stdout
    assert goexfs("diff", "one", "one@early", "--exit-code", "--name-status").returncode == 1
    document = goexfs.json("diff", "one@early", "two")
    assert {c["path"] for c in document["changes"]} == {"README", "f", "gone"}
    assert document["before"]["at"] == "early"
    assert document["at"] is None
    (fresh_base / "two").write_text("a file of the name of a run\n")
    refused = goexfs("diff", "one", "two")
    assert refused.returncode == 2
    assert "two is a run and a path" in refused.stderr
    assert goexfs("diff", "one", "./two").returncode == 0


def test_a_database_by_row(goexfs: Command, fresh_base: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(fresh_base / "app.db", isolation_level=None)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    connection.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    connection.close()
    statement = "UPDATE t SET v = NULL WHERE id = 2"
    run = goexfs.kept(
        f'python3 -c "import sqlite3; c = sqlite3.connect(\'app.db\'); c.execute(\'{statement}\'); c.commit()"'
    )
    shown = goexfs("diff", run, "--rich").stdout
    assert "@@ table t: 0 added, 0 removed, 1 changed @@\n-id=2  v='b'\n+id=2  v=NULL\n" in shown
    assert "GIT binary patch" in goexfs("diff", run).stdout
