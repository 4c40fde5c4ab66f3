"""The group of all commands, the loading of themes, and the way out on an error.

Owns which command lives in which module and what happens to an exception that a command lets through.  Knows no
verb's logic.  Runs in the main thread only (click, signals).

A theme module is imported when one of its commands is asked for, so that ``goexfs run`` does not pay for tables
and ``goexfs ls`` does not pay for the overlay.
"""

import os
from importlib import import_module
from typing import Any

import click

THEMES = {
    "run": "run",
    "mount": "run",
    "umount": "run",
    "ps": "activity",
    "kill": "activity",
    "pause": "activity",
    "resume": "activity",
    "ls": "store",
    "show": "store",
    "diff": "review",
    "hunks": "hunks",
    "merge": "merging",
    "conflicts": "onto",
    "rebase": "onto",
    "reject": "rejected",
    "rejected": "rejected",
    "discard": "discarding",
    "effects": "effect",
    "effect": "effect",
    "export": "exporting",
    "import": "exporting",
    "merges": "merges",
    "undo": "merges",
    "snapshot": "history",
    "snapshots": "history",
    "fork": "history",
    "rewind": "history",
    "cat": "history",
    "log": "log",
    "blame": "log",
    "reads": "log",
    "policy": "policy",
    "gc": "store",
    "fsck": "store",
    "doctor": "doctor",
}
"""Command name -> module of this package that holds it, in the order of the help."""

INSIDE = {
    "snapshot": "inside",
    "snapshots": "inside",
    "diff": "inside",
    "rewind": "inside",
    "rejected": "inside",
    "effect": "insideeffect",
    "effects": "insideeffect",
    "doctor": "doctor",
}
"""The same inside a run, where all others are refused."""


def is_inside() -> bool:
    """Whether this process is inside a run, and was not given a store of its own."""
    return bool(os.environ.get("GOEXFS_CHANNEL")) and not os.environ.get("GOEXFS_HOME")


class Commands(click.Group):
    """The group of all commands: loads them on demand and turns every exception into one line and a status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order in which a newcomer meets them."""
        return list(INSIDE if is_inside() else THEMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's theme."""
        themes = INSIDE if is_inside() else THEMES
        if cmd_name not in themes:
            if cmd_name in THEMES:
                from goexfs.cli.inside import for_the_user_only

                return for_the_user_only(cmd_name)
            return None
        theme = import_module(f"goexfs.cli.{themes[cmd_name]}")
        command: click.Command = getattr(theme, f"{cmd_name}_command")
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the words before the command's name; what is wrong with them is one line."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _on_one_line(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever it raises leaves as a click exception with a status of its own."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _on_one_line(error) from None
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BaseException as error:  # not Exception: KeyboardInterrupt and trio's groups end here too
            if isinstance(error, (SystemExit, GeneratorExit)):
                raise
            from goexfs.cli.errors import Failure

            raise Failure(error) from None


def _on_one_line(error: click.UsageError) -> click.ClickException:
    """A wrong command line as ``Misuse``; who gave no word at all gets the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    from goexfs.cli.errors import Misuse

    return Misuse(error)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import goexfs

    click.echo(f"goexfs {goexfs.__version__}")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Run an agent over a directory, see afterwards what it did, and merge it or discard it.

    \b
      cd ~/my-project
      goexfs run -- claude       the agent works on a copy-on-write view of the directory
      goexfs diff @              what the latest run of this directory changed
      goexfs merge @             bring it into the directory;  goexfs discard @  throws it away

    RUN is the beginning of a run's id, its name, or @ for the latest run of the current directory.
    The store is at $GOEXFS_HOME, else $XDG_STATE_HOME/goexfs, else ~/.local/state/goexfs.
    """
