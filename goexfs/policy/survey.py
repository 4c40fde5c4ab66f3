"""What of a base a policy hides: for the one line at the beginning of a run.

Owns a look through the base that is bounded in time, since a run must not wait for it: what is hidden is hidden
whether or not it is named here.  Reads names only.  Any thread.
"""

import os
import time
from typing import NamedTuple

from goexfs.policy.matching import HIDDEN, MASKED, Matcher

SECONDS = 0.03
"""how long a survey may take: what starts a run waits for it"""
MOST = 1000
"""names that it finds at most"""

_SKIPPED = frozenset({b".git", b".hg", b".svn", b"node_modules", b"site-packages", b"__pycache__"})


class Survey(NamedTuple):
    """What was found."""

    hidden: tuple[bytes, ...]
    masked: tuple[bytes, ...]
    complete: bool
    """False: there was no time for all of it"""


def survey(matcher: Matcher, base: bytes, *, untouchable: frozenset[bytes], seconds: float = SECONDS) -> Survey:
    """Look for what is hidden or masked; directories that hold other people's work are left out."""
    until = time.monotonic() + seconds
    found: dict[int, list[bytes]] = {HIDDEN: [], MASKED: []}
    waiting = [b""]
    for directory in waiting:  # which grows on the way: the names near the root come first
        if time.monotonic() > until or len(found[HIDDEN]) + len(found[MASKED]) > MOST:
            return Survey(tuple(found[HIDDEN]), tuple(found[MASKED]), False)
        try:
            with os.scandir(os.path.join(base, directory)) as entries:
                listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        for name, is_dir in listed:
            path = directory + b"/" + name if directory else name
            if path in untouchable:
                continue
            flags = 0
            if matcher.may_match(name):
                began = time.monotonic()
                flags = matcher.flags(path, is_dir=is_dir)
                until += time.monotonic() - began  # the first time loads the library of patterns
            for flag, paths in found.items():
                if flags & flag:
                    paths.append(path + b"/" if is_dir else path)
                    break
            else:
                if is_dir and name not in _SKIPPED:
                    waiting.append(path)
    return Survey(tuple(found[HIDDEN]), tuple(found[MASKED]), True)
