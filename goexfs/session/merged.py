"""What was merged, and taking it back.

Owns what this means for files and effects together.  The library below does the work (``snapshots.merging.undo``,
``mergelog``).  Belongs to the thread of its store.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from snapshots.errors import RunUnknown
from snapshots.names import is_inside
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.session.handle import RunHandle
    from snapshots.merging.mergelog import MergeRecord
    from snapshots.merging.undo import UndoResult
    from snapshots.storage.effects import Effect

Place = str | bytes | os.PathLike[str]
Compensation = Literal["sandbox", "outside", "skip"]


class Merge(msgspec.Struct, frozen=True):
    """A merge, or an undo, that was done."""

    record: "MergeRecord"
    undone_by: int | None
    """number of the undo that took it back"""
    can_be_undone: bool
    """it is in effect, and what it replaced is kept"""
    others: "tuple[MergeRecord, ...]" = ()
    """of one into several bases: those of the further ones"""


class Merged:
    """The verbs about merges of a ``RunStore``, which has the rest."""

    store: Store
    run: "Callable[[str], RunHandle]"

    def merges(self, place: Place | None = None) -> list[Merge]:
        """All merges and undos that are remembered, the latest last; with ``place`` those into the base that it is in.

        Raises ``StoreDamaged``.
        """
        from snapshots.merging.mergelog import MergeLog

        log = MergeLog(self.store)
        gone = log.taken_back()
        at = None if place is None else os.path.realpath(os.fsencode(place))
        return [
            Merge(
                group[0], gone.get(group[0].number),
                all(each.number not in gone and log.is_kept(each.number) for each in group), tuple(group[1:]),
            )
            for group in log.together()
            if at is None or any(is_inside(at, each.base) for each in group)
        ]  # fmt: skip

    def undo(
        self, number: int | None = None, *, place: Place = ".", dry_run: bool = False,
        compensate: Compensation = "sandbox", tell: "Callable[[Effect], None] | None" = None,
    ) -> "UndoResult":  # fmt: skip
        """Take back a merge (or an undo): the base is what it was before.  Without a number, the latest merge into the
        base that ``place`` is in.

        What the run did outside of the files is undone then, where it said how (``compensate`` says where that is done;
        ``skip``: not at all).  Raises ``MergeError``, ``Conflict`` when what the merge left was changed since (nothing
        is changed then), ``BaseError``, and, with the files undone, ``EffectFailed``.
        """
        from snapshots.merging.undo import latest, undo

        wanted = number if number is not None else latest(self.store, os.path.realpath(os.fsencode(place)))
        result = undo(self.store, wanted, dry_run=dry_run)
        if not dry_run and compensate != "skip":
            self.take_back_effects(result, outside=compensate == "outside", tell=tell)
        return result

    def take_back_effects(
        self, result: "UndoResult", *, outside: bool = False, tell: "Callable[[Effect], None] | None" = None
    ) -> None:
        """Undo what the run of an undone merge did outside of the files, if all of it is undone.  ``EffectFailed``."""
        run_id = result.undone.run_id
        if run_id is None:
            return
        try:
            run = self.run(run_id)
        except RunUnknown:  # so old that its record has gone, which it would not have with anything open
            return
        if run.state == "merged" or result.gave_all:  # while a part of it is still in the run, what it did stands
            run.effects.take_back(outside=outside, tell=tell)
