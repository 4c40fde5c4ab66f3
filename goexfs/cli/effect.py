"""``goexfs effects`` and ``effect``: what runs want done outside the filesystem, and the user's word on each.

Owns the review of effects, and the question at a merge.  Main thread only.
"""

import sys
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import effecttext
from goexfs.cli.output import count, note, print_json, printable, use_color
from goexfs.cli.params import ANY_PATH, RUN, content, json_option
from snapshots.storage.effects import Effect, Undo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from goexfs.session import RunHandle
    from goexfs.session.effects import Wish

number_argument = click.argument("number", metavar="EFFECT", type=click.IntRange(min=1))
run_argument = click.argument("ref", metavar="RUN", type=RUN)


@click.group("effect", short_help="Decide about what a run wants done outside of the files.")
def effect_command() -> None:
    """Look at the effects of a run, and have them done, tried again, changed or dropped.

    An agent records them inside its run with goexfs effect defer, do and sql.
    """


for _name in ("defer", "do", "sql"):

    @effect_command.command(
        _name, hidden=True, add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )  # fmt: skip
    @click.pass_context
    def _inside_only(ctx: click.Context) -> None:
        from goexfs.session.errors import NotInside

        raise NotInside(f"goexfs effect {ctx.info_name} is for programs inside a run (goexfs run -- CMD)")


@click.command("effects", short_help="List what runs want done, or did, outside of the files.")
@click.argument("ref", metavar="[RUN]", type=RUN, required=False)
@json_option
def effects_command(ref: str | None, as_json: bool) -> None:
    """List the effects of RUN; without one, those of all runs that somebody still has to see to."""
    _list(ref, as_json)


@effect_command.command("list", short_help="The same as goexfs effects.")
@click.argument("ref", metavar="[RUN]", type=RUN, required=False)
@json_option
def list_command(ref: str | None, as_json: bool) -> None:
    """List the effects of RUN; without one, those of all runs that somebody still has to see to."""
    _list(ref, as_json)


def _list(ref: str | None, as_json: bool) -> None:
    import goexfs
    from goexfs.effects.documents import effect_fields
    from snapshots.storage.ledger import runs_with_open_effects

    with goexfs.open_store(create=False) as store:
        refs = runs_with_open_effects(store.store) if ref is None else [ref]
        runs = [store.run(each) for each in refs]
        found = {run.id: run.effects.list() for run in runs}
        if as_json:
            print_json({"effects": [effect_fields(effect) for effects in found.values() for effect in effects]})
            return
        for run in runs:
            if ref is None:
                click.echo(f"run {printable(run.record.label)} ({run.state})")
            for line in effecttext.listed(found[run.id], color=use_color()):
                click.echo(line)
        if not any(found.values()):
            note("no run has effects to see to" if ref is None else f"run {runs[0].record.label} has no effects")


@effect_command.command("show", short_help="Everything about one effect.")
@run_argument
@number_argument
@json_option
def show_command(ref: str, number: int, as_json: bool) -> None:
    """Show what EFFECT of RUN is, with what, and what became of each attempt."""
    import goexfs
    from goexfs.effects.documents import effect_fields

    with goexfs.open_store(create=False) as store:
        effect = store.run(ref).effects.get(number)
        if as_json:
            print_json(effect_fields(effect))
            return
        for line in effecttext.whole(effect):
            click.echo(line)


@effect_command.command("run", short_help="Have the pending effects of a run done.")
@run_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def run_command(ref: str, yes: bool, as_json: bool) -> None:
    """Do what is pending of RUN, in order, with your rights and outside of any sandbox.  The first that does not
    succeed ends it; the rest stays pending.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        _confirm(run, run.effects.pending(), yes)
        carry_out(run, as_json=as_json)


@effect_command.command("retry", short_help="Try one again that failed, or of which nobody knows.")
@run_argument
@number_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def retry_command(ref: str, number: int, yes: bool) -> None:
    """Have EFFECT of RUN tried again, and then the ones after it.  One that was dropped is taken up again."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        effect = run.effects.get(number)
        if effect.undo_state is Undo.FAILED:
            run.effects.undo_one(number, tell=_tell)
            return
        _confirm(run, [effect, *(each for each in run.effects.pending() if each.number != number)], yes)
        run.effects.retry(number)
        carry_out(run)


