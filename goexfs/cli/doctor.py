"""``goexfs doctor``.

Owns the printing of ``goexfs.doctor``'s findings.  Works with nothing installed but click.
"""

import dataclasses
import os
from pathlib import Path

import click

from goexfs import doctor
from goexfs.cli.output import print_json, printable, styled, use_color

LACKING = 1


@click.command("doctor", short_help="Say what this machine has and lacks, and what mends it.")
@click.option(
    "--base",
    type=click.Path(path_type=Path, readable=False),
    help="The directory to run over (default: the current one).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
@click.pass_context
def doctor_command(ctx: click.Context, base: Path | None, as_json: bool) -> None:
    """Say what this machine has and lacks, and the command that mends each lack.

    Exit status 1 when something lacks without which goexfs cannot work here.
    """
    from goexfs.session.home import default_store_path

    found = []
    for check in doctor.checks((base or Path.cwd()).absolute(), default_store_path()):
        found.append(check)
        if not as_json:
            show(check, use_color())
    lacking = [check for check in found if check.needed and not check.ok]
    if as_json:
        print_json({"ok": not lacking, "checks": [dataclasses.asdict(check) for check in found]})
    elif lacking:
        click.echo(f"\ngoexfs cannot work here yet: mend {', '.join(check.name for check in lacking)}.")
    else:
        click.echo("\ngoexfs can work here.")
    ctx.exit(LACKING if lacking else 0)


def show(check: doctor.Check, color: bool) -> None:
    """One line, and below it the mend."""
    verdict = ("ok", "green") if check.ok else ("LACKING", "red") if check.needed else ("without", "yellow")
    click.echo(
        f"{styled(f'{verdict[0]:<8}', color, fg=verdict[1])} {check.name:<18} {printable(os.fspath(check.found))}"
    )
    if check.mend:
        click.echo(f"{'':<8} {'':<18} mend: {printable(check.mend)}")
