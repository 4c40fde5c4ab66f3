"""``goexfs reject`` and ``rejected``: say why a change is not wanted, and read that.

Owns how these are written and listed.  Main thread only.
"""

from typing import TYPE_CHECKING

import click

from goexfs.cli.output import age, note, print_json, printable, quoted, use_color
from goexfs.cli.params import ANY_PATH, POINT, json_option, path_in

if TYPE_CHECKING:
    from goexfs.session import RunHandle


@click.command("reject", short_help="Say why a change is not wanted.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("what", metavar="PATH[:PART]", type=ANY_PATH)
@click.option("-m", "--message", "reason", metavar="REASON", required=True, help="What is wrong with it.")
def reject_command(ref: str, what: bytes, reason: str) -> None:
    """Say why a change, or a PART of it (see goexfs hunks), is not wanted.

    It stays in the run, for whoever made it to do better: goexfs rejected RUN --json lists the reasons. With a POINT
    the change as it was then.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        path, part = _named(run, what, at)
        made = run.reject(path, part, reason, at=at)
        note(f"rejected {quoted(path)}{'' if part is None else f' ({printable(part)})'}: number {made.number}")


def _named(run: "RunHandle", what: bytes, at: str | None) -> tuple[bytes, str | None]:
    """The path and the part: a change of exactly that name goes first, for names may have colons."""
    changed = {change.path for change in run.diff(at=at)}
    path = path_in(run, what)
    before, colon, part = what.rpartition(b":")
    if path in changed or not colon:
        return path, None
    return path_in(run, before), part.decode("utf-8", "surrogateescape")


@click.command("rejected", short_help="List which changes were not wanted, and why.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@json_option
def rejected_command(ref: str, as_json: bool) -> None:
    """List which changes of RUN were rejected, and why; the latest last.

    With --json also whether RUN has them still (with a POINT: whether it had them then).
    """
    import goexfs
    from goexfs.cli.dress import dressed
    from snapshots.merging import rejections

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        if at is not None:
            run.position(at)  # a point that there never was is said to be none
        listed = run.rejected()
        if as_json:
            print_json({"run": run.id, "rejected": rejections.as_json(listed, run.diff(at=at) if listed else ())})
            return
        color = use_color()
        for each in listed:
            part = "" if each.part is None else f" ({printable(each.part)})"
            click.secho(f"{each.number}  {each.status} {quoted(each.path)}{part}  {age(each.made_ns)} ago", bold=color)
            click.echo(f"   {printable(each.reason)}")
            lines = b"".join(line + b"\n" for line in each.lines)
            for line in dressed([lines], color=color) if lines else ():
                click.echo(b"   " + line, nl=False)
        if not listed:
            note("nothing was rejected")
