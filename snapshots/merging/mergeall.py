"""Merging several runs, one after the other.

Owns the order, and what a conflict of one means for the others: it is left as it is, and they are merged.  Each is a
merge of its own, which an undo takes back alone.  What a later run changed beside an earlier one's changes is merged
three-way, as if a person had made those.  Belongs to the thread of the store.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from snapshots.errors import Conflict
from snapshots.merging.merge import MergeResult
from snapshots.storage.runs import Run


class Attempt(NamedTuple):
    """What came of one run."""

    run: Run
    result: MergeResult | None
    """None when it was left"""
    refused: Conflict | None
    """why it was left"""


def merge_all(runs: Iterable[Run], merge: Callable[[Run], MergeResult]) -> list[Attempt]:
    """Merge each with ``merge``, in order; those that are in conflict are left.  Any other error ends it."""
    attempts = []
    for run in runs:
        try:
            attempts.append(Attempt(run, merge(run), None))
        except Conflict as refused:
            attempts.append(Attempt(run, None, refused))
    return attempts
