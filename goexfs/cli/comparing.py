"""What ``goexfs diff`` compares: a run with its base, or two states of runs over one base.

Owns how the words after ``diff`` are told apart, and the way to what lies beside a changed file.  Main thread only.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from goexfs.cli.output import note, quoted
from goexfs.cli.params import path_in
from snapshots.errors import RunAmbiguous, RunError, RunUnknown

if TYPE_CHECKING:
    from goexfs.session import RunHandle, RunStore
    from snapshots.layers.content import Readable
    from snapshots.review.changes import Change

SHORTEST_ID = 4
"""Characters from which on the beginning of an id is taken for a run where a path could be meant as well."""
_MOST_BESIDE = 64 << 20

Point = tuple["RunHandle", str | None]


@dataclass(frozen=True)
class Comparison:
    """What is compared with what."""

    run: "RunHandle"
    at: str | None
    """a point of the run; None: as it is now"""
    before: Point | None
    """None: the base"""

    def fields(self) -> dict[str, Any]:
        """What is compared, as JSON fields; ``before`` is None for the base."""
        before = None if self.before is None else {"run": self.before[0].id, "at": self.before[1]}
        return {"run": self.run.id, "at": self.at, "before": before}

    def changes(self, paths: Sequence[bytes], *, times: bool) -> "list[Change]":
        """The changes at or below the paths, or all."""
        if self.before is None:
            return self.run.diff(paths=paths, at=self.at, times=times)
        run, at = self.before
        return self.run.diff_from(run, before_at=at, at=self.at, paths=paths, times=times)

    def beside(self, path: bytes, is_before: bool) -> "Readable | None":
        """A file of the state before or after, to be closed; None where there is none, or one that is too large."""
        if is_before and self.before is None:
            part, below = self.run.find(path)
            return _in_base(part.base, below)
        from snapshots.layers.content import BytesContent

        run, at = self.before if is_before and self.before is not None else (self.run, self.at)
        try:
            with run.open(path, at=at) as content:
                return BytesContent(content.read(0, content.size)) if content.size <= _MOST_BESIDE else None
        except RunError:
            return None


def _in_base(base: bytes, path: bytes) -> "Readable | None":
    from snapshots.errors import BaseChanged
    from snapshots.layers.base import BaseTree
    from snapshots.layers.basepaths import BasePaths
    from snapshots.layers.content import open_base

    with BaseTree(base) as tree:
        try:
            return open_base(BasePaths(tree), path)
        except BaseChanged:
            return None


def comparison(store: "RunStore", ref: str, words: Sequence[bytes]) -> tuple[Comparison, tuple[bytes, ...]]:
    """What is compared, and the paths (relative to the base) it is limited to.

    A second word is a run if it is one and no path has its name; where it is both the user is asked to say which.
    """
    run, at = store.point(ref)
    other = _point(store, os.fsdecode(words[0])) if words else None
    if other is None:
        return Comparison(run, at, None), _below(run, words)
    is_path = b"/" not in words[0] and os.path.lexists(os.path.join(run.base, words[0]))
    if is_path:
        word = quoted(words[0])
        raise click.UsageError(f"{word} is a run and a path: write ./{word} for the path, or {word}@~0 for the run")
    return Comparison(other[0], other[1], (run, at)), _below(other[0], words[1:])


def _below(run: "RunHandle", words: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(path_in(run, word) for word in words)


def _point(store: "RunStore", word: str) -> Point | None:
    """The run, or point of one, that a word names; None for what can only be a path."""
    if "/" in word.partition("@")[0] or word in (".", ".."):
        return None
    try:
        run, at = store.point(word)
    except (RunUnknown, RunAmbiguous):
        return None
    name = word.partition("@")[0] or "@"
    whole = name in ("@", run.name, run.id)
    return (run, at) if whole or len(name) >= SHORTEST_ID else None


def note_unknown(run: "RunHandle", paths: Sequence[bytes], changes: Sequence["Change"]) -> None:
    """A mistyped path must not look like an unchanged one."""
    from snapshots.layers.basepaths import is_below

    touched = [path for change in changes for path in (change.path, change.old_path) if path is not None]
    for path in paths:
        known = os.path.lexists(os.path.join(run.base, path))
        if not known and not any(one == path or is_below(one, path) or is_below(path, one) for one in touched):
            note(f"neither the run nor its base has {quoted(path)}")
