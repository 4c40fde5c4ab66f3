"""``goexfs diff`` and ``discard``: look at what a run did, and throw it away.

Owns the forms in which changes are printed (by ``summary`` and ``pager``).  Main thread only.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from goexfs.cli import pager, stat, summary
from goexfs.cli.output import count, note, on_terminal, print_json, quoted, use_color
from goexfs.cli.params import ANY_PATH, POINT, RUN, below_base, color_option, json_option

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.changes import Change

DIFFERENT = 1


@click.command("diff", short_help="Show what a run changed.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--patch", "form", flag_value="patch", help="A patch that git apply and patch -p1 accept (the default).")
@click.option("--name-status", "form", flag_value="name-status", help="One line per change: A M D R T X, and the path.")
@click.option("--stat", "form", flag_value="stat", help="How many lines changed, per file.")
@click.option("--json", "form", flag_value="json", help="Print one JSON document.")
@click.option("--by-process", is_flag=True, help="Name-status (or JSON), grouped by the command that made the changes.")
@click.option("--process", metavar="PATTERN", help="Only what commands matching PATTERN, or what they started, wrote.")
@click.option("-z", "zero", is_flag=True, help="Name-status with raw bytes and NUL instead of quotes and newlines.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are changes, 0 when there are none.")
@color_option
@click.pass_context
def diff_command(
    ctx: click.Context, ref: str, paths: tuple[bytes, ...], form: str | None, by_process: bool, process: str | None,
    zero: bool, exit_code: bool, color: str,
) -> None:  # fmt: skip
    """Show what RUN changed, below each PATH or everywhere; a mounted run as it is at this moment.

    PATTERN is a part of a command line or, with * ? or [, a glob for all of it.
    With a POINT, what it had changed then: @NAME of a snapshot, @~1 the latest one, @{TIME}, @#RECORD.
    """
    import goexfs

    if zero and form not in (None, "name-status"):
        raise click.UsageError("-z goes with --name-status only")
    if by_process and (zero or form not in (None, "name-status", "json")):
        raise click.UsageError("--by-process goes with --name-status or --json only")
    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        below = [below_base(path, run.base, run.record.mountpoint) for path in paths]
        changes = run.diff(paths=below, at=at)
        _note_unknown(run, below, changes)
        if process is not None:
            written = run.paths_written_by(process)
            changes = [change for change in changes if {change.path, change.old_path} & written]
        if by_process:
            _print_groups(run, changes, as_json=form == "json", color=color)
        else:
            print_changes(run, changes, "name-status" if zero else form or "patch", zero=zero, color=color)
    ctx.exit(DIFFERENT if exit_code and changes else 0)


def _note_unknown(run: "RunHandle", paths: Sequence[bytes], changes: Sequence["Change"]) -> None:
    """A mistyped path must not look like an unchanged one."""
    from snapshots.basepaths import is_below

    touched = [path for change in changes for path in (change.path, change.old_path) if path is not None]
    for path in paths:
        known = os.path.lexists(os.path.join(run.base, path))
        if not known and not any(one == path or is_below(one, path) or is_below(path, one) for one in touched):
            note(f"neither the run nor its base has {quoted(path)}")


def _print_groups(run: "RunHandle", changes: Sequence["Change"], *, as_json: bool, color: str) -> None:
    from goexfs.cli.log import grouped, grouped_fields

    if as_json:
        print_json(grouped_fields(run, changes))
    else:
        pager.page(grouped(run, changes, color=use_color(color)))


def print_changes(
    run: "RunHandle", changes: Sequence["Change"], form: str, *, zero: bool = False, color: str = "auto"
) -> None:
    """Print changes in one of the four forms; patch and the lists through the pager on a terminal."""
    from snapshots.patch import patch

    colored = use_color(color)
    if form == "json":
        print_json({"run": run.id, "changes": summary.fields(changes)})
    elif form == "name-status":
        (pager.write if zero else pager.page)(summary.name_status(changes, zero=zero, color=colored and not zero))
    elif form == "stat":
        pager.page(stat.lines(patch(changes, binary=False), color=colored))
    else:
        whole = patch(changes)
        pager.page(pager.dressed(whole, color=colored) if colored or on_terminal() else whole)


@click.command("discard", short_help="Throw away what runs changed.")
@click.argument("refs", metavar="RUN...", type=RUN, nargs=-1, required=True)
@json_option
def discard_command(refs: tuple[str, ...], as_json: bool) -> None:
    """Throw away what each RUN changed; its base is not touched.

    All are looked up before the first one goes: one that is not known leaves the others as they were.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        runs = {handle.id: handle for handle in map(store.run, refs)}
        for run in runs.values():
            run.discard()
            if not as_json:
                note(f"discarded {run.id}")
    if as_json:
        print_json({"discarded": list(runs)})
    elif len(runs) > 1:
        note(f"{count(len(runs), 'run')} discarded")
