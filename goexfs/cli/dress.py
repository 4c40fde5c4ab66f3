"""A patch dressed for a terminal: harmless, coloured, with the words that differ.

Owns the colours of a patch and its word forms.  Knows no run; pure functions from bytes to bytes, any thread.

Off a terminal a patch is written byte for byte, so that it can be piped to ``git apply``.  On a terminal the content
of files must not act: control characters are shown in caret form (colour sequences too: text of an agent could
otherwise hide itself from the reviewer), and so are characters that reorder or hide text; a line that has such
characters is marked, because the program that runs it reads it otherwise than the person who reviews it.
"""

import re
from collections.abc import Iterable, Iterator

import click

from goexfs.cli.output import visible

REORDERS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that show text in another order than programs read it ("Trojan Source", CVE-2021-42574)."""
_WARNING = "  <- reorders text: a program reads this line otherwise than it looks"

_META = (
    "diff --git ",
    "index ",
    "old mode ",
    "new mode ",
    "deleted file mode ",
    "new file mode ",
    "similarity index ",
    "rename from ",
    "rename to ",
    "copy from ",
    "copy to ",
    "--- ",
    "+++ ",
    "GIT binary patch",
    "Binary files ",
)
_MOST_LINES = 500
"""Lines of one replaced block above which its words are not compared."""


def dressed(patch: Iterable[bytes], *, color: bool, words: str | None = None) -> Iterator[bytes]:
    """A patch line by line for a terminal.

    ``words``: None marks the words that differ within removed and added lines, if there is colour; ``"plain"`` makes
    one text of both, with ``[-…-]`` and ``{+…+}`` as git does, and ``"color"`` one text with colours only.
    """
    in_hunk = False
    block: list[bytes] = []
    for line in _lines(patch):
        if in_hunk and line[:1] in (b"-", b"+") and not (line[:1] == b"-" and block and block[-1][:1] == b"+"):
            block.append(line)
            continue
        if block and line.startswith(b"\\"):  # no newline at the end of file: belongs to the line before
            block.append(line)
            continue
        yield from _block(block, color, words)
        block = []
        if in_hunk and line[:1] == b"-":
            block.append(line)
            continue
        if line.startswith(b"diff --git "):
            in_hunk = False
        elif line.startswith(b"@@ "):
            in_hunk = True
        text = visible(line)
        yield _finished(_colored(text, in_hunk) if color else text, line)
    yield from _block(block, color, words)


def _colored(text: str, in_hunk: bool) -> str:
    if text.startswith("@@ "):
        end = text.find(" @@", 3) + 3
        return click.style(text[:end], fg="cyan") + text[end:]
    if not in_hunk and text.startswith(_META):
        return click.style(text, bold=True)
    if text.startswith("# "):  # what the format has no word for: owners, attributes, hard links
        return click.style(text, fg="yellow")
    return text


def _finished(text: str, line: bytes) -> bytes:
    if line.isascii() or not REORDERS.search(line.decode("utf-8", "replace")):
        return text.encode() + b"\n"
    return (text + _WARNING).encode() + b"\n"


# -- blocks of removed and added lines


def _block(block: list[bytes], color: bool, words: str | None) -> Iterator[bytes]:
    removed = [line for line in block if line[:1] == b"-"]
    added = [line for line in block if line[:1] == b"+"]
    both = bool(removed and added) and len(block) <= _MOST_LINES
    if words is not None:
        yield from _as_words(removed, added, color, plain=words == "plain")
    elif both and color:
        yield from _emphasized(block, removed, added)
    else:
        for line in block:
            yield _finished(_line(visible(line), line[:1], color), line)


def _line(text: str, sign: bytes, color: bool) -> str:
    if not color or sign not in (b"+", b"-"):
        return text
    return click.style(text, fg="green" if sign == b"+" else "red")


def _emphasized(block: list[bytes], removed: list[bytes], added: list[bytes]) -> Iterator[bytes]:
    """Line by line as in the patch, with the words that differ standing out."""
    from snapshots.review.words import words

    pieces = list(words(_text(removed), _text(added)))
    same = sum(len(piece) for sign, piece in pieces if sign == " " and not piece.isspace())
    if same * 4 < sum(len(line) for line in block) // 2:  # nearly all is different: emphasis on all of it is noise
        for line in block:
            yield _finished(_line(visible(line), line[:1], True), line)
        return
    sides = {b"-": iter(_split(pieces, "-")), b"+": iter(_split(pieces, "+"))}
    for line in block:
        sign = line[:1]
        if sign not in sides:
            yield _finished(visible(line), line)
            continue
        fg = "green" if sign == b"+" else "red"
        shown = click.style(sign.decode(), fg=fg)
        for differs, piece in next(sides[sign]):
            shown += click.style(visible(piece), fg=fg, reverse=differs or None)
        yield _finished(shown, line)


def _text(lines: list[bytes]) -> bytes:
    return b"\n".join(line[1:] for line in lines)


def _split(pieces: list[tuple[str, bytes]], own: str) -> list[list[tuple[bool, bytes]]]:
    """The pieces of one side by line: (whether it differs, text)."""
    lines: list[list[tuple[bool, bytes]]] = [[]]
    for sign, piece in pieces:
        if sign in (" ", own):
            first, *more = piece.split(b"\n")
            lines[-1].append((sign == own, first))
            lines += [[(sign == own, part)] for part in more]
    return [[(differs, piece) for differs, piece in line if piece] for line in lines]


def _as_words(removed: list[bytes], added: list[bytes], color: bool, *, plain: bool) -> Iterator[bytes]:
    """One text of both sides, as ``git diff --word-diff`` has it."""
    from snapshots.review.words import words

    if not removed and not added:
        return
    marks = {"-": ("[-", "-]", "red"), "+": ("{+", "+}", "green")}
    shown = ""
    raw = b""
    for sign, piece in words(_text(removed), _text(added)):
        for number, part in enumerate(piece.split(b"\n")):
            if number:
                if sign != "-" or not added:
                    yield _finished(shown, raw)
                    shown, raw = "", b""
                else:
                    shown += " "
            text = visible(part)
            if sign in marks and text:
                before, after, fg = marks[sign]
                text = before + text + after if plain else text
                text = click.style(text, fg=fg) if color else text
            shown, raw = shown + text, raw + part
    yield _finished(shown, raw)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their newlines, however the chunks were cut."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest
