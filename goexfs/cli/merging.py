"""``goexfs merge``: bring what a run changed into its base.

Owns how the outcome is printed; how a selection is written is for ``choice``.  Main thread only.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

import click

from goexfs.cli import attention, summary
from goexfs.cli.choice import choice
from goexfs.cli.effect import carry_out, decide, show
from goexfs.cli.effectoptions import effects_option
from goexfs.cli.history import fork_to_merge
from goexfs.cli.hunks import hunks_chosen
from goexfs.cli.interrupted import told_if_interrupted
from goexfs.cli.output import home, note, print_json, quoted, use_color
from goexfs.cli.params import ANY_PATH, POINT, json_option
from goexfs.cli.progress import progress
from goexfs.cli.several import merge_several, more_runs
from goexfs.cli.sides import SidesCommand, merge_fields, resolve_by, say_settled, sides_options, taken

if TYPE_CHECKING:
    from goexfs.secondlook import SecondLook
    from goexfs.session import RunHandle
    from goexfs.session.effects import Wish
    from snapshots.merging.merge import MergeResult
    from snapshots.review.changes import Change


@click.command("merge", short_help="Bring what a run changed into its base.", cls=SidesCommand)
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("paths", metavar="[PATH|RUN[@POINT]]...", nargs=-1, type=ANY_PATH)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Leave these in the run; as in .gitignore.")
@click.option("--only-status", metavar="LETTERS", help="Only changes of these kinds: some of A M D R T X.")
@click.option("--process", metavar="PATTERN", help="Only what commands matching PATTERN, or what they started, wrote.")
@click.option("-p", "--patch", "interactive", is_flag=True, help="Ask for every hunk, as git add -p does.")
@click.option("--hunks", "listed", metavar="FILE", type=click.File("rb"), help="Only the hunks in this JSON document.")
@click.option("--verify", metavar="CMD", multiple=True, help="Merge only if CMD succeeds over the result (repeatable).")
@sides_options
@click.option("--check-reads", is_flag=True, help="Refuse when a file that RUN only read has changed in the base.")
@effects_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what is in conflict.")
@json_option
def merge_command(
    ref: str, paths: tuple[bytes, ...], exclude: tuple[str, ...], only_status: str | None,
    process: str | None, interactive: bool, listed: "IO[bytes] | None", verify: tuple[str, ...], ours: tuple[str, ...],
    theirs: tuple[str, ...], markers: tuple[str, ...], check_reads: bool, effects: str | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring everything RUN changed into its base; refused, with nothing applied, when something is in conflict.

    With a PATH (or a pattern as in .gitignore, in quotes) only what is there: the rest stays in the run. With more RUNs
    each is merged, in order, and those that are in conflict are left.

    With a POINT of the past what RUN had changed then: a fork of it is merged, and RUN stays as it is.

    Texts that both sides changed are merged three-way. As when git merges a branch, "ours" is the base, into which is
    merged, and "theirs" the run.
    """
    import goexfs
    from snapshots.errors import Conflict

    if interactive and as_json:
        raise click.UsageError("--patch asks where --json would print; --hunks FILE takes the choice as JSON")
    with goexfs.open_store(create=False) as store, ExitStack() as ends:
        run, at = store.point(ref)
        if at is not None:
            run = ends.enter_context(fork_to_merge(run, at))
        others = more_runs(store, run, paths)
        if others:
            if interactive or listed is not None or dry_run:
                raise click.UsageError("-p, --hunks and --dry-run take one run")
            forked = [
                other if point is None else ends.enter_context(fork_to_merge(other, point))
                for other, point in others
            ]
            merge_several(
                store, [run, *forked],
                lambda each: {
                    "choose": choice(each, (), exclude, only_status, process), "verify": verify,
                    "resolve": resolve_by(each, ours, theirs, markers), "check_reads": check_reads,
                    "effects": decide(each, effects, partly=bool(exclude or only_status or process)),
                },
                as_json=as_json,
            )  # fmt: skip
            return
        choose = choice(run, paths, exclude, only_status, process)
        resolve = resolve_by(run, ours, theirs, markers)
        hunks = hunks_chosen(run, choose, interactive, listed)
        if hunks is not None and not hunks:
            note("nothing was chosen; nothing was merged")
            if as_json:
                print_json({**merge_fields(run, (), dry_run=dry_run), "merged": False})
            return
        changes: Sequence[Change] = ()
        look: SecondLook | None = None

        def review(found: "Sequence[Change]") -> None:
            nonlocal changes, look  # now: afterwards the contents are no longer there
            changes, look = found, attention.look_at(run, found)
            if as_json:
                summary.fields(found)  # what is said of a side is read once and remembered

        partly = choose is not None or hunks is not None
        wish = "skip" if dry_run else decide(run, effects, partly=partly)
        refused: Wish = "refuse" if wish == "refuse" else "skip"  # run, once it was said what was merged
        try:
            with told_if_interrupted(store, lambda record: record.run_id == run.id), progress("merging") as tell:
                result = run.merge(
                    dry_run=dry_run, choose=choose, hunks=hunks, verify=verify, effects=refused, resolve=resolve,
                    check_reads=check_reads, progress=tell, review=review,
                )  # fmt: skip
        except Conflict as error:
            if as_json and look is not None:
                document = merge_fields(run, changes, dry_run=dry_run, conflicts=error.conflicts)
                print_json({**document, **attention.fields(look)})
            raise
        changes = taken(changes, result.settled)
        assert look is not None, "without a review nothing is merged"
        if as_json:
            print_json({**merge_fields(run, changes, dry_run=dry_run, result=result), **attention.fields(look)})
        else:
            _say_merged(run, changes, result, look)
        if wish == "run":
            carry_out(run, quiet=as_json)


def _say_merged(run: "RunHandle", changes: Sequence["Change"], result: "MergeResult", look: "SecondLook") -> None:
    for line in attention.lines(look, color=use_color()):
        click.echo(line)
    for line in summary.summary(changes, color=use_color()):
        click.echo(line)
    verb = "merged" if result.merged else "would be merged"
    places = [run.parts[number].base for number, within in run.divide(changes) if within] or [run.base]
    click.echo(f"{summary.counts(changes)}; {verb} into {' and '.join(map(home, places))}")
    say_settled(result.settled)
    if result.leftover is not None:
        note(f"{home(result.leftover)} could not be moved away; the next goexfs command tries again")
    if result.number is not None:
        note(f"goexfs undo {result.number} takes it back")
    if result.completed:
        listed = ", ".join(quoted(path) for path in result.completed[:5])
        note(f"with what they are in: {listed}" + (", …" if len(result.completed) > 5 else ""))
    if not result.merged:
        show(run, run.effects.pending())
    if result.partly:
        note(f"the rest stays in {run.record.label}")
