"""``diff --stat``: how many lines changed per file, read off the patch.

Owns the reading of a patch's pieces and the drawing of the bars.  Pure functions from bytes to lines; any thread.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goexfs.cli.output import count, on_terminal, styled, visible

if TYPE_CHECKING:
    from snapshots.review.changes import Change

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
    sizes: tuple[int, int] | None = None
    """before and after, of a binary file"""


Sizes = Mapping[bytes, tuple[int, int]]
"""By path, as a patch writes it: bytes before and after."""


def sizes(changes: Iterable["Change"]) -> Sizes:
    """What a patch does not say of binary files."""
    from snapshots.review.patch import quoted

    return {
        quoted(each.path): (each.before.size if each.before else 0, each.after.size if each.after else 0)
        for each in changes
    }


def file_stat(piece: bytes, known: Sizes) -> FileStat:
    """The counts of one ``diff --git`` part."""
    header, *lines = piece.split(b"\n")
    old = new = None
    added = removed = 0
    binary = in_hunk = comes = goes = False
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
        elif line.startswith(b"new file mode "):
            comes = True
        elif line.startswith(b"deleted file mode "):
            goes = True
        elif line.startswith((b"Binary files ", b"GIT binary patch")):
            binary = True
    path = _both(header.removeprefix(b"diff --git ")) if new is None else new
    name = visible(old) + " => " + visible(new) if old and new else visible(path)
    before, after = known.get(path, (-1, -1))
    both = (0 if comes else before, 0 if goes else after) if binary and path in known else None
    return FileStat(name, added, removed, binary, both)


def _both(names: bytes) -> bytes:
    """``a/x b/x`` has two halves of the same length, whatever spaces and quotes there are in them."""
    half = names[: len(names) // 2]
    if not half.startswith(b'"'):
        return half.removeprefix(b"a/")
    return b'"' + half[3:] if b"\\" in half else half[3:-1]  # quoted for its spaces only


def lines(patch: Iterable[bytes], known: Sizes, *, color: bool = False) -> Iterator[bytes]:
    """The listing: a line per file, what a patch can only say in comments, and the totals."""
    files = []
    for piece in patch:
        if piece.startswith(b"diff --git "):
            files.append(file_stat(piece, known))
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
        told = "" if file.sizes is None else f" {file.sizes[0]} -> {file.sizes[1]} bytes"
        return f"{'Bin':>{numbers}}{told}"
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
