"""The three standard streams of this process, made fit before anything is opened or printed.

Owns what happens when one of them is missing, and when standard output cannot be written.  Knows no command; imports
nothing that takes time, for it is the first that is called.  Main thread only.
"""

import io
import os
import sys
from typing import NoReturn


class _Output(io.FileIO):
    """Standard output; what keeps it from being written leaves as an error with a line for a person."""

    def write(self, data: object, /) -> int:
        """As of any file, but that a full disk is ``OutputFailed``; a reader that went away stays what it is."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            _failed(error)


def _failed(error: OSError) -> NoReturn:
    from goexfs.cli.errors import OutputFailed

    raise OutputFailed(f"standard output cannot be written: {error.strerror}; send it elsewhere") from None


def make_fit() -> None:
    """Open what is closed, and have what cannot be shown or written become an escape or an error of one line.

    A closed one would otherwise be the number of the next file that is opened: a socket of the run's server, that the
    command then takes for its output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, which is this one
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "wb", closefd=False), write_through=True)
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    old = sys.stdout
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "wb", closefd=False)), encoding=old.encoding if old is not None else None,
        # A terminal that cannot show a character gets an escape, not an exception.
        errors="backslashreplace", line_buffering=os.isatty(1),
    )  # fmt: skip
