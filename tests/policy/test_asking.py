"""A limit with ``pause`` is asked about on the terminal that the command has, and the command gets it back."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import GOEXFS, Command, Terminal, environment
from tests.cli.conftest import goexfs as goexfs
from tests.cli.conftest import terminals as terminals

POLICY = '[limits]\ndeletions = { most = 1, then = "pause" }\n'
DELETE = """
rm f0; rm f1 && echo removed-f1; rm f2 && echo removed-f2; rm f3 || echo refused-f3
read line; echo got-$line
"""
QUESTION = r"the run waits: unlink of process \d+ would go beyond {} deletions?(?s:.*)or the new limit: "


@pytest.fixture
def base(fresh_base: Path, tmp_path: Path) -> Path:
    for number in range(5):
        (fresh_base / f"f{number}").write_text("x")
    (tmp_path / "pause.toml").write_text(POLICY)
    return fresh_base


def begin(goexfs: Command, terminals: list[Terminal], tmp_path: Path, script: str, *options: str) -> Terminal:
    policy = ("--policy", str(tmp_path / "pause.toml"))
    terminals.append(goexfs.terminal("run", "--keep", "--name", "work", *policy, *options, "--", "sh", "-c", script))
    return terminals[-1]


def refuse_the_last(terminal: Terminal) -> None:
    """Say no, and see the command go on with its terminal."""
    terminal.type("n\n")
    terminal.expect("refused-f3")
    terminal.type("typed\n")
    terminal.expect("got-typed")
    assert terminal.wait() == 0


@pytest.mark.parametrize("options", [(), ("--no-sandbox",)])
def test_what_waits_is_asked_about(
    goexfs: Command, terminals: list[Terminal], tmp_path: Path, base: Path, options: tuple[str, ...]
) -> None:
    terminal = begin(goexfs, terminals, tmp_path, DELETE, *options)
    terminal.expect(QUESTION.format(1))
    terminal.type("1\n")
    terminal.expect("a number above 1, such as 2")
    terminal.type("2\n")
    terminal.expect("removed-f1")
    terminal.expect(QUESTION.format(2))
    terminal.type("maybe\n")
    terminal.expect("the answer is y, n, or")
    terminal.type("y\n")
    terminal.expect("removed-f2")
    terminal.expect(QUESTION.format(3))
    refuse_the_last(terminal)
    assert terminal.echo


def test_no_is_for_what_comes_after_too(
    goexfs: Command, terminals: list[Terminal], tmp_path: Path, base: Path
) -> None:
    terminal = begin(goexfs, terminals, tmp_path, DELETE)
    terminal.expect(QUESTION.format(1))
    refuse_the_last(terminal)
    assert len(re.findall("the run waits", terminal.shown)) == 1
    assert [change["path"] for change in goexfs.json("diff", "work")["changes"]] == ["f0"]


def test_ctrl_c_at_the_question_is_for_the_command(
    goexfs: Command, terminals: list[Terminal], tmp_path: Path, base: Path
) -> None:
    terminal = begin(goexfs, terminals, tmp_path, "trap 'echo caught' INT; rm f0; rm f1; echo after; exit 5")
    terminal.expect(QUESTION.format(1))
    terminal.type("\x03")
    terminal.expect("caught")
    terminal.expect("after")
    assert terminal.wait() == 5
    assert terminal.echo


def test_the_user_of_another_terminal_is_heard_too(
    goexfs: Command, terminals: list[Terminal], tmp_path: Path, base: Path
) -> None:
    """What was decided there is not asked about any more."""
    terminal = begin(goexfs, terminals, tmp_path, "rm f0; rm f1 && echo removed-f1; rm f2 && echo removed-f2")
    terminal.expect(QUESTION.format(1))
    assert goexfs("policy", "allow", "work", "--most", "4").returncode == 0
    terminal.expect("removed-f1")
    terminal.expect("removed-f2")
    assert terminal.wait() == 0


def test_without_a_terminal_the_command_to_type_is_said(goexfs: Command, tmp_path: Path, base: Path) -> None:
    argv = [*GOEXFS, "run", "--keep", "--name", "work", "--policy", str(tmp_path / "pause.toml"), "--", "sh", "-c"]
    process = subprocess.Popen(
        [*argv, "rm f0; rm f1"], cwd=base, env=environment(), stdin=subprocess.DEVNULL, text=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "waits" in line:
                assert "goexfs policy allow work, or goexfs policy deny work" in line
                break
        assert goexfs("policy", "deny", "work").returncode == 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
