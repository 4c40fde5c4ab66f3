"""After the command: show what the run changed and settle what becomes of it.

Owns the question at the end of ``goexfs run`` and its answers.  Knows how to ask; what each answer does is the
session's business.  Main thread only.

The run is unmounted and kept before anything is asked: whatever happens at the prompt (end of input, Ctrl-C, a
closed terminal, SIGKILL), nothing is lost and the verdict can still be given by another command.
"""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import attention, summary
from goexfs.cli.output import home_of, note, printable, use_color
from goexfs.session.errors import ServerError
from snapshots.errors import BaseError, Conflict, EffectFailed, EffectsPending, GoexfsError, MergeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goexfs.secondlook import SecondLook
    from goexfs.session import Completed, RunHandle, Session
    from snapshots.review.changes import Change

ANSWERS = {"m": "merge", "k": "keep", "x": "discard", "d": "diff"}
"""Key -> answer.  Discarding has a key far from all others: it is the one that cannot be taken back."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    verdict: str
    """``merged``, ``kept`` or ``discarded``"""
    exit_status: int
    """what goexfs ends with: the command's, or that of a refused merge when the command's was 0"""
    changes: "Sequence[Change] | None"
    """None when the run was discarded unseen"""
    reason: str | None = None
    """why it was kept although something else was asked for"""
    look: "SecondLook | None" = None
    """which of the changes deserve a second look; None when the run was discarded at once"""


def can_ask() -> bool:
    """Whether a person is there to answer: what goexfs reads and where it asks are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def settle(
    session: "Session", wish: str | None, ended: "Completed", *, want_changes: bool, effects: str | None = None
) -> Outcome:
    """Unmount the run and give it its verdict: the wish, or the person's answer, or ``kept``.

    Without changes there is nothing to decide and the run is discarded, except when keeping was asked for.  When
    goexfs was told to end (SIGTERM, SIGHUP) nobody is asked and nothing is merged.  ``effects`` is what becomes of the
    pending ones when it is merged, see ``effect.decide``.
    """
    status = ended.returncode
    if wish == "discard":
        changes = session.diff() if want_changes else None
        try:
            session.discard(forget=True)
        except EffectFailed as error:
            return _kept_because(session, status, changes, error)
        return Outcome("discarded", status, changes)
    crashed = session.state == "crashed"
    session.keep()
    for holder in session.taken_from:
        note(f"the mount was taken away from {printable(holder)}, which still used it")
    try:
        changes = session.diff()
    except BaseError as error:  # removed or replaced meanwhile: there is nothing to compare with, or to merge into
        return _kept_because(session, status, None, error)
    look = attention.look_at(session, changes)
    outcome = _settled(session, wish, ended, changes, look, crashed=crashed, effects=effects)
    return replace(outcome, look=look)


def _settled(
    session: "Session", wish: str | None, ended: "Completed", changes: "Sequence[Change]", look: "SecondLook", *,
    crashed: bool, effects: str | None,
) -> Outcome:  # fmt: skip
    """The verdict on a run that is unmounted and kept."""
    status = ended.returncode
    if crashed:
        died = ServerError("the process that served the mount has died; what it had stored by then is kept")
        return _kept_because(session, status, changes, died)
    if wish == "keep":
        show(session, changes, look)
        return _kept(session, status, changes)
    if not changes and not session.effects.are_undecided:
        session.discard()
        note("nothing changed; the run is discarded")
        return Outcome("discarded", status, changes)
    if wish == "merge" and ended.signal is None:
        for line in attention.lines(look, color=use_color(err=True)):
            click.echo(line, err=True)
        return _merged(session, status, changes, effects)
    show(session, changes, look)
    if ended.signal is None and can_ask():
        return ask(session, status, changes)
    return _kept(session, status, changes, "told to end" if wish == "merge" else None)


def show(run: "RunHandle", changes: "Sequence[Change]", look: "SecondLook") -> None:
    """The bounded summary, on stderr: first what deserves a second look."""
    color = use_color(err=True)
    note(f"run {run.record.label}: {summary.counts(changes)}")
    for line in attention.lines(look, color=color):
        click.echo(line, err=True)
    for line in summary.summary(changes, color=color):
        click.echo(line, err=True)
    if run.effects.are_undecided:
        from goexfs.cli import effect

        effect.show(run, run.effects.list())


