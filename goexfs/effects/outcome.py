"""How one attempt at a request ended.

Owns the value that all who carry out requests return.  Any thread.
"""

from typing import NamedTuple

from snapshots.storage.effects import State

MOST_OUTPUT = 3000


class Outcome(NamedTuple):
    """What became of an attempt."""

    state: State
    """``DONE``, ``FAILED`` (it surely ended, without success) or ``UNKNOWN``"""
    detail: str
    """one or more lines for a person"""
    transient: bool = False
    """trying again in a moment may help"""
    interrupted: bool = False
    """the user pressed Ctrl-C meanwhile"""


def tail(output: bytes) -> str:
    """The end of what a program or a server said, as text."""
    text = output[-MOST_OUTPUT:].decode("utf-8", "backslashreplace").strip()
    return ("… " if len(output) > MOST_OUTPUT else "") + text
