"""What a run may ask of its own past on the agent's channel: its snapshots, its diff, and the way back to a snapshot.

Owns what these verbs mean for a run with one base or several: paths are written as ``bases`` says, and one that is in
no base is refused.  Whoever asks is not trusted, and can name no other run.  In the server's worker thread, with a
store of its own: what is dirty is sealed over the control sockets of the run's servers, its own among them.
"""

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from goexfs.session import control
from goexfs.session.channel import Asked, Snapshot, Told
from goexfs.session.handle import RunHandle
from snapshots.errors import EffectError, SnapshotUnknown
from snapshots.names import is_inside, readable
from snapshots.storage.effects import Effect
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from snapshots.history import history
    from snapshots.review.changes import Change

MOST_TEXT = 2 << 20
"""Bytes of a patch: it grows by a third on its way."""
MOST_SNAPSHOTS = 1000
"""The channel makes no more: each keeps what it names."""


class Aim(NamedTuple):
    """Where one part of the run is to go back to."""

    run_id: str
    position: int
    paths: tuple[bytes, ...]
    """relative to its base"""


class Goal(NamedTuple):
    """Where the run is to go back to."""

    due: tuple[Effect, ...]
    """what has to be undone before, the latest first; then there are no aims"""
    aims: tuple[Aim, ...] = ()


def snapshot(store: Store, run_id: str, asked: Asked) -> Told:
    """Name what all of the run is now."""
    run = _own(store, run_id)
    if len(run.snapshots()) >= MOST_SNAPSHOTS:
        raise EffectError(f"this run has {MOST_SNAPSHOTS} snapshots, which is enough; the user can forget some")
    return Told(snapshots=(_told(run.snapshot(asked.name or None, asked.message)),))


def snapshots(store: Store, run_id: str, asked: Asked) -> Told:
    """List them, the latest last."""
    return Told(snapshots=tuple(map(_told, _own(store, run_id).snapshots())))


def diff(store: Store, run_id: str, asked: Asked) -> Told:
    """What the run changed until now, in all of its bases."""
    run = _own(store, run_id)
    _check_places(run, asked.paths)
    changes = run.diff(asked.paths)
    text, size = [], 0
    for piece in _written(run, changes, asked.form):
        text.append(piece)
        size += len(piece)
        if size > MOST_TEXT:
            break
    if size > MOST_TEXT and asked.form == "json":
        raise EffectError("the diff is too long for the channel; name paths")
    return Told(text=b"".join(text)[:MOST_TEXT], cut=size > MOST_TEXT)


def _written(run: RunHandle, changes: "list[Change]", form: str) -> Iterator[bytes]:
    from snapshots.review.changes import as_json
    from snapshots.review.patch import patch

    if form == "json":
        yield json.dumps([as_json(change) for change in changes]).encode()
    elif form == "name-status":
        for change in changes:
            names = [change.path] if change.old_path is None else [change.old_path, change.path]
            yield b"\t".join([str(change.status).encode(), *names]) + b"\0"
    else:
        for number, within in run.divide(changes):
            if len(run.parts) > 1:
                yield f"In {readable(run.parts[number].base)}:\n".encode()
            yield from patch(within, large=MOST_TEXT)


def rejected(store: Store, run_id: str, asked: Asked) -> Told:
    """What the user rejected of the run, and why."""
    from snapshots.merging.rejections import as_json

    return Told(text=msgspec.json.encode(as_json(_own(store, run_id).rejected())))


def goal(store: Store, run_id: str, asked: Asked) -> Goal:
    """Where a rewind of all of the run, or of what lies at some paths, leads to; or what is due before it."""
    from goexfs.session.effects import recorded_after

    run = _own(store, run_id)
    _check_places(run, asked.paths)
    found = run.snapshots()
    chosen = next((each for each in found if each.name == asked.name), found[-1] if found and not asked.name else None)
    if chosen is None:
        raise SnapshotUnknown(f"this run has no snapshot called {asked.name!r}; `goexfs snapshots` lists them")
    aims = tuple(Aim(*aim) for aim in run.aims(chosen.name, asked.paths))
    if not asked.paths:
        ledger, position = Ledger(store, run_id), run.position(chosen.name)
        due = [each for each in ledger.compensable() if recorded_after(each, position, chosen.created_ns)]
        if due:
            return Goal(tuple(due))
    return Goal((), aims)


def rewind(aim: Aim, store: Store, run_id: str, asked: Asked) -> int:
    """Have a further part go back, by its own server; how many files are different now."""
    question = control.Question("rewind", position=aim.position, paths=aim.paths)
    return control.put(store.runs.directory(aim.run_id), question, timeout=control.SEAL_SECONDS).nodes


def after_rewind(store: Store, run_id: str, asked: Asked) -> Told:
    """What was to be done later is not part of the run any more, as far as it was recorded since."""
    from goexfs.session.effects import withdraw_after

    run = _own(store, run_id)
    found = run.snapshots()
    named = [each for each in found if each.name == asked.name or (not asked.name and each.kind != "rewind")]
    if named:
        withdraw_after(store, run_id, run.position(named[-1].name), named[-1].created_ns)
    return Told()


def _own(store: Store, run_id: str) -> RunHandle:
    return RunHandle.of(store, store.runs.get(run_id))


def _told(found: "history.Snapshot") -> Snapshot:
    return Snapshot(found.name, found.kind, found.message, found.created_ns)


def _check_places(run: RunHandle, paths: tuple[bytes, ...]) -> None:
    """Raise ``EffectError`` for an absolute path, unless it is how a run with several bases calls one in these."""
    places = [part.base for part in run.parts] if len(run.parts) > 1 else []
    for path in paths:
        if path.startswith(b"/") and not (
            path == os.path.normpath(path) and any(is_inside(path, place) for place in places)
        ):
            raise EffectError("a path points out of the base")
