"""The parts of one changed file: hunks, and what is not in the content.

Owns how a change is divided, what the parts are called, how a hunk is split, and which content is made of the parts
that were chosen.  Where the differences are is found by libgit2.  Reads the sides of the change it is given; otherwise
pure.

A file that changed in content and is text has one part per *hunk*, and perhaps one before them: its rename, or its
attributes.  Everything else has one part, the ``whole``: a new or deleted file, a link, a device, a binary or large
file, changed attributes.  A hunk is named by a digest of the lines it takes away and brings in, so a name stays good
while other hunks are merged.
"""

import stat
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import xxhash

from snapshots.layers.content import CHUNK
from snapshots.review.changes import Change, Side, Status
from snapshots.review.libgit2 import compared

WHOLE = "whole"
"""name of the part of a change that is not divided"""
ATTRIBUTES = "attributes"
"""name of the part: mode, owner and extended attributes"""
RENAME = "rename"
"""name of the part: the new name, and attributes; no hunk of the file can be had without it"""

LARGE = 16 << 20
"""Bytes above which a file is not divided."""
CONTEXT = 3
_BINARY_LOOK = 8000
"""As git: a file with a zero byte that early is binary."""


class Edit(NamedTuple):
    """Lines of the old file that become other lines; nothing is equal in between."""

    start: int
    """index of the first old line that goes (or before which lines come)"""
    end: int
    """index after the last old line that goes"""
    new_start: int
    """index of the first new line"""
    lines: tuple[bytes, ...]
    """that come, with their ends"""


class Hunk(NamedTuple):
    """Neighbouring edits of one file."""

    id: str
    edits: tuple[Edit, ...]

    @property
    def start(self) -> int:
        """Index of the first old line that any edit is about."""
        return self.edits[0].start

    @property
    def end(self) -> int:
        """Index after the last one."""
        return self.edits[-1].end


class Text(NamedTuple):
    """A text file on both sides."""

    old: tuple[bytes, ...]
    """lines with their ends; only the last one may lack its"""
    new: tuple[bytes, ...]
    edits: tuple[Edit, ...]


class Parts(NamedTuple):
    """What a change consists of."""

    lead: str | None
    """``WHOLE`` when it is not divided, ``ATTRIBUTES`` or ``RENAME`` when there are such before the hunks"""
    hunks: tuple[Hunk, ...]
    text: Text | None
    """None when it cannot be read as text"""

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return (*((self.lead,) if self.lead else ()), *(hunk.id for hunk in self.hunks))

    @property
    def smaller(self) -> tuple[Hunk, ...]:
        """What the hunks can be split into, for those that can."""
        return tuple(small for hunk in self.hunks if len(hunk.edits) > 1 for small in split(hunk))


def parts(change: Change, *, context: int = CONTEXT, large: int = LARGE) -> Parts:
    """How a change is divided.  BaseChanged when it cannot be read."""
    text = _text(change, large)
    divided = text is not None and change.before is not None and change.after is not None and bool(text.edits)
    if text is None or not divided or change.status not in (Status.MODIFIED, Status.RENAMED):
        return Parts(WHOLE, (), text)
    lead = RENAME if change.status is Status.RENAMED else ATTRIBUTES if _has_attributes(change) else None
    found = hunks(text, context=context)
    return Parts(None if lead is None and not found else lead, found, text)


def hunks(text: Text, *, context: int = CONTEXT) -> tuple[Hunk, ...]:
    """The edits of a text, in hunks as a diff with so many lines of context has them."""
    groups: list[list[Edit]] = []
    for edit in text.edits:
        if groups and edit.start - groups[-1][-1].end <= 2 * context:
            groups[-1].append(edit)
        else:
            groups.append([edit])
    return _named(text, groups)


def split(hunk: Hunk) -> tuple[Hunk, ...]:
    """A hunk as smaller ones, one for every edit (named ``HUNK/1``, …); only itself when it has just one."""
    if len(hunk.edits) == 1:
        return (hunk,)
    return tuple(Hunk(f"{hunk.id}/{number}", (edit,)) for number, edit in enumerate(hunk.edits, 1))


def compare(old: bytes, new: bytes) -> Text:
    """Two contents line by line."""
    before, after = _lines(old), _lines(new)
    if old == new:
        return Text(before, after, ())
    made = compared(old, new, context=0, as_text=True)
    edits = []
    for hunk in made.hunks:
        # Where no line goes (or comes), the number is that of the line before.
        start = hunk.old_start - (1 if hunk.old_lines else 0)
        new_start = hunk.new_start - (1 if hunk.new_lines else 0)
        edits.append(Edit(start, start + hunk.old_lines, new_start, after[new_start : new_start + hunk.new_lines]))
    return Text(before, after, tuple(edits))


def apply(text: Text, edits: Iterable[Edit]) -> bytes:
    """The old file with only these of its edits (or others in their places) made."""
    out: list[bytes] = []
    at = 0
    for edit in sorted(edits):
        out += text.old[at : edit.start]
        out += edit.lines
        at = edit.end
    out += text.old[at:]
    return b"".join(out)


