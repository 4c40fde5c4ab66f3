"""What a run may have done by its own server: each verb of the agent's channel, and the checks before it.

Owns the meaning of the questions.  Whoever asked them is not trusted, and none of them can name another run.  In the
server's worker thread, with a store of its own.
"""

import json
import os
import re
from collections.abc import Callable

import msgspec
from msgspec import structs

from goexfs.session.channel import Asked, Snapshot, Told, Verb
from snapshots.errors import EffectError, SnapshotUnknown
from snapshots.history.history import History
from snapshots.storage.effects import Command, Effect, Http, Request, Sql, State, Undo
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store

MOST_TEXT = 2 << 20
"""Bytes of a patch: it grows by a third on its way."""
MOST_SNAPSHOTS = 1000
"""The channel makes no more: each keeps what it names."""
MOST_WORDS = 1 << 20
"""Bytes of a command, characters of statements."""

Act = Callable[[Store, str, Asked], Told]


def check(asked: Asked) -> None:
    """Refuse what is too long, what points out of the base, and what no effect can be."""
    for text in (asked.key, asked.note, asked.name, asked.message):
        if len(text) > 2000 or "\0" in text:
            raise EffectError("a key, a note or a name is too long")
    if asked.key and not re.fullmatch(r"[!-~]{1,200}", asked.key):
        raise EffectError("a key is up to 200 printable ASCII characters, without spaces")
    for path in asked.paths:
        if _leaves(path):
            raise EffectError("a path points out of the base")
    if asked.verb in ("defer", "begin"):
        if asked.request is None:
            raise EffectError("there is no request")
        check_request(asked.request)
        if asked.undo is not None:
            check_request(asked.undo)


def check_request(request: Request) -> None:
    """Raise EffectError for what can never be carried out."""
    if isinstance(request, Command):
        if not request.argv or not request.argv[0] or any(b"\0" in word for word in request.argv):
            raise EffectError("there is no command")
        if len(request.argv) > 10_000 or sum(map(len, request.argv)) > MOST_WORDS:
            raise EffectError("the command is too long")
        if _leaves(request.cwd):
            raise EffectError("the directory of the command is not in the base")
    elif isinstance(request, Http):
        from goexfs.effects.web import check

        check(request)
    elif isinstance(request, Sql):
        if not request.statements or not request.database:
            raise EffectError("there is no statement, or no database")
        if sum(map(len, request.statements)) > MOST_WORDS or any("\0" in each for each in request.statements):
            raise EffectError("the statements are too long")
    else:
        raise EffectError("a run cannot have functions called outside")


def _leaves(path: bytes) -> bool:
    return path.startswith(b"/") or b"\0" in path or os.path.normpath(path or b".").split(b"/")[0] == b".."


def _defer(store: Store, run_id: str, asked: Asked) -> Told:
    from goexfs.effects.execute import prepare

    assert asked.request is not None
    ledger = Ledger(store, run_id)
    known = {effect.number for effect in ledger.effects()}
    effect = ledger.add(
        asked.request, deferred=True, key=asked.key, undo=asked.undo, irreversible=asked.irreversible, note=asked.note
    )
    # A path may be any file: trying it out here would tell the run about files that it may not see.
    may_try = asked.hold and isinstance(asked.request, Sql) and not os.path.isabs(asked.request.database)
    if effect.number not in known and may_try:
        effect = prepare(ledger, effect)
        if effect.state is State.DROPPED:
            raise EffectError(f"the database does not take it: {effect.attempts[0].detail}")
    return Told(effect=effect)


def begin(store: Store, run_id: str, asked: Asked) -> Told:
    """Record what the run is about to do; of what cannot be undone only that it wants to."""
    assert asked.request is not None
    if asked.undo is None and not asked.irreversible:
        raise EffectError("say how it is undone (--undo CMD), or that it cannot be (--irreversible)")
    ledger, state = Ledger(store, run_id), State.ASKED if asked.irreversible else State.RUNNING
    effect = ledger.add(
        asked.request, deferred=False, key=asked.key, undo=asked.undo, irreversible=asked.irreversible, note=asked.note,
        state=state,
    )  # fmt: skip
    if effect.state in (State.FAILED, State.UNKNOWN, State.REFUSED):  # its key is known, and it wants to try again
        effect = ledger.change(effect.number, come_from=(effect.state,), state=state, detail="again")
    return Told(effect=effect)


def allow(store: Store, run_id: str, asked: Asked) -> Told:
    """The user said yes."""
    return Told(effect=Ledger(store, run_id).change(
        asked.number, come_from=(State.ASKED,), state=State.RUNNING, detail="allowed by the user"
    ))  # fmt: skip


def refuse(store: Store, run_id: str, asked: Asked) -> Told:
    """The user said no."""
    return Told(effect=Ledger(store, run_id).change(
        asked.number, come_from=(State.ASKED,), state=State.REFUSED, detail="not allowed by the user"
    ))  # fmt: skip


def _end(store: Store, run_id: str, asked: Asked) -> Told:
    ledger = Ledger(store, run_id)
    effect: Effect = ledger.get(asked.number)
    if effect.deferred:
        raise EffectError(f"effect {asked.number} is deferred: the run does not do it itself")
    state = State.DONE if asked.succeeded else State.FAILED
    return Told(effect=ledger.end(asked.number, state, asked.detail))


def _undo(store: Store, run_id: str, asked: Asked) -> Told:
    ledger = Ledger(store, run_id)
    if not ledger.get(asked.number).is_compensable:
        raise EffectError(f"effect {asked.number} has nothing to undo")
    return Told(effect=ledger.begin_undo(asked.number))


def _undone(store: Store, run_id: str, asked: Asked) -> Told:
    ledger = Ledger(store, run_id)
    if ledger.get(asked.number).undo_state is not Undo.RUNNING:
        raise EffectError(f"effect {asked.number} is not being undone")
    return Told(effect=ledger.end_undo(asked.number, Undo.DONE if asked.succeeded else Undo.FAILED, asked.detail))


def _effects(store: Store, run_id: str, asked: Asked) -> Told:
    found: list[Effect] = Ledger(store, run_id).effects()
    return Told(effects=tuple(map(_without_bulk, found)))


def _without_bulk(effect: Effect) -> Effect:
    """For a listing: the bodies of requests may be long, and the run knows them."""
    if isinstance(effect.request, Http) and len(effect.request.body) > 1024:
        effect = structs.replace(effect, request=structs.replace(effect.request, body=b""))
    return structs.replace(effect, attempts=effect.attempts[-1:])


def _snapshot(store: Store, run_id: str, asked: Asked) -> Told:
    history = History(store, run_id)
    if len(history.snapshots()) >= MOST_SNAPSHOTS:
        raise EffectError(f"this run has {MOST_SNAPSHOTS} snapshots, which is enough; the user can forget some")
    made = history.snapshot(asked.name or None, asked.message)
    return Told(snapshots=(Snapshot(made.name, made.kind, made.message, made.created_ns),))


def _snapshots(store: Store, run_id: str, asked: Asked) -> Told:
    found = History(store, run_id).snapshots()
    return Told(snapshots=tuple(Snapshot(each.name, each.kind, each.message, each.created_ns) for each in found))


def _diff(store: Store, run_id: str, asked: Asked) -> Told:
    from snapshots.layers.base import BaseTree
    from snapshots.layers.tree import UpperTree
    from snapshots.review.changes import as_json
    from snapshots.review.diff import diff
    from snapshots.review.patch import patch

    run = store.runs.get(run_id)
    with BaseTree(run.base) as base:
        changes = diff(UpperTree(store.upper(run_id).load()), base, store.objects, paths=asked.paths)
        if asked.form == "patch":
            pieces = patch(changes, large=MOST_TEXT)
        elif asked.form == "json":
            pieces = iter([json.dumps([as_json(change) for change in changes]).encode()])
        else:
            pieces = (
                b"\t".join([str(c.status).encode(), *([c.old_path] if c.old_path is not None else []), c.path]) + b"\0"
                for c in changes
            )
        text, size = [], 0
        for piece in pieces:
            text.append(piece)
            size += len(piece)
            if size > MOST_TEXT:
                break
    whole = b"".join(text)
    if size > MOST_TEXT and asked.form == "json":
        raise EffectError("the diff is too long for the channel; name paths")
    return Told(text=whole[:MOST_TEXT], cut=size > MOST_TEXT)


def rewind_goal(store: Store, run_id: str, asked: Asked) -> Told:
    """Where to (in ``nodes``), or the compensations that are due before it."""
    from goexfs.session.effects import recorded_after
    history = History(store, run_id)
    found = history.snapshots()
    chosen = next((each for each in found if each.name == asked.name), found[-1] if found and not asked.name else None)
    if chosen is None:
        raise SnapshotUnknown(f"this run has no snapshot called {asked.name!r}; `goexfs snapshots` lists them")
    if not asked.paths:
        due = [e for e in Ledger(store, run_id).compensable() if recorded_after(e, chosen.position, chosen.created_ns)]
        if due:
            return Told(effects=tuple(map(_without_bulk, due)))
    return Told(nodes=chosen.position)


def after_rewind(store: Store, run_id: str, asked: Asked) -> Told:
    """What was to be done later is not part of the run any more, as far as it was recorded since."""
    from goexfs.session.effects import withdraw_after
    found = History(store, run_id).snapshots()
    named = [each for each in found if each.name == asked.name or (not asked.name and each.kind != "rewind")]
    if named:
        withdraw_after(store, run_id, named[-1].position, named[-1].created_ns)
    return Told()


def _rejected(store: Store, run_id: str, asked: Asked) -> Told:
    from snapshots.merging.rejections import Rejections, as_json

    return Told(text=msgspec.json.encode(as_json(Rejections(store, run_id).list())))


ACTS: dict[Verb, Act] = {
    "defer": _defer, "begin": begin, "end": _end, "undo": _undo, "undone": _undone, "effects": _effects,
    "snapshot": _snapshot, "snapshots": _snapshots, "diff": _diff, "rejected": _rejected,
}  # fmt: skip
"""Verb -> what it does; ``rewind`` is the server's."""
