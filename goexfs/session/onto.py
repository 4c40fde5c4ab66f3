"""A run and a base that has moved: what is in conflict, and bringing the run onto the base as it is.

Owns what these verbs mean for a run in each state.  The library below does the work (``snapshots.merging.merge``,
``rebase``, ``settle``).  Belongs to the thread of its store.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, Union

from goexfs.session import checks
from snapshots.errors import Conflict
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from snapshots.merging.merge import MergeResult
    from snapshots.merging.plan import PathConflict
    from snapshots.merging.rebase import Rebased
    from snapshots.merging.settle import Resolve

Side = Literal["ours", "theirs", "markers"]
Choices = Union[Side, Mapping[str, Iterable[str]], "Resolve"]
"""What becomes of conflicts: one side for all of them; or patterns (as in .gitignore, relative to the base) by side; or
a function that is asked for each path.  ``ours`` is the base's version, ``theirs`` the run's."""


def resolver(choices: "Choices | None") -> "Resolve | None":
    """The function that a choice stands for; ValueError for an unknown side."""
    from snapshots.merging.settle import Resolution, by_pattern

    if choices is None or callable(choices):
        return choices
    given = {choices: ["**"]} if isinstance(choices, str) else choices
    return by_pattern(**{Resolution(side).value: list(patterns) for side, patterns in given.items()})


class Onto:
    """The verbs about a moved base of a ``RunHandle``, which has the rest."""

    id: str
    base: bytes
    _store: Store
    _settled: Callable[[str], Run]
    merge: "Callable[..., MergeResult]"
    fork: "Callable[..., Onto]"
    discard: Callable[..., None]
    as_it_was: "Callable[[str], AbstractContextManager[Onto]]"

    def conflicts(
        self, *, resolve: "Choices | None" = None, check_reads: bool = False, at: str | None = None
    ) -> "tuple[PathConflict, ...]":
        """What would keep a merge from being done, sorted by path; of a mounted run as it is at this moment.

        With ``at`` what would keep one of the run as it was at that point.
        """
        from snapshots.merging.plan import PathConflict

        if at is not None:
            with self.as_it_was(at) as fork:
                return fork.conflicts(resolve=resolve, check_reads=check_reads)
        try:
            self.merge(dry_run=True, resolve=resolve, check_reads=check_reads)
        except Conflict as refused:
            return tuple(each for each in refused.conflicts if isinstance(each, PathConflict))
        return ()

    def rebase(
        self, *, dry_run: bool = False, resolve: "Choices | None" = None, at: str | None = None
    ) -> "Rebased":
        """Let the run stand on the base as it is now, without merging it.

        With ``at`` not the run, but a fork of it at that point, which ``Rebased.run_id`` names.  Raises ``Conflict``
        (then the run is what it was, and no fork remains), ``RunBusy`` while it is mounted, ``RunState``.
        """
        from snapshots.merging.rebase import rebase

        if at is not None:
            fork = self.fork(at=at)
            done = None
            try:
                done = fork.rebase(dry_run=dry_run, resolve=resolve)
            finally:
                if done is None or dry_run:
                    fork.discard(forget=True, undo="skip")
            return done
        record = self._settled("rebase")
        checks.same_base(record)
        return rebase(self._store, record, dry_run=dry_run, resolve=resolver(resolve))
