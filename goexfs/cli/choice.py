"""How a selection of changes is written on a command line.

Owns what paths, patterns and the options that go with them mean.  Main thread only.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from goexfs.cli.params import path_in

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from goexfs.session import RunHandle
    from snapshots.review.changes import Change


def choice(
    run: "RunHandle", paths: Sequence[bytes], exclude: Sequence[str], only_status: str | None,
    process: str | None = None,
) -> "Callable[[Change], bool] | None":  # fmt: skip
    """Which changes are wanted; None: all of them."""
    if not paths and not exclude and only_status is None and process is None:
        return None
    if process == "":
        raise click.BadParameter("an empty PATTERN is none", param_hint="--process")
    letters = frozenset("AMDRTX" if only_status is None else only_status.upper())
    if not letters or not letters <= set("AMDRTX"):
        raise click.BadParameter(f"{only_status!r} is not made of the letters A M D R T X", param_hint="--only-status")
    from pathspec import GitIgnoreSpec

    from snapshots.layers.basepaths import is_below

    below = [path_in(run, path) for path in paths]
    # A path below a further base is absolute, and must not be taken for one that is relative.
    wanted = {far: _spec([path for path in below if _is_far(path) in (far, None)]) for far in (False, True)}
    unwanted = GitIgnoreSpec.from_lines(exclude)
    made = run.written_by(process) if process is not None else None

    def choose(change: "Change") -> bool:
        if change.status not in letters or (made is not None and not made(change)):
            return False
        both = [path for path in (change.path, change.old_path) if path is not None]
        names = [os.fsdecode(path) for path in both]
        spec = wanted[change.path.startswith(b"/")]
        # A name may have characters in it that mean something else in a pattern.
        is_named = any(
            path.startswith(b"/") == each.startswith(b"/") and (path == each or is_below(path, each))
            for path in both for each in below
        )  # fmt: skip
        if below and not is_named and not any(spec.match_file(name) for name in names):
            return False
        return not any(unwanted.match_file(name) for name in names)

    return choose


def _spec(paths: Sequence[bytes]) -> "GitIgnoreSpec":
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(map(_pattern, paths))


def _is_far(path: bytes) -> bool | None:
    """Whether it is in a further base of a run; None for a pattern that is meant anywhere."""
    return None if not _pattern(path).startswith("/") else path.startswith(b"/")


def pattern_of(run: "RunHandle", given: str) -> str:
    """A path or pattern given on the command line, as a pattern relative to the base of a run."""
    return _pattern(path_in(run, os.fsencode(given)))


def _pattern(path: bytes) -> str:
    """A path is meant from the base; a pattern without a slash anywhere."""
    text = os.fsdecode(path)
    return text if text.startswith("/") or ("/" not in text and any(char in text for char in "*?[")) else f"/{text}"
