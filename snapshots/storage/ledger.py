"""The ledger of a run's effects: what is to be done outside the filesystem, and how far each came.

Owns the table ``effects`` and the rules of its transitions.  Carries nothing out and knows no protocol.  Belongs to the
thread of its store.

The forms are known ones.  A deferred effect is a row of a *transactional outbox*: written with the run, sent after its
merge.  A compensation is that of a *saga* (Garcia-Molina and Salem, 1987): recorded before the step it undoes, and run
in reverse order.  A *key* makes two attempts one, where the other side knows it.

What holds at every instant (each transition is one transaction, synced before the method returns):

* **E1** Whatever is about to happen outside is recorded as ``running``, with the number of the open store that does it,
  before it begins; its compensation is recorded before that.
* **E2** A transition says which states it comes from: of two that try, one does.
* **E3** What is ``running`` for a dead process goes back to ``planned`` if it is idempotent, and becomes ``unknown``
  otherwise; nothing leads from ``unknown`` to another attempt but a person's word.
* **E4** What was recorded stays until it is settled: neither a merge, a discard nor a collection removes an open
  effect.
"""

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from snapshots.errors import EffectError, StoreDamaged
from snapshots.storage.database import Row
from snapshots.storage.effects import Attempt, Effect, Request, State, Undo
from snapshots.storage.lease import NOBODY
from snapshots.storage.store import Store

MOST_EFFECTS = 2000
"""per run"""
MOST_BYTES = 16 << 20
"""per run, of requests"""
MOST_DETAIL = 4000
_KEPT_ATTEMPTS = 50

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Effect).decode


