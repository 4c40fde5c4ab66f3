"""``goexfs conflicts`` and ``rebase``: a run and a base that has moved.

Owns how conflicts are listed.  Main thread only.
"""

import click

from goexfs.cli.output import home_of, note, print_json, quoted
from goexfs.cli.params import POINT, json_option
from goexfs.cli.sides import (
    SidesCommand,
    conflict_fields,
    resolve_by,
    say_settled,
    settled_fields,
    sides_options,
)


@click.command("conflicts", short_help="List what is in conflict between a run and its base.", cls=SidesCommand)
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@sides_options
@click.option("--check-reads", is_flag=True, help="Also files that RUN only read, changed in the base since.")
@json_option
def conflicts_command(
    ref: str, ours: tuple[str, ...], theirs: tuple[str, ...], markers: tuple[str, ...], check_reads: bool, as_json: bool
) -> None:
    """List where a merge of RUN would be refused, because the base changed there too.

    What merges by itself is no conflict: different lines of a text, directories that both made, equal results.
    With --ours, --theirs or --markers what would be left; with a POINT where a merge of RUN as it was then would be.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        found = run.conflicts(resolve=resolve_by(run, ours, theirs, markers), check_reads=check_reads, at=at)
        if as_json:
            print_json({"run": run.id, "conflicts": conflict_fields(found)})
            return
        for conflict in found:
            click.echo(f"{quoted(conflict.path) or '.'}: {conflict.message}")
        if not found:
            note(f"nothing is in conflict between {run.record.label} and {home_of(run)}")


@click.command("rebase", short_help="Bring a run onto the present base without merging it.", cls=SidesCommand)
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@sides_options
@click.option("--dry-run", is_flag=True, help="Only say what would become of what both sides changed.")
@json_option
def rebase_command(
    ref: str, ours: tuple[str, ...], theirs: tuple[str, ...], markers: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Let RUN stand on its base as it is now: what both changed is merged in the run, and the base is not touched.

    Refused, with nothing changed, when something is in conflict. A rewind leads back to how the run was before.

    With a POINT a fork of RUN as it was then is brought onto the base, and RUN stays as it is.
    """
    import goexfs
    from snapshots.errors import Conflict

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        try:
            result = run.rebase(dry_run=dry_run, resolve=resolve_by(run, ours, theirs, markers), at=at)
        except Conflict as error:
            if as_json:
                refused = conflict_fields(error.conflicts)
                print_json({"run": run.id, "rebased": False, "before": None, "settled": [], "conflicts": refused})
            raise
        before = result.before.name if result.before is not None else None
        if at is not None and not dry_run:
            note(f"{run.record.label} itself stays as it is; {result.run_id} is a fork of what it was")
            run = store.run(result.run_id)
        if as_json:
            settled = settled_fields(result.settled)
            print_json({"run": run.id, "rebased": not dry_run, "before": before, "settled": settled, "conflicts": []})
            return
        say_settled(result.settled)
        label = run.record.label
        if dry_run:
            click.echo(f"{label} can be brought onto {home_of(run)} as it is now")
        elif before is None:
            click.echo(f"{label} stands on {home_of(run)} as it is now already")
        else:
            click.echo(f"{label} stands on {home_of(run)} as it is now")
            note(f"goexfs rewind {label}@{before} takes it back")
