"""``goexfs log``, ``blame`` and ``reads``: what happened in a run, and which command did it.

Owns how events and processes are printed, also for ``diff --by-process``.  Main thread only.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli import pager, summary
from goexfs.cli.output import command_line, count, note, print_json, printable, quoted, size, styled, timestamp
from goexfs.cli.params import ANY_PATH, POINT, json_option, path_in

if TYPE_CHECKING:
    from goexfs.session import RunHandle
    from snapshots.history.journal import Process
    from snapshots.history.log import Event, Log
    from snapshots.review.changes import Change

UNKNOWN = "an unknown process"
COMMAND_WIDTH = 60


@click.command("log", short_help="Show what happened in a run, in order, and who did it.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=ANY_PATH)
@click.option("--follow", "-f", is_flag=True, help="Go on with what a mounted run does, until it is unmounted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; with --follow one per line.")
def log_command(ref: str, paths: tuple[bytes, ...], follow: bool, as_json: bool) -> None:
    """Show every change of RUN, at and below each PATH or everywhere: when, what, where, and the command that made it.

    Consecutive writes of one process to one file are one line.  A mounted run is shown as far as its changes have
    been acknowledged; with a POINT only what came before it.
    """
    import goexfs
    from snapshots.history.log import below

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        if follow and at is not None:
            raise click.UsageError("--follow shows what is to come: name the run alone, without a POINT")
        tops = tuple(path_in(run, path) for path in paths)
        if follow:
            for piece in run.follow():
                for event in below(piece.events, tops):
                    line = json.dumps(event_fields(piece, event)) if as_json else event_line(piece, event)
                    click.echo(line)
            return
        found = [(log, list(below(log.events, tops))) for log in run.logs(at=at)]
        if as_json:
            first, *others = (_log_fields(log, events) for log, events in found)
            further = {"further": others} if others else {}
            print_json({"run": run.id, **first, **further})
        else:
            lines = [(event.time_ns, event_line(log, event)) for log, events in found for event in events]
            if len(found) > 1:
                lines.sort(key=lambda each: each[0])
            pager.page(f"{line}\n".encode() for _, line in lines)
            if tops and not lines:
                note(f"the log of run {run.record.label} has nothing about {', '.join(map(quoted, tops))}")


def _log_fields(log: "Log", events: "Sequence[Event]") -> dict[str, Any]:
    """The log of one base as JSON: numbers of records and processes count within it."""
    return {
        "events": [event_fields(log, event) for event in events],
        "processes": {str(number): process_fields(each) for number, each in log.processes.items()},
    }


def event_line(log: "Log", event: "Event") -> str:
    """An event for people."""
    where = quoted(event.path + (b"/" if event.is_dir else b"")) if event.path else "-"
    if event.old_path:
        arrow = "<->" if event.op == "exchange" else "->"
        where = f"{quoted(event.old_path)} {arrow} {where}"
    how = f" ({size(event.bytes)}{f' in {event.writes} writes' if event.writes > 1 else ''})" if event.writes else ""
    process = log.processes.get(event.process)
    who = f"{short(_command(process))} [{process.pid}]" if process is not None else UNKNOWN
    return f"{record_name(log, event.number)}  {timestamp(event.time_ns)}  {event.op:<8}  {where}{how}  {who}"


def record_name(log: "Log", number: int) -> str:
    """``#123``; ``RUN@#123`` for one of the run that this is a fork of."""
    from snapshots.history.logbook import generation, own_number

    whose = generation(number)
    return f"{log.parents[whose - 1]}@#{own_number(number)}" if whose else f"#{number}"


def short(text: str) -> str:
    """A command line that leaves room for others; all of it is in the JSON form."""
    return text if len(text) <= COMMAND_WIDTH else text[: COMMAND_WIDTH - 1] + "…"


def _command(process: "Process") -> str:
    return command_line(process.command) or printable(process.executable) or UNKNOWN


def event_fields(log: "Log", event: "Event") -> dict[str, Any]:
    """An event as JSON, with the command that made it."""
    from snapshots.history.logbook import generation, own_number
    from snapshots.names import text_fields

    process, whose = log.processes.get(event.process), generation(event.number)
    return {
        "of_run": log.parents[whose - 1] if whose else None,
        "record": own_number(event.number),
        "last_record": own_number(event.last),
        "time_ns": event.time_ns,
        "last_time_ns": event.last_ns,
        "op": event.op,
        **text_fields("path", event.path),
        **text_fields("old_path", event.old_path or None),
        "directory": event.is_dir,
        "writes": event.writes,
        "bytes": event.bytes,
        "process": own_number(event.process) or None,
        "pid": process.pid if process is not None else None,
        **_command_fields(process.command if process is not None else None),
    }


def process_fields(process: "Process") -> dict[str, Any]:
    """A process as JSON; ``parent`` is a number of ``processes``."""
    from snapshots.history.logbook import own_number
    from snapshots.names import text_fields

    return {
        "pid": process.pid,
        "parent": own_number(process.parent) or None,
        **text_fields("executable", process.executable),
        **_command_fields(process.command),
        "time_ns": process.time_ns,
    }


def _command_fields(argv: tuple[bytes, ...] | None) -> dict[str, list[str] | None]:
    if argv is None:
        return {"command": None}
    fields: dict[str, list[str] | None] = {"command": [word.decode("utf-8", "replace") for word in argv]}
    try:
        b" ".join(argv).decode("utf-8")
    except UnicodeDecodeError:
        fields["command_base64"] = [base64.b64encode(word).decode("ascii") for word in argv]
    return fields


@click.command("blame", short_help="Show which command wrote a path, and when.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@click.argument("path", type=ANY_PATH)
@json_option
def blame_command(ref: str, path: bytes, as_json: bool) -> None:
    """Show who wrote PATH in RUN last: the command, what had started it, and when; also who deleted it.

    With a POINT who had written it last then.
    """
    import goexfs
    from snapshots.errors import RunError
    from snapshots.history.log import blame
    from snapshots.names import readable

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        below = path_in(run, path)
        part, within, then = run.part_at(below, at)
        log = part.log(inherited=True, at=then)
        author = blame(log, within)
        if author is None:
            raise RunError(
                f"the log of run {run.record.label} has nothing about {readable(below)}: it is as in the base, or was"
                " changed before the log begins"
            )
        event, lineage = author
        if as_json:
            print_json(
                {"run": run.id, **event_fields(log, event), "lineage": [process_fields(each) for each in lineage]}
            )
            return
        click.echo(f"{quoted(below)}: {event_line(log, event)}")
        for process in lineage[1:]:
            click.echo(f"  started by {_command(process)} [{process.pid}]")


@click.command("reads", short_help="List the base files that a run read.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@json_option
def reads_command(ref: str, as_json: bool) -> None:
    """List the files of the base that RUN opened for reading (before POINT); with --json with their identity then."""
    import goexfs
    from snapshots.entries import NOBODY
    from snapshots.names import text_fields

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        found = run.reads(at=at)
        if as_json:
            rows = []
            for read in found:
                known = read.identity
                identity = {name: getattr(known, name) for name in known.__struct_fields__}
                canary = known == NOBODY
                rows.append(
                    {**text_fields("path", read.path), "time_ns": read.time_ns, "canary": canary, "identity": identity}
                )
            print_json({"run": run.id, "reads": rows})
            return
        names = {read.path: "  (canary)" if read.identity == NOBODY else "" for read in found}
        pager.page(f"{quoted(name)}{mark}\n".encode() for name, mark in names.items())
        if not names:
            note(f"run {run.record.label} has read nothing of its base")


def grouped(run: "RunHandle", changes: Sequence["Change"], *, color: bool) -> Iterator[bytes]:
    """Name-status lines below the command that made them."""
    for lineage, made in run.by_process(list(changes)):
        if lineage:
            above = f"  (started by {short(_command(lineage[1]))})" if len(lineage) > 1 else ""
            head = f"{short(_command(lineage[0]))}{above}"
        else:
            head = UNKNOWN
        yield f"{styled(head, color, bold=True)}: {count(len(made), 'change')}\n".encode()
        for line in summary.name_status(made, color=color):
            yield b"  " + line


def grouped_fields(run: "RunHandle", changes: Sequence["Change"]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "run": run.id,
        "groups": [
            {"lineage": [process_fields(each) for each in lineage], "changes": summary.fields(made)}
            for lineage, made in run.by_process(list(changes))
        ],
    }
