"""Forks: runs that begin where another one was.

Owns the making of a fork, in the table ``forks``.  A fork has no rows of its own at first: it sees its parent's as of
a position (``snapshots.storage.versions``), so making one costs the same whatever the parent holds.  What it sees stays
for as long as it needs it, also when the parent is merged, discarded or forgotten.  Belongs to one store, so to one
thread.
"""

from collections.abc import Iterator, Sequence

from snapshots.entries import Checkpoint
from snapshots.errors import RunState
from snapshots.history.timeline import state_at
from snapshots.storage.runs import Run
from snapshots.storage.states import difference, is_empty
from snapshots.storage.store import Store


def fork(
    store: Store, run_id: str, position: int | None, *, name: str | None = None,
    parts: Sequence[tuple[str, int | None]] = (),
) -> Run:  # fmt: skip
    """A new run, state ``kept``, that begins as the run ``run_id`` was at a position of its journal; None: as it is.

    ``parts`` are those of the run, each with a position of its own: all of them are forked in one transaction, into
    parts of the new run.  Errors: RunUnknown, RunState, RunExists, RunError for the name, HistoryGone, StoreError.
    """
    origins = [(run_id, *_origin(store, run_id, position))]
    origins += [(part, *_origin(store, part, at)) for part, at in parts]
    made: Run | None = None
    with store.database.transaction():
        for parent, at, rest in origins:
            if at is None:
                _, at = store.upper(parent).retained()
            store.upper(parent).checkpoint_before(at)  # it may have been let go meanwhile
            child = _make(store, parent, at, rest, name=None if made else name, whole=made.id if made else None)
            made = made or child
    assert made is not None
    return made


def _origin(store: Store, run_id: str, position: int | None) -> tuple[int | None, Checkpoint | None]:
    """A checkpoint (None: the present one), and what a fork at a position has on top of it as its own."""
    upper = store.upper(run_id)
    if position is None or position == upper.retained()[1]:
        return position, None
    at = upper.checkpoint_before(position)
    if at == position:
        return at, None
    return at, difference(upper.load(at), state_at(store, run_id, position), 0)


def _make(
    store: Store, run_id: str, at: int, rest: Checkpoint | None, *, name: str | None, whole: str | None
) -> Run:
    parent = store.runs.get(run_id)
    if not parent.is_live:
        raise RunState(f"run {parent.label} has been {parent.state}: it cannot be forked")
    made = store.runs.create(
        base=parent.base, name=name, options=parent.options, identity=parent.base_identity, whole=whole
    )
    made = store.runs.update(made.id, state="kept")
    _enter(store, run_id, made.id, at)
    if rest is not None and not is_empty(rest):
        store.upper(made.id).commit(rest)
    return made


def _enter(store: Store, parent: str, child: str, position: int) -> None:
    """Note whose fork a run is.  A version that is to be seen must be a checkpoint's."""
    store.database.run(
        "INSERT INTO forks (run, parent, position, began_ns, next_ino)"
        " SELECT c.key, p.key, ?, coalesce((SELECT began_ns FROM forks WHERE run = p.key), p.created_ns), p.next_ino"
        " FROM runs c, runs p WHERE c.id = ? AND p.id = ?",
        (position, child, parent),
    )
    store.database.run(
        "UPDATE runs SET (next_ino, history_limit) = (SELECT next_ino, history_limit FROM runs WHERE id = ?)"
        " WHERE id = ?",
        (parent, child),
    )


def began_ns(store: Store, run: Run) -> int:
    """When the base was first looked at by a run, or by the one that it is a fork of in the end; ns since 1970."""
    row = store.database.one("SELECT began_ns FROM forks f JOIN runs r ON r.key = f.run WHERE r.id = ?", (run.id,))
    return run.created_ns if row is None else int(row[0])


def parent_of(store: Store, run_id: str) -> tuple[str, int] | None:
    """(id of the parent, position) of a fork; None for a run that is none."""
    row = store.database.one(
        "SELECT p.id, f.position FROM forks f JOIN runs r ON r.key = f.run JOIN runs p ON p.key = f.parent"
        " WHERE r.id = ?",
        (run_id,),
    )
    return None if row is None else (str(row[0]), int(row[1]))


def shared_numbers(store: Store, one: str, other: str) -> int | None:
    """The first inode number that may mean another node in each of two runs; None when they are one run.

    A run and its fork share the numbers that were given before they parted, and all runs over one base those of the
    base, which are told apart by where in it they come from.
    """
    if one == other:
        return None
    above = dict(_lineage(store, one))
    for run_id, limit in _lineage(store, other):
        if run_id in above:
            return min(number for number in (limit, above[run_id]) if number is not None)
    return 0


def _lineage(store: Store, run_id: str) -> Iterator[tuple[str, int | None]]:
    """A run, its parent, and so on: each with the first number that ``run_id`` does not have from it."""
    limit: int | None = None
    while True:
        yield run_id, limit
        row = store.database.one(
            "SELECT p.id, f.next_ino FROM forks f JOIN runs r ON r.key = f.run JOIN runs p ON p.key = f.parent"
            " WHERE r.id = ?",
            (run_id,),
        )
        if row is None:
            return
        run_id, limit = row[0], row[1] if limit is None else min(limit, row[1])
