"""The user's pager, and a patch dressed for a terminal.

Owns the pager process and the colours of a patch.  Knows nothing of runs.  Main thread only: while the pager is open
it, not goexfs, answers Ctrl-C.

Off a terminal a patch is written byte for byte, so that it can be piped to ``git apply``.  On a terminal the content
of files must not act: control characters are shown in caret form (colour sequences too: text of an agent could
otherwise hide itself from the reviewer), and so are characters that reorder text.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

import click

from goexfs.cli.output import on_terminal, visible

_META = (
    "diff --git ",
    "index ",
    "old mode ",
    "new mode ",
    "deleted file mode ",
    "new file mode ",
    "similarity index ",
    "rename from ",
    "rename to ",
    "--- ",
    "+++ ",
    "GIT binary patch",
    "Binary files ",
)


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


def dressed(patch: Iterable[bytes], *, color: bool) -> Iterator[bytes]:
    """A patch line by line for a terminal: harmless, and coloured when asked."""
    in_hunk = False
    for line in _lines(patch):
        text = visible(line)
        if line.startswith(b"diff --git "):
            in_hunk = False
        elif line.startswith(b"@@ "):
            in_hunk = True
        yield (_colored(text, in_hunk) if color else text).encode() + b"\n"


def _colored(text: str, in_hunk: bool) -> str:
    if text.startswith("@@ "):
        end = text.find(" @@", 3) + 3
        return click.style(text[:end], fg="cyan") + text[end:]
    if not in_hunk and text.startswith(_META):
        return click.style(text, bold=True)
    if text.startswith("# "):  # what the format has no word for: owners, attributes, hard links
        return click.style(text, fg="yellow")
    if in_hunk and text.startswith("+"):
        return click.style(text, fg="green")
    if in_hunk and text.startswith("-"):
        return click.style(text, fg="red")
    return text


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their newlines, however the chunks were cut."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest
