"""``goexfs ls``, ``show``, ``gc`` and ``fsck``: what the store holds, and whether it is sound.

Owns how runs and reports are printed.  Main thread only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.output import (
    age,
    command_line,
    count,
    home,
    note,
    print_json,
    print_table,
    printable,
    size,
    timestamp,
)
from goexfs.cli.params import POINT, StoreLimit, json_option
from goexfs.cli.progress import progress

if TYPE_CHECKING:
    from goexfs.session import RunHandle, RunStore
    from snapshots.storage.bound import Use
    from snapshots.upkeep.findings import FsckReport
    from snapshots.upkeep.gc import GcReport
    from snapshots.upkeep.room import Waste

FINDINGS = 1
_STYLES = {"active": "green", "kept": "", "crashed": "red", "merged": "dim", "discarded": "dim"}


@click.command("ls", short_help="List the runs.")
@click.option("--all", "-a", "everything", is_flag=True, help="Merged and discarded runs too.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only, one a line.")
@json_option
def ls_command(everything: bool, quiet: bool, as_json: bool) -> None:
    """List the runs: id, name, state, age, changes, bytes held, base and command; the latest is the last."""
    with store_or_nothing() as store:
        runs = store.runs(all=everything) if store is not None else []
        if as_json:
            use = None if store is None else report_fields(store.known_use())
            print_json({"runs": [run_fields(run) for run in runs], "store": use})
            return
        if quiet:
            click.echo("".join(f"{run.id}\n" for run in runs), nl=False)
            return
        if runs:
            print_table(
                ("RUN", "NAME", "STATE", "AGE", "CHANGES", "HELD", "BASE", "COMMAND"),
                [_row(run) for run in runs],
                right=("AGE", "CHANGES", "HELD"),
                shrink=("BASE", "COMMAND"),
                styles=[_STYLES.get(run.state, "") for run in runs],
            )
        else:
            click.echo(
                "no runs" if everything else "no runs that are active or kept (ls --all shows the others)", err=True
            )
        if store is not None:
            say_how_near(store.known_use())


@contextmanager
def store_or_nothing() -> "Iterator[RunStore | None]":
    """Where there is no store yet there are no runs, and looking makes none."""
    import goexfs
    from snapshots.errors import StoreMissing

    try:
        store = goexfs.open_store(create=False)
    except StoreMissing:
        yield None
        return
    with store:
        yield store


def _row(run: "RunHandle") -> tuple[str, ...]:
    record = run.record
    return (
        run.id,
        printable(run.name or ""),
        "paused" if run.is_paused else "waiting" if run.waiting else run.state,
        age(record.created_ns),
        str(run.number_of_changes),
        size(run.bytes_held),
        home(run.base) + (f" +{len(run.parts) - 1}" if len(run.parts) > 1 else ""),
        command_line(record.command),
    )


def run_fields(run: "RunHandle") -> dict[str, Any]:
    """A run as JSON."""
    import msgspec

    from snapshots.names import text_fields

    record = run.record
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "paused": run.is_paused,
        "waiting": [msgspec.structs.asdict(waiting) for waiting in run.waiting],
        **text_fields("base", run.base),
        "bases": [
            {**text_fields("base", part.base), **text_fields("mountpoint", part.record.mountpoint),
             "changes": part.number_of_changes}
            for part in run.parts
        ],
        **command_fields(record.command),
        "created_ns": record.created_ns,
        "changed_ns": record.changed_ns,
        "exit_status": record.exit_status,
        **text_fields("mountpoint", record.mountpoint),
        "pid": record.pid,
        "changes": run.number_of_changes,
        "bytes_held": run.bytes_held,
    }


def command_fields(argv: tuple[str, ...]) -> dict[str, list[str]]:
    """A command readable, and exact beside it where an argument is not UTF-8."""
    import base64

    raw = [os.fsencode(part) for part in argv]
    fields = {"command": [part.decode("utf-8", "backslashreplace") for part in raw]}
    if any(part.encode("utf-8", "replace") != exact for part, exact in zip(argv, raw, strict=True)):
        fields["command_base64"] = [base64.b64encode(part).decode("ascii") for part in raw]
    return fields


@click.command("show", short_help="Show one run.")
@click.argument("ref", metavar="RUN[@POINT]", type=POINT)
@json_option
def show_command(ref: str, as_json: bool) -> None:
    """Show one run: its state, base, command, age, changes and bytes held, and what can be done with it.

    With a POINT what there was then: the last record of the journal, the command that wrote it, and the changes.
    """
    import goexfs

    with goexfs.open_store(create=False) as store:
        run, at = store.point(ref)
        if as_json:
            print_json(run_fields(run) if at is None else {**run_fields(run), "at": moment_fields(run, at)})
            return
        for label, value in _description(run) if at is None else _moment(run, at):
            click.echo(f"{label:<12} {value}")


def moment_fields(run: "RunHandle", at: str) -> dict[str, Any]:
    """A point of a run as JSON."""
    from goexfs.cli.log import event_fields

    position, log = run.position(at), run.log(at=at)
    return {
        "record": position - 1,
        "snapshots": [each.name for each in run.snapshots() if each.position == position],
        "changes": len(run.diff(at=at)),
        "last": event_fields(log, log.events[-1]) if log.events else None,
    }


def _moment(run: "RunHandle", at: str) -> list[tuple[str, str]]:
    from goexfs.cli.log import event_line

    position, log, label = run.position(at), run.log(at=at), run.record.label
    names = [printable(each.name) for each in run.snapshots() if each.position == position]
    lines = [
        ("run", run.id),
        ("name", printable(run.name or "-")),
        *(("base" if not number else "", home(part.base)) for number, part in enumerate(run.parts)),
        ("record", f"#{position - 1}"),
        ("snapshots", ", ".join(names) or "-"),
        ("changes", str(len(run.diff(at=at)))),
        ("last change", event_line(log, log.events[-1]) if log.events else "-"),
    ]
    verbs = ("diff", "rewind", "merge", "fork", "run --run")
    end = {"run --run": " -- CMD"}
    return lines + [
        ("next" if number == 0 else "", f"goexfs {verb} {label}@{printable(at)}{end.get(verb, '')}")
        for number, verb in enumerate(verbs)
    ]


def _description(run: "RunHandle") -> list[tuple[str, str]]:
    record = run.record
    lines = [
        ("run", run.id),
        ("name", printable(run.name or "-")),
        ("state", "paused" if run.is_paused else run.state),
        *(("base" if not number else "", home(part.base)) for number, part in enumerate(run.parts)),
        ("command", command_line(record.command) or "-"),
        ("created", f"{timestamp(record.created_ns)}, {age(record.created_ns)} ago"),
    ]
    if record.exit_status is not None:
        lines.append(("exit status", str(record.exit_status)))
    if record.mountpoint is not None:
        lines.append(("mounted at", home(record.mountpoint)))
    lines += [("changes", str(run.number_of_changes)), ("held", size(run.bytes_held))]
    if run.waiting:
        from goexfs.cli.policy import waiting_line

        lines.append(("waiting", waiting_line(run) or ""))
    verbs = NEXT.get(run.state, ())
    lines += [
        ("next" if number == 0 else "", f"goexfs {verb.format(record.label)}") for number, verb in enumerate(verbs)
    ]
    return lines


_DECIDE = ("diff {}", "merge {}", "discard {}", "run --run {} -- CMD")
NEXT = {"active": ("diff {}", "umount {}"), "kept": _DECIDE, "crashed": _DECIDE}
"""State -> the commands that apply to a run in it."""


@click.command("gc", short_help="Free what no run holds.")
@click.option("--dry-run", is_flag=True, help="Only say what the store takes up, and what would be freed.")
@click.option("--store-limit", type=StoreLimit(), metavar="SIZE|none", help="From now on the store may take up SIZE.")
@json_option
def gc_command(dry_run: bool, store_limit: int | None, as_json: bool) -> None:
    """Free what no run holds, and what interrupted commands left behind.

    Beyond the limit of the store also the past of runs, from the oldest on, and what old merges need to be undone;
    never what a run is now, snapshots that you made, or the undo of the latest merge.
    """
    import goexfs

    with goexfs.open_store(create=False) as store, progress("collecting") as tell:
        if dry_run:
            found = store.waste()
            if as_json:
                print_json({**report_fields(found), "used_bytes": found.use.used, "over": found.over})
            else:
                for line in _waste(found):
                    click.echo(line)
            return
        if store_limit is not None:
            store.set_limit(store_limit)
        report = store.gc(progress=tell)
        known = store.use()
    if as_json:
        print_json({**report_fields(report), "freed_bytes": report.freed_bytes})
    else:
        parts = (
            count(report.objects, "object"),
            count(report.files, "stray file"),
            count(report.directories, "run directory", "run directories"),
            count(report.tombstones, "old record"),
            count(report.snapshots, "automatic snapshot"),
            count(report.segments, "journal file"),
        )
        click.echo(f"freed {size(report.freed_bytes)}: {', '.join(parts)}")
        click.echo(f"kept {size(report.held_bytes)} that {count(report.runs, 'run')} may still need")
        click.echo(use_line(known))
        if report.merges:
            note(f"{count(report.merges, 'merge')} can be undone no more (goexfs merges)")
        if report.idle:
            named = ", ".join(map(printable, report.idle[:5])) + (", …" if len(report.idle) > 5 else "")
            note(f"nothing was done with {named} for a month: goexfs ls says what each holds, goexfs discard frees it")


def say_how_near(use: "Use") -> None:
    """One line, when the limit of the store is near, or reached."""
    if use.is_near:
        note(f"{use_line(use)}: merge or discard runs, or raise it (goexfs gc --store-limit SIZE)")


def use_line(use: "Use") -> str:
    """How large the store is, and may be."""
    most = f"of the {size(use.limit)} that it may" if use.limit else "and has no limit"
    return f"the store takes up {size(use.used)} {most}"


def _waste(waste: "Waste") -> Iterator[str]:
    use = waste.use
    yield use_line(use)
    for label, bytes_ in (
        ("large files", use.contents), ("small files and names", use.database),
        ("journals and working files", use.journals), ("to undo merges", use.merges),
    ):  # fmt: skip
        yield f"  {label}: {size(bytes_)}"
    yield f"would free {size(waste.unseen + waste.over)}: {size(waste.unseen)} that nobody can see any more"
    may = f"{size(waste.history)} of the past of runs, {size(waste.merges)} to undo merges"
    yield f"could free beyond the limit: {may}"


@click.command("fsck", short_help="Check the store, and with --repair mend it.")
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@json_option
@click.pass_context
def fsck_command(ctx: click.Context, repair: bool, as_json: bool) -> None:
    """Check every object, entry and reference of the store.  Exit status 1 when something wrong remains."""
    import goexfs

    with goexfs.open_store(create=False) as store, progress("checking") as tell:
        report = store.fsck(repair=repair, progress=tell)
    if as_json:
        print_json({**report_fields(report), "clean": report.clean})
    else:
        for line in _findings(report, repair):
            click.echo(line)
    ctx.exit(0 if report.clean else FINDINGS)


def _findings(report: "FsckReport", repair: bool) -> Iterator[str]:
    for finding in report.findings:
        end = "  (repaired)" if finding.repaired else ""
        yield f"{finding.kind}: {printable(finding.what)}: {printable(finding.detail)}{end}"
    remain = sum(not finding.repaired for finding in report.findings)
    looked = (
        f"{count(report.objects, 'object')} ({size(report.object_bytes)}), {count(report.runs, 'run')}, "
        f"{count(report.entries, 'entry', 'entries')}"
    )
    if not remain:
        mended = f", {len(report.findings)} repaired" if report.findings else ""
        yield f"checked {looked}: the store is sound{mended}"
    else:
        advice = "what remains cannot be repaired" if repair else "goexfs fsck --repair mends what can be mended"
        yield f"checked {looked}: {count(remain, 'thing')} wrong; {advice}"


def report_fields(report: "GcReport | FsckReport | Use | Waste") -> dict[str, Any]:
    """A report of the library as JSON."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(report)
    return fields
