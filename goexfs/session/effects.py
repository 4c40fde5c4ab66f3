"""The effects of a run in the hands of the user: looking, deciding, and what each verdict on the run means for them.

Owns those meanings: a merge leaves them pending until they are run, a discard or a rewind undoes what was done and
drops what was not, an undo of the merge undoes.  How they are recorded is ``snapshots.storage.ledger``'s, how they are
carried out ``goexfs.effects``'.  Belongs to the thread of the store.
"""

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from snapshots.errors import EffectError, EffectsPending
from snapshots.names import readable
from snapshots.storage.effects import Command, Effect, Request, State
from snapshots.storage.ledger import Ledger
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.effects.execute import Done
    from goexfs.session.handle import RunHandle
    from snapshots.storage.runs import Run

Wish = Literal["refuse", "run", "skip"]
"""What becomes of pending effects at a merge: refuse the merge, run them after it, or leave them pending."""

Words = str | bytes | os.PathLike[str]
What = Request | Sequence[Words]
EffectList = list[Effect]  # inside RunEffects, ``list`` is a method
Tell = Callable[[Effect], None]


class RunEffects:
    """The effects of one run: ``run.effects``.

    As a context manager it is what ``compensate_with`` records to.
    """

    def __init__(self, run: "RunHandle", store: Store) -> None:
        self._run = run
        self._store = store
        self._ledger = Ledger(store, run.id)
        self._tokens: list[Token[RunEffects | None]] = []

    # -- looking

    def list(self) -> EffectList:
        """All that were recorded, in order."""
        return self._ledger.effects()

    def pending(self) -> EffectList:
        """The deferred ones that are still to be done."""
        return self._ledger.pending()

    @property
    def are_undecided(self) -> bool:
        """Whether there are any that a verdict on the run decides about."""
        return must_stay(self._store, self._run.id)

    def get(self, number: int) -> Effect:
        """One of them.  Raises ``EffectError``."""
        return self._ledger.get(number)

    # -- recording, from the user's own program

    def defer(
        self, what: What, *, key: str = "", undo: What | None = None, irreversible: bool = False, note: str = ""
    ) -> Effect:
        """Record what is to be done after the merge: a command, an HTTP request, SQL, or a function (``goexfs.call``).

        ``key`` says that trying again under that key is harmless.  ``undo`` is run when the merge is undone.
        """
        return self._ledger.add(
            _request(what), deferred=True, key=key, undo=None if undo is None else _request(undo),
            irreversible=irreversible, note=note, trusted=True,
        )  # fmt: skip

    def do(
        self, what: What, *, undo: What | None = None, key: str = "", irreversible: bool = False, note: str = ""
    ) -> Effect:
        """Do it now, with this program's rights; ``undo`` is recorded before.  Raises ``EffectFailed``."""
        from goexfs.effects.execute import perform
        from snapshots.errors import EffectFailed

        request = _request(what)
        number = self.begin(
            request, None if undo is None else _request(undo), key=key, irreversible=irreversible, note=note
        )
        if not number:
            return next(effect for effect in self.list() if effect.keyed and effect.key == key)
        outcome = perform(self._ledger, self._ledger.get(number), self._run.base)
        effect = self._ledger.end(number, outcome.state, outcome.detail)
        if effect.state is not State.DONE:
            raise EffectFailed(f"effect {number} of run {self._run.id} is {effect.state}: {outcome.detail}")
        return effect

    def begin(
        self, request: Request, undo: Request | None, *, key: str = "", irreversible: bool = False, note: str = ""
    ) -> int:
        """Record what this program is about to do, and its compensation; 0: it was done before, under this key."""
        if undo is None and not irreversible:
            raise EffectError("say how it is undone, or that it is irreversible")
        effect = self._ledger.add(
            request, deferred=False, key=key, undo=undo, irreversible=irreversible, note=note, trusted=True
        )
        if effect.state is State.DONE:
            return 0
        self._ledger.begin(effect.number, come_from=(State.PLANNED, State.FAILED, State.UNKNOWN))
        return effect.number

    def end(self, number: int, succeeded: bool, detail: str) -> None:
        """Record how it went."""
        self._ledger.end(number, State.DONE if succeeded else State.FAILED, detail)

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())

    # -- deciding

    def run(self, *, tell: Tell | None = None) -> "Done":
        """Carry out what is pending, in order, outside the sandbox, with this process's rights and environment.

        Raises ``EffectFailed`` for the first that does not succeed; those after it stay pending.
        """
        from goexfs.effects.execute import run_pending

        record = self._run.record
        if record.state != "merged":
            self._check_over(record)
        def screen(effect: Effect) -> str | None:
            return carried_canary(record, effect)

        return run_pending(self._ledger, self._run.base, screen=screen, tell=tell)

    def _check_over(self, record: "Run") -> None:
        """Of a run that is still being worked in nothing is carried out."""
        if self._run.state == "active":
            raise EffectError(f"run {record.label} is mounted: unmount it before its effects are carried out")

    def retry(self, number: int) -> Effect:
        """Have one that failed, was dropped, or of which nobody knows, tried again with the next ``run``."""
        return self._ledger.retry(number)

    def drop(self, number: int, why: str = "dropped by the user") -> Effect:
        """It will not be done (any more)."""
        from goexfs.effects.execute import withdraw

        self._ledger.recover()
        return withdraw(self._ledger, self._ledger.get(number), why)

    def edit(self, number: int, request: Request, note: str | None = None) -> Effect:
        """Replace what is to be done.  A transaction that a database holds ready cannot be edited: drop it."""
        before = self._ledger.get(number)
        return self._ledger.replace(number, request, before.note if note is None else note)

    def undo_one(self, number: int, *, outside: bool = False, tell: Tell | None = None) -> EffectList:
        """Run the compensation of one effect.  Raises ``EffectFailed``."""
        return self._compensate([self._ledger.get(number)], outside=outside, tell=tell)

    # -- what verdicts mean

    def check_merge(self, wish: Wish) -> None:
        """Raise ``EffectsPending`` when something is pending and it was not said what becomes of it."""
        pending = self._ledger.pending()
        if pending and wish == "refuse":
            label = self._run.record.label
            raise EffectsPending(
                f"run {label} has pending effects: {len(pending)}, see goexfs effects {label};"
                " say --effects run to have them carried out after the merge, or --effects skip to leave them pending"
            )

    def give_up(self, *, outside: bool = False, tell: Tell | None = None) -> None:
        """Before a discard: undo what was done, the latest first, and drop what was not.

        Raises ``EffectFailed`` when something could not be undone or rolled back; whatever is recorded stays.
        """
        if not self._ledger.effects():
            return
        from goexfs.effects.execute import withdraw_all

        self._ledger.recover()
        self._compensate(self._ledger.compensable(), outside=outside, tell=tell)
        withdraw_all(self._ledger, "the run was discarded")

    def before_rewind(self, position: int, created_ns: int) -> None:
        """Undo what was done, and drop what was deferred, since a point of the run.  Raises ``EffectFailed``."""
        if not self._ledger.effects():
            return
        self._ledger.recover()
        due = [effect for effect in self._ledger.compensable() if recorded_after(effect, position, created_ns)]
        self._compensate(due)
        withdraw_after(self._store, self._run.id, position, created_ns)

    def take_back(self, *, outside: bool = False, tell: Tell | None = None) -> EffectList:
        """After an undo of the merge: undo what was done in the run and after the merge.  Raises ``EffectFailed``."""
        if not self._ledger.effects():
            return []
        from goexfs.effects.execute import withdraw_all

        self._ledger.recover()
        withdraw_all(self._ledger, "the merge was undone")
        return self._compensate(self._ledger.compensable(), outside=outside, tell=tell)

    def _compensate(
        self, effects: "Sequence[Effect]", *, outside: bool = False, tell: Tell | None = None
    ) -> EffectList:
        if not effects:
            return []
        from goexfs.effects.compensate import compensate
        from goexfs.session.compensation import Compensator

        with Compensator(self._store, self._run.id, outside=outside) as runner:
            return compensate(self._ledger, effects, runner, tell=tell)


