"""What an undo gives back to the run: the changes that a merge took out of it are to be merged, or not, once more.

Owns ``N/run`` in the log of merges: what brings the changes of merge ``N`` back into the upper, and what takes them out
again.  Belongs to the thread of the store.

A run is given its changes back only where it is what the merge left: what it changed since is never overwritten.  That
it could not be is no reason to refuse an undo, and is said instead.  Doing it twice is like doing it once, for a
recovery does it again.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from snapshots.entries import (
    ROOT_INO,
    Ancestor,
    Changed,
    Checkpoint,
    Content,
    Entry,
    Hidden,
    Identity,
    Link,
    Origin,
    UpperState,
)
from snapshots.errors import GoexfsError, RunBusy, RunError, RunState, RunUnknown, StoreDamaged
from snapshots.layers.basepaths import BasePaths, join, split
from snapshots.merging.copies import data_ranges
from snapshots.merging.mergelog import RETURNING, MergeLog
from snapshots.merging.partial import Rest, settle
from snapshots.merging.plan import Plan
from snapshots.review.hidden import digest_of_base
from snapshots.storage import durable
from snapshots.storage.states import difference
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from snapshots.merging.apply import Application

IN_ORDER = "base_in_order_ns"
"""Option of a run: when the base was last known to be as the run saw it, later than its beginning."""

_MOST = 4 << 20
"""Bytes of a content that is kept for a run though the merge settled the file otherwise."""


class Returning(msgspec.Struct, frozen=True):
    """What a merge took out of a run."""

    run_id: str
    old: Checkpoint
    """brings it back"""
    rest: bytes
    """takes it out; empty: it was all of the run"""
    contents: dict[bytes, bytes] = {}
    """objects that are needed for it and that the merge did not put into the base: what it settled otherwise"""
    others: tuple[str, ...] = ()
    """ids of runs that ended with it, and of which nothing was merged: other bases of the same command"""
    why_not: str = ""
    """of an undo: why the run is not what it was before the merge, in words that go on after its name"""


class Leaving(NamedTuple):
    """What is about to be taken out of a run; see ``Returning``."""

    run_id: str
    rest: bytes
    others: tuple[str, ...]


def keep(
    store: Store, log: MergeLog, number: int, plan: Plan, leaving: Leaving, state: UpperState | None
) -> None:
    """Remember what a merge is about to take out of a run; ``state`` is its upper, if that has been read."""
    path = log.directory(number) / RETURNING
    if path.exists():
        return  # of the process that died: it knew the upper as it was
    now = store.upper(leaving.run_id).load() if state is None else state
    if leaving.rest:
        old = _inverse(msgspec.msgpack.decode(leaving.rest, type=Rest).checkpoint, now)
    else:
        old = _all_of(now)
    found = Returning(leaving.run_id, old, leaving.rest, _not_merged(old, plan, store), leaving.others)
    durable.write_file(path, msgspec.msgpack.encode(found))


def kept(log: MergeLog, number: int) -> Returning | None:
    """What is remembered of a merge, or an undo; None when nothing is."""
    path = log.directory(number) / RETURNING
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Returning)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as e:
        raise StoreDamaged(f"{path} is damaged ({e}): the run cannot get its changes back") from e


def turn(store: Store, log: MergeLog, number: int, undoes: int, done: "Application") -> None:
    """Give the run back what merge ``undoes`` took, or take it again when that was an undo; noted as ``number``."""
    try:
        found = kept(log, undoes)
    except StoreDamaged:
        return
    if found is None:
        return
    try:
        with _alone_with(store, found):
            found = _give(store, found, done) if done.backward else _take(store, found, done)
    except RunError as e:
        found = replace(found, why_not=str(e))
    except (GoexfsError, OSError) as e:
        why = e.strerror or str(e) if isinstance(e, OSError) else str(e)
        found = replace(found, why_not=f"stays as it is: {why}")
    durable.write_file(log.directory(number) / RETURNING, msgspec.msgpack.encode(found))


@contextmanager
def _alone_with(store: Store, found: Returning) -> Iterator[None]:
    try:
        run = store.runs.get(found.run_id)
    except RunUnknown:
        raise RunState("is forgotten") from None
    if not run.is_live or store.runs.held_lock(run.id) is not None:
        yield
        return
    try:
        lock = store.runs.lock(run.id)
    except (RunBusy, RunState):
        raise RunState("is mounted, and stays as it is") from None
    try:
        yield
    finally:
        lock.release()


def _give(store: Store, found: Returning, done: "Application") -> Returning:
    run, upper = store.runs.get(found.run_id), store.upper(found.run_id)
    if not run.is_live and (found.rest or run.state != "merged"):
        raise RunState(f"has been {run.state}")
    unfinished = {run.id, *found.others} & set(store.runs.given_up())
    if unfinished:  # what the merge could not clear away; unless forks need it, it would be taken for the run's
        store.discard(*sorted(unfinished), state="merged")
    now = upper.load()
    if run.is_live and not found.rest and now.entries:
        # It was given back by the process that died, with other objects than it had, perhaps.
        return replace(found, old=_all_of(now), why_not="")
    store.objects.put_many(found.contents.values())
    old = _on_base(_with_contents(_onto(found, now), store, done), now, BasePaths(done.base))
    with store.database.transaction():
        for run_id in (run.id, *found.others):
            if store.runs.get(run_id).state == "merged":
                _revive(store, run_id)
        upper.commit(old)
    return replace(found, old=old, why_not="")


def _take(store: Store, found: Returning, done: "Application") -> Returning:
    run, upper = store.runs.get(found.run_id), store.upper(found.run_id)
    if not run.is_live:
        return found
    now = upper.load()
    if not found.rest:
        if not _is_same(_all_of(now), found.old):
            raise RunState("has changed since, and stays as it is")
        others = [each for each in found.others if not store.upper(each).load().entries]
        store.discard(run.id, *others, state="merged")
        return replace(found, why_not="")
    rest = msgspec.msgpack.decode(found.rest, type=Rest)
    if not _is_same(_inverse(rest.checkpoint, now), found.old):
        raise RunState("has changed since, and stays as it is")
    upper.commit(settle(rest, BasePaths(done.base), store.objects.exists))
    return replace(found, why_not="")


def keep_together(store: Store, log: MergeLog, numbers: Iterable[int]) -> None:
    """After several undos that are one: the parts of a run are live together, those with nothing in them too."""
    found = [each for number in numbers if (each := kept(log, number)) is not None]
    ids = {run_id for each in found for run_id in (each.run_id, *each.others)}
    with suppress(GoexfsError), store.database.transaction():
        runs = [store.runs.get(run_id) for run_id in ids]
        if any(run.is_live for run in runs):
            for run in runs:
                if run.state == "merged":
                    _revive(store, run.id)


def _revive(store: Store, run_id: str) -> None:
    """Make a merged run a kept one, with nothing in it."""
    run = store.runs.get(run_id)
    if not store.upper(run_id).revive():
        raise RunState("stays merged: it has forks, which need what it was")
    taken = run.name is not None and any(each.name == run.name for each in store.runs.list() if each.id != run_id)
    # All that it hides was looked at for the merge, and is back as it was.
    options = {**run.options, IN_ORDER: time.time_ns()}
    store.runs.update(run_id, state="kept", options=options, name=None if taken else run.name)
    store.runs.make_directory(run_id)


# -- what is brought back


def _all_of(now: UpperState) -> Checkpoint:
    """What makes ``now`` of an empty upper."""
    return difference(UpperState({}, {}, now.next_ino), now, 0)


def _inverse(change: Checkpoint, now: UpperState) -> Checkpoint:
    """What makes ``now`` again of what ``change`` makes of it."""
    inos = [*(entry.ino for entry in change.entries), *change.gone]
    names = [*((link.parent, link.name) for link in change.links), *change.unlinked]
    links = [
        Link(parent, name, ino, now.hides.get(parent, {}).get(name))
        for parent, name in names
        if (ino := now.links.get(parent, {}).get(name)) is not None
    ]
    return Checkpoint(
        tuple(now.entries[ino] for ino in inos if ino in now.entries),
        tuple(ino for ino in inos if ino not in now.entries),
        tuple(links),
        tuple(each for each in names if each[1] not in now.links.get(each[0], {})),
        now.next_ino,
    )


def _not_merged(old: Checkpoint, plan: Plan, store: Store) -> dict[bytes, bytes]:
    """The contents that are in no slot of the merge, if they are not too large."""
    merged = {make.entry.ino: make.entry.content for make in plan.makes}
    names = {
        name
        for entry in old.entries
        if entry.content is not None and merged.get(entry.ino) != entry.content
        for name in entry.content.objects
    }
    return {name: store.objects.read(name) for name in names if store.objects.size(name) <= _MOST}


def _onto(found: Returning, now: UpperState) -> Checkpoint:
    """What brings the changes back into what the run is now."""
    if not found.rest:
        return found.old
    left = msgspec.msgpack.decode(found.rest, type=Rest).checkpoint
    old = {entry.ino: entry for entry in found.old.entries}
    entries = []
    for entry in left.entries:
        current = now.entries.get(entry.ino)
        if current is None or stat.S_IFMT(current.mode) != stat.S_IFMT(entry.mode):
            raise RunState("has changed since, and stays as it is")
        if current.content is not None and current.content.base_limit:
            raise RunState("has changed since, and stays as it is")
        was = old.pop(entry.ino)
        changed = current.changed | was.changed
        entries.append(replace(current, origin=was.origin, ancestor=was.ancestor, changed=changed, opaque=was.opaque))
    if any(now.entries.get(ino) not in (None, old.get(ino)) for ino in left.gone):
        raise RunState("has changed since, and stays as it is")
    wanted = {(link.parent, link.name): link.ino for link in found.old.links}
    expected = {(link.parent, link.name): link.ino for link in left.links} | dict.fromkeys(left.unlinked)
    for (parent, name), ino in expected.items():
        if now.links.get(parent, {}).get(name) not in (ino, wanted.get((parent, name))):
            raise RunState("has changed since, and stays as it is")
    return replace(found.old, entries=(*entries, *old.values()), next_ino=now.next_ino)


def _with_contents(old: Checkpoint, store: Store, done: "Application") -> Checkpoint:
    """The same with objects for all contents: what the merge had made lies in the slots of the undo."""
    staged = {make.entry.ino: make.staged for make in done.plan.makes}
    return replace(old, entries=tuple(_with_content(entry, store, done, staged) for entry in old.entries))


def _with_content(entry: Entry, store: Store, done: "Application", staged: dict[int, bytes]) -> Entry:
    if entry.ancestor is not None and entry.ancestor.object and not store.objects.exists(entry.ancestor.object):
        entry = replace(entry, ancestor=None)
    if entry.content is None or all(store.objects.exists(name) for name in entry.content.objects):
        return entry
    if entry.ino not in staged:
        raise RunState("has lost contents in the meantime")
    above, name = split(staged[entry.ino])
    directory = BasePaths(done.base).dir(join(done.staging.name, above) if above else done.staging.name)
    fd = done.base.open(directory, name)
    try:
        size = os.fstat(fd).st_size
        extents = store.objects.put_ranges(fd, list(data_ranges(fd, size)))
    finally:
        os.close(fd)
    return replace(entry, content=Content(size, 0, tuple(extents)), size=size)


def _on_base(old: Checkpoint, now: UpperState, base: BasePaths) -> Checkpoint:
    """The same over the base as it is: what the undo has brought back is the node that the run knew, but its ctime has
    moved, and where it had to be copied it is another one."""
    renewed: dict[Identity, Identity] = {}
    entries = {entry.ino: entry for entry in old.entries}

    def is_again(then: Identity, path: bytes) -> Identity:
        st = base.stat(path)
        if st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(then.mode):
            return then
        found = Identity.of(st)
        if not stat.S_ISDIR(st.st_mode) and (found.mode, found.size, found.mtime_ns) != (
            then.mode, then.size, then.mtime_ns,
        ):  # fmt: skip
            return then  # settled by the merge: what is in conflict stays so
        renewed[then] = found
        return found

    for entry in old.entries:
        if entry.origin is not None:
            identity = is_again(entry.origin.identity, entry.origin.path)
            entries[entry.ino] = replace(entry, origin=Origin(entry.origin.path, identity))
    links = []
    for link in old.links:
        above = entries.get(link.parent) or now.entries.get(link.parent)
        origin = above.origin if above is not None else None
        if link.hides is not None and (link.parent == ROOT_INO or origin is not None):
            path = join(origin.path if origin is not None else b"", link.name)
            identity = is_again(link.hides.identity, path)
            below = link.hides.below
            if stat.S_ISDIR(identity.mode):
                below = digest_of_base(base, path)
            link = replace(link, hides=Hidden(identity, below))
        links.append(link)
    for ino, entry in entries.items():
        if entry.ancestor is not None and entry.ancestor.identity in renewed:
            ancestor = Ancestor(renewed[entry.ancestor.identity], entry.ancestor.object)
            entries[ino] = replace(entry, ancestor=ancestor)
    return replace(old, entries=tuple(entries.values()), links=tuple(links))


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two come to the same, whatever the base's nodes are."""
    return _values(one) == _values(other)


def _values(change: Checkpoint) -> tuple[object, ...]:
    entries = {
        entry.ino: replace(
            entry, origin=entry.origin and Origin(entry.origin.path, Identity(0, 0, 0, 0, 0, 0)), ancestor=None,
            changed=0 if entry.changed == Changed.NAMES else entry.changed,
        )
        for entry in change.entries
    }  # fmt: skip
    links = {(link.parent, link.name): link.ino for link in change.links}
    return entries, links, set(change.gone), set(change.unlinked)
