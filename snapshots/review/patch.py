"""Changes as a patch in git's format, which ``git apply`` and ``patch -p1`` both accept.

Owns the headers, the quoting of names and the order of the parts; the hunks come from libgit2.  Knows no run and no
store: it reads the sides of the changes it is given, while their base and store are open.

What the format cannot say: empty directories are left out; owners, extended attributes, hard links, modes other than
the executable bit, and the comings and goings of devices, FIFOs and sockets are comment lines (``# …``), which both
programs skip (``remarks`` words them).  Changed symlinks, binary files, and a file that takes the place of a directory
(or the reverse) are beyond ``patch``, and only ``git apply`` takes them.
"""

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from snapshots.errors import BaseChanged
from snapshots.layers.basepaths import is_below
from snapshots.review.changes import Change, Side, Status
from snapshots.review.libgit2 import compared
from snapshots.review.remarks import ranges_text, remarks, written_ranges

LARGE = 64 << 20
"""Bytes above which a file is not read: only that it differs is said (``git apply`` then refuses that part)."""

_ABSENT = "0" * 40
_SHORT = 10
"""Digits of an id for people; a patch has all of them, which binary parts need and nothing minds."""
_EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
_ESCAPES = {
    0x07: b"\\a", 0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0B: b"\\v", 0x0C: b"\\f", 0x0D: b"\\r",
    0x22: b'\\"', 0x5C: b"\\\\",
}


View = Callable[[bytes, Side | None, Side | None], bytes | None]
"""What to show of a file (its path and two sides) instead of hunks; None for the hunks."""


def patch(
    changes: Iterable[Change], *, binary: bool = True, context: int = 3, large: int = LARGE, copies: bool = False,
    view: View | None = None,
) -> Iterator[bytes]:  # fmt: skip
    """The patch, piece by piece (one file each or less).

    Renamed directories become renames of the files in them.  Without ``binary``, binary files are only said to
    differ, which ``git apply`` refuses.  Files above ``large`` bytes always are.  With ``copies``, copies are said to
    be copies instead of new files: ``git apply -R`` leaves those there.  With ``view`` it is for people only.
    """
    writer = _Writer(binary, context, large, copies, view)
    for change in _in_order(_files(list(changes))):
        yield from writer.change(change)


def quoted(path: bytes) -> bytes:
    """A path as git writes it: as it is, or as a C string when it has special characters or is not UTF-8."""
    try:
        # Not every reader takes a space at the end for a part of the name.
        plain = not any(ord(c) < 0x20 or c in '"\\\x7f' for c in path.decode("utf-8")) and not path.endswith(b" ")
    except UnicodeDecodeError:
        plain = False
    if plain:
        return path
    inner = (
        _ESCAPES.get(b) or (bytes((b,)) if 0x20 <= b < 0x7F else b"\\%03o" % b)
        for b in path
    )
    return b'"' + b"".join(inner) + b'"'


# -- which files, in which order


def _files(changes: Sequence[Change]) -> list[Change]:
    """The changes with every renamed directory replaced by renames of the files that no other change is about."""
    told = {c.before.path for c in changes if c.before is not None and c.status is not Status.COPIED}
    result: list[Change] = []
    for change in changes:
        before, after = change.before, change.after
        if change.status is not Status.RENAMED or before is None or after is None or not before.is_dir:
            result.append(change)
            continue
        if change.attrs:
            result.append(Change(Status.ATTRS_CHANGED, change.path, None, before, after, False, change.attrs))
        waiting = [side for side in before.children() if side.path not in told]
        while waiting:
            side = waiting.pop()
            if side.is_dir:
                waiting += [inner for inner in side.children() if inner.path not in told]
            else:
                path = change.path + side.path[len(before.path) :]
                result.append(Change(Status.RENAMED, path, side.path, side, side, False, ()))
    # What is told below a directory that went along is itself told as from its old place; see ``_Writer.change``.
    return sorted(result, key=lambda change: change.path)


def _in_order(changes: Sequence[Change]) -> Iterator[Change]:
    """By path, but a file that takes the place of a directory comes after everything that leaves the directory."""
    done: set[int] = set()
    for change in changes:
        if id(change) in done:
            continue
        if change.status is Status.TYPE_CHANGED and change.before is not None and change.before.is_dir:
            top = change.before.path
            below = [c for c in changes if c.before is not None and is_below(c.before.path, top)]
            leaving = [c for c in below if id(c) not in done]
            done.update(map(id, leaving))
            yield from leaving
        done.add(id(change))
        yield change


# -- one file


def _git_mode(side: Side) -> bytes | None:
    """The mode git would store; None for what it cannot."""
    if side.kind == stat.S_IFLNK:
        return b"120000"
    if side.kind == stat.S_IFREG:
        return b"100755" if side.mode & stat.S_IXUSR else b"100644"
    return None


