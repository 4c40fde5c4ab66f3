"""Open files: reading, writing, truncating, and the copy-up they begin with.

Owns the transitions between the states of a content (see ``content``).  Event-loop thread only.
"""

import errno
import os
import stat
from collections.abc import Callable
from weakref import WeakKeyDictionary

from goexfs.overlay.changes import Op
from goexfs.overlay.content import (
    COPY_WHOLE_LIMIT,
    BaseFile,
    Content,
    FrozenInline,
    FrozenSpool,
    Inline,
    Sealed,
    Source,
    Spool,
    rounded_blocks,
)
from goexfs.overlay.given import Given
from goexfs.overlay.meter import held
from goexfs.overlay.nodes import Dir, File, Node
from goexfs.overlay.view import View, error
from snapshots.entries import INLINE_LIMIT, Changed
from snapshots.history.journal import Cut, Data, Load, Patch, Range, Spooled, Whole

MAX_FILE_SIZE = (1 << 63) - 1
_WRITING = os.O_ACCMODE | os.O_TRUNC
_SUID_SGID = stat.S_ISUID | stat.S_ISGID


class Handle:
    """An open file."""

    __slots__ = ("flags", "node", "process")

    def __init__(self, node: File, flags: int, process: int) -> None:
        self.node = node
        self.flags = flags
        self.process = process
        """whom writes are due to: with the writeback cache a write request no longer names its process"""

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Files:
    """The operations on contents of one view."""

    def __init__(self, view: View, now_ns: Callable[[], int]) -> None:
        self._view = view
        self._changes = view.changes
        self._now_ns = now_ns
        self._became: WeakKeyDictionary[File, tuple[Data, ...]] = WeakKeyDictionary()
        """for the journal, which has not heard of it yet: how the contents of these files came to be writable"""

    # -- handles

    def open(self, node: Node, flags: int) -> Handle:
        """Open a regular file; with O_TRUNC it is empty afterwards.

        The base file is opened now, so that it stays readable.
        """
        if not isinstance(node, File):
            raise error(errno.EISDIR if isinstance(node, Dir) else errno.ENXIO)
        if flags & _WRITING and self._view.guard is not None:
            self._view.guard.allow_change(node)
        meter = self._view.meter
        if meter is not None:
            if meter.open_files >= meter.most_open_files:
                meter.check("open_files")
            if meter.bytes >= meter.most_bytes and flags & os.O_ACCMODE and not flags & os.O_TRUNC:
                meter.check("bytes")  # a write that the kernel holds back could not be refused any more
        if flags & os.O_TRUNC:  # Linux truncates also what is opened for reading only
            self.truncate(node, 0)
        elif node.content is None:
            self._open_base(node)
        elif isinstance(node.content, Sealed) and node.content.base is not None:
            node.content.base.open()
        return self._opened(node, flags)

    def _open_base(self, node: File) -> None:
        try:
            self._view.base_file(node).open()
        except OSError as e:
            if e.errno == errno.ESTALE and node.kept:
                self._view.refresh(node)  # which gives its names to another node; the kernel asks for them again
            raise

    def opened(self, node: File, flags: int) -> Handle:
        """A handle on a file that was created just now."""
        return self._opened(node, flags)

    def _opened(self, node: File, flags: int) -> Handle:
        handle = Handle(node, flags, self._changes.process)
        node.opens += 1
        node.writers += handle.writable
        if self._view.meter is not None:
            self._view.meter.open_files += 1
        return handle

    def release(self, handle: Handle) -> None:
        """Close a handle."""
        node = handle.node
        node.opens -= 1
        node.writers -= handle.writable
        if self._view.meter is not None:
            self._view.meter.open_files -= 1
        if not node.writers:
            node.timed = False
        if not node.opens:
            if node.base_file is not None and node.base_file.trusted is None:
                node.base_file.close()
            self._view.release_if_unused(node)

    # -- reading

    def read(self, handle: Handle, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Up to *size* bytes; short only at the end of the file.  `WouldBlock` when the disk is needed."""
        node = handle.node
        content = node.content
        if content is None:
            return self._view.base_file(node).read(offset, size)
        return content.read(offset, size)

    # -- writing

    def write(self, handle: Handle, offset: int, data: bytes) -> int:
        """Write *data*; copies up on the first write.  Answers the number of bytes, all of them."""
        node = handle.node
        self._changes.process = handle.process
        end = offset + len(data)
        if end > MAX_FILE_SIZE:
            raise error(errno.EFBIG)
        if isinstance(node.content, Spool):
            node.content.expect_write(offset, end)
        meter = self._view.meter
        growth = 0
        if meter is not None:
            growth = meter.growth(node, offset, end)
        content = self._writable(node, max(end, node.size))
        if isinstance(content, Inline):
            before = len(content.buffer)
            content.write(offset, data)
            self._changes.inline_bytes += len(content.buffer) - before
            self._written(node, content, Op.WRITE, Patch(offset, data))
        else:
            content.write(offset, data)
            self._written(node, content, Op.WRITE, Range(offset, len(data)))
        if meter is not None:
            meter.bytes += growth
        return len(data)

    def truncate(self, node: File, size: int) -> None:
        """Set the length."""
        if size > MAX_FILE_SIZE or size < 0:
            raise error(errno.EFBIG)
        before = 0 if self._view.meter is None else held(node.content)
        if size == 0 and not isinstance(node.content, Inline | Spool):
            self._changes.before(node)
            content: Inline | Spool = Inline()  # nothing of the old content survives: no copy-up
            self._become(node, content, Whole(b""))
        else:
            if isinstance(node.content, Spool):
                node.content.expect_write(size, size)
            content = self._writable(node, size)
        if isinstance(content, Inline):
            self._changes.inline_bytes += size - len(content.buffer)
        content.truncate(size)
        if self._view.meter is not None:
            self._view.meter.changed(held(content) - before)
        try:
            self._written(node, content, Op.TRUNCATE, Cut(size))
        finally:
            if isinstance(content, Spool):
                content.trim()

    def _written(self, node: File, content: Inline | Spool, op: Op, data: Data) -> None:
        now = self._now_ns()
        node.size = content.size
        node.blocks = content.blocks() if isinstance(content, Spool) else rounded_blocks(node.size)
        node.pushed = False
        bits = Changed.DATA
        if node.timed and op is Op.WRITE:
            bits |= Changed.ATTRS  # the journal must not take the time of the record for the file's
        else:
            node.mtime_ns = node.ctime_ns = now
        if node.mode & _SUID_SGID:
            self.kill_privileges(node)
            bits |= Changed.ATTRS
        became = self._became.get(node, ()) if self._became else ()
        self._changes.record(op, node, bits, now, data=(*became, data))
        if became:
            del self._became[node]

    def kill_privileges(self, node: File) -> None:
        """What a write by somebody without CAP_FSETID does to the mode:

        no setuid, and no setgid unless it means locking.
        """
        if self._view.guard is not None:
            self._view.guard.allow_change(node)
        self._changes.before(node)
        node.mode &= ~stat.S_ISUID
        if node.mode & stat.S_IXGRP:
            node.mode &= ~stat.S_ISGID

    # -- copy-up

    def _writable(self, node: File, size: int) -> Inline | Spool:
        """The content of *node* in a state that takes a write up to *size*; the first call copies up."""
        content = node.content
        assert not isinstance(content, Given), "the guard lets nobody write to it"
        if isinstance(content, Spool) or (isinstance(content, Inline) and size <= INLINE_LIMIT):
            return content
        largest = max(size, node.size)
        source: Content | Source = self._view.base_file(node) if content is None else content
        if largest <= INLINE_LIMIT:
            whole = bytes(source.read(0, node.size)) if node.size else b""
            self._changes.before(node)
            self._changes.inline_bytes += len(whole)
            fresh = Inline(whole)
            # What is in the store already need not be in the journal once more.
            again = isinstance(source, FrozenInline) or (isinstance(source, Sealed) and source.base is None)
            self._become(node, fresh, Load() if again else Whole(whole))
            return fresh
        if isinstance(source, Inline):
            spool = self._spool_with(node, bytes(source.buffer))
            self._changes.inline_bytes -= len(source.buffer)
            return spool
        if node.size <= COPY_WHOLE_LIMIT:
            return self._spool_with(node, source.read(0, node.size))
        if isinstance(source, BaseFile):
            source.open()  # held from now on: the base may lose its name
        self._changes.before(node)
        assert not isinstance(source, FrozenInline)
        spool = self._new_spool(node.size, source)
        if isinstance(source, BaseFile):
            self._view.trust(node)
        self._become(node, spool, Spooled(spool.path.name, node.size, node.size))
        return spool

    def _spool_with(self, node: File, whole: bytes | bytearray | memoryview) -> Spool:
        """A working file that holds all there is."""
        self._changes.before(node)
        spool = self._new_spool(0, None)
        try:
            spool.write(0, whole)
        except OSError:
            spool.discard()
            raise
        self._become(node, spool, Spooled(spool.path.name, 0, 0), Range(0, len(whole)))
        return spool

    def _new_spool(self, size: int, source: Source | None) -> Spool:
        return Spool.create(self._view.working, self._view.pool, size=size, source=source, limit=size)

    def _become(self, node: File, content: Inline | Spool, *data: Data) -> None:
        """Give *node* its new content; a base file that nothing reads any more is closed with the last handle."""
        old = node.content
        node.content = content
        below = content.source if isinstance(content, Spool) else None
        if isinstance(old, FrozenSpool) and old.given_back and old is not below:
            old.discard()
        node.changed |= Changed.DATA
        self._became[node] = data  # until a record has it: what follows may fail
        if isinstance(content, Inline) or content.source is None:
            self._view.trust_no_longer(node)

    def over(self, node: File) -> tuple[Spool, tuple[Data, ...]]:
        """A working file over the content of *node*, none of which is copied, and what the journal is to hear of that.

        `WouldBlock`.
        """
        content = node.content
        if isinstance(content, Spool):
            return content, ()
        assert isinstance(content, Sealed | FrozenSpool)
        spool = self._new_spool(node.size, content)
        self._become(node, spool, Spooled(spool.path.name, node.size, node.size))
        return spool, self._became.pop(node)
