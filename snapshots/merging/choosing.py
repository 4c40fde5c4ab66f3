"""From chosen parts of files to what is merged instead of the whole files.

Owns what a selection by hunks means for an upper: the paths that are merged, the substitutes of those that are not
merged whole, and the entries that must not need the base any more, because the merge replaces what they are made of.
Stores contents as objects, which the open store holds.  Belongs to the thread of the store.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from snapshots.entries import ROOT_INO, Changed, Content, Entry, Extent, Identity
from snapshots.errors import SelectionRefused
from snapshots.layers.basepaths import BasePaths, split
from snapshots.layers.content import CHUNK, same_bytes
from snapshots.layers.tree import UpperTree
from snapshots.merging.hunks import RENAME, WHOLE, Parts, chosen_content, parts
from snapshots.merging.partial import Substitute
from snapshots.names import readable
from snapshots.review.changes import Change
from snapshots.storage.objects import Objects


class Chosen(msgspec.Struct, frozen=True):
    """The parts of one change that are wanted."""

    ids: frozenset[str]
    """names of parts, see ``snapshots.merging.hunks``"""
    content: bytes | None = None
    """what the file is to be, when hunks of it were edited; then the hunks in ``ids`` do not count"""


Selection = Mapping[bytes, Chosen]
"""By the path of the change (in the run; of a deletion, in the base)."""


class Choice(NamedTuple):
    """A selection, resolved against one upper and its base."""

    paths: set[bytes]
    substitutes: dict[bytes, Substitute]
    independent: tuple[Entry, ...]
    """the entries of those paths with all of their content in objects: the same files, stored otherwise"""


def resolve(
    tree: UpperTree, changes: Sequence[Change], base: BasePaths, objects: Objects, selection: Selection, now_ns: int
) -> Choice:
    """What is to be merged for a selection.  SelectionRefused when it has what is not there (any more)."""
    by_path = {change.path: change for change in changes}
    chosen: set[bytes] = set()
    substitutes: dict[bytes, Substitute] = {}
    independent: list[Entry] = []
    for path, wanted in selection.items():
        change = by_path.get(path)
        if change is None:
            raise SelectionRefused(f"the run has no change at {readable(path)} (any more); goexfs hunks lists them")
        found = parts(change)
        _check_ids(path, found, wanted)
        if not wanted.ids and wanted.content is None:
            continue
        chosen.add(path)
        if _is_all(found, wanted):
            continue
        place = tree.resolve(path)
        entry = place.entry if place is not None else None
        if entry is None or change.after is None:
            raise SelectionRefused(f"{readable(path)} can only be merged as a whole")
        _check_base(tree, path, entry, base)
        substitutes[path] = _substitute(change, entry, found, wanted, objects, now_ns)
        independent.append(_independent(change, entry, objects))
    return Choice(chosen, substitutes, tuple(independent))


def _is_all(found: Parts, wanted: Chosen) -> bool:
    if wanted.content is None and wanted.ids >= set(found.ids):
        return True
    if found.text is None or (found.lead is not None and found.lead not in (WHOLE, *wanted.ids)):
        return False
    data = wanted.content if wanted.content is not None else chosen_content(found, wanted.ids)
    return data == b"".join(found.text.new)


def _check_ids(path: bytes, found: Parts, wanted: Chosen) -> None:
    unknown = wanted.ids - {*found.ids, *(hunk.id for hunk in found.smaller)}
    if unknown:
        raise SelectionRefused(
            f"{readable(path)} has no part {', '.join(sorted(unknown))} (any more); goexfs hunks lists those it has"
        )
    if found.lead == RENAME and RENAME not in wanted.ids and (wanted.ids or wanted.content is not None):
        raise SelectionRefused(f"hunks of {readable(path)} can only be merged with its renaming; choose {RENAME}, too")


def moved(tree: UpperTree, changes: Sequence[Change], base: BasePaths) -> set[bytes]:
    """The paths whose base file is not what the run began with: their hunks would undo what has been done to it."""
    places = {change.path: tree.resolve(change.path) for change in changes if change.after is not None}
    return {
        path for path, place in places.items()
        if place is not None and place.entry is not None and _has_moved(tree, path, place.entry, base)
    }  # fmt: skip


def _has_moved(tree: UpperTree, path: bytes, entry: Entry, base: BasePaths) -> bool:
    if entry.is_dir:
        return False
    if entry.origin is not None:
        where, then = entry.origin.path, entry.origin.identity
    else:  # written anew, perhaps where the base has a file
        above, name = split(path)
        parent = tree.resolve(above)
        ino = ROOT_INO if parent is None or parent.entry is None else parent.entry.ino
        hidden = tree.state.hides.get(ino, {}).get(name)
        if hidden is None:
            return False
        where, then = path, hidden.identity
    st = base.stat(where)
    return st is None or not same_bytes(then, Identity.of(st))


def _check_base(tree: UpperTree, path: bytes, entry: Entry, base: BasePaths) -> None:
    """Hunks are taken from the difference to the base as it is now: it must be what the run began with."""
    if _has_moved(tree, path, entry, base):
        raise SelectionRefused(
            f"{readable(path)} has changed in the base since the run changed it, so its hunks would undo that; bring"
            " the run onto the base first (goexfs rebase), or merge the file as a whole"
        )


def _substitute(
    change: Change, entry: Entry, found: Parts, wanted: Chosen, objects: Objects, now_ns: int
) -> Substitute:
    before = change.before
    like = entry
    if before is not None and found.lead is not None and found.lead not in (WHOLE, *wanted.ids):
        like = replace(
            entry, mode=before.mode, uid=before.uid, gid=before.gid, xattrs=before.xattrs,
            changed=int(entry.changed | Changed.XATTRS),
        )  # fmt: skip
    only_lead = wanted.content is None and wanted.ids <= {found.lead}
    if only_lead and before is not None and entry.origin is not None:
        return Substitute(None, before.size, before.mtime_ns, like)
    data = wanted.content if wanted.content is not None else chosen_content(found, wanted.ids)
    return Substitute(_stored(objects, data), len(data), now_ns, like)


def _independent(change: Change, entry: Entry, objects: Objects) -> Entry:
    assert change.after is not None
    with change.after.open() as content:
        chunks = (content.read(offset, CHUNK) for offset in range(0, content.size, CHUNK))
        return replace(entry, content=_stored(objects, *chunks), changed=int(entry.changed | Changed.DATA))


def _stored(objects: Objects, *chunks: bytes) -> Content:
    data = b"".join(chunks)
    if not data:
        return Content(0, 0, ())
    return Content(len(data), 0, (Extent(0, len(data), objects.put(data), 0),))
