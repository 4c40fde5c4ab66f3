"""What a run may have done by its own server: each verb of the agent's channel, and the checks before it.

Owns the meaning of the questions.  Whoever asked them is not trusted, and none of them can name another run.  In the
server's worker thread, with a store of its own.
"""

import os
import re
from collections.abc import Callable

from msgspec import structs

from goexfs.session import ownpast
from goexfs.session.channel import Asked, Told, Verb
from snapshots.errors import EffectError
from snapshots.storage.effects import Command, Effect, Http, Request, Sql, State, Undo
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store

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
        if _leaves(path.lstrip(b"/")):  # whether an absolute one is in a base is ``ownpast``'s to say
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
    return Told(effects=tuple(map(without_bulk, found)))


def without_bulk(effect: Effect) -> Effect:
    """For a listing: the bodies of requests may be long, and the run knows them."""
    if isinstance(effect.request, Http) and len(effect.request.body) > 1024:
        effect = structs.replace(effect, request=structs.replace(effect.request, body=b""))
    return structs.replace(effect, attempts=effect.attempts[-1:])


ACTS: dict[Verb, Act] = {
    "defer": _defer, "begin": begin, "end": _end, "undo": _undo, "undone": _undone, "effects": _effects,
    "snapshot": ownpast.snapshot, "snapshots": ownpast.snapshots, "diff": ownpast.diff, "rejected": ownpast.rejected,
}  # fmt: skip
"""Verb -> what it does; ``rewind`` is the agent's, step by step."""
