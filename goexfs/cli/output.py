"""What the commands print: names shown harmlessly, sizes, ages, tables, JSON, colour.

Owns every way in which bytes chosen by an agent reach a terminal or a JSON document: a name or a line of a file may
hold escape sequences, newlines, bytes that are not UTF-8 or characters that reorder text, and none of these may
move the cursor, forge a line or hide a change (in JSON: ``snapshots.names``).  Knows nothing of runs.  No state, any
thread.
"""

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from snapshots.names import size as size

if TYPE_CHECKING:
    from goexfs.session import RunHandle

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0d\U000e0100-\U000e01ef]"
)
"""Characters that Python calls printable and that show nothing (Unicode's default ignorable ones, and blanks that are
letters): two names that differ in them look equal.  Not U+FE0E and U+FE0F, which only choose how a symbol is drawn."""
_C_ESCAPES = {
    0x07: "\\a",
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0B: "\\v",
    0x0C: "\\f",
    0x0D: "\\r",
    0x22: '\\"',
    0x5C: "\\\\",
}


def quoted(path: bytes) -> str:
    """A path for people and scripts on one line: as it is where that is harmless, else in git's C-style quotes.

    Text that is UTF-8 and printable stays readable (git's ``core.quotePath=false``); every other byte becomes an
    octal escape, so the quoted form is exact.
    """
    text = path.decode("utf-8", "surrogateescape")
    if _shows(text) and '"' not in text and "\\" not in text:
        return text
    out = []
    for char in text:
        if _shows(char) and char not in '"\\':
            out.append(char)
            continue
        raw = char.encode("utf-8", "surrogateescape")
        out.extend(_C_ESCAPES.get(byte, f"\\{byte:03o}") for byte in raw)
    return '"' + "".join(out) + '"'


def _shows(text: str) -> bool:
    """Whether every character is there to be seen, and does nothing else."""
    return text.isprintable() and (text.isascii() or not _BLANK.search(text))


def printable(text: str | bytes) -> str:
    """Any text on one line: what is not printable becomes a backslash escape."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if _shows(text):
        return text
    return "".join(char if _shows(char) else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte, as surrogateescape carries it
        return f"\\x{code - 0xDC00:02x}"
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def visible(line: bytes) -> str:
    """One line of a file (without its newline) for a terminal: ``^[`` for escape, ``<80>`` for a stray byte.

    Tabs stay.  The caret and angle forms are those of ``less``, which whoever reads a diff knows.
    """
    text = line.decode("utf-8", "surrogateescape")
    if _shows(text):
        return text
    out = []
    for char in text:
        code = ord(char)
        if _shows(char) or char == "\t":
            out.append(char)
        elif code < 0x20:
            out.append("^" + chr(code + 0x40))
        elif code == 0x7F:
            out.append("^?")
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"<{code - 0xDC00:02X}>")
        else:
            out.append(f"<U+{code:04X}>")
    return "".join(out)


def command_line(argv: Sequence[str | bytes]) -> str:
    """A command as one could type it, on one harmless line."""
    import shlex

    return printable(
        shlex.join(arg.decode("utf-8", "surrogateescape") if isinstance(arg, bytes) else arg for arg in argv)
    )


def age(created_ns: int, now_ns: int | None = None) -> str:
    """How long ago, for people: ``12 s``, ``5 min``, ``3 h``, ``2 d``, then weeks; a time to come counts as now."""
    seconds = max(0, ((time.time_ns() if now_ns is None else now_ns) - created_ns) // 1_000_000_000)
    for limit, unit, name in ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h"), (28 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{seconds // unit} {name}"
    return f"{seconds // (7 * 86400)} weeks"


def home_of(run: "RunHandle") -> str:
    """The bases of a run, each as ``home`` has it."""
    return " and ".join(home(part.base) for part in run.parts)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 change``, ``12 changes``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def timestamp(ns: int) -> str:
    """Local time to the second, with the zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(ns / 1e9))


def home(path: bytes) -> str:
    """A path for people, with the home directory as ``~``."""
    start = os.fsencode(os.environ.get("HOME") or "")
    if len(start) > 1 and (path == start or path.startswith(start + b"/")):
        return quoted(b"~" + path[len(start) :])
    return quoted(path)


# JSON


def print_json(document: Any) -> None:
    """One JSON document on stdout, in ASCII (any terminal, any locale), with a newline at its end."""
    click.echo(json.dumps(document, indent=2))


# Terminal


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def use_color(choice: str = "auto", *, err: bool = False) -> bool:
    """Whether to colour stdout (or stderr): ``--color`` decides; on ``auto`` a terminal without ``NO_COLOR``."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    stream = sys.stderr if err else sys.stdout
    return stream is not None and stream.isatty()


def note(message: str) -> None:
    """One line for the person, on stderr: stdout belongs to the child and to data."""
    click.echo(f"goexfs: {message}", err=True)


def styled(text: str, color: bool, **style: Any) -> str:
    """``text`` in a style, or as it is."""
    return click.style(text, **style) if color and text else text


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    shrink: Sequence[str] = (),
    styles: Sequence[str] | None = None,
) -> None:
    """A table on stdout.  On a terminal it fits the width: the columns of ``shrink`` give way, in equal parts.

    Every cell must already be harmless (``printable`` or ``quoted``).  ``styles`` has one rich style per row.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Off a terminal nothing is cut: whoever reads it is a program or a file.
    console = Console(
        file=sys.stdout, no_color=not use_color(), highlight=False, width=None if on_terminal() else 1_000_000
    )
    widths = [max(map(cell_len, (name, *cells))) for name, *cells in zip(columns, *rows, strict=True)]
    fixed = sum(width for name, width in zip(columns, widths, strict=True) if name not in shrink)
    room = console.width - fixed - _COLUMN_GAP * (len(columns) - 1)
    table = Table(box=box.SIMPLE_HEAD if on_terminal() else None, pad_edge=False, show_edge=False, padding=(0, 1))
    for name, width in zip(columns, widths, strict=True):
        if name in shrink:
            wanted = [w for n, w in zip(columns, widths, strict=True) if n in shrink and n != name]
            width = max(len(name), min(width, room - sum(min(w, room // len(shrink)) for w in wanted)))
        table.add_column(
            name, width=width, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis"
        )
    for number, row in enumerate(rows):
        # Text, not str: square brackets in a name are not markup.
        table.add_row(*map(Text, row), style=styles[number] if styles else None)
    with console.capture() as shown:
        console.print(table, soft_wrap=True)
    click.echo("\n".join(line.rstrip() for line in shown.get().splitlines()), color=on_terminal())


_COLUMN_GAP = 3
