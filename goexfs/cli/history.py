"""``goexfs snapshot``, ``snapshots``, ``fork``, ``rewind`` and ``cat``: the past of a run.

Owns how points and snapshots are printed.  Main thread only.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.log import short
from goexfs.cli.output import age, count, note, print_json, print_table, printable, quoted
from goexfs.cli.params import ANY_PATH, POINT, RUN, json_option, path_in

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.history.history import Snapshot
    from snapshots.history.rewind import Rewound

CHUNK = 1 << 20
MOST_LEFT = 10
"""paths that are named in a note each"""


@click.command("snapshot", short_help="Name what a run is at this moment.")
@click.argument("ref", metavar="RUN", type=RUN)
@click.argument("name", required=False)
@click.option("-m", "--message", default="", metavar="TEXT", help="What to remember about it.")
@click.option("-d", "--delete", is_flag=True, help="Forget the snapshot NAME instead, and free what only it kept.")
@json_option
def snapshot_command(ref: str, name: str | None, message: str, delete: bool, as_json: bool) -> None:
    """Name what RUN is at this moment, so that RUN@NAME means it from now on; also while programs change it.

    Takes no copy.  Without NAME it is called s1, s2, and so on.
    """
    import goexfs

    if delete and name is None:
        raise click.UsageError("--delete needs the NAME of a snapshot")
    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        if delete:
            run.drop_snapshot(name or "")
            note(f"{run.record.label}@{name} is forgotten")
            return
        made = run.snapshot(name, message)
        if as_json:
            print_json(snapshot_fields(run, made))
        else:
            click.echo(f"{run.record.label}@{made.name}")


@click.command("snapshots", short_help="List the snapshots of a run.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@json_option
def snapshots_command(ref: str, as_json: bool) -> None:
    """List the snapshots of RUN, the latest last: RUN@~1 is the latest, RUN@~2 the one before it.

    With a POINT only those of states up to then.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        everything = run.snapshots()
        snapshots = everything if at is None else run.snapshots(at=at)
        if as_json:
            print_json({"run": run.id, "snapshots": [snapshot_fields(run, each) for each in snapshots]})
        elif snapshots:
            rows = [
                (f"~{len(everything) - number}", each.name, f"#{each.position - 1}", age(each.created_ns), each.kind,
                 printable(each.message))
                for number, each in enumerate(everything)
                if each in snapshots
            ]  # fmt: skip
            print_table(
                ("", "NAME", "RECORD", "AGE", "KIND", "MESSAGE"), rows, right=("", "RECORD", "AGE"), shrink="MESSAGE"
            )
        else:
            note(f"run {run.record.label} has no snapshots" + ("" if at is None else " of that time"))


def snapshot_fields(run: "RunHandle", snapshot: "Snapshot") -> dict[str, Any]:
    """A snapshot as JSON."""
    return {
        "run": run.id,
        "name": snapshot.name,
        "record": snapshot.position - 1,
        "kind": snapshot.kind,
        "message": snapshot.message,
        "created_ns": snapshot.created_ns,
    }


@click.command("fork", short_help="Begin a new run where another one is, or was.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("name", metavar="[NEW]", required=False)
@json_option
def fork_command(ref: str, name: str | None, as_json: bool) -> None:
    """Make a new run, called NEW, that begins as RUN is now, or was at POINT.

    Nothing is copied.  Go on in it with goexfs run --run NEW -- CMD.
    """
    import goexfs
    from goexfs.cli.store import run_fields

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        made = run.fork(name, at=at)
        if as_json:
            print_json(run_fields(made))
            return
        click.echo(made.id)
        if pending := len(run.effects.pending()):
            of = run.record.label
            note(f"not in the fork: {count(pending, 'pending effect')} of {of} (goexfs effects {of})")
        note(f"next: goexfs run --run {made.record.label} -- CMD")


@contextmanager
def fork_to_merge(run: "RunHandle", at: str) -> "Iterator[RunHandle]":
    """A fork of a run at a point, for as long as it takes to merge it; what a partial merge leaves of it stays."""
    with run.as_it_was(at) as fork:
        yield fork
        if fork.was_merged:
            note(f"{run.record.label} itself stays as it is")


@click.command("rewind", short_help="Go back to a snapshot or another point, all of a run or some paths.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--process", metavar="PATTERN", help="Take back what commands matching PATTERN wrote, and keep the rest.")
@json_option
def rewind_command(ref: str, paths: tuple[bytes, ...], process: str | None, as_json: bool) -> None:
    """Take RUN back to what it was at POINT (default: its latest snapshot), or only what is at and below each PATH.

    Mounted or not.  What it was just before gets a snapshot, so a rewind can be rewound.

    With --process every path that these commands, or what they started, wrote, made, moved or deleted becomes what it
    was before they did.  What others changed since stays as it is, and is named.
    """
    import goexfs

    if process == "":
        raise click.BadParameter("an empty pattern matches every command", param_hint="--process")
    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        if process is not None and at is not None:
            raise click.UsageError("--process goes back to before the command: name the run alone, without a POINT")
        below = tuple(path_in(run, path) for path in paths)
        done = run.rewind(at or "~1", below) if process is None else run.take_back(process, below)
        label = run.record.label
        if as_json:
            print_json(_rewound_fields(run, done))
            return
        if done.before is not None:
            note(f"took back {count(done.nodes, 'file')}; what was there is {label}@{done.before.name}")
        elif process is None:
            note(f"run {label} is what it was then: nothing to do")
        elif not done.left:
            note(f"run {label} has nothing that commands matching {quoted(os.fsencode(process))} wrote: nothing to do")
        for each in done.left[:MOST_LEFT]:
            both = f"; goexfs rewind {label}@#{each.number - 1} {quoted(each.path)} takes back both"
            note(
                f"left as it is: {quoted(each.path)}, which {short(printable(each.by)) or 'another process'} changed"
                " since" + (both if each.number > 0 else "")
            )
        if len(done.left) > MOST_LEFT:
            note(f"left as they are: {count(len(done.left) - MOST_LEFT, 'more path')}; --json has all of them")


def _rewound_fields(run: "RunHandle", done: "Rewound") -> dict[str, Any]:
    from snapshots.names import text_fields

    return {
        "run": run.id,
        "nodes": done.nodes,
        "before": snapshot_fields(run, done.before) if done.before is not None else None,
        "left": [
            {**text_fields("path", each.path), "record": each.number, **text_fields("changed_by", each.by or None)}
            for each in done.left
        ],
    }


@click.command("cat", short_help="Print a file as a run has it, or had it.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("path", type=ANY_PATH)
def cat_command(ref: str, path: bytes) -> None:
    """Print the file PATH as RUN has it now, or had it at POINT."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        below = path_in(run, path)
        with run.open(below, at=at) as content:
            out = sys.stdout.buffer
            for offset in range(0, content.size, CHUNK):
                out.write(content.read(offset, CHUNK))
            out.flush()
