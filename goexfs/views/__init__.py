"""Files of known formats, compared as what they are: databases by row, notebooks by cell, archives by member.

Owns which view a file gets.  A view is lines of text for people, not a patch: ``@@ … @@`` begins a part, and then
``-``, ``+`` and a space are what they are in a patch.  Knows no run, no store and no terminal: a view is made of the
two sides of a change, and whoever prints it makes it harmless.  Belongs to the thread of the sides' ``BaseTree``.

What is compared was written by an agent, so every view is bounded: in what it reads, what it unpacks, how long it takes
and how much it says; what is left out is counted.  A file that is not what it looks like gets no view.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice

from goexfs.views import formats
from goexfs.views.sources import Source
from snapshots.errors import BaseChanged
from snapshots.layers.content import Readable
from snapshots.review.changes import Side

MOST_LINES = 400
"""Lines of one view."""

Beside = Callable[[bytes, bool], Readable | None]
"""What lies at a path (in the state before, or after), to be closed; None where there is no file."""


class Views:
    """The views of one diff."""

    def __init__(self, beside: Beside, changed: frozenset[bytes] = frozenset()) -> None:
        """``changed``: the paths that the diff shows anyway."""
        self._beside = beside
        self._changed = changed

    def __call__(self, path: bytes, before: Side | None, after: Side | None) -> bytes | None:
        """The view of a file, lines with newlines; None for one that is best seen as text."""
        with ExitStack() as stack:
            try:
                old, new = (
                    None if side is None else Source(side.path, stack.enter_context(side.open()))
                    for side in (before, after)
                )
            except BaseChanged:
                return None
            made = formats.view(path, old, new, before, after, self._from_beside, self._changed)
            if made is None:
                return None
            lines = list(islice(_encoded(made), MOST_LINES))
            left = sum(1 for _ in islice(_encoded(made), 100_000))
            if left:
                lines.append(b" ... %d more lines\n" % left)
            return b"".join(lines)

    def _from_beside(self, path: bytes, is_before: bool) -> Source | None:
        content = self._beside(path, is_before)
        return None if content is None else Source(path, content)


def _encoded(lines: Iterator[str]) -> Iterator[bytes]:
    for line in lines:
        yield line.replace("\n", "\\n").encode("utf-8", "surrogateescape") + b"\n"
