"""``goexfs effect`` and ``effects`` inside a run: have something done outside the filesystem, or do it so that it can
be undone.

Owns how requests are written on an agent's command line.  What is recorded is decided by the run's server.  Main thread
only.
"""

import os
import subprocess
from typing import Any

import click

from goexfs.cli.effecttext import listed
from goexfs.cli.inside import base
from goexfs.cli.output import note, print_json, printable
from goexfs.cli.params import ANY_PATH, content, json_option
from goexfs.effects import documents
from goexfs.session.channel import ASK_SECONDS, Asked, ask
from snapshots.errors import EffectError
from snapshots.storage.effects import Command, Effect, Http, Request, Sql, State

key_option = click.option("--key", default="", metavar="KEY", help="Trying again under this key is harmless.")
irreversible_option = click.option("--irreversible", is_flag=True, help="It cannot be undone.")
note_option = click.option("--note", default="", metavar="TEXT", help="What it is for, for the user who reviews it.")
undo_option = click.option("--undo", metavar="CMD", help="A shell command that undoes it, should it come to that.")
command_argument = click.argument("command", metavar="[-- CMD...]", nargs=-1, type=click.UNPROCESSED)

_AS_TYPED = {"allow_interspersed_args": False}


@click.group("effect", short_help="Have something done outside of the files, or do it so that it can be undone.")
def effect_command() -> None:
    """Do something outside of the files: after the user's merge (defer, sql), or now, with what undoes it (do)."""


@effect_command.command(
    "defer", short_help="Record what the user may have done after the merge.", context_settings=_AS_TYPED
)
@click.option("--http", nargs=2, metavar="METHOD URL", help="An HTTP request instead of a command.")
@click.option("-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of it (repeatable).")
@click.option("--data", metavar="TEXT|@FILE", help="Its body.")
@click.option("--file", "source", type=ANY_PATH, metavar="FILE", help="One request, or a list of them, as JSON.")
@key_option
@undo_option
@irreversible_option
@note_option
@json_option
@command_argument
def defer_command(
    command: tuple[str, ...], http: tuple[str, str] | None, headers: tuple[str, ...], data: str | None,
    source: bytes | None, key: str, undo: str | None, irreversible: bool, note: str, as_json: bool,
) -> None:  # fmt: skip
    """Record a command, an HTTP request, or what a FILE says, to be done after the merge: by the user, outside of this
    run, with the user's rights and credentials.  Nothing is done now.
    """
    if [bool(command), http is not None, source is not None].count(True) != 1:
        raise click.UsageError("give a command after --, or --http METHOD URL, or --file FILE")
    if (headers or data is not None) and http is None:
        raise click.UsageError("-H and --data go with --http")
    if source is not None:
        asked = [
            _asked(document)
            for document in documents.read(content(source, "FILE"))
        ]
    else:
        request: Request = _command(command) if http is None else _http(http, headers, data)
        asked = [Asked("defer", request, None if undo is None else documents.shell(undo), key, irreversible, note)]
    _say([_recorded(each) for each in asked], as_json)


@effect_command.command(
    "do", short_help="Do something now, with what undoes it recorded before.", context_settings=_AS_TYPED
)
@undo_option
@key_option
@irreversible_option
@note_option
@command_argument
@click.pass_context
def do_command(
    ctx: click.Context, command: tuple[str, ...], undo: str | None, key: str, irreversible: bool, note: str
) -> None:
    """Run CMD here and now, once its compensation is recorded: should the user discard the run, or it be rewound to
    before, CMD of --undo is run.  What is --irreversible needs the user's word first.  The exit status is CMD's.
    """
    if not command:
        raise click.UsageError("give a command after --")
    if undo is None and not irreversible:
        raise click.UsageError("say how it is undone (--undo CMD), or that it cannot be (--irreversible)")
    compensation = None if undo is None else Command(documents.shell(undo).argv, _here())
    asked = Asked("begin", _command(command), compensation, key, irreversible, note)
    effect = ask(asked, timeout=ASK_SECONDS).effect
    assert effect is not None
    if effect.state is State.DONE:
        _note(f"effect {effect.number} was done before, under the same key")
        return
    status, detail = _run(command, effect)
    ask(Asked("end", number=effect.number, succeeded=status == 0, detail=detail))
    ctx.exit(status if status >= 0 else 128 - status)


