"""Undoing what a run did outside: its compensations, the latest first, each tried several times.

Owns the order and the recording.  Where a compensation runs (in a sandbox, or with the user's own rights) is the
caller's choice: it hands in what runs one.  Belongs to the thread of the store.

A compensation may run more than once, and when there is nothing to undo: its attempt may have succeeded just before
whoever ran it died, and the action may have failed half-way.  So one that fails does not keep the others from running;
all outcomes are recorded, and what failed is told at the end.
"""

from collections.abc import Callable, Iterable

from goexfs.effects.attempts import attempts
from goexfs.effects.outcome import Outcome
from snapshots.errors import EffectFailed
from snapshots.storage import durable
from snapshots.storage.effects import Effect, State, Undo
from snapshots.storage.ledger import Ledger

Runner = Callable[[Effect], Outcome]
"""Runs the compensation of an effect once."""


def compensate(
    ledger: Ledger, effects: Iterable[Effect], run: Runner, *, tell: Callable[[Effect], None] | None = None
) -> list[Effect]:
    """Undo these effects in the order given; as they are then.

    Raises EffectFailed, when all were tried, if some could not be undone.
    """
    settled = []
    for effect in effects:
        settled.append(_undo(ledger, effect, run))
        if tell is not None:
            tell(settled[-1])
    failed = [effect for effect in settled if effect.undo_state is not Undo.DONE]
    if failed:
        numbers = ", ".join(str(effect.number) for effect in failed)
        detail = failed[0].attempts[-1].detail.splitlines() or ["no reason given"]
        run_id = ledger.run_id
        raise EffectFailed(
            f"{len(failed)} of {len(settled)} effects of run {run_id} could not be undone ({numbers}): {detail[0]};"
            f" goexfs effects {run_id} tells more"
        )
    return settled


def _undo(ledger: Ledger, effect: Effect, run: Runner) -> Effect:
    def once(_number: int) -> tuple[Effect, bool]:
        begun = ledger.begin_undo(effect.number)
        durable.step("external undo", f"effect {effect.number}")
        outcome = run(begun)
        durable.step("external undone", f"effect {effect.number}")
        state = Undo.DONE if outcome.state is State.DONE else Undo.FAILED
        ended = ledger.end_undo(effect.number, state, outcome.detail)
        if outcome.interrupted and state is Undo.FAILED:
            raise KeyboardInterrupt
        return ended, state is Undo.FAILED

    return attempts(once)
