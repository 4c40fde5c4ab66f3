"""Names, sizes and ages as printed: whatever bytes an agent chose, a line stays a line and a terminal is safe."""

import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from goexfs.cli import output

HOSTILE = [
    b"\x1b[2J\x1b[H all gone",
    b"line\nforged  D  /etc/passwd",
    b"\xff\xfe raw",
    "\u202egnp.exe".encode(),
    b"tab\there",
    b"\x9b31m C1",
    b'back\\slash "quote"',
    "zero\u200bwidth".encode(),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_one_printable_line(name: bytes) -> None:
    for shown in (output.quoted(name), output.printable(name)):
        assert shown.isprintable()
    assert all(char.isprintable() or char == "\t" for char in output.visible(name))


@pytest.mark.parametrize("name", [b"plain", "näme ✓".encode(), b"with space", b"-dash"])
def test_harmless_names_are_shown_as_they_are(name: bytes) -> None:
    assert output.quoted(name) == output.printable(name) == output.visible(name) == name.decode()


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_quoted_is_exact(name: bytes) -> None:
    shown = output.quoted(name)
    assert shown.isprintable()
    assert unquoted(shown) == name


def unquoted(text: str) -> bytes:
    if not (text.startswith('"') and text.endswith('"') and len(text) > 1):
        return text.encode()
    # The shell's printf reads the same escapes, octal among them.
    body = text[1:-1].replace("%", "%%").replace('\\"', '"')
    return subprocess.run(["printf", body], capture_output=True, check=True, env={"LC_ALL": "C"}).stdout


def test_printable_shows_where_bytes_were_undecodable() -> None:
    assert output.printable(b"a\xff\x1b\nb") == "a\\xff\\x1b\\nb"
    assert output.visible(b"a\xff\x1b[1m\x7f") == "a<FF>^[[1m^?"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**60, "1024.0 PiB"),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    assert output.size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s"),
        (99, "99 s"),
        (100, "1 min"),
        (6000, "1 h"),
        (47 * 3600, "47 h"),
        (48 * 3600, "2 d"),
        (30 * 86400, "4 weeks"),
    ],
)
def test_ages(seconds: int, shown: str) -> None:
    now = time.time_ns()
    assert output.age(now - seconds * 1_000_000_000, now) == shown


def test_home_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert output.home(b"/home/me/x") == "~/x"
    assert output.home(b"/home/me") == "~"
    assert output.home(b"/home/meg/x") == "/home/meg/x"


def test_command_line_is_quoted_and_harmless() -> None:
    assert output.command_line(["sh", "-c", "echo a b\n\x1b[0m"]) == "sh -c 'echo a b\\n\\x1b[0m'"


def test_table_takes_brackets_literally_and_cuts_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [("[red]x[/red]", "y" * 500)], shrink=["B"])
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "y" * 500 in shown


@pytest.mark.parametrize(
    ("environ", "choice", "colored"),
    [
        ({}, "always", True),
        ({"NO_COLOR": "1"}, "always", True),
        ({}, "never", False),
        ({"NO_COLOR": "1"}, "auto", False),
    ],
)
def test_color(environ: dict[str, str], choice: str, colored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert output.use_color(choice) is colored


@pytest.mark.parametrize("columns", [40, 60, 100, 200])
def test_a_table_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    rows = [
        ("0123456789ab", "", "/a/long/path/of/a/base", "sh -c '" + "x" * 90 + "'"),
        ("0123456789ab", "n", "~", "日本語" * 9),
    ]
    output.print_table(("RUN", "NAME", "BASE", "COMMAND"), rows, shrink=("BASE", "COMMAND"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(cell_len(line) <= columns for line in lines)
    assert "0123456789ab" in lines[2], "what does not give way is whole"
    assert ("…" in lines[2]) == (columns < 200)