@effect_command.command("sql", short_help="A transaction that becomes real with the merge.")
@click.option("--db", required=True, metavar="NAME|PATH", help="A database of the user's, or an SQLite file.")
@click.option("--defer", "only_record", is_flag=True, help="Only record it; do not have it tried or held ready.")
@key_option
@note_option
@json_option
@click.argument("statements", metavar="SQL...", nargs=-1, required=True)
def sql_command(
    db: str, only_record: bool, key: str, note: str, statements: tuple[str, ...], as_json: bool
) -> None:
    """Have SQL statements done in one transaction, which is committed after the merge and rolled back with a discard.

    A database of the user's is tried at once, and PostgreSQL holds the transaction ready where it can.  Each SQL is one
    statement.
    """
    if "://" in db:
        raise click.UsageError("give the name of a database of the user's configuration, or the path of an SQLite file")
    if os.path.isabs(db) or os.path.exists(db):
        db = _file_outside(db)
        if not only_record:
            from goexfs.effects.sqlite import try_out

            outcome = try_out(db, statements)  # here, with the run's own eyes
            if outcome.state is State.FAILED:
                raise EffectError(f"{db} does not take it: {outcome.detail}")
    _say([_recorded(Asked("defer", Sql(db, statements), key=key, note=note, hold=not only_record))], as_json)


@effect_command.command("list", short_help="List the effects of this run.")
@json_option
def list_command(as_json: bool) -> None:
    """List the effects of this run, and what became of each."""
    _list(as_json)


@click.command("effects", short_help="List the effects of this run.")
@json_option
def effects_command(as_json: bool) -> None:
    """List the effects of this run, and what became of each."""
    _list(as_json)


def _asked(document: documents.Document) -> Asked:
    undo = documents.undo_of(document)
    return Asked("defer", document.request(), undo, document.key, document.irreversible, document.note)


def _list(as_json: bool) -> None:
    found = ask(Asked("effects")).effects
    if as_json:
        print_json({"effects": [documents.effect_fields(effect) for effect in found]})
    elif found:
        for line in listed(found):
            click.echo(line)
    else:
        _note("this run has no effects")


def _recorded(asked: Asked) -> Effect:
    effect = ask(asked, timeout=ASK_SECONDS).effect
    assert effect is not None
    return effect


def _say(effects: list[Effect], as_json: bool) -> None:
    if as_json:
        print_json({"effects": [documents.effect_fields(effect) for effect in effects]})
        return
    for effect in effects:
        ready = " and held ready by the database" if effect.state is State.PREPARED else ""
        _note(f"effect {effect.number} is recorded{ready}; it is done when the user merges the run and agrees")


def _note(text: str) -> None:
    note(printable(text))


def _here() -> bytes:
    """The current directory relative to the base; the base itself where it is not in there."""
    from goexfs.cli.inside import below

    try:
        return below(b".")
    except click.BadParameter:
        return b""


def _command(words: tuple[str, ...]) -> Command:
    return Command(tuple(map(os.fsencode, words)), _here())


def _http(http: tuple[str, str], headers: tuple[str, ...], data: str | None) -> Http:
    pairs = []
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter(f"{header!r} is not 'NAME: VALUE'", param_hint="-H")
        pairs.append((name.strip(), value.strip()))
    if data is None:
        body = b""
    else:
        body = content(os.fsencode(data[1:]), "FILE") if data.startswith("@") else os.fsencode(data)
    return Http(http[0].upper(), http[1], tuple(pairs), body)


def _file_outside(db: str) -> str:
    """The SQLite file, unless it is in the run: there, the run's own view of it is all that is needed."""
    path = os.path.realpath(db)
    root = os.fsdecode(base()).rstrip("/") + "/"
    if path.startswith(root):
        raise EffectError(
            f"{db} is in the workspace, where goexfs merges and discards files anyway: use any SQLite program on it"
        )
    return path


def _run(command: tuple[str, ...], effect: Effect) -> tuple[int, str]:
    """The exit status (negative: the signal), and what to record of it."""
    env: dict[str, Any] = {**os.environ, "GOEXFS_EFFECT_KEY": effect.key}
    try:
        popen = subprocess.Popen(command, env=env)
    except OSError as error:
        _note(f"{command[0]}: {error.strerror}")
        status = 127 if isinstance(error, FileNotFoundError) else 126
        return status, f"it could not be started: {error.strerror}"
    while True:
        try:
            status = popen.wait()
            return status, f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        except KeyboardInterrupt:
            continue  # the command has it, too; how it ends has to be recorded
