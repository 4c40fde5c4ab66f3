"""What a merge replaced or removed: moved out of the base into the log of merges, and back for an undo.

Owns where the slots are between a merge and its undo.  Within one filesystem a directory is renamed, whatever its size;
between two it is copied, and linked
again to what stayed in the base.  Belongs to the thread of its store.
Every step can be done again from its start: the directory is in one place, or complete in both.
"""

import errno
import os
import stat

from snapshots.layers.base import BaseTree
from snapshots.merging import disk
from snapshots.merging.copies import copy_back, copy_tree
from snapshots.merging.mergelog import KEPT, MergeLog
from snapshots.merging.plan import Plan
from snapshots.merging.slots import Fresh
from snapshots.merging.staging import Staging, remove_tree

_PART = b"kept.part"
_DEPTH = 200  # what lies deeper is not counted


class Keeping(Fresh):
    """The slots of a merge that can be undone: what is left in them is kept as ``number``."""

    def __init__(self, plan: Plan | None, base: BaseTree, log: MergeLog, number: int) -> None:
        super().__init__(plan)
        self._base = base
        self._log = log
        self._number = number

    def settle(self, staging: Staging) -> None:
        """Move the directory into the log."""
        into = self._log.open(self._number)
        try:
            if not disk.exists(into, KEPT):
                self._move(staging, into)
        finally:
            os.close(into)
        if staging.made:
            staging.remove()

    def _move(self, staging: Staging, into: int) -> None:
        root = self._base.fd(self._base.root)
        try:
            disk.rename(root, staging.name, into, KEPT)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            remove_tree(into, _PART)
            self._log.note_nodes(self._number, copy_tree(root, staging.name, into, _PART))
            disk.sync(into)
            disk.rename(into, _PART, into, KEPT)
            return
        staging.left()


class TakenBack(Keeping):
    """The slots of an undo: those that were kept as ``undoes``."""

    def __init__(self, plan: Plan | None, base: BaseTree, log: MergeLog, number: int, undoes: int) -> None:
        super().__init__(plan, base, log, number)
        self._undoes = undoes

    def fill(self, staging: Staging) -> None:
        """Move the directory into the base."""
        root = self._base.fd(self._base.root)
        source = self._log.open(self._undoes)
        try:
            try:
                disk.rename(source, KEPT, root, staging.name)
            except OSError as e:
                if e.errno != errno.EXDEV:
                    raise
                staging.made = True  # whatever comes of it
                nodes = self._log.nodes(self._undoes)
                self._log.note_moved(self._number, copy_back(source, KEPT, root, staging.name, nodes, root))
        finally:
            os.close(source)
        staging.reopen()

    def give_back(self, staging: Staging) -> None:
        """Move it back, unless it was copied."""
        into = self._log.open(self._undoes)
        try:
            if disk.exists(into, KEPT):
                staging.remove()
            else:
                disk.rename(self._base.fd(self._base.root), staging.name, into, KEPT)
                staging.left()
        finally:
            os.close(into)

    def settle(self, staging: Staging) -> None:
        """Keep what is in the slots now; what was kept before is in the base."""
        super().settle(staging)
        self.forget_source()

    def forget_source(self) -> None:
        """Remove what was copied."""
        source = self._log.open(self._undoes)
        try:
            remove_tree(source, KEPT)
        finally:
            os.close(source)


def size_of(staging: Staging) -> int:
    """Bytes on the disk in the slots, hard links to what is elsewhere not counted."""
    return _size(staging.fd, 0)


def _size(fd: int, depth: int) -> int:
    total = 0
    if depth > _DEPTH:
        return total
    for name in os.listdir(fd):
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            try:
                inner = disk.open_dir(fd, os.fsencode(name))
            except PermissionError:
                continue  # one that its owner may not read either
            try:
                total += _size(inner, depth + 1)
            finally:
                os.close(inner)
        elif st.st_nlink == 1:
            total += st.st_blocks * 512
    return total
