"""Which format a file has, and the view for it.

Owns the recognition: by content where a format has a mark, by name for notebooks.  What no view is for and is not
text is said to differ, with sizes, kinds and, of a large patched file, the ranges that were written.  Pure but for what
it reads; belongs to the thread of the sources.
"""

import logging
from collections.abc import Callable, Iterator

from goexfs.views.sources import Source, TooMuch
from snapshots.review.changes import Side
from snapshots.review.patch import LARGE
from snapshots.review.remarks import ranges_text, written_ranges

FromBeside = Callable[[bytes, bool], Source | None]

_TEXT_LOOKED_AT = 8000
"""Bytes in which a NUL makes a file binary: git's rule."""
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_LOG_MARKS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")

_log = logging.getLogger(__name__)


def view(
    path: bytes, old: Source | None, new: Source | None, before: Side | None, after: Side | None,
    beside: FromBeside, changed: frozenset[bytes],
) -> Iterator[str] | None:  # fmt: skip
    """The lines of a view; None for text."""
    sources = [source for source in (old, new) if source is not None]
    try:
        made = _known(path, old, new, sources, beside, changed)
        lines = None if made is None else list(made)
    except TooMuch as error:
        return iter([*_kinds(old, new), f" not looked into: {error}"])
    except Exception as error:  # the file was made by an agent: whatever its parser stumbles over, there is no view
        _log.debug("no view of %r: %r", path, error)
        lines = None
    if lines is not None:
        return iter(lines)
    if any(b"\0" in source.head[:_TEXT_LOOKED_AT] or source.size > LARGE for source in sources):
        return _differ(old, new, before, after)
    return None


def _known(
    path: bytes, old: Source | None, new: Source | None, sources: list[Source], beside: FromBeside,
    changed: frozenset[bytes],
) -> Iterator[str] | None:  # fmt: skip
    if all(source.head.startswith(b"SQLite format 3\0") for source in sources):
        from goexfs.views import database

        return database.lines(old, new, beside)
    if path.endswith(b"-wal") and all(source.head[:4] in _LOG_MARKS or not source.size for source in sources):
        from goexfs.views import database

        return database.lines_of_log(path, old, new, beside, path[:-4] in changed)
    if path.endswith(b".ipynb"):
        from goexfs.views import notebook

        return notebook.lines(old, new)
    if all(is_archive(source) for source in sources):
        from goexfs.views import archive

        return archive.lines(old, new)
    return None


def is_archive(source: Source) -> bool:
    """Whether it begins like a zip or tar archive, or like something compressed."""
    return source.head.startswith(_ARCHIVES) or source.head[257:262] == b"ustar"


def _differ(old: Source | None, new: Source | None, before: Side | None, after: Side | None) -> Iterator[str]:
    yield from _kinds(old, new)
    if before is not None and after is not None:
        for line in ranges_text(written_ranges(before, after) or []):
            yield f" written: {line}"


def _kinds(old: Source | None, new: Source | None) -> Iterator[str]:
    yield "@@ binary @@"
    for sign, source in (("-", old), ("+", new)):
        if source is not None:
            yield f"{sign}{kind(source)}, {source.size:,} bytes"


def kind(source: Source) -> str:
    """What kind of file it is, in words."""
    if not source.size:
        return "empty"
    if b"\0" not in source.head[:_TEXT_LOOKED_AT]:
        try:
            source.head.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start < len(source.head) - 4:
                return _by_magic(source.head)
        return "text"
    return _by_magic(source.head)


def _by_magic(head: bytes) -> str:
    import puremagic

    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError, IndexError):
        return "unknown kind"
    return str(found[0].name or found[0].extension) if found else "unknown kind"