class Ledger:
    """The effects of one run.  Errors of every method: StoreError; of most EffectError."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._db = store.database
        self.run_id = run_id

    # -- looking

    def effects(self) -> list[Effect]:
        """All there are, in order."""
        return [unpack(row) for row in self._db.all(_SELECT + " WHERE run = ? ORDER BY number", (self.run_id,))]

    def get(self, number: int) -> Effect:
        """One of them; EffectError when there is none."""
        row = self._db.one(_SELECT + " WHERE run = ? AND number = ?", (self.run_id, number))
        if row is None:
            raise EffectError(f"run {self.run_id} has no effect {number}; `goexfs effects {self.run_id}` lists them")
        return unpack(row)

    def pending(self) -> list[Effect]:
        """The deferred ones that are still to be done, in order."""
        return [effect for effect in self.effects() if effect.is_pending]

    def compensable(self) -> list[Effect]:
        """Those that a discard has to undo, the latest first."""
        return [effect for effect in reversed(self.effects()) if effect.is_compensable]

    def has_open(self) -> bool:
        """Whether anything has to be seen to before the run may be forgotten."""
        return self._db.one("SELECT 1 FROM effects WHERE run = ? AND open = 1 LIMIT 1", (self.run_id,)) is not None

    # -- recording

    def add(
        self, request: Request, *, deferred: bool, key: str = "", undo: Request | None = None,
        irreversible: bool = False, note: str = "", trusted: bool = False, state: State = State.PLANNED,
    ) -> Effect:  # fmt: skip
        """Record an effect.  An agent that asks again with a key that is recorded already gets that effect.

        Errors: EffectError when the key was used for something else, or there is too much.
        """
        size = len(_encode((request, undo, note)))
        with self._db.transaction():
            rows = self._db.all("SELECT number, length(data) FROM effects WHERE run = ?", (self.run_id,))
            if key and (same := self._with_key(key)) is not None:
                if (same.request, same.deferred, same.undo) != (request, deferred, undo):
                    raise EffectError(f"effect {same.number}, another, has the key {key!r} already; choose a new one")
                if same.state is not State.DROPPED:
                    return same
                raise EffectError(f"effect {same.number}, with the key {key!r}, was dropped; choose a new key")
            if len(rows) >= MOST_EFFECTS or size + sum(length for _, length in rows) > MOST_BYTES:
                raise EffectError(
                    f"run {self.run_id} has too many effects ({len(rows)}):"
                    f" {MOST_EFFECTS}, and {MOST_BYTES >> 20} MiB in all, are the most"
                )
            number = max((number for number, _ in rows), default=0) + 1
            journal = self._db.one("SELECT journal FROM runs WHERE id = ?", (self.run_id,))
            if journal is None:
                raise EffectError(f"there is no run {self.run_id} to record an effect of")
            effect = Effect(
                self.run_id, number, deferred, request, key or f"goexfs-{self.run_id}-{number}", bool(key), state, undo,
                Undo.NONE if undo is None else Undo.KEPT, irreversible, note, trusted, journal[0], time.time_ns(),
            )  # fmt: skip
            self._write(effect, NOBODY)
        self._store.sync()
        return effect

    def _with_key(self, key: str) -> Effect | None:
        return next((effect for effect in self.effects() if effect.keyed and effect.key == key), None)

    # -- transitions

    def change(
        self, number: int, *, come_from: Iterable[State], holder: int = NOBODY, detail: str | None = None, **fields: Any
    ) -> Effect:
        """Move an effect on; EffectError when it is in none of these states (any more).

        ``detail`` (not None) adds an attempt.
        """
        with self._db.transaction():
            before = self.get(number)
            if before.state not in set(come_from):
                raise EffectError(f"effect {number} of run {self.run_id} is {before.state}: this cannot be done to it")
            after = msgspec.structs.replace(before, **fields)
            if detail is not None:
                after = _with_attempt(after, "do", str(after.state), detail)
            self._write(after, holder)
        self._store.sync()
        return after

    def begin(self, number: int, *, come_from: Iterable[State] = (State.PLANNED,)) -> Effect:
        """It is about to happen, done by this open store."""
        return self.change(number, come_from=come_from, holder=self._store.lease.holder, state=State.RUNNING)

    def end(self, number: int, state: State, detail: str, **fields: Any) -> Effect:
        """It has happened, or not."""
        return self.change(number, come_from=(State.RUNNING,), state=state, detail=detail, **fields)

    def renumber(self, number: int, *, gid: str, xid: str) -> Effect:
        """Record by which names the database knows the transaction of an effect that this open store is doing."""
        return self.change(number, come_from=(State.RUNNING,), holder=self._store.lease.holder, gid=gid, xid=xid)

    def begin_undo(self, number: int) -> Effect:
        """Its compensation is about to run.  A compensation may run more than once, so there is no ``unknown``."""
        return self._change_undo(number, Undo.RUNNING, None)

    def end_undo(self, number: int, outcome: Undo, detail: str) -> Effect:
        """An attempt of the compensation has ended."""
        return self._change_undo(number, outcome, detail)

    def _change_undo(self, number: int, undo_state: Undo, detail: str | None) -> Effect:
        with self._db.transaction():
            before = self.get(number)
            if before.undo is None or before.undo_state is Undo.DONE:
                raise EffectError(f"effect {number} of run {self.run_id} has nothing to undo (any more)")
            if undo_state is Undo.RUNNING and self._is_held(number):
                raise EffectError(f"effect {number} of run {self.run_id} is being undone already; wait for that")
            after = msgspec.structs.replace(before, undo_state=undo_state)
            if detail is not None:
                after = _with_attempt(after, "undo", str(undo_state), detail)
            self._write(after, self._store.lease.holder if undo_state is Undo.RUNNING else NOBODY)
        self._store.sync()
        return after

    def _is_held(self, number: int) -> bool:
        row = self._db.one("SELECT holder FROM effects WHERE run = ? AND number = ?", (self.run_id, number))
        holder = NOBODY if row is None else row[0]
        return holder not in (NOBODY, self._store.lease.holder) and self._store.lease.is_alive(holder)

    def drop(self, number: int, why: str) -> Effect:
        """It will not be done.  For what may have been done, that is a person's verdict: nothing more will be tried."""
        return self.change(
            number, come_from=(State.PLANNED, State.PREPARED, State.FAILED, State.UNKNOWN, State.ASKED),
            state=State.DROPPED, detail=why,
        )  # fmt: skip

    def retry(self, number: int) -> Effect:
        """A person says that it shall be tried again (or after all)."""
        return self.change(
            number, come_from=(State.FAILED, State.UNKNOWN, State.DROPPED, State.PLANNED), state=State.PLANNED,
            detail="to be tried again",
        )  # fmt: skip

    def replace(self, number: int, request: Request, note: str) -> Effect:
        """A person edited it: what is done is what was approved.  A new key, if the agent's was for something else."""
        before = self.get(number)
        fields: dict[str, Any] = {"request": request, "note": note}
        if request != before.request:
            fields["key"] = f"{before.key}-edited-{len(before.attempts) + 1}"
        return self.change(
            number, come_from=(State.PLANNED, State.FAILED), state=State.PLANNED, detail="edited", **fields
        )

    def abandoned(self) -> list[Effect]:
        """What is ``running`` for an open store that is dead; of a run that is not mounted also what the run itself was
        doing (nobody holds that).
        """
        rows = self._db.all(
            _SELECT + " WHERE run = ? AND state = 'running' AND holder != 0 ORDER BY number", (self.run_id,)
        )
        found = [unpack(row) for row in rows if not self._store.lease.is_alive(row[1])]
        if not self._store.runs.is_locked(self.run_id):
            rows = self._db.all(_SELECT + " WHERE run = ? AND state = 'running' AND holder = 0", (self.run_id,))
            found += [unpack(row) for row in rows]
        return sorted(found, key=lambda effect: effect.number)

    def recover(self) -> list[Effect]:
        """Say of what was abandoned what is known of it (E3)."""
        recovered = []
        for effect in self.abandoned():
            again = effect.deferred and effect.is_idempotent
            recovered.append(
                self.change(
                    effect.number, come_from=(State.RUNNING,), state=State.PLANNED if again else State.UNKNOWN,
                    detail="whoever did it died before it was known how it ended"
                    + ("; it will be tried again with the same key" if again else ""),
                )
            )  # fmt: skip
        return recovered

    def _write(self, effect: Effect, holder: int) -> None:
        self._db.run(
            "INSERT INTO effects (run, number, state, holder, open, data) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (run, number) DO UPDATE SET state = excluded.state, holder = excluded.holder,"
            " open = excluded.open, data = excluded.data",
            (effect.run_id, effect.number, str(effect.state), holder, int(effect.is_open), _encode(effect)),
        )


