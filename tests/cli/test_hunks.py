"""``merge -p``, ``merge --hunks``, ``hunks``, ``reject`` and ``rejected``, as a person and a program use them."""

import json
import signal
import subprocess
import sys
import time

import pytest

from goexfs import open_store
from tests.cli.conftest import environment

TEXT = "".join(f"{n}\n" for n in range(1, 41))
ASK = r"\]\? "


@pytest.fixture
def project(goexfs):
    """A run with two hunks in one file, a new file in a new directory, and a deletion."""
    (goexfs.cwd / "text").write_text(TEXT)
    (goexfs.cwd / "unwanted").write_text("bye\n")
    script = (
        "sed -i 's/^5$/five/;s/^8$/eight/;s/^30$/thirty/' text; mkdir -p new/dir; printf 'a\\nb\\n' > new/dir/f;"
        " rm unwanted"
    )
    goexfs.kept(script, name="r")
    return goexfs


@pytest.fixture
def ask(project, terminals):
    """Start ``merge -p`` and answer its questions; the terminal at its end."""

    def begin(*answers, editor="false", wait=True):
        terminal = project.terminal("merge", "r", "-p", EDITOR=editor, VISUAL="", GIT_EDITOR=editor, COLUMNS="200")
        terminals.append(terminal)
        for answer in answers:
            terminal.expect(ASK)
            terminal.type(answer + "\n")
        if wait:
            terminal.status = terminal.wait()
        return terminal

    return begin


def number_of_runs():
    with open_store(create=False) as store:
        return len(store.runs(all=True))


def text_of(project):
    return (project.cwd / "text").read_text()


def test_some_of_it(ask, project):
    # new/dir/f, the two hunks of text, unwanted: in this order
    assert ask("y", "y", "n", "n").status == 0
    assert text_of(project) == TEXT.replace("5\n", "five\n", 1).replace("8\n", "eight\n", 1)
    assert (project.cwd / "new" / "dir" / "f").read_text() == "a\nb\n"
    assert (project.cwd / "unwanted").exists()
    left = {c["path"]: c["status"] for c in project.json("diff", "r")["changes"]}
    assert left == {"text": "M", "unwanted": "D"}
    assert project("merge", "r").returncode == 0
    assert "thirty" in text_of(project)


def test_split_go_and_search(ask, project):
    terminal = ask("n", "J", "/eight", "s", "y", "n", "y", "q")
    assert "Split into 2 hunks" in terminal.shown
    assert "(1/3)" in terminal.shown
    expected = TEXT.replace("5\n", "five\n", 1).replace("30\n", "thirty\n")
    assert text_of(project) == expected


def test_all_and_none_of_a_file_and_quit(ask, project):
    ask("n", "a", "q")
    assert "five" in text_of(project)
    assert "thirty" in text_of(project)
    assert (project.cwd / "unwanted").exists()


def test_help_names_only_what_can_be_done(ask):
    terminal = ask("?", "q")
    assert "y - merge this addition" in terminal.shown
    assert "s - split" not in terminal.shown
    assert "nothing was chosen" in terminal.shown


def test_an_edited_hunk(ask, project, area):
    editor = area / "edit"
    editor.write_text("#!/bin/sh\nsed -i 's/^+five/+FIVE/;/^+eight/d;s/^-8/ 8/' \"$1\"\n")
    editor.chmod(0o755)
    assert ask("n", "e", "n", "n", editor=str(editor)).status == 0
    assert text_of(project) == TEXT.replace("5\n", "FIVE\n", 1)
    cat = project("cat", "r", "text").stdout
    assert "five" in cat
    assert "eight" in cat


def test_an_edit_that_does_not_apply(ask, project, area):
    editor = area / "edit"
    editor.write_text("#!/bin/sh\nsed -i 's/^ 4/ four/' \"$1\"\n")
    editor.chmod(0o755)
    terminal = ask("n", "e", "n", "q", editor=str(editor))
    assert "does not apply" in terminal.shown
    assert text_of(project) == TEXT


def test_reject_with_a_reason(ask, project):
    terminal = ask("n", "r too many words", "r", wait=False)
    terminal.expect("why")
    terminal.type("not this \x1b[31meither\n")
    terminal.expect(ASK)
    terminal.type("q\n")
    assert terminal.wait() == 0
    listed = project.json("rejected", "r")["rejected"]
    assert listed[0]["reason"] == "too many words"
    assert [each["path"] for each in listed] == ["text", "text"]
    assert "-5" in listed[0]["lines"]
    assert all(each["still_there"] for each in listed)
    assert "\x1b" not in project("rejected", "r").stdout


