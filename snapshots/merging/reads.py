"""Has what a run only read changed since?

Owns that question for a merge.  Reads the log and the base, writes nothing.  Belongs to the thread of the store.
"""

from snapshots.entries import Identity, UpperState
from snapshots.history.logbook import read
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.content import same_bytes
from snapshots.merging.plan import ConflictKind, PathConflict
from snapshots.storage.store import Store

_ADVICE = "look whether what the run did still fits, and merge without --check-reads"


def check_reads(store: Store, run_id: str, state: UpperState, base: BasePaths) -> tuple[PathConflict, ...]:
    """A conflict for every base file that the run read last in another state, and did not change; sorted by path.

    No side can be taken: the run has none of its own.
    """
    changed = {entry.origin.path for entry in state.entries.values() if entry.origin is not None}
    last = {event.path: event.identity for event in read(store, run_id, inherited=True).reads}
    found = []
    for path, then in sorted(last.items()):
        if path in changed:
            continue
        st = base.stat(path)
        if st is None or not same_bytes(then, Identity.of(st)):
            found.append(PathConflict(path, ConflictKind.READ, _ADVICE, path if st is not None else None))
    return tuple(found)
