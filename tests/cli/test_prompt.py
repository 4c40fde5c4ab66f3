"""The question at the end of ``goexfs run``, asked on a real terminal."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Terminal
from tests.support.trees import differences, picture

QUESTION = r"\[m\]erge into .*, \[k\]eep, \[d\]iff, \[x\] discard: "
CHANGE = "echo new > added; rm docs/link; printf 'evil \\033[2Jline\\n' > hostile"


@pytest.fixture
def asked(goexfs: Command, terminals: list[Terminal]) -> Terminal:
    """A run with three changes, at the question."""
    terminal = goexfs.terminal("run", "--name", "work", "--", "sh", "-c", CHANGE)
    terminals.append(terminal)
    terminal.expect(r"3 changes: 1 deleted, 2 added")
    terminal.expect(r"D\S*  docs/link")
    terminal.expect(QUESTION)
    return terminal


def states(goexfs: Command) -> list[str]:
    return [run["state"] for run in goexfs.json("ls", "--all")["runs"]]


def test_merge(asked: Terminal, goexfs: Command, fresh_base: Path) -> None:
    asked.type("m\n")
    asked.expect("merged")
    asked.expect("goexfs undo 1 takes it back")
    assert asked.wait() == 0
    assert (fresh_base / "added").read_text() == "new\n"
    assert not (fresh_base / "docs" / "link").is_symlink()
    assert states(goexfs) == ["merged"]


def test_discard(asked: Terminal, goexfs: Command, fresh_base: Path) -> None:
    before = picture(fresh_base)
    asked.type("x\n")
    assert asked.wait() == 0
    assert states(goexfs) in ([], ["discarded"])
    assert differences(before, picture(fresh_base)) == []


def test_words_do_too(asked: Terminal, goexfs: Command) -> None:
    asked.type("Discard\n")
    assert asked.wait() == 0
    assert states(goexfs) in ([], ["discarded"])


def test_keep(asked: Terminal, goexfs: Command) -> None:
    asked.type("k\n")
    asked.expect("goexfs merge ")
    assert asked.wait() == 0
    assert states(goexfs) == ["kept"]


def test_the_diff_and_then_the_question_again(asked: Terminal, goexfs: Command) -> None:
    asked.type("d\n")
    asked.expect(r"diff --git a/added b/added")
    asked.expect(r"evil \^\[\[2Jline")
    asked.expect(QUESTION)
    assert "\x1b[2J" not in asked.shown
    asked.type("k\n")
    assert asked.wait() == 0


def test_an_unclear_answer_is_asked_again(asked: Terminal, goexfs: Command) -> None:
    asked.type("\n")
    asked.expect(QUESTION)
    asked.type("y\n")
    asked.expect(QUESTION)
    asked.type("k\n")
    assert asked.wait() == 0
    assert states(goexfs) == ["kept"]


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "end-of-input"])
def test_turning_away_keeps(key: str, asked: Terminal, goexfs: Command) -> None:
    asked.type(key)
    asked.expect(r"kept .*\.  Next:")
    assert asked.wait() == 0
    assert states(goexfs) == ["kept"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_being_killed_at_the_question_keeps(number: signal.Signals, asked: Terminal, goexfs: Command) -> None:
    os.kill(asked.pid, number)
    asked.wait()
    assert states(goexfs) == ["kept"]


def test_a_closed_terminal_keeps(asked: Terminal, goexfs: Command) -> None:
    asked.hang_up()
    asked.wait()
    assert states(goexfs) == ["kept"]


def test_a_refused_merge_keeps_and_says_so(asked: Terminal, goexfs: Command, fresh_base: Path) -> None:
    (fresh_base / "added").write_text("somebody else's\n")
    asked.type("m\n")
    asked.expect(r"goexfs: .*")
    asked.expect("kept ")
    assert asked.wait() == 79
    assert states(goexfs) == ["kept"]
    assert (fresh_base / "added").read_text() == "somebody else's\n"


def test_what_was_typed_to_the_command_does_not_answer(goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", "--", "sh", "-c", "echo new > added; echo ready; sleep 1")
    terminals.append(terminal)
    terminal.expect("ready")
    terminal.type("x\nm\n")
    terminal.expect(QUESTION)
    terminal.type("k\n")
    assert terminal.wait() == 0
    assert states(goexfs) == ["kept"]


def test_nothing_changed_nothing_asked(goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", "--", "true")
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert "nothing changed" in terminal.shown
    assert not re.search(QUESTION, terminal.shown)


@pytest.mark.parametrize("wish", ["--keep", "--discard", "--merge"])
def test_a_wish_is_not_asked_for(wish: str, goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", wish, "--", "sh", "-c", "echo new > added")
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert not re.search(QUESTION, terminal.shown)


def test_ctrl_c_ends_the_command_and_then_it_asks(goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", "--", "sh", "-c", "echo new > added; echo ready; exec sleep 60")
    terminals.append(terminal)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect(QUESTION)
    terminal.type("x\n")
    assert terminal.wait() == 130
    assert states(goexfs) in ([], ["discarded"])


def test_a_terminal_left_raw_is_mended_before_the_question(goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", "--", "sh", "-c", "echo new > added; stty raw -echo")
    terminals.append(terminal)
    terminal.expect(QUESTION)
    assert terminal.echo
    terminal.type("k\n")
    assert terminal.wait() == 0


def test_a_shell_with_job_control_gives_the_terminal_back(goexfs: Command, terminals: list[Terminal]) -> None:
    terminal = goexfs.terminal("run", "--", "bash", "--norc", "-i", PS1="ready> ")
    terminals.append(terminal)
    terminal.expect("ready> ")
    terminal.type("echo new > added\n")
    terminal.expect("ready> ")
    terminal.type("exit\n")
    terminal.expect(QUESTION)
    terminal.type("m\n")
    assert terminal.wait() == 0
    assert states(goexfs) == ["merged"]


def test_the_pager_is_the_users_and_gets_colour(goexfs: Command, terminals: list[Terminal]) -> None:
    run = goexfs.kept("echo new > added")
    terminal = goexfs.terminal("diff", run, GOEXFS_PAGER="sed s/^/paged:/")
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert "paged:\x1b[1mdiff --git a/added b/added" in terminal.shown
    assert "paged:\x1b[32m+new" in terminal.shown
    plain = goexfs.terminal("diff", run, GOEXFS_PAGER="sed s/^/paged:/", NO_COLOR="1")
    terminals.append(plain)
    assert plain.wait() == 0
    assert "paged:+new" in plain.shown