def test_ctrl_c_the_end_of_input_and_no_terminal_merge_nothing(ask, project):
    for key in ("\x03", "\x04"):
        terminal = ask("y", "y", wait=False)
        terminal.expect(ASK)
        terminal.type(key)
        assert terminal.wait() == 130
    done = project("merge", "r", "-p")
    assert done.returncode == 2
    assert "--hunks FILE" in done.stderr
    assert text_of(project) == TEXT
    assert not (project.cwd / "new").exists()


def test_hunks_as_json(project, area):
    listed = project.json("hunks", "r", "text")
    [change] = listed["changes"]
    first, second = change["parts"]
    assert first["splits_into"] == [f"{first['id']}/1", f"{first['id']}/2"]
    (area / "choice").write_text(json.dumps({"changes": {"text": [first["splits_into"][1], second["id"]]}}))
    done = project("merge", "r", "--hunks", area / "choice")
    assert done.returncode == 0, done.stderr
    assert text_of(project) == TEXT.replace("8\n", "eight\n", 1).replace("30\n", "thirty\n")
    [left] = project.json("hunks", "r", "text")["changes"]
    assert len(left["parts"]) == 1
    whole = project.json("hunks", "r")
    done = project("merge", "r", "--hunks", "-", stdin=None, input=json.dumps(whole))
    assert done.returncode == 0, done.stderr
    assert "five" in text_of(project)
    assert project("show", "r").stdout.count("merged")


def test_choices_that_are_none(project, area):
    for choice, status in (
        ("", 2), ("[1]", 2), ('{"changes": {"text": "all"}}', 2), ('{"changes": {"text": ["nonsense"]}}', 110),
        ('{"changes": {"no\\u001bwhere": ["whole"]}}', 110),
    ):  # fmt: skip
        (area / "choice").write_text(choice)
        done = project("merge", "r", "--hunks", area / "choice")
        assert done.returncode == status, choice
        assert len(done.stderr.strip().splitlines()) <= 4
        assert "\x1b" not in done.stderr
    assert text_of(project) == TEXT


def test_reject_on_the_command_line(project):
    name = project.json("hunks", "r", "text")["changes"][0]["parts"][1]["id"]
    assert project("reject", "r", f"text:{name}", "-m", "why thirty?").returncode == 0
    assert project("reject", "r", "unwanted", "-m", "keep it").returncode == 0
    assert project("reject", "r", "text:nonsense", "-m", "x").returncode == 110
    assert project("reject", "r", "nowhere", "-m", "x").returncode == 110
    shown = project("rejected", "r").stdout
    assert "why thirty?" in shown
    assert "+thirty" in shown
    assert "keep it" in shown


def test_verify(project):
    done = project("merge", "r", "text", "--verify", "grep -q five text && test -e unwanted && touch mess && pwd")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(project.cwd)
    assert not (project.cwd / "mess").exists()
    assert "five" in text_of(project)
    assert number_of_runs() == 1


def test_verify_that_fails(project):
    done = project("merge", "r", "--verify", "true", "--verify", "echo no; rm -rf *; exit 7")
    assert done.returncode == 111
    assert "status 7" in done.stderr
    assert text_of(project) == TEXT
    assert number_of_runs() == 1
    assert project("fsck").returncode == 0


def test_a_base_that_changes_while_it_is_verified(project):
    # The command sees the base through the run; somebody else writes to the base itself.
    merging = subprocess.Popen(
        [sys.executable, "-m", "goexfs", "merge", "r", "--verify", "sleep 2"], cwd=project.cwd, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while number_of_runs() < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    (project.cwd / "text").write_text("mine\n")
    _, error = merging.communicate(timeout=60)
    assert merging.returncode in (79, 80), error
    assert text_of(project) == "mine\n"
    assert not (project.cwd / "new").exists()


def test_ctrl_c_while_verifying(project, terminals):
    terminal = project.terminal("merge", "r", "--verify", "echo here; sleep 60")
    terminals.append(terminal)
    terminal.expect("here")
    time.sleep(0.5)  # a shell that is interrupted between two commands waits for the second one first
    terminal.type("\x03")
    assert terminal.wait(within=40) == 130
    assert text_of(project) == TEXT
    assert number_of_runs() == 1


def test_killed_while_verifying(project):
    """The server of the temporary run sees that nobody wants it any more."""
    merging = subprocess.Popen(
        [sys.executable, "-m", "goexfs", "merge", "r", "--verify", "echo here; sleep 60"], cwd=project.cwd,
        env=environment(), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert merging.stdout is not None
    merging.stdout.readline()
    merging.send_signal(signal.SIGKILL)
    merging.wait()
    merging.stdout.close()
    deadline = time.monotonic() + 30
    while number_of_runs() > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert number_of_runs() == 1
    assert text_of(project) == TEXT