def chosen_content(found: Parts, ids: Collection[str]) -> bytes:
    """The content of a divided file with the chosen hunks only; unknown names are ignored."""
    assert found.text is not None
    return apply(found.text, {edit for hunk in (*found.hunks, *found.smaller) if hunk.id in ids for edit in hunk.edits})


def unified(text: Text, hunk: Hunk, *, context: int = CONTEXT) -> list[bytes]:
    """A hunk as in a unified diff: header and lines, without newlines at their ends."""
    first, last = max(0, hunk.start - context), min(len(text.old), hunk.end + context)
    first, last = _between_neighbours(text, hunk, first, last)
    new_first = hunk.edits[0].new_start - (hunk.start - first)
    lines: list[bytes] = []
    at = first
    for edit in hunk.edits:
        lines += [b" " + line for line in text.old[at : edit.start]]
        lines += [b"-" + line for line in text.old[edit.start : edit.end]]
        lines += [b"+" + line for line in edit.lines]
        at = edit.end
    lines += [b" " + line for line in text.old[at:last]]
    new_count = sum(not line.startswith(b"-") for line in lines)
    header = f"@@ -{_range(first, last - first)} +{_range(new_first, new_count)} @@".encode()
    shown = [header]
    for line in lines:
        shown.append(line.removesuffix(b"\n"))
        if not line.endswith(b"\n"):
            shown.append(b"\\ No newline at end of file")
    return shown


def edited(text: Text, hunk: Hunk, lines: Sequence[bytes], *, context: int = CONTEXT) -> Hunk:
    """A hunk as somebody has edited its ``unified`` lines (the header does not count).

    ValueError, with the reason, when what it takes away or keeps is not what the old file has.
    """
    first, last = max(0, hunk.start - context), min(len(text.old), hunk.end + context)
    first, last = _between_neighbours(text, hunk, first, last)
    old: list[bytes] = []
    new: list[bytes] = []
    ended: list[list[bytes]] = []
    for line in lines:
        sign, rest = (line[:1] or b" "), line[1:] + b"\n"
        if sign == b"\\":
            for side in ended:
                side[-1] = side[-1].removesuffix(b"\n")
            continue
        if sign not in b" -+":
            raise ValueError("a line begins with neither a space, + nor -")
        ended = [side for side, signs in ((old, b" -"), (new, b" +")) if sign in signs]
        for side in ended:
            side.append(rest)
    if tuple(old) != text.old[first:last]:
        raise ValueError("the lines with a space or - are not those of the file")
    new_start = hunk.edits[0].new_start - (hunk.start - first)
    while first < last and new and text.old[first] == new[0]:
        del new[0]
        first, new_start = first + 1, new_start + 1
    while first < last and new and text.old[last - 1] == new[-1]:
        del new[-1]
        last -= 1
    return Hunk(hunk.id, (Edit(first, last, new_start, tuple(new)),))


def _between_neighbours(text: Text, hunk: Hunk, first: int, last: int) -> tuple[int, int]:
    """Context must not run over other edits: the lines there are not those of the new file.

    Others are those away from the hunk: where it was edited by hand, the edit that it was made from lies within it.
    """
    before = [edit.end for edit in text.edits if edit.end < hunk.start]
    after = [edit.start for edit in text.edits if edit.start > hunk.end]
    return max([first, *before]), min([last, *after])


def _range(start: int, count: int) -> str:
    begin = start + 1 if count else start
    return f"{begin}" if count == 1 else f"{begin},{count}"


def _named(text: Text, groups: Sequence[Sequence[Edit]]) -> tuple[Hunk, ...]:
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        digest = xxhash.xxh3_128()
        for edit in group:
            for sign, lines in ((b"-", text.old[edit.start : edit.end]), (b"+", edit.lines)):
                for line in lines:
                    digest.update(b"%c%d:" % (sign, len(line)))
                    digest.update(line)
            digest.update(b"|")
        name = digest.hexdigest()[:12]
        seen[name] = number = seen.get(name, 0) + 1
        named.append(Hunk(name if number == 1 else f"{name}-{number}", tuple(group)))
    return tuple(named)


def _lines(data: bytes) -> tuple[bytes, ...]:
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    return (*lines, last) if last else tuple(lines)


def _has_attributes(change: Change) -> bool:
    return bool(set(change.attrs) - {"links", "mtime"})


def _text(change: Change, large: int) -> Text | None:
    """Both sides as text, an absent one as empty; None when there is no such thing."""
    sides = [side for side in (change.before, change.after) if side is not None]
    if any(side.kind != stat.S_IFREG or side.size > large for side in sides):
        return None
    if change.before is not None and change.after is not None and not change.content_changed:
        return None
    old, new = _bytes_of(change.before), _bytes_of(change.after)
    if any(b"\0" in data[:_BINARY_LOOK] for data in (old, new)):
        return None
    return compare(old, new)


def _bytes_of(side: Side | None) -> bytes:
    if side is None:
        return b""
    with side.open() as content:
        return b"".join(content.read(offset, CHUNK) for offset in range(0, content.size, CHUNK))
