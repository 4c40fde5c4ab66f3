"""Going through the deferred effects of a run, in order, each once.

Owns the order of record and deed: ``running`` is recorded and synced before an attempt, its outcome after it.  What
each request means is the other modules'; who may decide is the caller's.  Belongs to the thread of the store.

The first effect that does not succeed ends it: the ones after it stay pending, because they may build on it.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from goexfs.effects import calls, commands, connections, postgresql, sqlite, web
from goexfs.effects.attempts import attempts
from goexfs.effects.outcome import Outcome
from snapshots.errors import EffectError, EffectFailed
from snapshots.storage import durable
from snapshots.storage.effects import Call, Command, Effect, Http, Sql, State
from snapshots.storage.ledger import Ledger


class Done(NamedTuple):
    """What was gone through."""

    effects: tuple[Effect, ...]
    """those that were tried, as they are now"""
    left: int
    """how many are still pending"""


def run_pending(
    ledger: Ledger, base: bytes, *, screen: Callable[[Effect], str | None] | None = None,
    tell: Callable[[Effect], None] | None = None,
) -> Done:  # fmt: skip
    """Carry out what is pending, in order.

    ``screen`` says why an effect must not leave the machine, None when it may; ``tell`` hears of each as it ends.
    Raises EffectFailed for the first that does not succeed, that nobody knows the outcome of, or that must not leave;
    EffectError when another process is at it.
    """
    ledger.recover()
    for effect in ledger.effects():
        if isinstance(effect.request, Sql) and effect.state is State.DONE:
            _tidy(effect)  # whoever did it may have died just before
    tried: list[Effect] = []
    for effect in ledger.pending():
        _check_turn(effect)
        problem = screen(effect) if screen is not None else None
        if problem is not None:
            raise EffectFailed(f"effect {effect.number} was not carried out: {problem}; edit it or drop it")
        effect, interrupted = carry_out(ledger, effect, base)
        tried.append(effect)
        if tell is not None:
            tell(effect)
        if interrupted:
            raise KeyboardInterrupt
        if effect.state is not State.DONE:
            raise _failure(effect, len(ledger.pending()) - 1)
    return Done(tuple(tried), len(ledger.pending()))


def _check_turn(effect: Effect) -> None:
    """Raise for one that must not be tried now."""
    if effect.state is State.RUNNING:
        raise EffectError(f"effect {effect.number} of run {effect.run_id} is being carried out by another process")
    if effect.state in (State.FAILED, State.UNKNOWN):
        raise _failure(effect, 0)


def _failure(effect: Effect, left: int) -> EffectFailed:
    detail = effect.attempts[-1].detail.splitlines() if effect.attempts else []
    why = f" ({detail[0]})" if detail else ""
    which = f"effect {effect.number} of run {effect.run_id}"
    rest = f"; {left} after it wait" if left > 0 else ""
    next_step = f"goexfs effect retry {effect.run_id} {effect.number}, or drop"
    if effect.state is State.UNKNOWN:
        return EffectFailed(f"nobody knows whether {which} was done{why}{rest}: find out, then {next_step}")
    return EffectFailed(f"{which} failed{why}{rest}: {next_step}")


def carry_out(ledger: Ledger, effect: Effect, base: bytes) -> tuple[Effect, bool]:
    """Try one effect, again if it is idempotent and failed for what may pass; and whether the user interrupted it."""

    def once(number: int) -> tuple[tuple[Effect, bool], bool]:
        came_from = (State.FAILED, State.UNKNOWN) if number else (State.PLANNED, State.PREPARED)
        begun = ledger.begin(effect.number, come_from=came_from)
        durable.step("external begin", f"effect {effect.number}")
        outcome = perform(ledger, begun, base)
        durable.step("external end", f"effect {effect.number}")
        ended = ledger.end(effect.number, outcome.state, outcome.detail)
        if isinstance(ended.request, Sql) and ended.state is State.DONE:
            _tidy(ended)
        return (ended, outcome.interrupted), outcome.transient and ended.is_idempotent

    return attempts(once)


def perform(ledger: Ledger, effect: Effect, base: bytes) -> Outcome:
    """One attempt, with the user's own rights."""
    request = effect.request
    try:
        if isinstance(request, Command):
            place = os.path.normpath(os.path.join(base, request.cwd))
            return commands.run(request.argv, cwd=place, env=commands.environment(effect.key))
        if isinstance(request, Http):
            return web.send(request, effect.key)
        if isinstance(request, Call):
            return calls.run(request, effect.key, cwd=base)
        return _sql(ledger, effect, request)
    except EffectError as error:  # before anything was sent: the configuration, a library
        return Outcome(State.FAILED, str(error))


def _sql(ledger: Ledger, effect: Effect, request: Sql) -> Outcome:
    database = connections.database(request.database)
    if database.kind == "sqlite":
        return sqlite.execute(database.address, request.statements, _mark(effect))

    def record(gid: str, xid: str) -> None:
        ledger.renumber(effect.number, gid=gid, xid=xid)

    return postgresql.finish(database.address, effect, record)


def prepare(ledger: Ledger, effect: Effect) -> Effect:
    """Have the database hold the transaction of a new SQL effect ready, or see that it can be done.

    One that cannot is ``failed`` and dropped: the run is told so at once.
    """
    request = effect.request
    assert isinstance(request, Sql)
    effect = ledger.begin(effect.number)

    def record(gid: str, xid: str) -> None:
        nonlocal effect
        effect = ledger.renumber(effect.number, gid=gid, xid=xid)

    try:
        database = connections.database(request.database)
        if database.kind == "postgresql":
            outcome = postgresql.prepare(database.address, effect, record)
        else:
            outcome = sqlite.try_out(database.address, request.statements)
            if outcome.state is State.DONE:
                outcome = outcome._replace(state=State.PLANNED)
    except EffectError as error:
        outcome = Outcome(State.FAILED, str(error))
    effect = ledger.end(effect.number, outcome.state, outcome.detail)
    return ledger.drop(effect.number, "it cannot be done") if effect.state is State.FAILED else effect


def withdraw(ledger: Ledger, effect: Effect, why: str) -> Effect:
    """Drop a deferred effect; what a database holds ready for it is rolled back first.

    Raises EffectFailed when the database cannot be told: the effect stays as it is.
    """
    if isinstance(effect.request, Sql) and effect.gid:
        outcome = postgresql.roll_back(connections.database(effect.request.database).address, effect)
        if outcome.state is not State.DONE:
            raise EffectFailed(
                f"the transaction of effect {effect.number} is still held; no rollback: {outcome.detail}"
            )
    return ledger.drop(effect.number, why)


def withdraw_all(ledger: Ledger, why: str, *, after: Callable[[Effect], bool] = lambda _: True) -> list[Effect]:
    """Drop every pending effect (for which ``after`` is true), the latest first."""
    ledger.recover()
    return [withdraw(ledger, effect, why) for effect in reversed(ledger.pending()) if after(effect)]


def _tidy(effect: Effect) -> None:
    """Remove the mark of a transaction that the ledger knows to be done."""
    assert isinstance(effect.request, Sql)
    try:
        database = connections.database(effect.request.database)
    except EffectError:
        return  # not configured any more: the mark is harmless
    if database.kind == "sqlite" and sqlite.has_marks(database.address):
        durable.step("external tidy", database.address)
        sqlite.forget_mark(database.address, _mark(effect))


def _mark(effect: Effect) -> str:
    """Not the key, which the run chose: it may be that of another effect."""
    return f"{effect.run_id}-{effect.number}"
