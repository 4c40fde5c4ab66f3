"""The user's pager.

Owns the pager process.  Knows nothing of runs.  Main thread only: while the pager is open it, not goexfs, answers
Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Iterable

from goexfs.cli.output import on_terminal

_SHELL = frozenset("|&;<>()$`\\\"'*?[#~=%")


def pager_command() -> list[str] | None:
    """``$GOEXFS_PAGER``, else ``$PAGER``, else ``less -FRX``; None where the user wants none (empty or ``cat``).

    As with git, a command with anything of the shell in it is for the shell.
    """
    command = os.environ.get("GOEXFS_PAGER", os.environ.get("PAGER"))
    if command is None:
        return ["less", "-FRX"]
    if _SHELL & set(command):
        return ["sh", "-c", command]
    argv = command.split()
    return None if argv in ([], ["cat"]) else argv


def page(chunks: Iterable[bytes]) -> None:
    """Write ``chunks`` to stdout; on a terminal through the pager.  The pager may be quit before the end."""
    argv = pager_command() if on_terminal() else None
    if argv is None or not _page_through(argv, chunks):
        write(chunks)


def write(chunks: Iterable[bytes]) -> None:
    """Write bytes to stdout as they are."""
    sys.stdout.flush()
    stream = sys.stdout.buffer
    for chunk in chunks:
        stream.write(chunk)
    stream.flush()


def _page_through(argv: list[str], chunks: Iterable[bytes]) -> bool:
    """False when the pager is not there, with nothing consumed from ``chunks``."""
    import subprocess

    environ = dict(os.environ)
    environ.setdefault("LESS", "FRX")  # for PAGER=less: colours shown, short output not held
    environ.setdefault("LESSCHARSET", "utf-8")
    try:
        pager = subprocess.Popen(argv, stdin=subprocess.PIPE, env=environ)
    except OSError:
        return False
    assert pager.stdin is not None
    # Ctrl-C is for the pager (less returns to its prompt): if goexfs died of it the two would share the terminal.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        try:
            for chunk in chunks:
                pager.stdin.write(chunk)
        except BrokenPipeError:
            pass  # the reader has seen enough
        finally:
            try:
                pager.stdin.close()
            except BrokenPipeError:
                pass
            pager.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return True
