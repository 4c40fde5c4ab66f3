"""Putting together what holds for a run, from all the places that have a say.

Owns the order: built-in, the user's file, the base's file, ``--policy`` files, the options of the command line; the
later is the stronger.  The base's file can only forbid: whoever can write to a base (its author, a former merge) must
not be able to uncover what the user hides.  Knows no environment.  Any thread.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from goexfs.policy import files
from goexfs.policy.canaries import new_canary
from goexfs.policy.matching import check_pattern
from goexfs.policy.rules import Canary, Policy, PolicyError, Source
from snapshots.names import readable

OPTIONS = "the command line"

Place = str | bytes | os.PathLike[str]


class PolicyWishes(NamedTuple):
    """What whoever starts a run wants, besides the files that are read anyway."""

    files: tuple[Place, ...] = ()
    """more policy files; each must be there"""
    hide: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    """patterns of what is neither hidden nor masked, whatever weaker sources say"""
    canaries: tuple[Place, ...] = ()
    """paths relative to the base"""
    defaults: bool = True
    """False: without the built-in rules and those of the user's file; the base's file still holds"""


def assemble(base: bytes, wishes: PolicyWishes, *, user_file: Path | None) -> Policy:
    """The policy of a run over *base*.  Raises `PolicyError`."""
    sources: list[Source | None] = []
    if wishes.defaults:
        sources.append(files.built_in())
        if user_file is not None:
            sources.append(files.read(user_file))
    else:
        sources.append(msgspec.structs.replace(files.built_in(), hide=()))
    sources.append(files.read(os.path.join(base, files.BASE_NAME.encode()), only_stricter=True))
    for path in wishes.files:
        source = files.read(path)
        if source is None:
            raise PolicyError(f"{readable(os.fsencode(path))} does not exist; name a policy file that does")
        sources.append(source)
    known = [source for source in sources if source is not None]
    options = _options(wishes, masks=any(source.mask for source in known))
    return Policy((*known, *options), tuple(_canary(base, path) for path in _once(wishes.canaries)))


def _options(wishes: PolicyWishes, *, masks: bool) -> list[Source]:
    for pattern in wishes.hide:
        check_pattern(pattern, "--hide")
    for pattern in wishes.show:
        check_pattern(pattern, "--show")
        if pattern.startswith("!"):
            raise PolicyError(f"--show: {pattern!r}: --show takes what is to be seen; leave the ! out")
    shown = tuple(f"!{pattern}" for pattern in wishes.show)
    if not wishes.hide and not shown:
        return []
    return [Source(OPTIONS, hide=(*wishes.hide, *shown), mask=dict.fromkeys(shown, "") if masks else {})]


def _once(paths: Iterable[Place]) -> list[bytes]:
    return list(dict.fromkeys(os.path.normpath(os.fsencode(path)) for path in paths))


def _canary(base: bytes, path: bytes) -> Canary:
    """A canary at a path, which is relative to the base or inside it."""
    if os.path.isabs(path):
        path = os.path.relpath(path, base)
    parts = path.split(b"/")
    if path in (b"", b".") or b".." in parts or b"\0" in path or b"\n" in path:
        raise PolicyError(f"--canary: {readable(path)} is no path in the base; name one that a secret might have")
    at = base
    for part in parts[:-1]:
        at = os.path.join(at, part)
        try:
            kind = os.lstat(at).st_mode
        except OSError:
            kind = 0
        if not stat.S_ISDIR(kind):
            raise PolicyError(f"--canary: {readable(at)} is not a directory of the base; name a path in one that is")
    try:
        kind = os.lstat(os.path.join(at, parts[-1])).st_mode
    except OSError:
        kind = stat.S_IFREG
    if not stat.S_ISREG(kind):
        raise PolicyError(f"--canary: {readable(path)} is there and no file; name another path")
    return new_canary(path)
