"""What commands did, to be taken back: which paths have to become what they were, and before which record.

Owns the rules; pure, from a log and an upper to positions of the journal (``snapshots.history.rewind`` goes there).
Any thread.

1. A path goes back if a process that the pattern matches (or a descendant of one) had a part in what it is now: it
   wrote it, made it, moved it there or away, or deleted it.
2. It goes back to what it was before the first of the changes that these processes made to it one after the other: up
   to there nobody else's work is in between.
3. A path that others changed after them is left as it is, and said: to take back the one would take back the other. So
   is a directory below which others changed something since, and what moved together with what is left.
4. What is only in the base now (it was merged, or rewound) stays.
"""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from snapshots.entries import UpperState
from snapshots.history.journal import REWIND, Back
from snapshots.history.log import UNLINK, Authors, Event, Log, command, is_at_or_below
from snapshots.history.selection import directories_above
from snapshots.layers.tree import UpperTree

_FOLLOW = "follow"


class Left(msgspec.Struct, frozen=True):
    """A path that stays as it is."""

    path: bytes
    number: int
    """of the first record that would have to be taken back: before it the path was what it should be"""
    by: bytes
    """command line of who changed it since; empty when unknown"""


def take_back(
    log: Log, pattern: str, state: UpperState, paths: tuple[bytes, ...] = ()
) -> tuple[tuple[Back, ...], tuple[Left, ...]]:
    """What has to go back where, in this order, of what is at or below ``paths``; and what is left as it is.

    With a log that has what was inherited, too, a fork goes back behind its beginning.
    """
    work = _Work(log, pattern, state)
    first, left = work.choose(paths)
    return work.grouped(first), tuple(left[path] for path in sorted(left))


class _Work:
    def __init__(self, log: Log, pattern: str, state: UpperState) -> None:
        self._log = log
        self._matches = log.matching(pattern)
        self._authors = Authors(log)
        self._tree = UpperTree(state)
        self._of_name: defaultdict[bytes, list[Event]] = defaultdict(list)
        """events by the names that they are about"""
        for event in log.events:
            if event.op != REWIND and event.op != _FOLLOW:
                for name in {event.path, event.old_path} - {b""}:
                    self._of_name[name].append(event)

    def _is_theirs(self, event: Event) -> bool:
        return self._matches(event.process)

    def choose(self, paths: tuple[bytes, ...]) -> tuple[dict[bytes, int], dict[bytes, Left]]:
        """The paths that go back, each with the number of the record before which it was right; and the others."""
        first: dict[bytes, int] = {}
        since: dict[bytes, Event] = {}
        others: dict[bytes, Event] = {}
        """the last change by somebody else, at and below a path"""
        for path in set(self._authors.paths()):
            events = [event for event in self._events(path) if event.op != _FOLLOW]
            for event in reversed(events):
                if not self._is_theirs(event):
                    for top in (path, *directories_above(path)):
                        if top not in others or others[top].number < event.number:
                            others[top] = event
                    break
            at = next((at for at, event in enumerate(events) if self._is_theirs(event)), None)
            if at is None or not is_at_or_below(path, paths) or self._is_bases(path):
                continue
            later = next((event for event in events[at:] if not self._is_theirs(event)), None)
            if later is not None:
                since[path] = later
            first[path] = events[at].number if later is not None else self._begin(path, events[at].number)
        for path in list(first):  # all names of a file go back with it
            for name in self._other_names(path):
                first.setdefault(name, first[path])
        for path, number in first.items():
            if path in others and others[path].number > number:
                since.setdefault(path, others[path])
        self._spread(first, since)
        left = {path: Left(path, first[path], self._who(event)) for path, event in since.items()}
        return {path: number for path, number in first.items() if path not in since}, left

    def _events(self, path: bytes) -> list[Event]:
        """What made a path what it is; of one that they removed, also what made it what it was."""
        events = self._authors.events(path)
        gone = events[0] if len(events) == 1 else None
        if gone is None or not (gone.op == UNLINK or gone.old_path == path) or not self._is_theirs(gone):
            return events
        return [*(event for event in self._authors.events_of(gone.ino) if event is not gone), gone]

    def _is_bases(self, path: bytes) -> bool:
        if not self._authors.knows(path):
            return False  # it is gone, and so it should stay, or come back
        place = self._tree.resolve(path)
        return place is not None and place.entry is None and place.base == path

    def _other_names(self, path: bytes) -> list[bytes]:
        place = self._tree.resolve(path)
        entry = place.entry if place is not None else None
        if entry is None or entry.is_dir or self._tree.number_of_links(entry.ino) < 2:
            return []
        return self._tree.paths(entry.ino)

    def _begin(self, path: bytes, number: int) -> int:
        """Where the changes of these processes to what has this name begin, without another's in between."""
        for event in reversed(self._of_name[path]):
            if not self._is_theirs(event):
                break
            number = min(number, event.number)
        return number

    def _spread(self, first: dict[bytes, int], since: dict[bytes, Event]) -> None:
        """What was moved by one change goes back together or not at all."""
        waiting = list(since)
        while waiting:
            path = waiting.pop()
            for event in (*self._of_name[path], *self._events(path)):
                if self._is_theirs(event) and event.number >= first[path]:
                    for partner in {event.path, event.old_path} - {b"", path}:
                        if partner in first and partner not in since:
                            since[partner] = since[path]
                            waiting.append(partner)

    def _who(self, event: Event) -> bytes:
        process = self._log.processes.get(event.process)
        return command(process) if process is not None else b""

    def grouped(self, first: dict[bytes, int]) -> tuple[Back, ...]:
        """The fewest positions to go back to: a path joins an earlier one if nothing happened to it in between."""
        groups: list[tuple[int, list[bytes]]] = []
        for path in sorted(first, key=lambda path: (first[path], path)):
            if not groups or self._happened((path, *directories_above(path)), groups[-1][0], first[path], path):
                groups.append((first[path], []))
            groups[-1][1].append(path)
        # The latest first: what a directory brings back with it may have to go back further.
        return tuple(Back(position, tuple(sorted(paths))) for position, paths in reversed(groups))

    def _happened(self, names: Iterable[bytes], begin: int, end: int, path: bytes) -> bool:
        """Whether something was done to a path, or by others to a directory above it, between two records."""
        return any(
            begin <= event.number < end and (name == path or not self._is_theirs(event))
            for name in names
            for event in self._of_name.get(name, ())
        )
