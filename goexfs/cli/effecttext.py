"""Effects as lines for people: what a review, a prompt and a listing show of them.

Owns the wording.  Everything in an effect may have been written by an agent, so nothing of it reaches a terminal but
through ``printable``.  Pure functions; any thread.
"""

import os
from collections.abc import Iterable, Sequence

from goexfs.cli.output import command_line, count, printable, size, styled
from snapshots.storage.effects import Call, Effect, Http, Request, Sql, State, Undo

MOST_WIDTH = 200
_COLORS = {"done": "green", "failed": "red", "unknown": "red", "planned": "yellow", "prepared": "yellow"}


def what(request: Request, *, whole: bool = False) -> str:
    """A request on one line."""
    if isinstance(request, Http):
        body = f"  ({size(len(request.body))} of body)" if request.body else ""
        text = f"{request.method} {request.url}{body}"
    elif isinstance(request, Sql):
        text = f"SQL on {request.database}: {'; '.join(request.statements)}"
    elif isinstance(request, Call):
        text = f"{request.function} {request.arguments}"
    else:
        text = command_line(request.argv)
        if request.cwd:
            text = f"{text}  (in {os.fsdecode(request.cwd)})"
    text = printable(text)
    return text if whole or len(text) <= MOST_WIDTH else f"{text[: MOST_WIDTH - 1]}…"


def listed(effects: Iterable[Effect], *, color: bool = False) -> list[str]:
    """One line per effect, and one more for its note."""
    lines = []
    for effect in effects:
        state = str(effect.state) if effect.undo_state in (Undo.NONE, Undo.KEPT) else _undo_words(effect)
        mark = "!" if effect.irreversible else " "
        shown = styled(f"{state:<9}", color, fg=_COLORS.get(state))
        lines.append(f" {mark}{effect.number:>3}  {shown}  {what(effect.request)}")
        for label, text in _remarks(effect):
            lines.append(f"{'':18}{label}{printable(text)}")
    return lines


def _undo_words(effect: Effect) -> str:
    return {Undo.RUNNING: "undoing", Undo.DONE: "undone", Undo.FAILED: "not undone"}[effect.undo_state]


def _remarks(effect: Effect) -> Iterable[tuple[str, str]]:
    if effect.note:
        yield "note: ", effect.note
    if effect.irreversible:
        yield "irreversible", ""
    if effect.undo is not None:
        yield "undone by: ", what(effect.undo)
    bad = effect.state in (State.FAILED, State.UNKNOWN, State.REFUSED) or effect.undo_state is Undo.FAILED
    if bad and effect.attempts:
        yield "", (effect.attempts[-1].detail.splitlines() or [""])[0]


def counts(effects: Sequence[Effect]) -> str:
    """``3 effects: 1 irreversible``."""
    irreversible = sum(effect.irreversible for effect in effects)
    return count(len(effects), "effect") + (f", {irreversible} irreversible" if irreversible else "")


def whole(effect: Effect) -> list[str]:
    """Everything about one effect."""
    kind = "after the merge" if effect.deferred else "in the run"
    lines = [
        ("run", effect.run_id), ("effect", str(effect.number)), ("what", what(effect.request, whole=True)),
        ("when", kind), ("state", str(effect.state)), ("recorded by", "your program" if effect.trusted else "the run"),
        ("key", effect.key if effect.keyed else f"{effect.key} (goexfs made it)"),
        ("try again", "harmless" if effect.is_idempotent else "only on your word"),
    ]  # fmt: skip
    if isinstance(effect.request, Http):
        lines += [("header", f"{name}: {value}") for name, value in effect.request.headers]
        lines += [("body", line) for line in effect.request.body.decode("utf-8", "backslashreplace").splitlines()]
    if effect.irreversible:
        lines.append(("reversible", "no"))
    if effect.undo is not None:
        lines += [("undone by", what(effect.undo, whole=True)), ("undo", str(effect.undo_state))]
    if effect.note:
        lines.append(("note", effect.note))
    for attempt in effect.attempts:
        first, *rest = attempt.detail.splitlines() or [""]
        lines.append((attempt.what, f"{attempt.outcome}: {first}"))
        lines += [("", line) for line in rest]
    return [f"{label:<12} {printable(text)}" for label, text in lines]
