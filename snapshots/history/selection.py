"""Taking some paths of one state over into another.

Owns what it means that only these paths go back to how they were: a pure function over two uppers of the same run.  Any
thread.

The rules.  (1) A path that is selected becomes what it was, with all that is below it; every other name stays.  (2) A
node that still has a name elsewhere that it did not have then (it was moved or linked there since) stays as it is
there, and the selected path gets a copy of it, with a number of its own.  (3) A hard link all of whose other names are
the same as then is one file: it goes back as a whole.
"""

import stat
from collections.abc import Iterator

import msgspec

from snapshots.entries import ROOT_INO, WHITEOUT, UpperState
from snapshots.errors import RunError
from snapshots.layers.basepaths import join
from snapshots.layers.tree import Place, UpperTree
from snapshots.names import readable

Name = tuple[int, bytes]


def select(current: UpperState, target: UpperState, paths: tuple[bytes, ...], now_ns: int) -> UpperState:
    """``current``, but with ``paths`` (relative to the root, without one below another) as they are in ``target``.

    Errors: RunError when the directory that holds a path is not there any more, or is another one now.
    """
    if b"" in paths:
        return target
    work = _Selection(current, target, now_ns)
    chosen = set(paths)
    for path in sorted(chosen):
        if not any(above in chosen for above in directories_above(path)):
            work.take(path)
    return work.result()


def directories_above(path: bytes) -> Iterator[bytes]:
    """The paths of the directories that a path is in, but for the root."""
    while path := path.rpartition(b"/")[0]:
        yield path


class _Selection:
    """The state being made."""

    def __init__(self, current: UpperState, target: UpperState, now_ns: int) -> None:
        self._target = target
        self._then = UpperTree(target)
        self._entries = dict(current.entries)
        self._links = {parent: dict(names) for parent, names in current.links.items()}
        self._hides = {parent: dict(names) for parent, names in current.hides.items()}
        self._next = max(current.next_ino, target.next_ino)
        self._journal = current.journal
        self._now = now_ns
        self._names_then = _names(target.links)
        self._names_now = _names(current.links)
        self._tree = UpperTree(self.result())  # sees what becomes of the dictionaries

    def result(self) -> UpperState:
        return UpperState(self._entries, self._links, self._next, self._journal, self._hides)

    def take(self, path: bytes) -> None:
        """Make one path what it was."""
        above, _, name = path.rpartition(b"/")
        here, there = self._tree.resolve(above), self._then.resolve(above)
        if self._is_newer(above):
            there = None
        if there is None or (there.entry is not None and not there.entry.is_dir):
            if here is None or self._tree.child(here, name) is None:
                return  # it was not there, and is not now
            if here.entry is not None and here.entry.is_dir and here.lower is None:
                self._drop(here.entry.ino, name)
                self._touch(here.entry.ino)
                return
        elif here is None and self._then.child(there, name) is None:
            return
        parent = self._parent(above, here, there)
        if parent is None:
            return
        wanted = self._target.links.get(parent, {}).get(name)
        if self._is_the_same(parent, name, wanted):
            return
        above_now, more = self._entries.get(parent), self._directories_more(parent, name, wanted, here)
        self._drop(parent, name)
        if wanted == WHITEOUT:
            self._links.setdefault(parent, {})[name] = WHITEOUT
            self._hide(parent, parent, name)
        elif wanted is not None:
            self._bring_back(parent, name, wanted)
        if above_now is not None and parent in self._entries:
            self._entries[parent] = msgspec.structs.replace(self._entries[parent], nlink=above_now.nlink)
            self._count_directory(parent, more)
        self._touch(parent)

    def _is_newer(self, path: bytes) -> bool:
        """Whether this directory, or one above it, was made since then, where the base has nothing."""
        for each in (path, *directories_above(path)) if path else ():
            above, _, name = each.rpartition(b"/")
            holder, now, then = self._tree.resolve(above), self._tree.resolve(each), self._then.resolve(each)
            if holder is None or holder.lower is None or now is None or then is None:
                continue
            ino = holder.entry.ino if holder.entry is not None else ROOT_INO
            if (
                now.entry is not None and now.entry.origin is None and name not in self._hides.get(ino, {})
                and then.entry is None and then.base == join(holder.lower, name)
            ):  # fmt: skip
                return True
        return False

    def _directories_more(self, parent: int, name: bytes, wanted: int | None, here: Place | None) -> int:
        """How many directories more there are at a name then than now; what shows of the base counts, too."""
        now = self._links.get(parent, {}).get(name)
        sides = [
            (now, self._entries.get(now or 0), self._hides.get(parent, {}).get(name)),
            (wanted, self._target.entries.get(wanted or 0), self._target.hides.get(parent, {}).get(name)),
        ]
        lower = here.lower if here is not None else None
        natural = None if lower is None else join(lower, name)
        below = natural is not None and any(
            (hidden is not None and stat.S_ISDIR(hidden.identity.mode))
            or (entry is not None and entry.is_dir and entry.origin is not None and entry.origin.path == natural)
            for _, entry, hidden in sides
        )
        shown = [below if ino is None else entry is not None and entry.is_dir for ino, entry, _ in sides]
        return shown[1] - shown[0]

    def _touch(self, directory: int) -> None:
        entry = self._entries.get(directory)
        if entry is not None:
            self._entries[directory] = msgspec.structs.replace(entry, mtime_ns=self._now, ctime_ns=self._now)

    def _is_the_same(self, parent: int, name: bytes, wanted: int | None) -> bool:
        """Whether nothing has to change."""
        if self._links.get(parent, {}).get(name) != wanted:
            return False
        if wanted is None or wanted == WHITEOUT:
            return True
        return all(
            self._entries.get(ino) == self._target.entries[ino]
            and self._links.get(ino, {}) == self._target.links.get(ino, {})
            for ino in self._below(wanted)
        )

    def _bring_back(self, parent: int, name: bytes, top: int) -> None:
        inside = self._below(top)
        numbers = {ino: ino for ino in inside}
        for ino in inside:
            then = self._names_then.get(ino, set())
            # A directory that was moved away took its names along.
            if any(each not in then or each[0] in numbers for each in self._names_now.get(ino, ())):
                numbers[ino] = self._next
                self._next += 1
        for ino in inside:
            entry = self._target.entries[ino]
            self._entries[numbers[ino]] = msgspec.structs.replace(entry, ino=numbers[ino])
            for below, child in self._target.links.get(ino, {}).items():
                self._link(numbers[ino], below, numbers.get(child, WHITEOUT))
                self._hide(numbers[ino], ino, below)
        self._link(parent, name, numbers[top])
        self._hide(parent, parent, name)
        for ino in inside:
            self._count(ino, numbers[ino])
        if self._target.entries[top].is_dir:
            self._count_directory(parent, 1)

    def _count(self, ino: int, number: int) -> None:
        """Not all of the names that a file had then need be there now, and those of a copy are its own."""
        entry = self._entries[number]
        if entry.is_dir:
            return
        now, then = self._names_now.get(number, set()), self._names_then.get(ino, set())
        nlink = len(now) if number != ino else entry.nlink - len(then - now)
        self._entries[number] = msgspec.structs.replace(entry, nlink=max(nlink, 1))

    def _link(self, parent: int, name: bytes, ino: int) -> None:
        self._links.setdefault(parent, {})[name] = ino
        if ino != WHITEOUT:
            self._names_now.setdefault(ino, set()).add((parent, name))

    def _hide(self, parent: int, then: int, name: bytes) -> None:
        """What a name hides of the base is what it hid then."""
        hidden = self._target.hides.get(then, {}).get(name)
        if hidden is not None:
            self._hides.setdefault(parent, {})[name] = hidden

    def _parent(self, path: bytes, here: Place | None, there: Place | None) -> int | None:
        """The number of the directory that holds the path, which must be the same one now and then; None when
        nothing below it was changed, now or then.
        """
        if here is None or there is None or here.base != there.base:
            same = False
        elif here.entry is None or there.entry is None:
            if here.entry is None and there.entry is None and path:
                return None
            same = here.base is not None
            if here.entry is None and there.entry is not None and path:
                self._adopt_directories(path)
        else:
            same = here.entry.ino == there.entry.ino
        if not same:
            where = readable(path) or "."
            raise RunError(f"{where} is not the directory that it was then: rewind {where} itself, or the whole run")
        entry = (here.entry if here is not None else None) or (there.entry if there is not None else None)
        return ROOT_INO if entry is None or not path else entry.ino

    def _adopt_directories(self, path: bytes) -> None:
        """The directories on the way are not in the upper now: put them there, with no other of their names."""
        place = self._then.root
        for name in path.split(b"/"):
            parent = place.entry.ino if place.entry is not None else ROOT_INO
            child = self._then.child(place, name)
            assert child is not None
            assert child.entry is not None
            if child.entry.ino not in self._entries:
                self._entries[child.entry.ino] = child.entry
            self._link(parent, name, child.entry.ino)
            place = child

    def _below(self, ino: int) -> list[int]:
        """The nodes at and below one, as they were."""
        found: dict[int, None] = {}
        waiting = [ino]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found[each] = None
                waiting += [child for child in self._target.links.get(each, {}).values() if child != WHITEOUT]
        return list(found)

    def _drop(self, parent: int, name: bytes) -> None:
        """Take a name away, and all that then has none any more."""
        ino = self._links.get(parent, {}).pop(name, WHITEOUT)
        self._hides.get(parent, {}).pop(name, None)
        entry = self._entries.get(ino)
        if entry is None:
            return
        self._names_now[ino].discard((parent, name))
        if entry.is_dir:
            for below in list(self._links.get(ino, {})):
                self._drop(ino, below)
            self._links.pop(ino, None)
            self._hides.pop(ino, None)
            del self._entries[ino]
            self._count_directory(parent, -1)
        elif self._names_now[ino]:
            self._entries[ino] = msgspec.structs.replace(entry, nlink=max(entry.nlink - 1, 1), ctime_ns=self._now)
        else:
            del self._entries[ino]

    def _count_directory(self, parent: int, by: int) -> None:
        entry = self._entries.get(parent)
        if entry is not None and stat.S_ISDIR(entry.mode) and entry.nlink > 1:
            self._entries[parent] = msgspec.structs.replace(entry, nlink=entry.nlink + by)


def _names(links: dict[int, dict[bytes, int]]) -> dict[int, set[Name]]:
    found: dict[int, set[Name]] = {}
    for parent, names in links.items():
        for name, ino in names.items():
            if ino != WHITEOUT:
                found.setdefault(ino, set()).add((parent, name))
    return found
