"""``goexfs ps``, ``kill``, ``pause`` and ``resume``: the processes of runs.

Owns how they are printed, and the names of signals.  Main thread only.
"""

import signal
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.output import age, command_line, note, print_json, print_table, printable, size
from goexfs.cli.params import RUN, json_option

if TYPE_CHECKING:
    from goexfs.session.activity import Task


class SignalName(click.ParamType[int]):
    """``TERM``, ``SIGTERM`` or ``15``."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return int(value)
        word = str(value).strip().upper()
        try:
            if word.isdigit():
                return int(signal.Signals(int(word)))
            return int(signal.Signals[word if word.startswith("SIG") else f"SIG{word}"])
        except (KeyError, ValueError):
            self.fail(f"{value!r} is no signal; write TERM, KILL or a number", param, ctx)


@click.command("ps", short_help="List the processes of runs.")
@click.argument("ref", metavar="[RUN]", type=RUN, required=False)
@json_option
def ps_command(ref: str | None, as_json: bool) -> None:
    """List the processes that are at work in RUN, or in all runs: what goexfs run has started."""
    import goexfs
    from goexfs.cli.store import store_or_nothing

    with store_or_nothing() if ref is None else goexfs.open_store(create=False) as store:
        runs = [] if store is None else store.runs() if ref is None else [store.run(ref)]
        found = [(run.id, run.is_paused, task) for run in runs for task in run.processes()]
    if as_json:
        print_json({"processes": [{"run": run, "paused": paused, **_fields(task)} for run, paused, task in found]})
    elif found:
        print_table(
            ("RUN", "PID", "INSIDE", "USER", "STATE", "AGE", "CPU", "MEMORY", "COMMAND"),
            [_row(run, paused, task) for run, paused, task in found],
            right=("PID", "INSIDE", "AGE", "CPU", "MEMORY"),
            shrink=("COMMAND",),
        )
    else:
        click.echo("no processes", err=True)


def _row(run: str, paused: bool, task: "Task") -> tuple[str, ...]:
    state = "paused" if paused else task.state
    old, cpu = age(int(task.started * 1e9)), f"{task.cpu_seconds:.1f} s"
    return (
        run, str(task.pid), str(task.inner_pid), printable(task.user), state, old, cpu, size(task.memory),
        command_line(task.command),
    )  # fmt: skip


def _fields(task: "Task") -> dict[str, Any]:
    import msgspec

    from goexfs.cli.store import command_fields

    fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(task, command=()))
    return {**fields, **command_fields(task.command)}


@click.command("kill", short_help="Signal the command of a run.")
@click.argument("ref", metavar="RUN", type=RUN)
@click.option("--signal", "-s", "number", metavar="SIGNAL", type=SignalName(), default="TERM", show_default=True,
              help="Which one; KILL ends all that the command started, too.")  # fmt: skip
def kill_command(ref: str, number: int) -> None:
    """Send a signal to the command of RUN.  When it ends, goexfs run goes on as if it had ended by itself."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        run.kill(number)
        if run.is_paused:
            note(f"run {run.record.label} is paused: it hears of the signal when it goes on (goexfs resume {run.id})")


@click.command("pause", short_help="Stop the command of a run for a while.")
@click.argument("ref", metavar="RUN", type=RUN)
def pause_command(ref: str) -> None:
    """Stop the command of RUN and all that it started.  The mount stays: it can be looked at, and unmounted."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        run.pause()
        note(f"paused {run.record.label}; goexfs resume {run.record.label} lets it go on")


@click.command("resume", short_help="Let a paused command go on.")
@click.argument("ref", metavar="RUN", type=RUN)
def resume_command(ref: str) -> None:
    """Let the command of RUN go on."""
    import goexfs

    with goexfs.open_store(create=False) as store:
        run = store.run(ref)
        run.resume()
        note(f"resumed {run.record.label}")