@effect_command.command("drop", short_help="Decide that it will not be done.")
@run_argument
@click.argument("numbers", metavar="EFFECT...", type=click.IntRange(min=1), nargs=-1, required=True)
def drop_command(ref: str, numbers: tuple[int, ...]) -> None:
    """Decide that EFFECT of RUN will not be done (any more).  What a database holds ready for it is rolled back."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        for number in numbers:
            run.effects.drop(number)
            note(f"effect {number} of {run.record.label} is dropped")


@effect_command.command("edit", short_help="Change what will be done.")
@run_argument
@number_argument
@click.option("--file", "source", type=ANY_PATH, metavar="FILE", help="Take it from a file (-: standard input).")
def edit_command(ref: str, number: int, source: bytes | None) -> None:
    """Change EFFECT of RUN, as JSON in your editor ($VISUAL, $EDITOR), or to what is in FILE."""
    import goexfs
    from goexfs.effects import documents

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        before = run.effects.get(number)
        data = _edited(before) if source is None else content(source, "--file")
        if data is None:
            note("nothing was changed")
            return
        (document,) = documents.read(data)[:1] or [documents.Document()]
        after = run.effects.edit(number, document.request(), document.note)
        note(f"effect {number} is now: {effecttext.what(after.request)}")


@effect_command.command("undo", short_help="Undo one that was done.")
@run_argument
@number_argument
@click.option("--outside", is_flag=True, help="With your own rights, instead of as the run was confined.")
def undo_command(ref: str, number: int, outside: bool) -> None:
    """Run the compensation of EFFECT of RUN."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        store.run(ref).effects.undo_one(number, outside=outside, tell=_tell)


def _edited(effect: Effect) -> bytes | None:
    import json

    from goexfs.effects import documents

    before = json.dumps({**documents.request_fields(effect.request), "note": effect.note}, indent=2, ensure_ascii=True)
    text = click.edit(before + "\n", extension=".json", require_save=True)
    return None if text is None or text.strip() == before else text.encode()


def carry_out(run: "RunHandle", *, as_json: bool = False, quiet: bool = False) -> None:
    """Do what is pending, saying how each ended (not if ``quiet``)."""
    tried: list[Effect] = []

    def tell(effect: Effect) -> None:
        tried.append(effect)
        if not as_json and not quiet:
            _tell(effect)

    try:
        run.effects.run(tell=tell)
    finally:
        if as_json:
            from goexfs.effects.documents import effect_fields

            print_json({"run": run.id, "effects": [effect_fields(effect) for effect in tried]})


def _tell(effect: Effect) -> None:
    undone = {Undo.DONE: "undone", Undo.FAILED: "not undone"}.get(effect.undo_state)
    detail = (effect.attempts[-1].detail.splitlines() or [""])[0] if effect.attempts else ""
    note(printable(f"effect {effect.number} {undone or effect.state}: {effecttext.what(effect.request)}  [{detail}]"))


def tell_undo(effect: Effect) -> None:
    """Say how a compensation ended."""
    _tell(effect)


def _confirm(run: "RunHandle", effects: "Sequence[Effect]", yes: bool) -> None:
    """On a terminal, ask before what cannot be taken back; elsewhere it was asked for by name."""
    from goexfs.cli.verdict import can_ask

    if yes or not can_ask() or not effects:
        return
    for line in effecttext.listed(effects, color=use_color(err=True)):
        click.echo(line, err=True)
    if not click.confirm(f"do {effecttext.counts(effects)} of {printable(run.record.label)} now?", err=True):
        raise click.Abort


def show(run: "RunHandle", effects: "Sequence[Effect]") -> None:
    """The effects beside the changes, on stderr."""
    if effects:
        note(f"and {effecttext.counts(effects)}:")
        for line in effecttext.listed(effects, color=use_color(err=True)):
            click.echo(line, err=True)


def decide(run: "RunHandle", given: str | None, *, partly: bool = False) -> "Wish":
    """What becomes of pending effects at a merge: what was given, or the user's answer; else the merge is refused."""
    from goexfs.cli.verdict import can_ask

    pending = run.effects.pending()
    if not pending:
        return "skip"
    if given is not None:
        return "run" if given == "run" else "skip"
    if partly:
        note(f"{count(len(pending), 'effect')} stay pending: goexfs effects {run.record.label}")
        return "skip"
    if not can_ask():
        return "refuse"
    return _asked(run)


def _asked(run: "RunHandle") -> "Wish":
    """Ask until everything is decided; the end of input and Ctrl-C refuse the merge."""
    answers: dict[str, Callable[[], Any]] = {"r": lambda: "run", "s": lambda: "skip", "c": lambda: "refuse"}
    while pending := run.effects.pending():
        show(run, pending)
        click.echo("[r]un after the merge, [s]kip for now, [d N] drop, [e N] edit, [c]ancel: ", err=True, nl=False)
        line = sys.stdin.readline()
        if not line:
            click.echo(err=True)
            return "refuse"
        word, _, number = line.strip().lower().partition(" ")
        if word in answers and not number:
            wish: Wish = answers[word]()
            return wish
        if word in ("d", "e") and number.strip().isdigit():
            _change(run, word, int(number))
        else:
            click.echo("r, s, c, or d and e with the number of an effect", err=True)
    return "skip"


def _change(run: "RunHandle", word: str, number: int) -> None:
    from goexfs.effects import documents
    from snapshots.errors import EffectError

    try:
        if word == "d":
            run.effects.drop(number)
            return
        data = _edited(run.effects.get(number))
        if data is not None:
            (document,) = documents.read(data)[:1] or [documents.Document()]
            run.effects.edit(number, document.request(), document.note)
    except (EffectError, click.ClickException) as error:
        click.echo(printable(str(error)), err=True)
