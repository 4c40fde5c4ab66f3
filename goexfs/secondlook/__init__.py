"""Which changes of a run deserve a second look before they become real, and why.

Owns the gathering of marks: by path (``places``), by what became of attributes and links (``nodes``), by what was
written (``texts``).  A mark is a reason to look, not a verdict, and the absence of one is no proof of anything.  What
was not looked at, because there is a limit to everything, is said too.  Knows no terminal; reads the sides of changes,
so it belongs to the thread of their ``BaseTree`` and comes before a merge.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from goexfs.secondlook import nodes, places, texts
from snapshots.review.changes import Change, Status


@dataclass(frozen=True)
class Mark:
    """One reason to look at one path."""

    path: bytes
    status: Status
    kind: str
    """a word for programs: ``git-hook``, ``setuid``, …"""
    reason: str
    """for people; holds nothing that the run chose"""


@dataclass(frozen=True)
class SecondLook:
    """What was found, the gravest first."""

    marks: tuple[Mark, ...]
    unread: int = 0
    """files whose content was not looked at, or not all of it"""


def second_look(changes: Sequence[Change], base: bytes) -> SecondLook:
    """The marks on changes of a run over ``base``."""
    reader = texts.Reader()
    found: dict[tuple[bytes, str], Mark] = {}
    for change in changes:
        reasons = chain(places.reasons(change, reader), nodes.reasons(change, base), texts.reasons(change, reader))
        for kind, reason in reasons:
            found.setdefault((change.path, kind), Mark(change.path, change.status, kind, reason))
    for path, reason in nodes.mass_deletions(changes):
        found.setdefault((path, "mass-deletion"), Mark(path, Status.DELETED, "mass-deletion", reason))
    return SecondLook(_sorted(found.values()), reader.unread)


def joined(looks: Iterable[tuple[SecondLook, Callable[[bytes], bytes]]]) -> SecondLook:
    """Several looks as one, each with what its paths are called in it."""
    marks, unread = [], 0
    for look, called in looks:
        marks += [replace(mark, path=called(mark.path)) for mark in look.marks]
        unread += look.unread
    return SecondLook(_sorted(marks), unread)


def _sorted(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    order = {kind: number for number, kind in enumerate(places.GRAVITY)}
    return tuple(sorted(marks, key=lambda mark: (order.get(mark.kind, len(order)), mark.path)))