class _Writer:
    def __init__(self, binary: bool, context: int, large: int, copies: bool, view: View | None) -> None:
        self._copies = copies
        self._view = view
        self._binary = binary
        self._context = context
        self._large = large

    def change(self, change: Change) -> Iterator[bytes]:
        if change.status is Status.COPIED and not self._copies:
            yield b"# %b is a copy of %b\n" % (quoted(change.path), quoted(change.old_path or b""))
            change = Change(Status.ADDED, change.path, None, None, change.after, True, ())
        yield from self._comments(change)
        before = change.before if change.before is not None and _git_mode(change.before) is not None else None
        after = change.after if change.after is not None and _git_mode(change.after) is not None else None
        if before is not None and after is not None and before.kind == after.kind:
            yield from self._file(before.path, change.path, before, after, change.content_changed, change.status)
            return
        if before is not None:
            yield from self._file(before.path, before.path, before, None, True, Status.DELETED)
        if after is not None:
            yield from self._file(change.path, change.path, None, after, True, Status.ADDED)

    def _comments(self, change: Change) -> Iterator[bytes]:
        for remark in remarks(change):
            yield b"# %b\n" % remark.encode("utf-8", "replace")
        before, after = change.before, change.after
        if before is not None and after is not None and max(before.size, after.size) > self._large:
            for line in ranges_text(written_ranges(before, after) or []):
                yield b"# of %b written: %b\n" % (quoted(change.path), line.encode())

    def _file(
        self, old_path: bytes, path: bytes, before: Side | None, after: Side | None, content_changed: bool,
        status: Status,
    ) -> Iterator[bytes]:
        """One ``diff --git`` part, or nothing when git has no word for what changed."""
        try:
            body, ids, similarity = self._body(old_path, path, before, after) if content_changed else (b"", None, 100)
        except BaseChanged as e:
            yield b"# %b\n" % str(e).encode("utf-8", "replace")
            body, ids, similarity = _differ(old_path, path, before, after), None, 0
        lines = [b"diff --git %b %b" % (_header_name(b"a/" + old_path), _header_name(b"b/" + path))]
        if before is None:
            lines.append(b"new file mode %b" % ((_git_mode(after) if after is not None else None) or b""))
        elif after is None:
            lines.append(b"deleted file mode %b" % (_git_mode(before) or b""))
        elif (old_mode := _git_mode(before)) != (mode := _git_mode(after)):
            lines += [b"old mode %b" % (old_mode or b""), b"new mode %b" % (mode or b"")]
        if old_path != path:
            if similarity is not None:
                lines.append(b"similarity index %d%%" % similarity)
            verb = b"copy" if status is Status.COPIED else b"rename"
            lines += [b"%b from %b" % (verb, quoted(old_path)), b"%b to %b" % (verb, quoted(path))]
        if ids is not None:
            shown = ids if self._view is None else (ids[0][:_SHORT], ids[1][:_SHORT])
            line = f"index {shown[0]}..{shown[1]}".encode()
            if before is not None and after is not None and _git_mode(before) == _git_mode(after):
                line += b" " + (_git_mode(after) or b"")
            lines.append(line)
        if len(lines) > 1 or body:
            yield b"\n".join(lines) + b"\n" + body

    def _body(
        self, old_path: bytes, path: bytes, before: Side | None, after: Side | None
    ) -> tuple[bytes, tuple[str, str] | None, int | None]:
        """The hunks (with their ``---`` and ``+++`` lines) or binary part, the two blob ids, similarity in percent; the
        latter two are None where the file was not looked at in this way."""
        if self._view is not None and all(side is None or side.kind == stat.S_IFREG for side in (before, after)):
            shown = self._view(path, before, after)
            if shown is not None:
                return shown, None, None
        if any(side is not None and side.kind == stat.S_IFREG and side.size > self._large for side in (before, after)):
            return _differ(old_path, path, before, after), None, 0
        old, new = _bytes_of(before), _bytes_of(after)
        if old == new:  # an empty file came or went
            ids = (_EMPTY_BLOB, _EMPTY_BLOB)
            return b"", _with_absent(ids, before, after), 100
        made = compared(old, new, context=self._context, whole_binary=self._binary)
        ids = _with_absent((str(made.delta.old_file.id), str(made.delta.new_file.id)), before, after)
        data: bytes = made.data
        if made.delta.is_binary:
            start = data.find(b"GIT binary patch\n")
            if start < 0:
                return _differ(old_path, path, before, after), ids, 0
            return data[start:].rstrip(b"\n") + b"\n\n", ids, 0
        hunks = data[data.index(b"\n@@ ") + 1 :]
        removed = sum(len(line.raw_content) for hunk in made.hunks for line in hunk.lines if line.origin == "-")
        similarity = min(99, 100 * (len(old) - removed) // max(len(old), len(new)))
        return _names(old_path, path, before, after) + hunks, ids, max(0, similarity)


def _header_name(path: bytes) -> bytes:
    # In this line ``patch`` takes a space for the end of the name unless there are quotes; git does not mind them.
    name = quoted(path)
    return b'"%b"' % name if b" " in name and not name.startswith(b'"') else name


def _names(old_path: bytes, path: bytes, before: Side | None, after: Side | None) -> bytes:
    old = b"/dev/null" if before is None else quoted(b"a/" + old_path)
    new = b"/dev/null" if after is None else quoted(b"b/" + path)
    # A tab after a name with a space tells ``patch`` where the name ends.
    return b"--- %b%b\n+++ %b%b\n" % (old, b"\t" * (b" " in old), new, b"\t" * (b" " in new))


def _differ(old_path: bytes, path: bytes, before: Side | None, after: Side | None) -> bytes:
    old = b"/dev/null" if before is None else quoted(b"a/" + old_path)
    new = b"/dev/null" if after is None else quoted(b"b/" + path)
    return b"Binary files %b and %b differ\n" % (old, new)


def _with_absent(ids: tuple[str, str], before: Side | None, after: Side | None) -> tuple[str, str]:
    return (_ABSENT if before is None else ids[0], _ABSENT if after is None else ids[1])


def _bytes_of(side: Side | None) -> bytes:
    if side is None:
        return b""
    if side.target is not None:
        return side.target
    with side.open() as content:
        return content.read(0, content.size)
