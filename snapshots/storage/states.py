"""Arithmetic of whole uppers: what turns one state into another.

Pure functions over the values of ``snapshots.entries``; any thread.
"""

from snapshots.entries import Checkpoint, Entry, Link, UpperState


def difference(before: UpperState, after: UpperState, position: int) -> Checkpoint:
    """The checkpoint that makes ``after`` of ``before``; ``position`` is its place in the journal, 0 for none."""
    entries: list[Entry] = [entry for ino, entry in after.entries.items() if before.entries.get(ino) != entry]
    gone = [ino for ino in before.entries if ino not in after.entries]
    links = [
        Link(parent, name, ino, after.hides.get(parent, {}).get(name))
        for parent, names in after.links.items()
        for name, ino in names.items()
        if before.links.get(parent, {}).get(name) != ino
        or before.hides.get(parent, {}).get(name) != after.hides.get(parent, {}).get(name)
    ]
    unlinked = [
        (parent, name)
        for parent, names in before.links.items()
        for name in names
        if name not in after.links.get(parent, {})
    ]
    next_ino = max(before.next_ino, after.next_ino)
    return Checkpoint(tuple(entries), tuple(gone), tuple(links), tuple(unlinked), next_ino, position)


def is_empty(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint changes nothing."""
    return not (checkpoint.entries or checkpoint.gone or checkpoint.links or checkpoint.unlinked)
