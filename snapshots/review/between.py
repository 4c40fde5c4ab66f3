"""What differs between two states over one base: two points of a run, or two runs.

Owns the two views that this takes; the finding of changes is in ``snapshots.review.finder``.  Reads, never writes.
Belongs to the thread of its ``BaseTree``.

Nodes are the same when they came from the same path of the base, or, made by the run itself, have one inode number
below ``shared``: two runs give the same numbers to different files once they have parted.
"""

from collections.abc import Iterable

from snapshots.entries import UpperState
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.content import ObjectReader
from snapshots.layers.tree import UpperTree
from snapshots.review.changes import Change
from snapshots.review.compare import Sides
from snapshots.review.finder import find, limited
from snapshots.review.views import RunView


def difference_of(
    before: UpperState,
    after: UpperState,
    base: BaseTree,
    objects: ObjectReader,
    *,
    shared: int | None = None,
    times: bool = False,
    paths: Iterable[bytes] = (),
) -> list[Change]:
    """Every change that makes ``after`` of ``before``, sorted by path; BaseError where the base cannot be read.

    ``shared``: the first inode number that may mean another node in each (``snapshots.history.forks.shared_numbers``);
    None for two states of one run.  ``times`` and ``paths`` as in ``diff``.  Paths of the side before are those of that
    state.
    """
    below = BasePaths(base)
    sides = Sides(below, objects)
    old = RunView(UpperTree(before), below, sides, shared=shared, is_before=True)
    new = RunView(UpperTree(after), below, sides, shared=shared)
    return limited(find(old, new, below, sides, times=times), paths)