def ask(run: "RunHandle", status: int, changes: "Sequence[Change]") -> Outcome:
    """Ask until there is an answer; the end of input and Ctrl-C keep the run."""
    from goexfs.cli.comparing import Comparison
    from goexfs.cli.review import Style, print_changes

    while True:
        try:
            answer = _answer(home_of(run))
        except (EOFError, KeyboardInterrupt, OSError):  # OSError: the terminal is gone
            click.echo(err=True)
            return _kept(run, status, changes)
        if answer == "diff":
            print_changes(Comparison(run, None, None), changes, Style())
        elif answer == "discard":
            try:
                run.discard()
            except EffectFailed as error:
                return _kept_because(run, status, changes, error)
            note(f"discarded {run.record.label}")
            return Outcome("discarded", status, changes)
        elif answer == "merge":
            return _merged(run, status, changes)
        else:
            return _kept(run, status, changes)


def _answer(base: str) -> str:
    _drop_typed_ahead()
    while True:
        click.echo(f"[m]erge into {base}, [k]eep, [d]iff, [x] discard: ", err=True, nl=False)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        word = line.strip().lower()
        if word in ANSWERS:
            return ANSWERS[word]
        if word in ANSWERS.values():
            return word
        click.echo("m, k, d or x", err=True)


def _drop_typed_ahead() -> None:
    """What was typed to the command must not answer for it."""
    import termios

    try:
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    except (termios.error, OSError, ValueError):
        pass


def _merged(run: "RunHandle", status: int, changes: "Sequence[Change]", effects: str | None = None) -> Outcome:
    from goexfs.cli import effect

    try:
        wish = effect.decide(run, effects)
        result = run.merge(effects="refuse" if wish == "refuse" else "skip")
    except (Conflict, MergeError, EffectsPending) as error:
        return _kept_because(run, status, changes, error)
    note(f"merged {run.record.label} into {home_of(run)}: {summary.counts(changes)}")
    if result.number:
        note(f"goexfs undo {result.number} takes it back")
    if wish == "run":
        try:
            effect.carry_out(run)
        except EffectFailed as error:
            from goexfs.cli.errors import describe, status_of

            for line in describe(error):
                click.echo(line, err=True)
            return Outcome("merged", status or status_of(error), changes, str(error))
    return Outcome("merged", status, changes)


def _kept_because(run: "RunHandle", status: int, changes: "Sequence[Change] | None", error: GoexfsError) -> Outcome:
    """Kept although something else was asked for: the error is said, and its status used where the command's is 0."""
    from goexfs.cli.errors import describe, status_of

    for line in describe(error):
        click.echo(line, err=True)
    return _kept(run, status or status_of(error), changes, str(error))


def _kept(run: "RunHandle", status: int, changes: "Sequence[Change] | None", reason: str | None = None) -> Outcome:
    label = run.record.label
    note(f"kept {label}.  Next:")
    steps = (
        (f"goexfs diff {label}", "see what it changed"),
        (f"goexfs merge {label}", f"bring that into {home_of(run)}"),
        (f"goexfs discard {label}", "throw it away"),
        (f"goexfs run --run {label} -- CMD", "go on"),
    )
    width = max(len(command) for command, _about in steps)
    for command, about in steps:
        click.echo(f"  {command:<{width}}  # {about}", err=True)
    return Outcome("kept", status, changes, reason)


def outcome_fields(run: "RunHandle", outcome: Outcome) -> dict[str, Any]:
    """The JSON document of ``goexfs run``."""
    from snapshots.names import text_fields

    return {
        "run": run.id,
        **text_fields("base", run.base),
        "bases": [text_fields("base", part.base) for part in run.parts],
        "verdict": outcome.verdict,
        "exit_status": outcome.exit_status,
        "reason": outcome.reason,
        "changes": None if outcome.changes is None else summary.fields(outcome.changes),
        **(attention.fields(outcome.look) if outcome.look is not None else {"second_look": None}),
    }
