"""Which contents are put into the kernel's page cache before they are asked for.

Owns the push of a small content when its file is first opened, so that reading it needs no request, and the guess of
what is read next: whoever opens the files of a directory in their order (grep, a compiler's headers hardly) finds the
following ones on their way from the disk.  Knows no protocol but `notify_store`.

Threading: the event loop's thread; the disk is asked in worker threads.
"""

import os
from collections.abc import Callable

import pyfuse3

from goexfs.fuse.answering import Threads
from goexfs.overlay import Dir, File, Handle, Overlay, WouldBlock
from snapshots.entries import INLINE_LIMIT

LIMIT = INLINE_LIMIT
"""bytes up to which a content is put into the page cache when its file is first opened"""
FIRST, MOST = 8, 64
"""files that are fetched ahead at the beginning, and when the guess goes on being right: each time twice as many"""
NEAR = 4
"""how many files of a directory may be left out by who reads it in order"""


class Pushing:
    """The pushes into one mount."""

    def __init__(self, overlay: Overlay, threads: Threads) -> None:
        self._overlay = overlay
        self._threads = threads
        self._row = _Row(0, [])
        self._window = 0
        """files to fetch ahead next time; 0 while nobody reads in order"""

    def push(self, handle: Handle) -> Callable[[], None] | None:
        """Push the content of a file that was just opened.

        Only by the first open handle: while there is another, a page may be locked by a read that waits for us.
        Answers what brings the content into memory, for a worker thread, when it is not there; see `when_read`.
        """
        node = handle.node
        if node.opens != 1 or node.pushed or not 0 < node.size <= LIMIT:
            return None
        if handle.flags & os.O_ACCMODE == os.O_WRONLY or handle.flags & os.O_TRUNC:
            node.pushed = True
            return None
        try:
            self._store(node, self._overlay.read(handle, 0, node.size))
        except WouldBlock as blocked:
            return blocked.prepare
        except OSError:
            node.pushed = True  # refused: the reads will come as requests
        return None

    async def when_read(self, handle: Handle, prepare: Callable[[], None]) -> None:
        """Wait for the disk and push then: the program waits for it anyway, in its next request.  Raises nothing."""
        ahead = self._ahead(handle.node)

        def read() -> None:
            ahead()
            prepare()

        try:
            await self._threads.run(read)
            if self.push(handle) is not None:
                handle.node.pushed = True  # gone from memory already
        except OSError:
            pass  # who reads will be told

    def _store(self, node: File, data: bytes | bytearray | memoryview) -> None:
        node.pushed = True
        if len(data) == node.size:
            pyfuse3.notify_store(node.ino, 0, data)  # type: ignore[arg-type]  # takes any buffer

    def _ahead(self, node: File) -> Callable[[], object]:
        """For a worker thread: have the disk fetch what is likely to be opened after *node*, which was not in
        memory."""
        directory = node.parent
        if directory is None or node.base_dir is None:
            return _nothing
        if directory.ino != self._row.ino:
            # Whoever has read one directory in order, and begins the next at its beginning, goes on like that.
            self._row = row = _Row(directory.ino, _files(directory))
            if row.place(node) > NEAR:
                self._window = 0
        else:
            row = self._row
            in_order = row.last < row.place(node) <= max(row.last, row.until) + NEAR
            self._window = min(max(2 * self._window, FIRST), MOST) if in_order else 0
        names = row.next(node, self._window)
        return self._overlay.fetching(directory, names) if names else _nothing


class _Row:
    """The files of a directory, in the order in which they are listed."""

    def __init__(self, ino: int, files: list[File]) -> None:
        self.ino = ino
        self._names = [file.base_name for file in files]
        self._places = {file.ino: place for place, file in enumerate(files)}
        self.last = -1
        """the place of the file that was opened last"""
        self.until = -1
        """the place up to which they were fetched"""

    def place(self, node: File) -> int:
        """Where *node* is; beyond the end when it came later."""
        return self._places.get(node.ino, len(self._names))

    def next(self, node: File, count: int) -> list[bytes]:
        """The names of at most *count* files after *node* that were not fetched yet."""
        self.last = self.place(node)
        begin = max(self.last, self.until) + 1
        names = self._names[begin : begin + count]
        self.until = max(self.until, begin + len(names) - 1)
        return names


def _files(directory: Dir) -> list[File]:
    """Those whose content is in the base directory below *directory*, and small."""
    return [
        child
        for name, child in directory.children.items()
        if isinstance(child, File)
        and child.content is None
        and child.dev == directory.dev
        and child.base_name == name
        and child.base_dir is directory.base
        and 0 < child.size <= LIMIT
    ]


def _nothing() -> None:
    pass
