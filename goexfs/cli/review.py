"""``goexfs diff``: look at what a run did.

Owns the choice of the form in which changes are printed.  Main thread only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import attention, dress, pager, summary
from goexfs.cli.comparing import Comparison, comparison, note_unknown
from goexfs.cli.output import on_terminal, print_json, quoted, use_color
from goexfs.cli.params import ANY_PATH, POINT, color_option

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.layers.content import Readable
    from snapshots.review.changes import Change

DIFFERENT = 1


@click.command("diff", short_help="Show what a run changed.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("words", metavar="[RUN[@POINT]] [PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--rich", "form", flag_value="rich", help="For people: databases by row, notebooks by cell and so on.")
@click.option("-p", "--patch", "form", flag_value="patch", help="A patch that git apply and patch -p1 accept.")
@click.option("--name-status", "form", flag_value="name-status", help="One line each: A M D R C T X, and the path.")
@click.option("--stat", "form", flag_value="stat", help="How many lines changed, per file.")
@click.option("--json", "form", flag_value="json", help="Print one JSON document.")
@click.option("-U", "--unified", "context", type=click.IntRange(0, 100_000), default=3, metavar="N",
              help="Lines of context (default: 3).")
@click.option("--word-diff", "words_as", flag_value="plain", help="Words instead of lines: [-removed-] and {+added+}.")
@click.option("--color-words", "words_as", flag_value="color", help="The same, told by colour alone.")
@click.option("--times", is_flag=True, help="Other modification times are changes, too.")
@click.option("--no-renames", is_flag=True, help="Do not look for renames and copies by equal content.")
@click.option("--by-process", is_flag=True, help="Name-status (or JSON), grouped by the command that made the changes.")
@click.option("--process", metavar="PATTERN", help="Only what commands matching PATTERN, or what they started, wrote.")
@click.option("-z", "zero", is_flag=True, help="Name-status with raw bytes and NUL instead of quotes and newlines.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are changes, 0 when there are none.")
@color_option
@click.pass_context
def diff_command(
    ctx: click.Context, ref: str, words: tuple[bytes, ...], form: str | None, context: int, words_as: str | None,
    times: bool, no_renames: bool, by_process: bool, process: str | None, zero: bool, exit_code: bool, color: str,
) -> None:  # fmt: skip
    """Show what RUN changed, below each PATH or everywhere; a mounted run as it is at this moment.

    With a POINT, what it had changed then: @NAME of a snapshot, @~1 the latest one, @{TIME}, @#RECORD. With two runs or
    points, what makes the second of the first. On a terminal the form is --rich, elsewhere --patch.

    PATTERN is a part of a command line or, with * ? or [, a glob for all of it.
    """
    import goexfs

    if zero and form not in (None, "name-status"):
        raise click.UsageError("-z goes with --name-status only")
    if by_process and (zero or form not in (None, "name-status", "json")):
        raise click.UsageError("--by-process goes with --name-status or --json only")
    if words_as and form not in (None, "rich"):
        raise click.UsageError("--word-diff and --color-words go with --rich only: what they print is no patch")
    style = Style("name-status" if zero else "rich" if words_as else form, color, context, words_as, zero)
    with goexfs.open_store(create=False) as store:
        compared, paths = comparison(store, ref, words)
        changes = compared.changes(paths, times=times)
        note_unknown(compared.run, paths, changes)
        if process is not None:
            written = compared.run.paths_written_by(process)
            changes = [change for change in changes if {change.path, change.old_path} & written]
        if not no_renames:
            changes = compared.run.paired(changes, times=times, from_base=compared.before is None)
        if by_process:
            _print_groups(compared.run, changes, as_json=form == "json", color=color)
        else:
            print_changes(compared, changes, style)
        if style.form != "json" and not by_process and compared.run.has_effects:
            from goexfs.cli import effect

            effect.show(compared.run, compared.run.effects.pending())
    ctx.exit(DIFFERENT if exit_code and changes else 0)


def _print_groups(run: "RunHandle", changes: Sequence["Change"], *, as_json: bool, color: str) -> None:
    from goexfs.cli.log import grouped, grouped_fields

    if as_json:
        print_json(grouped_fields(run, changes))
    else:
        pager.page(grouped(run, changes, color=use_color(color)))


@dataclass(frozen=True)
class Style:
    """How changes are printed."""

    form: str | None = None
    """None: rich on a terminal, else a patch"""
    color: str = "auto"
    context: int = 3
    words: str | None = None
    zero: bool = False


def print_changes(compared: Comparison, changes: Sequence["Change"], style: Style) -> None:
    """Print changes in one of the forms; on a terminal through the pager, what deserves a second look first."""
    form = style.form or ("rich" if on_terminal() else "patch")
    colored = use_color(style.color) or style.words == "color"
    if form == "json":
        print_json({**compared.fields(), "changes": summary.fields(changes), **_marks_as_json(compared, changes)})
        return
    marks: Iterable[bytes] = ()
    if form == "rich" or (on_terminal() and not style.zero):
        marks = _marks(compared, changes, color=colored)
    pager.page(chain(marks, _printed(compared, changes, style, form, colored)))


def _printed(
    compared: Comparison, changes: Sequence["Change"], style: Style, form: str, colored: bool
) -> Iterable[bytes]:
    from snapshots.review.patch import patch

    if form == "name-status":
        return summary.name_status(changes, zero=style.zero, color=colored and not style.zero)
    if form == "stat":
        from goexfs.cli import stat

        return stat.lines(patch(changes, binary=False, copies=True), stat.sizes(changes), color=colored)
    whole = chain.from_iterable(
        _of_part(compared, number, within, style, form) for number, within in compared.run.divide(changes)
    )
    if form == "patch" and not colored and not on_terminal():
        return whole
    return dress.dressed(whole, color=colored, words=style.words)


def _of_part(
    compared: Comparison, number: int, changes: Sequence["Change"], style: Style, form: str
) -> Iterator[bytes]:
    """The patch of one base; where there are several each begins with a line that names it, which is no part of it."""
    from snapshots.review.patch import patch

    if len(compared.run.parts) > 1:
        yield f"In {quoted(compared.run.parts[number].base)}:\n".encode()
    if form != "rich":
        yield from patch(changes, context=style.context)
        return
    from goexfs.views import Views

    def beside(path: bytes, is_before: bool) -> "Readable | None":
        return compared.beside(compared.run.place(number, path), is_before)

    views = Views(beside, frozenset(change.path for change in changes))
    yield from patch(changes, context=style.context, copies=True, view=views)


def _marks(compared: Comparison, changes: Sequence["Change"], *, color: bool) -> Iterator[bytes]:
    return attention.encoded(attention.lines(attention.look_at(compared.run, changes), color=color))


def _marks_as_json(compared: Comparison, changes: Sequence["Change"]) -> dict[str, Any]:
    return attention.fields(attention.look_at(compared.run, changes))