_current: ContextVar[RunEffects | None] = ContextVar("goexfs_effects", default=None)


def current() -> RunEffects | None:
    """The effects of the run that the innermost ``with run.effects:`` is about."""
    return _current.get()


def recorded_after(effect: Effect, position: int, created_ns: int) -> bool:
    """Whether an effect was recorded after a point of the run; the time decides where nothing changed in between."""
    return effect.position > position or (effect.position == position and effect.created_ns > created_ns)


def withdraw_after(store: Store, run_id: str, position: int, created_ns: int) -> None:
    """Drop what was deferred since a point that the run went back to.  Raises ``EffectFailed``."""
    ledger = Ledger(store, run_id)
    if not ledger.effects():
        return
    from goexfs.effects.execute import withdraw_all

    withdraw_all(
        ledger, "the run was rewound to before it", after=lambda effect: recorded_after(effect, position, created_ns)
    )


def must_stay(store: Store, run_id: str) -> bool:
    """Whether a run has effects that nobody has decided about: its end must not throw them away."""
    ledger = Ledger(store, run_id)
    return ledger.has_open() or bool(ledger.compensable())


def carried_canary(record: "Run", effect: Effect) -> str | None:
    """Why an effect must not leave the machine; None when it may.  The one place where effects are looked through."""
    from goexfs.session.policing import find_canary

    request = effect.request
    pieces = [msgspec.msgpack.encode(request), effect.key.encode()]
    if isinstance(request, Command):
        pieces.append(b" ".join(request.argv))
    canary = find_canary(record, *pieces)
    if canary is None:
        return None
    return f"it carries the canary {readable(canary.path)}, which nobody had a reason to read"


def _request(what: What) -> Request:
    if isinstance(what, Request):
        return what
    if isinstance(what, str | bytes):
        raise TypeError("a command is a sequence of words")
    return Command(tuple(os.fsencode(word) for word in what))
