"""``goexfs diff``, ``merge`` and ``discard``: look at what a run did, and decide.

Owns the forms in which changes are printed (by ``summary`` and ``pager``).  Main thread only.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import pager, stat, summary
from goexfs.cli.output import count, home, note, on_terminal, print_json, quoted, use_color
from goexfs.cli.params import ANY_PATH, POINT, RUN, below_base, color_option, json_option

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.changes import Change
    from snapshots.merge import MergeResult

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


@click.command("merge", short_help="Bring what a run changed into its base.")
@click.argument("ref", metavar="RUN", type=RUN)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave these in the run; as in .gitignore.")
@click.option("--only-status", metavar="LETTERS", help="Only changes of these kinds: some of A M D R T X.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what is in conflict.")
@json_option
def merge_command(
    ref: str, paths: tuple[bytes, ...], exclude: tuple[str, ...], only_status: str | None, dry_run: bool, as_json: bool
) -> None:
    """Bring everything RUN changed into its base; refused, with nothing applied, when the base has moved.

    With a PATH (or a pattern as in .gitignore, in quotes) only what is there: the rest stays in the run.
    """
    import goexfs
    from snapshots.errors import Conflict

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        choose = _choice(run, paths, exclude, only_status)
        changes = [change for change in run.diff() if choose is None or choose(change)]
        try:
            result = run.merge(dry_run=dry_run, choose=choose)
        except Conflict as error:
            if as_json:
                print_json(_merge_fields(run, changes, dry_run, error.conflicts))
            raise
        if as_json:
            print_json(_merge_fields(run, changes, dry_run))
        else:
            _say_merged(run, changes, result)


def _choice(
    run: "RunHandle", paths: Sequence[bytes], exclude: Sequence[str], only_status: str | None
) -> "Callable[[Change], bool] | None":
    """Which changes are wanted; None: all of them."""
    if not paths and not exclude and only_status is None:
        return None
    letters = frozenset((only_status or "AMDRTX").upper())
    if not letters or not letters <= set("AMDRTX"):
        raise click.BadParameter(f"{only_status!r} is not made of the letters A M D R T X", param_hint="--only-status")
    from pathspec import GitIgnoreSpec

    below = [below_base(path, run.base, run.record.mountpoint) for path in paths]
    wanted = GitIgnoreSpec.from_lines(_pattern(path) for path in below) if below else None
    unwanted = GitIgnoreSpec.from_lines(exclude)

    def choose(change: "Change") -> bool:
        if change.status not in letters:
            return False
        names = [os.fsdecode(path) for path in (change.path, change.old_path) if path is not None]
        if wanted is not None and b"" not in below and not any(wanted.match_file(name) for name in names):
            return False
        return not any(unwanted.match_file(name) for name in names)

    return choose


def _pattern(path: bytes) -> str:
    """A path is meant from the base; a pattern without a slash anywhere."""
    text = os.fsdecode(path)
    return text if "/" not in text and any(char in text for char in "*?[") else f"/{text}"


def _say_merged(run: "RunHandle", changes: Sequence["Change"], result: "MergeResult") -> None:
    for line in summary.summary(changes, color=use_color()):
        click.echo(line)
    verb = "merged" if result.merged else "would be merged"
    click.echo(f"{summary.counts(changes)}; {verb} into {home(run.base)}")
    if result.leftover is not None:
        note(f"{home(result.leftover)} could not be moved away; the next goexfs command tries again")
    if result.number is not None:
        note(f"goexfs undo {result.number} takes it back")
    if result.completed:
        listed = ", ".join(quoted(path) for path in result.completed[:5])
        note(f"with what they are in: {listed}" + (", …" if len(result.completed) > 5 else ""))
    if result.partly:
        note(f"the rest stays in {run.record.label}")


def _merge_fields(
    run: "RunHandle", changes: Sequence["Change"], dry_run: bool, conflicts: Sequence[object] = ()
) -> dict[str, Any]:
    """The outcome of a merge as JSON."""
    from snapshots.names import text_fields
    from snapshots.plan import PathConflict

    return {
        "run": run.id,
        "merged": not dry_run and not conflicts,
        "dry_run": dry_run,
        "changes": summary.fields(changes),
        "conflicts": [
            {**text_fields("path", conflict.path), "kind": str(conflict.kind), "message": conflict.message}
            for conflict in conflicts
            if isinstance(conflict, PathConflict)
        ],
    }


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
