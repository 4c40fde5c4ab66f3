"""What ``goexfs`` is inside a run: snapshots, the diff and rewinds of that run.  (Its effects are in ``insideeffect``.)

Owns the commands as an agent types them; each is one question on the run's channel (``goexfs.session.channel``).  The
store is not there, and no RUN is named: it is always the own one.  Main thread only.
"""

import os
import subprocess
import sys

import click

from goexfs.cli import pager
from goexfs.cli.dress import dressed
from goexfs.cli.output import age, count, note, on_terminal, print_json, print_table, printable, quoted, use_color
from goexfs.cli.params import ANY_PATH, among_bases, below_base, color_option, json_option
from goexfs.session.bases import Bases
from goexfs.session.channel import Asked, Snapshot, ask
from goexfs.session.errors import NotInside
from snapshots.storage.effects import Command, Effect

OWN = "@"
"""How the own run may be called, where a RUN is expected outside."""


def base() -> bytes:
    """The base of the run, as this process sees it."""
    return os.environb.get(b"GOEXFS_BASE", b"/")


def below(path: bytes) -> bytes:
    """A PATH argument relative to the base."""
    mounted = os.path.join(os.path.dirname(os.environb.get(b"GOEXFS_CHANNEL", b"/")), b"mnt")
    return below_base(path, base(), mounted if os.path.isdir(mounted) else None)


def named(path: bytes) -> bytes:
    """A PATH argument as the run calls it: relative to its base, or absolute in a further one."""
    bases = os.environb.get(b"GOEXFS_BASES", b"").split(b"\n")
    if len(bases) == 1:
        return below(path)
    return among_bases(path, [(each, None) for each in bases], Bases(bases).place)


def for_the_user_only(name: str) -> click.Command:
    """What stands for every command that is not for a run."""

    def refuse() -> None:
        raise NotInside(
            f"{name} is the user's: inside a run there are diff, snapshot, snapshots, rewind, rejected and effect"
        )

    return click.Command(
        name, callback=refuse, add_help_option=False, hidden=True,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )  # fmt: skip


@click.command("snapshot", short_help="Name what this run is at this moment.")
@click.argument("name", required=False)
@click.option("-m", "--message", default="", metavar="TEXT", help="What to remember about it.")
@json_option
def snapshot_command(name: str | None, message: str, as_json: bool) -> None:
    """Name what this run is at this moment, to be able to come back with goexfs rewind @NAME.

    Takes no copy.  Without NAME it is called s1, s2, and so on.
    """
    (made,) = ask(Asked("snapshot", name=name or "", message=message)).snapshots
    if as_json:
        print_json(_fields(made))
    else:
        click.echo(f"@{made.name}")


@click.command("snapshots", short_help="List the snapshots of this run.")
@json_option
def snapshots_command(as_json: bool) -> None:
    """List the snapshots of this run, the latest last."""
    found = ask(Asked("snapshots")).snapshots
    if as_json:
        print_json({"snapshots": [_fields(each) for each in found]})
    elif found:
        rows = [(each.name, age(each.created_ns), each.kind, printable(each.message)) for each in found]
        print_table(("NAME", "AGE", "KIND", "MESSAGE"), rows, right=("AGE",), shrink=("MESSAGE",))
    else:
        note("this run has no snapshots")


def _fields(snapshot: Snapshot) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in ("name", "kind", "message", "created_ns")}


@click.command("diff", short_help="Show what this run changed.")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--patch", "form", flag_value="patch", help="A patch (the default).")
@click.option("--name-status", "form", flag_value="name-status", help="One line per change: A M D R T X, and the path.")
@click.option("--json", "form", flag_value="json", help="Print one JSON document.")
@color_option
def diff_command(paths: tuple[bytes, ...], form: str | None, color: str) -> None:
    """Show what this run changed until now, below each PATH or everywhere."""
    for path in paths:
        if path.startswith(OWN.encode()) and path != OWN.encode():
            raise click.BadParameter(
                f"inside a run diff compares it with the base only, as it is now; a path would be ./{printable(path)}"
            )
    chosen = tuple(named(path) for path in paths if path != OWN.encode())
    kind = form or "patch"
    told = ask(Asked("diff", paths=chosen, form=kind))  # type: ignore[arg-type]
    if kind == "json":
        import json

        print_json({"changes": json.loads(told.text)})
    elif kind == "name-status":
        fields = iter(told.text.split(b"\0")[:-1])
        for field in fields:
            status, *names = field.split(b"\t", 1)
            words = names[0].split(b"\t") if status == b"R" else names
            click.echo("\t".join([status.decode(), *map(quoted, words)]))
    elif use_color(color) or on_terminal():
        pager.page(dressed(iter([told.text]), color=use_color(color)))
    else:
        pager.page(iter([told.text]))
    if told.cut:
        note("the rest is too long for the channel: name paths")


@click.command("rewind", short_help="Go back to a snapshot of this run.")
@click.argument("point", metavar="@NAME")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
def rewind_command(point: str, paths: tuple[bytes, ...]) -> None:
    """Take the files of this run back to what they were at @NAME, or only what is at and below each PATH.

    What was done outside since, with goexfs effect do, is undone first, the latest first.
    """
    name = point.removeprefix("@").removeprefix("@")
    asked = Asked("rewind", name=name, paths=tuple(named(path) for path in paths))
    told = ask(asked)
    for effect in told.effects:
        if not _undo(effect):
            raise NotInside(f"effect {effect.number} could not be undone, so the files stay as they are")
    if told.effects:
        told = ask(asked)
    note(f"took back {count(told.nodes, 'file')}" if told.nodes else "nothing is different from then")


def _undo(effect: Effect) -> bool:
    """Run a compensation here, where the action was done, too."""
    assert isinstance(effect.undo, Command)
    ask(Asked("undo", number=effect.number))
    env = {**os.environ, "GOEXFS_EFFECT_KEY": effect.key}
    place = os.path.join(base(), effect.undo.cwd)
    try:
        status = subprocess.run(
            effect.undo.argv, env=env, cwd=place, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode
        detail = f"exit status {status}"
    except OSError as error:
        status, detail = 127, str(error.strerror)
    ask(Asked("undone", number=effect.number, succeeded=status == 0, detail=detail))
    return status == 0


@click.command("rejected", short_help="Show what the user rejected of this run, and why.")
def rejected_command() -> None:
    """Print what the user rejected of this run, and why, as JSON."""
    import json

    print_json({"rejected": json.loads(ask(Asked("rejected")).text)})
