"""The group: loading on demand, help, version, and the way out on an error."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from goexfs.cli import errors
from goexfs.cli.group import THEMES, cli
from goexfs.cli.main import will_mount
from tests.cli.conftest import GOEXFS, Command, environment

HEAVY = ("rich", "pygit2", "watchdog", "trio", "pyfuse3", "importlib.metadata", "sqlite3", "msgspec", "asyncio")


def test_help_names_every_command(goexfs: Command) -> None:
    done = goexfs("--help")
    assert done.returncode == 0
    for name in THEMES:
        assert re.search(rf"^  {name} +\S", done.stdout, re.MULTILINE), f"{name} has no help"


@pytest.mark.parametrize("name", THEMES)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "-h"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_version(goexfs: Command) -> None:
    from goexfs import __version__

    done = goexfs("--version")
    assert (done.returncode, done.stdout) == (0, f"goexfs {__version__}\n")


@pytest.mark.parametrize("args", [["-h"], ["run", "-h"]])
def test_starting_imports_nothing_heavy(args: list[str]) -> None:
    """What ``goexfs run`` imports before it does anything is click and this package."""
    program = (
        "import sys\nfrom goexfs.cli.group import cli\n"
        "cli.get_command(None, 'run')\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["run"],
        ["run", "--no-such-option", "--", "true"],
        ["run", "--run", "x", "--base", ".", "--", "true"],
        ["run", "--run", "x", "--name", "y", "--", "true"],
        ["mount"],
        ["mount", "a", "b", "c"],
        ["mount", "--run", "x"],
        ["umount"],
        ["show"],
        ["diff"],
        ["diff", "x", "--stat", "-z"],
        ["diff", "x", "--color", "sometimes"],
        ["merge"],
        ["discard"],
        ["gc", "extra"],
        ["ls", "extra"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2(args: list[str], goexfs: Command) -> None:
    done = goexfs(*args)
    assert done.returncode == errors.USAGE
    assert re.fullmatch(r"goexfs: .+ \(`goexfs[a-z ]* --help` shows how it is written\)\n", done.stderr), done.stderr
    assert done.stdout == ""


def test_words_quoted_in_a_usage_error_do_not_act() -> None:
    result = CliRunner().invoke(cli, ["show", "run", "x\x1b[31m\n\u202e"], prog_name="goexfs", color=True)
    assert result.exit_code == errors.USAGE
    assert result.stderr.isascii() and result.stderr[:-1].isprintable(), result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_no_word_at_all_is_answered_with_the_help() -> None:
    for words in ([], ["effect"], ["policy"]):
        assert CliRunner().invoke(cli, words, prog_name="goexfs").stderr.startswith("Usage: goexfs")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("words", [["--help"], ["doctor"], ["ls"], ["export", "x"]], ids=" ".join)
def test_an_output_that_cannot_be_written_is_one_line(words: list[str], goexfs: Command) -> None:
    goexfs.kept("echo > new", name="x")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*GOEXFS, *words], cwd=goexfs.cwd, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == errors.STATUS[errors.OutputFailed]
    assert done.stderr.count("\n") == 1
    assert "standard output cannot be written: No space left on device" in done.stderr


def test_closed_streams_are_no_obstacle(goexfs: Command) -> None:
    goexfs.kept("echo > new", name="x")
    for closed in (">&-", "<&- >&- 2>&-"):
        for words in ("ls", "diff x", "run --keep -- sh -c 'cat; echo out; echo err >&2; echo > made'"):
            shell = ["sh", "-c", f'"$@" {words} {closed}', "sh", *GOEXFS]
            done = subprocess.run(
                shell, cwd=goexfs.cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, (words, closed, done.stderr)


def test_an_unexpected_exception_is_one_line_and_a_file(
    area: Path, monkeypatch: pytest.MonkeyPatch, goexfs_home: Path
) -> None:
    import goexfs

    def broken(**_options: object) -> None:
        raise RuntimeError("two\nlines \x1b[1m")

    monkeypatch.setattr(goexfs, "open_store", broken, raising=False)
    monkeypatch.setenv("TMPDIR", str(area))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = CliRunner().invoke(cli, ["gc"])
    assert result.exit_code == errors.INTERNAL
    assert re.fullmatch(
        r"goexfs: internal error: RuntimeError: two\\nlines \\x1b\[1m \(please report it; the traceback is in .*\)\n",
        result.stderr,
    )
    (written,) = area.glob("goexfs-traceback-*.txt")
    assert "Traceback (most recent call last)" in written.read_text()
    assert written.stat().st_mode & 0o077 == 0


def test_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    import goexfs

    def interrupted(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(goexfs, "open_store", interrupted, raising=False)
    result = CliRunner().invoke(cli, ["gc"])
    assert result.exit_code == errors.INTERRUPTED
    assert result.stderr == "goexfs: interrupted\n"


def test_a_reader_that_goes_away_is_no_traceback(goexfs: Command) -> None:
    process = subprocess.Popen(
        [*GOEXFS, "doctor"],
        cwd=goexfs.cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == errors.READER_GONE
    assert said == ""


def test_groups_of_one_are_unwrapped() -> None:
    failure = errors.Failure(BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()])]))
    assert failure.exit_code == errors.INTERRUPTED


def test_click_aborts_like_an_interruption() -> None:
    assert errors.status_of(click.Abort()) == errors.INTERRUPTED


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--", "true"], True),
        (["run", "--", "prog", "--help"], True),
        (["run", "--discard", "true"], True),
        (["run", "--help"], False),
        (["run", "-h", "--", "x"], False),
        (["run"], False),
        (["mount", "a", "b"], True),
        (["ls"], False),
        ([], False),
        (["--version"], False),
        (["diff", "run"], False),
    ],
)
def test_a_server_is_started_early_only_for_what_mounts(words: list[str], expected: bool) -> None:
    assert will_mount(words) is expected
