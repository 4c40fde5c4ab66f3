"""Ctrl-C during a merge or an undo: whether it was done all the same.

Owns what is said then.  From its commit point on a merge is brought to its end before a signal is heeded, so whoever
interrupts it has to be told on which side of that they were.  Main thread only.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from goexfs.cli.output import note

if TYPE_CHECKING:
    from goexfs.session import RunStore
    from snapshots.merging.mergelog import MergeRecord


@contextmanager
def told_if_interrupted(store: "RunStore", is_it: "Callable[[MergeRecord], bool]") -> Iterator[None]:
    """Say what became of the merge or undo in the block, which ``is_it`` knows, when it is interrupted."""
    began = time.time_ns()
    try:
        yield
    except KeyboardInterrupt:
        made = [
            merge.record.number
            for merge in store.merges()
            if merge.record.made_ns >= began and any(map(is_it, (merge.record, *merge.others)))
        ]
        if made:
            note(f"that was too late: it is done; goexfs undo {made[-1]} takes it back")
        else:
            note("nothing was changed")
        raise
