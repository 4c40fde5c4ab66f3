"""What a run changed, compared with its base as it is now.

Owns the two views that this takes; the finding of changes is in ``snapshots.review.finder``.  Reads, never writes.
Belongs to the thread of its ``BaseTree``.
"""

from collections.abc import Iterable

from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.content import ObjectReader
from snapshots.layers.tree import UpperTree
from snapshots.review.changes import Change, Side, Status, as_json
from snapshots.review.compare import Sides
from snapshots.review.finder import find, limited
from snapshots.review.views import BaseView, RunView

__all__ = ["Change", "Side", "Status", "as_json", "diff"]


def diff(
    tree: UpperTree, base: BaseTree, objects: ObjectReader, *, times: bool = False, paths: Iterable[bytes] = (),
    sides: Sides | None = None,
) -> list[Change]:  # fmt: skip
    """Every change of the run, sorted by path; BaseError where the base cannot be read.

    With ``times`` a different mtime is a change (by default it is not).  ``paths`` (relative to the base) limit it to
    what lies at or below one of them, before or after.  ``sides`` remember which contents were compared, for whoever
    has to know it too.
    """
    below = BasePaths(base)
    sides = sides or Sides(below, objects)
    after = RunView(tree, below, sides, shared=0)
    return limited(find(BaseView(below, sides), after, below, sides, times=times), paths)
