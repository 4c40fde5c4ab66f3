"""Which rules match a path.

Owns the compiled patterns and the first filter by a path's last name, which spares nearly every name the rest.
Patterns are those of .gitignore (pathspec), except that upper and lower case are the same: a base on a filesystem that
ignores case must not show a hidden file by another spelling.  Pure; any thread.

The library of patterns takes longer to load than a mount takes to answer: it is loaded when a name first passes the
filter.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from goexfs.policy.rules import Kind, Policy, PolicyError, Source

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

HIDDEN, MASKED, READ_ONLY, NO_DELETE = 1, 2, 4, 8
FLAGS = {Kind.HIDE: HIDDEN, Kind.MASK: MASKED, Kind.READ_ONLY: READ_ONLY, Kind.NO_DELETE: NO_DELETE}
FIXED = MASKED | READ_ONLY
"""what cannot be changed"""

_WILD = "*?[\\"


class Finding(NamedTuple):
    """Why a rule holds for a path, or why not."""

    kind: Kind
    holds: bool
    source: Source
    pattern: str
    path: bytes
    """the path itself, or the directory above it that the pattern matches"""


class Matcher:
    """The compiled rules of one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._specs: dict[Kind, list[tuple[Source, GitIgnoreSpec, tuple[str, ...]]]] | None = None
        patterns = [p for source in policy.sources for kind in Kind for p in source.patterns(kind)]
        self.may_match = _first_filter(patterns)
        """whether some pattern may match a path with this last name; if not, only what is above it can"""
        self.kinds = frozenset(kind for kind in Kind if any(source.patterns(kind) for source in policy.sources))
        self.depends_on_directories = any("/" in pattern.lstrip("!").rstrip("/") for pattern in patterns)
        """whether another directory can make a difference to a name"""

    def flags(self, path: bytes, *, is_dir: bool) -> int:
        """What holds for a path, as a set of ``FLAGS``."""
        found = 0
        for kind in self.kinds:
            finding = self.finding(kind, path, is_dir=is_dir)
            if finding is not None and finding.holds:
                found |= FLAGS[kind]
        return found

    def finding(self, kind: Kind, path: bytes, *, is_dir: bool) -> Finding | None:
        """The rule of one kind that decides for a path; None when there is none."""
        text = os.fsdecode(path).lower() + ("/" if is_dir else "")
        for source, spec, patterns in self._compiled()[kind]:
            result = spec.check_file(text)
            if result.include is None or result.index is None or (source.only_stricter and not result.include):
                continue
            return Finding(kind, result.include, source, patterns[result.index], path)
        return None

    def explain(self, path: bytes, *, is_dir: bool) -> list[Finding]:
        """Every rule that decides something about a path, those of what it lies in first."""
        found: list[Finding] = []
        parts = path.split(b"/")
        for length in range(1, len(parts) + 1):
            at = b"/".join(parts[:length])
            last = length == len(parts)
            for kind in Kind:
                finding = self.finding(kind, at, is_dir=is_dir or not last)
                if finding is not None and (last or finding.holds) and finding[:4] not in [f[:4] for f in found]:
                    found.append(finding)
        return found

    def placeholder(self, path: bytes, *, is_dir: bool = False) -> bytes:
        """What a masked path shows."""
        finding = self.finding(Kind.MASK, path, is_dir=is_dir)
        return finding.source.mask[finding.pattern].encode() if finding is not None else b""

    def _compiled(self) -> "dict[Kind, list[tuple[Source, GitIgnoreSpec, tuple[str, ...]]]]":
        if self._specs is None:
            from pathspec import GitIgnoreSpec

            self._specs = {
                kind: [
                    (source, GitIgnoreSpec.from_lines(pattern.lower() for pattern in patterns), patterns)
                    for source in reversed(self._policy.sources)
                    if (patterns := source.patterns(kind))
                ]
                for kind in Kind
            }
        return self._specs


def check_pattern(pattern: str, where: str) -> None:
    """Raise `PolicyError` for what is no pattern."""
    if not pattern.strip() or "\0" in pattern or "\n" in pattern:
        raise PolicyError(f"{where}: {pattern!r} is no pattern; write it as in .gitignore")
    if pattern.startswith("#"):
        raise PolicyError(f"{where}: {pattern!r} is a comment in .gitignore; write \\{pattern} for such a name")
    from pathspec import GitIgnoreSpec

    try:
        usable = any(one.include is not None for one in GitIgnoreSpec.from_lines([pattern]).patterns)
    except ValueError:
        usable = False
    if not usable:
        raise PolicyError(f"{where}: {pattern!r} matches nothing; write a pattern as in .gitignore")


def _first_filter(patterns: list[str]) -> Callable[[bytes], bool]:
    """A quick question about a last name: what it must be, begin with or end with.

    It is asked for every name that is looked up or made, so it looks at single bytes first and at nothing of ``self``.
    """
    exact: set[bytes] = set()
    beginnings: set[bytes] = set()
    ends: set[bytes] = set()
    for pattern in patterns:
        if pattern.startswith("!"):
            continue  # takes something away from what another one matches
        name = pattern.lower().rstrip().rstrip("/").rpartition("/")[2]
        wild = [at for at, char in enumerate(name) if char in _WILD]
        if not wild:
            exact.add(os.fsencode(name))
        elif wild[0]:
            beginnings.add(os.fsencode(name[: wild[0]]))
        elif "[" not in name and "\\" not in name and wild[-1] < len(name) - 1:
            ends.add(os.fsencode(name[wild[-1] + 1 :]))
        else:
            return lambda _name: True  # a pattern that does not say
    names, starts, stops = frozenset(exact), tuple(sorted(beginnings)), tuple(sorted(ends))
    first, last = frozenset(start[0] for start in starts), frozenset(stop[-1] for stop in stops)

    def may_match(name: bytes) -> bool:
        if not name:
            return False
        lower = name.lower()
        return (
            lower in names
            or (lower[-1] in last and lower.endswith(stops))
            or (lower[0] in first and lower.startswith(starts))
            or not lower.isascii()  # whose lower case is another matter
        )

    return may_match
