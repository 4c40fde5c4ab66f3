"""``diff --stat``: how many lines changed per file, read off the patch.

Owns the reading of a patch's pieces and the drawing of the bars.  Pure functions from bytes to lines; any thread.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from goexfs.cli.output import count, on_terminal, styled, visible

_NARROW = 80
_MOST_BAR = 40


@dataclass(frozen=True)
class FileStat:
    """One file of a patch."""

    name: str
    """harmless; ``old => new`` for a rename or copy"""
    added: int
    """lines"""
    removed: int
    binary: bool


def file_stat(piece: bytes) -> FileStat:
    """The counts of one ``diff --git`` part."""
    header, *lines = piece.split(b"\n")
    old = new = None
    added = removed = 0
    binary = in_hunk = False
    for line in lines:
        if line.startswith(b"@@ "):
            in_hunk = True
        elif in_hunk:
            added += line.startswith(b"+")
            removed += line.startswith(b"-")
        elif line.startswith((b"rename from ", b"copy from ")):
            old = line.partition(b" from ")[2]
        elif line.startswith((b"rename to ", b"copy to ")):
            new = line.partition(b" to ")[2]
        elif line.startswith((b"Binary files ", b"GIT binary patch")):
            binary = True
    name = visible(old) + " => " + visible(new) if old and new else visible(_both(header.removeprefix(b"diff --git ")))
    return FileStat(name, added, removed, binary)


def _both(names: bytes) -> bytes:
    """``a/x b/x`` has two halves of the same length, whatever spaces and quotes there are in them."""
    half = names[: len(names) // 2]
    if not half.startswith(b'"'):
        return half.removeprefix(b"a/")
    return b'"' + half[3:] if b"\\" in half else half[3:-1]  # quoted for its spaces only


def lines(patch: Iterable[bytes], *, color: bool = False) -> Iterator[bytes]:
    """The listing: a line per file, what a patch can only say in comments, and the totals."""
    files = []
    for piece in patch:
        if piece.startswith(b"diff --git "):
            files.append(file_stat(piece))
        else:
            yield from (f" {visible(line)}\n".encode() for line in piece.splitlines())
    width = max((len(file.name) for file in files), default=0)
    numbers = max((len(str(file.added + file.removed)) for file in files), default=1)
    from shutil import get_terminal_size

    columns = get_terminal_size().columns if on_terminal() else _NARROW
    bar = max(10, min(_MOST_BAR, columns - width - numbers - 5))
    most = max((file.added + file.removed for file in files), default=0)
    for file in files:
        yield f" {file.name:<{width}} | {_amount(file, numbers, bar, most, color)}\n".encode()
    yield f" {_totals(files)}\n".encode()


def _amount(file: FileStat, numbers: int, bar: int, most: int, color: bool) -> str:
    if file.binary:
        return f"{'Bin':>{numbers}}"
    plus, minus = file.added, file.removed
    if most > bar:  # scaled, but never to nothing
        plus, minus = (-(-value * bar // most) for value in (plus, minus))
    drawn = styled("+" * plus, color, fg="green") + styled("-" * minus, color, fg="red")
    return f"{file.added + file.removed:>{numbers}} {drawn}".rstrip()


def _totals(files: list[FileStat]) -> str:
    parts = [f"{count(len(files), 'file')} changed"]
    for number, noun, sign in (
        (sum(file.added for file in files), "insertion", "+"),
        (sum(file.removed for file in files), "deletion", "-"),
    ):
        if number:
            parts.append(f"{count(number, noun)}({sign})")
    return ", ".join(parts)
