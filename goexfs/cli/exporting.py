"""``goexfs export`` and ``import``: a run as a file for other tools, and back.

Owns their options.  Main thread only.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.output import count, home, home_of, note, print_json, printable, quoted
from goexfs.cli.params import ANY_PATH, POINT, Size, json_option, path_in

if TYPE_CHECKING:
    from goexfs.session import RunHandle

_MOST_LINES = 20
_FORMS = ["patch", "mbox", "tar", "overlayfs", "oci"]


@click.command("export", short_help="Write what a run changed for other tools.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.option("--format", "form", type=click.Choice(_FORMS), default="patch", show_default=True,
              help="mbox: for git am; overlayfs: an upper directory; oci: a layer.")  # fmt: skip
@click.option("-o", "--output", metavar="FILE|DIR", type=click.Path(path_type=Path), help="Where to (default: stdout).")
@click.option("--author", metavar="'NAME <MAIL>'", help="Of a mail (default: git's user).")
@click.option("--subject", help="Of a mail (default: the run's command).")
@click.option("--base", type=ANY_PATH, metavar="DIR", help="Of a run with several bases, this one.")
def export_command(
    ref: str, form: Any, output: Path | None, author: str | None, subject: str | None, base: bytes | None
) -> None:
    """Write what RUN changed as a patch, a mail for git am, an archive, an upper directory of overlayfs, or a layer.

    With --format oci and an existing, empty DIR an image layout.  What a form cannot carry is said on stderr.
    """
    import goexfs
    from goexfs.session import exchange

    if (author is not None or subject is not None) and form != "mbox":
        raise click.UsageError("--author and --subject go with --format mbox only")
    if form == "overlayfs" and output is None:
        raise click.UsageError("--format overlayfs needs --output DIR")
    if output is None and sys.stdout.isatty():  # what is in it, byte for byte, could act there
        raise click.UsageError("this is not for a terminal (goexfs diff is): give --output FILE, or redirect stdout")
    with goexfs.open_store(create=False) as store:
        run, at = _of_one_base(*store.point(ref), base)
        letter = None
        if form == "mbox":
            letter = exchange.default_letter(run)
            if author is not None:
                made, address = _author(author)
                letter = letter._replace(name=made, address=address)
            if subject is not None:
                letter = letter._replace(subject=subject)
        left_out = exchange.export(run, form, output, sys.stdout.buffer, at=at, letter=letter)
        for line in left_out[:_MOST_LINES]:
            note(f"not in the {form}: {printable(line)}")
        if len(left_out) > _MOST_LINES:
            note(f"… and {count(len(left_out) - _MOST_LINES, 'more thing')} that it cannot carry")
        if output is not None:
            note(f"wrote {quoted(bytes(output))}")


def _author(text: str) -> tuple[str, str]:
    from email.utils import parseaddr

    name, address = parseaddr(text)
    if "@" not in address:
        raise click.BadParameter(f"{text!r} is not of the form 'NAME <MAIL>'", param_hint="--author")
    return name or address, address


def _of_one_base(run: "RunHandle", at: str | None, base: bytes | None) -> "tuple[RunHandle, str | None]":
    """The part of a run that is exported: no form has two bases."""
    if base is None:
        if len(run.parts) > 1:
            raise click.UsageError(
                f"{run.record.label} has the bases {home_of(run)}, and an export is of one: name it with --base DIR"
            )
        return run, at
    path = path_in(run, os.path.abspath(base))
    part, below, then = run.part_at(path, at)
    if below:
        where = f"{home(base)} is inside the base {home(part.base)}, and not a base"
        raise click.BadParameter(where, param_hint="--base")
    return part, then


@click.command("import", short_help="Make a run of a patch, an archive, a layer or an upper directory.")
@click.argument("place", metavar="FILE|DIR", type=click.Path())
@click.option("--base", type=ANY_PATH, metavar="DIR", help="The directory it is about (default: the current one).")
@click.option("--format", "form", type=click.Choice(_FORMS), help="What it is (default: found out).")
@click.option("--name", help="A name for the run, to be used like its id.")
@click.option("--limit", type=Size(), metavar="SIZE", help="Most bytes of content to import (default: 64G).")
@json_option
def import_command(
    place: str, base: bytes | None, form: Any, name: str | None, limit: int | None, as_json: bool
) -> None:
    """Make a kept run of FILE or DIR, to be looked at and merged as any run; the base is not touched.

    A patch, a mailbox, a tar archive, an OCI layer or image layout, or an upper directory of overlayfs.
    """
    import goexfs
    from goexfs.cli import summary
    from goexfs.cli.store import run_fields
    from goexfs.session import exchange

    with goexfs.open_store() as store:
        run = exchange.import_run(
            store.store, place, base or b".", form=form, name=name, limit=exchange.LIMIT if limit is None else limit
        )
        if as_json:
            print_json(run_fields(run))
        else:
            note(f"run {run.record.label}: {summary.counts(run.diff())}; goexfs diff {run.record.label} shows them")
