"""Names and contents that would act on a terminal, shown by every command that prints them."""

import re

import pytest

TITLE = "\x1b]0;pwned\x07"
CLEAR = "\x1b[2J"
NAMES = [
    f"esc{TITLE}{CLEAR}", "new\nline  D  forged", "back\rover", "\u202eexe.txt", "bell\x07", "c1\x9b31m", "del\x7f",
]  # fmt: skip
STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[K")
"""What goexfs itself writes: colours."""
BAD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def planted(goexfs):
    for name in NAMES[:2]:
        (goexfs.cwd / name).write_text("old\n")
    script = "".join(f"printf 'x{TITLE}\\n' > '{name}'\n" for name in NAMES) + f"ln -s 'to{CLEAR}' 'link{CLEAR}'\n"
    run = goexfs.kept(script, name="r")
    assert run
    return goexfs


COMMANDS = [
    ["diff", "r", "--name-status"], ["diff", "r", "--stat"], ["diff", "r", "--by-process"], ["diff", "r", "--json"],
    ["hunks", "r"], ["hunks", "r", "--json"], ["ls"], ["show", "r"], ["log", "r"], ["blame", "r", NAMES[0]],
    ["reads", "r"], ["conflicts", "r"], ["merge", "r", "--dry-run"], ["merge", "r", "--json", "--dry-run"],
    ["reject", "r", NAMES[0], "-m", f"no{TITLE}"], ["rejected", "r"], ["reject", "r", f"no{TITLE}", "-m", "x"],
    ["export", "r", "-o", f"../out{TITLE}"], ["import", f"../out{TITLE}", "--name", "again"],
    ["import", f"nowhere{TITLE}"], ["merge", "r", NAMES[0], "--verify", f"echo >/dev/null; false #{TITLE}"],
    ["merge", "r"], ["merges"], ["undo", "--dry-run"], ["undo"], ["diff", "again", "--name-status"],
]  # fmt: skip


def test_no_command_lets_a_name_act(planted):
    """Off a terminal; a patch is data there, and left out."""
    for argv in COMMANDS:
        done = planted(*argv, errors="surrogateescape")
        assert "traceback" not in done.stderr, done.stderr
        for stream in (done.stdout, done.stderr):
            assert not BAD.search(stream), (argv, BAD.search(stream), stream)
            assert not re.search(r"^line  D  forged", stream, re.MULTILINE), argv


def test_nothing_acts_on_a_terminal(planted, terminals):
    for argv in (["diff", "r"], ["hunks", "r"], ["merge", "r", "-p"], ["merge", "r"]):
        terminal = planted.terminal(*argv)
        terminals.append(terminal)
        if "-p" in argv:
            for answer in ["?", "g", "n"] + ["n"] * 20:
                found = terminal.expect(r"\]\? |nothing was chosen|which one\? ")
                if found.startswith("nothing"):
                    break
                terminal.type("1\n" if found.startswith("which") else answer + "\n")
        assert terminal.wait() == 0
        shown = STYLE.sub("", terminal.shown.replace("\r\n", "\n"))
        assert not BAD.search(shown), (argv, BAD.search(shown))
        assert "\r" not in shown


def test_an_export_is_not_for_a_terminal(planted, terminals):
    """Byte for byte it would act there."""
    terminal = planted.terminal("export", "r")
    terminals.append(terminal)
    assert terminal.wait() == 2
    assert "pwned" not in terminal.shown
