"""When a run gets automatic snapshots.

Owns the notation.  Who watches for the occasions is whoever runs the commands, or serves the mount.  Pure; any thread.
"""

import re
from collections.abc import Iterable

import msgspec

from snapshots.errors import RunError


class Occasions(msgspec.Struct, frozen=True):
    """The occasions of one run."""

    exit: bool = False
    """whenever a command that was started in the run has ended"""
    quiet_seconds: float = 0.0
    """when nothing has changed for so long, after something had; 0: never"""
    every: int = 0
    """after so many changes, or soon after; 0: never"""

    def __bool__(self) -> bool:
        return self.exit or bool(self.quiet_seconds) or bool(self.every)


def parse_occasions(words: Iterable[str]) -> Occasions:
    """The occasions of some words: ``exit``, ``quiet=SECONDS``, ``every=CHANGES``.  Errors: RunError."""
    exits, quiet, every = False, 0.0, 0
    for word in words:
        kind, _, number = word.partition("=")
        if word == "exit":
            exits = True
        elif kind == "quiet" and re.fullmatch(r"\d{1,6}(\.\d{1,3})?", number) and float(number) > 0:
            quiet = float(number)
        elif kind == "every" and re.fullmatch(r"\d{1,9}", number) and int(number) > 0:
            every = int(number)
        else:
            raise RunError(f"{word!r} is no occasion for a snapshot; write exit, quiet=SECONDS or every=CHANGES")
    return Occasions(exits, quiet, every)
