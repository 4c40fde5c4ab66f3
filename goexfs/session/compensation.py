"""Where a compensation runs: in a sandbox over a copy of the run, or with the user's own rights.

Owns that choice and the temporary run.  A compensation that was recorded from inside a run was written by an agent, so
it gets what the agent had, and no more: the same sandbox, over a fork of the run (or, when the run is over, over its
base), of which nothing remains.  What the user's own program recorded, and what the user asks to have run outside, runs
outside. Belongs to the thread of the store.
"""

import os
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import msgspec

from goexfs.session.confinement import Confinement
from snapshots.errors import EffectError, GoexfsError
from snapshots.storage.effects import Call, Command, Effect, State
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.effects.outcome import Outcome
    from goexfs.session.run import Session

SECONDS = 600.0
"""How long a compensation may take."""


class Compensator:
    """Runs compensations of one run: a context manager, which makes the temporary run when it is first needed."""

    def __init__(self, store: Store, run_id: str, *, outside: bool = False) -> None:
        self._store = store
        self._run_id = run_id
        self._outside = outside
        self._stack = ExitStack()
        self._session: Session | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, effect: Effect) -> "Outcome":
        """Run the compensation of an effect once."""
        from goexfs.effects.outcome import Outcome

        try:
            if effect.trusted or self._outside:
                return self._with_own_rights(effect)
            return self._confined(effect)
        except TimeoutError:
            return Outcome(State.FAILED, f"it was ended after {SECONDS:.0f} s")
        except GoexfsError as error:
            return Outcome(State.FAILED, str(error))

    def _with_own_rights(self, effect: Effect) -> "Outcome":
        from goexfs.effects import calls, commands

        base = self._store.runs.get(self._run_id).base
        if isinstance(effect.undo, Call):
            return calls.run(effect.undo, effect.key, cwd=base)
        command = _command(effect)
        place = os.path.normpath(os.path.join(base, command.cwd))
        return commands.run(command.argv, cwd=place, env=commands.environment(effect.key), seconds=SECONDS)

    def _confined(self, effect: Effect) -> "Outcome":
        from goexfs.effects.outcome import Outcome, tail

        command = _command(effect)
        session = self._mounted()
        wishes = _confinement(self._store, self._run_id)
        wishes = replace(wishes, env=(*wishes.env, b"GOEXFS_EFFECT_KEY=" + effect.key.encode()))
        done = session.exec(
            command.argv, cwd=os.path.normpath(os.path.join(session.base, command.cwd)), stdin=subprocess.DEVNULL,
            capture=True, timeout=SECONDS, confinement=wishes,
        )  # fmt: skip
        said = tail((done.stdout or b"") + (done.stderr or b""))
        interrupted = done.signal is not None
        if done.returncode == 0:
            return Outcome(State.DONE, said or "exit status 0", interrupted=interrupted)
        return Outcome(State.FAILED, f"exit status {done.returncode}\n{said}".strip(), interrupted=interrupted)

    def _mounted(self) -> "Session":
        if self._session is None:
            from goexfs.session.handle import RunHandle
            from goexfs.session.store import RunStore

            runs, record = RunStore(self._store), self._store.runs.get(self._run_id)
            if record.is_live:
                copy = RunHandle.of(self._store, record)._forked(None, None)
                session = runs.resume(copy, on_exit="forget")
            else:
                further = [part.base for part in self._store.runs.parts(self._run_id)]
                session = runs.start(record.base, on_exit="forget", cow=further)
            self._session = self._stack.enter_context(session)
        return self._session


def remember_confinement(store: Store, run_id: str, wishes: Confinement) -> None:
    """Record what a command of the run is confined to, so that its compensations are, too; no values of variables.

    The latest counts.
    """
    record = store.runs.get(run_id)
    kept = replace(wishes, env=tuple(word for word in wishes.env if b"=" not in word))
    plain = msgspec.to_builtins(kept, builtin_types=(bytes,), enc_hook=os.fsencode)
    before = record.options.get(_OPTION)
    if before != plain and not (before is None and kept == Confinement()):
        store.runs.update(run_id, options={**record.options, _OPTION: plain})


def _confinement(store: Store, run_id: str) -> Confinement:
    kept = store.runs.get(run_id).options.get(_OPTION)
    return Confinement() if kept is None else msgspec.convert(kept, Confinement)


_OPTION = "confinement"


def _command(effect: Effect) -> Command:
    if not isinstance(effect.undo, Command):
        raise EffectError(f"effect {effect.number} has no command that would undo it in a sandbox")
    return effect.undo
