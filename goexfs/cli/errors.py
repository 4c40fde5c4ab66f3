"""The one table from exception to exit status, and the one line a person gets.

Owns every status that goexfs itself ends with (``docs/exit-status.md`` is the same table in prose; a test compares
them).  Own statuses start at 64, above what a child usually returns, because ``goexfs run`` ends with its child's.
Loaded only when something went wrong, so it may import the types it names.
"""

import os
import re
import sys
import tempfile
import traceback
from typing import IO, Any

import click

from goexfs.fuse import errors as mount_errors
from goexfs.session import errors as session_errors
from snapshots import errors as store_errors

USAGE = 2
INTERNAL = 70
INTERRUPTED = 130
READER_GONE = 141


class OutputFailed(store_errors.GoexfsError):
    """What a command prints on standard output cannot be written there (a full disk)."""


STATUS: dict[type[BaseException], int] = {
    store_errors.GoexfsError: 64,
    store_errors.BaseError: 65,
    store_errors.RunError: 66,
    store_errors.RunUnknown: 67,
    store_errors.RunAmbiguous: 68,
    store_errors.RunExists: 69,
    # 70 is INTERNAL: an error in goexfs itself
    store_errors.RunBusy: 71,
    store_errors.RunState: 72,
    store_errors.StoreError: 73,
    store_errors.StoreMissing: 74,
    store_errors.StoreTooNew: 75,
    store_errors.StoreDamaged: 76,
    store_errors.ObjectMissing: 76,
    store_errors.StoreFull: 77,
    store_errors.StoreLimit: 77,
    store_errors.StoreUnusable: 78,
    store_errors.Conflict: 79,
    store_errors.MergeError: 80,
    store_errors.SelectionRefused: 110,
    store_errors.NothingChosen: 110,
    store_errors.VerificationFailed: 111,
    store_errors.ExportFailed: 112,
    store_errors.ImportRefused: 113,
    session_errors.NestedStore: 81,
    session_errors.BaseReplaced: 82,
    mount_errors.MountpointUnusable: 83,
    session_errors.MountpointInsideBase: 84,
    mount_errors.MountpointBusy: 85,
    session_errors.MountBusy: 86,
    mount_errors.FuseMissing: 87,
    mount_errors.FusermountMissing: 88,
    mount_errors.MountNotPermitted: 89,
    mount_errors.MountError: 90,
    mount_errors.UnmountFailed: 91,
    session_errors.ServerError: 92,
    session_errors.SandboxError: 93,
    session_errors.SocketGone: 93,
    store_errors.BaseChanged: 94,
    store_errors.SnapshotUnknown: 95,
    store_errors.SnapshotExists: 96,
    store_errors.HistoryGone: 97,
    store_errors.EffectError: 98,
    store_errors.EffectsPending: 99,
    store_errors.EffectFailed: 100,
    session_errors.NotInside: 101,
    OutputFailed: 102,
    session_errors.PolicyError: 105,
    session_errors.PolicyViolated: 106,
    session_errors.CanaryFound: 107,
    session_errors.CommandError: 126,
    session_errors.CommandNotExecutable: 126,
    session_errors.CommandNotFound: 127,
}
"""Exception type -> exit status; a type that is not listed has the status of its nearest listed ancestor."""

CONFLICTS_SHOWN = 50


def status_of(error: BaseException) -> int:
    """The exit status for an exception."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


class Failure(click.ClickException):
    """Any exception, as click lets it leave: ``show`` prints its line, ``exit_code`` is its status."""

    def __init__(self, error: BaseException) -> None:
        self.error = _single(error)
        super().__init__(str(self.error))

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The status goexfs ends with."""
        return status_of(self.error)

    def show(self, file: IO[Any] | None = None) -> None:
        """One line on stderr (for several conflicts one more per path)."""
        if self.exit_code == READER_GONE or isinstance(self.error, OutputFailed):
            _forget_stdout()
        if self.exit_code == READER_GONE:
            return
        for line in describe(self.error):
            click.echo(line, err=True, file=file)


class Misuse(click.ClickException):
    """A wrong command line, as one line that names the help of the command it is about."""

    exit_code = USAGE

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message())
        self.command = error.ctx.command_path if error.ctx is not None else "goexfs"

    def show(self, file: IO[Any] | None = None) -> None:
        """One line on stderr; the words quoted in it may be anybody's."""
        from goexfs.cli.output import printable

        said = printable(re.sub(r"\s*\n\s*", " ", self.message)).rstrip(".")
        click.echo(f"goexfs: {said} (`{self.command} --help` shows how it is written)", err=True, file=file)


def describe(error: BaseException) -> list[str]:
    """The lines for a person.  Messages may quote names chosen by an agent, so they are made harmless."""
    from goexfs.cli.output import count, printable

    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return ["goexfs: interrupted"]
    if not isinstance(error, store_errors.GoexfsError):
        summary = printable(traceback.format_exception_only(error)[-1].strip())
        return [f"goexfs: internal error: {summary} (please report it; {_save_traceback(error)})"]
    lines = [f"goexfs: {printable(str(error) or type(error).__name__)}"]
    conflicts = error.conflicts if isinstance(error, store_errors.Conflict) else ()
    if len(conflicts) > 1:  # of a single one the message itself speaks
        lines += [f"  {_conflict(conflict)}" for conflict in conflicts[:CONFLICTS_SHOWN]]
    if len(conflicts) > CONFLICTS_SHOWN:
        lines.append(f"  … and {count(len(conflicts) - CONFLICTS_SHOWN, 'more conflict')}")
    return lines


def _conflict(conflict: object) -> str:
    from goexfs.cli.output import printable, quoted
    from snapshots.merging.plan import PathConflict

    if isinstance(conflict, PathConflict):
        return f"{quoted(conflict.path or b'.')}: {printable(conflict.message)}"
    return printable(str(conflict))


def _single(error: BaseException) -> BaseException:
    """trio wraps what a task raised in groups; a group of one is that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _save_traceback(error: BaseException) -> str:
    """Write the traceback where the temporary files are; says where, or that it could not."""
    import goexfs

    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="goexfs-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.write(f"goexfs {goexfs.__version__}, Python {sys.version}\n{sys.argv!r}\n\n{text}")
    except OSError as reason:
        return f"the traceback could not be written: {reason}"
    return f"the traceback is in {path}"


def _forget_stdout() -> None:
    """Nothing can be written to stdout any more: the flush at exit must not fail again."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass
