"""Entry point of the ``goexfs`` command.

Owns the order in which a process starts: what takes longest first.  A command that will mount needs a server, which
loads its libraries in a process of its own, so that one is started before this process has loaded anything, click
included.  Knows no command but by its name.  Main thread only.
"""

import gc
import sys
from collections.abc import Sequence
from typing import NoReturn

from goexfs.cli import streams

_MOUNTING = ("run", "mount")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line (default: this process's): never returns, never shows a traceback."""
    words = sys.argv[1:] if argv is None else list(argv)
    # What a verb makes lives until its end, mostly: looking through it again and again finds nothing.
    gc.set_threshold(50_000, 20, 100)
    streams.make_fit()
    try:
        if will_mount(words):
            from goexfs.session import birth

            birth.prepare()
        from goexfs.cli.group import cli

        try:
            cli.main(args=words, prog_name="goexfs", standalone_mode=True)
        finally:
            sys.stdout.flush()  # what fails here has a status and a line; at the interpreter's end it has neither
    except Exception as error:  # outside the group's reach: a broken completion, an unwritable stdout at exit
        from goexfs.cli.errors import Failure

        failure = Failure(error)
        failure.show()
        sys.exit(failure.exit_code)
    sys.exit(0)


def will_mount(words: Sequence[str]) -> bool:
    """Whether these words look like a command that mounts; a server that was started in vain ends by itself."""
    if not words or words[0] not in _MOUNTING:
        return False
    own = words[: words.index("--")] if "--" in words else words
    return len(words) > 1 and not {"-h", "--help"} & set(own)
