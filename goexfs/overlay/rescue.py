"""Partly copied files whose base file is lost: the rest is copied while its descriptor is held.

Owns which files are in danger and how they are brought to stand alone: a piece at a time, each like a request of its
own, so that a large file keeps nobody waiting.  Until that is done the base file is held open, and read as before.

Threading: the event loop's thread.
"""

import logging
import os
from collections.abc import Callable, Iterator

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.changes import Op
from goexfs.overlay.content import BaseFile, Content, FrozenSpool, Sealed, Source, Spool
from goexfs.overlay.files import Files
from goexfs.overlay.given import Given
from goexfs.overlay.nodes import File
from goexfs.overlay.view import View
from snapshots.entries import Changed
from snapshots.history.journal import Range

PIECE_BYTES = 1 << 20
"""copied at once"""

_Range = tuple[BaseFile, int, int]
"""start and end, in bytes"""

log = logging.getLogger(__name__)


class Rescue:
    """Of the files of one view."""

    def __init__(self, view: View, files: Files, now_ns: Callable[[], int]) -> None:
        self._view = view
        self._files = files
        self._now_ns = now_ns
        self._waiting: dict[File, None] = {}

    @property
    def is_needed(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._waiting)

    def add(self, node: File, st: os.stat_result | None) -> None:
        """The base shows *st* (None: nothing) where the base file of *node* was; nothing if that still is the same."""
        base = _base_below(node.content)
        if base is None or node in self._waiting:
            return
        then = base.trusted
        if st is not None and then is not None:
            now = st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns
            if now == (base.dev, base.ino, then.size, then.mtime_ns):
                return
        try:
            base.hold()
        except WouldBlock:
            pass  # `step` will wait for it
        except OSError as e:
            _lost(node, e)
            return
        self._waiting[node] = None

    def step(self) -> None:
        """Copy a piece of one file that is in danger; `WouldBlock`, and OSError when there is no room for it."""
        node = next(iter(self._waiting))
        content = node.content
        first = None if content is None or not (node.nlink or node.opens) else next(_from_base(content), None)
        if first is None:
            del self._waiting[node]
            if isinstance(content, Spool) and isinstance(content.source, BaseFile):
                content.source, content.source_limit = None, 0
                self._view.trust_no_longer(node)
            return
        base, start, end = first
        try:
            data = base.read(start, min(end - start, PIECE_BYTES))
            if not data:
                raise OSError("it is shorter than it was")
        except OSError as e:
            del self._waiting[node]
            base.close()
            _lost(node, e)
            return
        spool, became = self._files.over(node)
        spool.write(start, data)
        self._view.changes.record(
            Op.FOLLOW, node, Changed.DATA, self._now_ns(), data=(*became, Range(start, len(data)))
        )


def _lost(node: File, e: OSError) -> None:
    log.error(
        "the base file of a partly copied file changed: inode %d cannot be read in full any more (%s)", node.ino, e
    )


def _base_below(content: Content | Source | Given | None) -> BaseFile | None:
    """The base file that a content is read from in part."""
    while isinstance(content, FrozenSpool):
        content = content.source
    if isinstance(content, Sealed):
        return content.base
    return content if isinstance(content, BaseFile) else None


def _from_base(content: Content | Source | Given, start: int = 0, end: int | None = None) -> Iterator[_Range]:
    """The ranges of a content that come from the base, first to last."""
    if isinstance(content, BaseFile):
        if end is not None and start < end:
            yield content, start, end
    elif isinstance(content, Sealed):
        if content.base is not None:
            end = min(content.size if end is None else end, content.record.base_limit)
            for extent in content.record.extents:
                yield from _from_base(content.base, start, min(end, extent.offset))
                start = max(start, extent.offset + extent.length)
            yield from _from_base(content.base, start, end)
    elif isinstance(content, FrozenSpool) and content.source is not None:
        end = min(content.size if end is None else end, content.source_limit)
        for low, high, inside in content.ranges.pieces(start, end):
            if not inside:
                yield from _from_base(content.source, low, high)
