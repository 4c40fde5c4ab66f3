"""Checking the ledger of effects: are its records readable, and does nobody own what is said to be under way?

Owns the checks and repairs of the table ``effects`` for ``snapshots.upkeep.fsck``.  Asks no database outside: see
``goexfs.effects.strays``.  Belongs to the thread of its store.
"""

from collections.abc import Iterator

from snapshots.errors import StoreDamaged
from snapshots.storage.effects import State
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store
from snapshots.upkeep.findings import Finding, Kind


def check_effects(store: Store, *, repair: bool) -> Iterator[Finding]:
    """What is wrong with the effects of all runs."""
    rows = store.database.all(
        "SELECT e.run, e.number, r.state FROM effects e LEFT JOIN runs r ON r.id = e.run ORDER BY e.run, e.number"
    )
    for run_id, number, run_state in rows:
        what = f"run {run_id} effect {number}"
        try:
            effect = Ledger(store, run_id).get(number)
        except StoreDamaged as error:
            yield Finding(Kind.EFFECT, what, str(error))
            continue
        if run_state is None:
            if repair:
                with store.database.transaction():
                    store.database.run("DELETE FROM effects WHERE run = ? AND number = ?", (run_id, number))
            yield Finding(Kind.EFFECT, what, "its run is not registered", repair)
        elif effect.state is State.PREPARED and run_state in ("merged", "discarded"):
            detail = f"a database holds its transaction ready, and the run is {run_state}: run or drop it"
            yield Finding(Kind.EFFECT, what, detail)
    for run_id in sorted({run_id for run_id, _, run_state in rows if run_state is not None}):
        yield from _abandoned(Ledger(store, run_id), repair)


def _abandoned(ledger: Ledger, repair: bool) -> Iterator[Finding]:
    try:
        abandoned = [effect for effect in ledger.abandoned() if effect.deferred]
        if repair and abandoned:
            ledger.recover()
    except StoreDamaged:
        return  # told above
    for effect in abandoned:
        what = f"run {ledger.run_id} effect {effect.number}"
        yield Finding(Kind.EFFECT, what, "whoever carried it out died on the way", repair)