_SELECT = "SELECT data, holder, run, number FROM effects"


def runs_with_open_effects(store: Store) -> list[str]:
    """Ids of runs of which something is to be seen to, also those that are merged."""
    return [run_id for (run_id,) in store.database.all("SELECT DISTINCT run FROM effects WHERE open = 1 ORDER BY run")]


def has_transactions(store: Store) -> bool:
    """Whether an effect of any run ever had a transaction prepared in a database."""
    return any(effect.gid for effect in all_effects(store))


def all_effects(store: Store) -> list[Effect]:
    """Every effect of every run."""
    return [unpack(row) for row in store.database.all(_SELECT + " ORDER BY run, number")]


def unpack(row: Row) -> Effect:
    """The effect of a row.  Errors: StoreDamaged."""
    data, _, run_id, number = row
    try:
        return _decode(data)
    except msgspec.MsgspecError as exc:
        raise StoreDamaged(f"the record of effect {number} of run {run_id} is damaged ({exc})") from exc


def _with_attempt(effect: Effect, what: str, outcome: str, detail: str) -> Effect:
    attempt = Attempt(time.time_ns(), what, outcome, detail[:MOST_DETAIL])
    return msgspec.structs.replace(effect, attempts=(*effect.attempts, attempt)[-_KEPT_ATTEMPTS:])
