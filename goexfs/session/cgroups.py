"""A control group for the command of a run: how many processes and how much memory it may have, and stopping all of it.

Owns the directory of the group and the search for a place where one may be made.  Knows no run.  Any thread.

Where there is none (no control groups, none that this user may divide) ``Group.make`` gives None: an ordinary user then
has the kernel's own limit, which counts by user namespace and so counts only the run, and stopping is done by signals.
"""

import errno
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "goexfs-"
_GONE_SECONDS = 2.0


_LIMITS = {
    True: {"pids": ("pids.max",), "memory": ("memory.max", "memory.swap.max")},
    False: {"pids": ("pids.max",), "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")},
}
"""By version and controller: the file with the limit, and one that keeps the limit from being got round by swapping."""


@dataclass(frozen=True)
class _Hierarchy:
    """A mounted hierarchy of groups, and where this process is in it."""

    top: Path
    own: Path
    unified: bool
    controllers: tuple[str, ...]
    """of a hierarchy of version 1"""


@dataclass(frozen=True)
class Group:
    """One run's groups: where it can be stopped, and where its use of something is counted (often the same)."""

    freezer: Path | None
    """a version 2 group, None where there is none"""
    counters: dict[str, Path]
    """controller -> the group with its limit; one that is missing has nobody to keep it"""

    @classmethod
    def make(cls, name: str, most: Mapping[str, int]) -> "Group | None":
        """New groups called after ``name``, with limits by controller (``pids``, ``memory``).  None: not here.

        Check ``counters`` for which limits there are.
        """
        hierarchies = list(_hierarchies())
        unified = next((each for each in hierarchies if each.unified), None)
        freezer: Path | None = None
        counters: dict[str, Path] = {}
        if unified is not None:
            freezer = _make(unified, name, tuple(most)) if most else None
            if freezer is not None:
                counters = {key: freezer for key, number in most.items() if _limit(freezer, True, key, number)}
            freezer = freezer or _make(unified, name, ())
        for key, number in most.items():
            legacy = next((each for each in hierarchies if key in each.controllers), None)
            group = _make(legacy, name, ()) if key not in counters and legacy is not None else None
            if group is not None and _limit(group, False, key, number):
                counters[key] = group
            elif group is not None:
                _remove(group)
        return cls(freezer, counters) if freezer or counters else None

    def add(self, pid: int) -> bool:
        """Bring a process, and what it will start, into the group; False if the kernel forbids it."""
        return all(_write(place / "cgroup.procs", str(pid)) for place in self._places())

    def remove(self) -> None:
        """The group goes, once its last process is gone."""
        for place in self._places():
            _remove(place)

    def _places(self) -> set[Path]:
        return {place for place in (self.freezer, *self.counters.values()) if place is not None}


def _limit(group: Path, unified: bool, controller: str, most: int) -> bool:
    first, *more = _LIMITS[unified][controller]
    if not _write(group / first, str(most)):
        return False
    for name in more:  # missing where swapping is not counted
        _write(group / name, "0" if unified else str(most))
    return True


def freeze(freezer: Path, frozen: bool, *, wait: bool = True) -> bool:
    """Stop all processes of a group, or let them go on; False when there is no such group (any more)."""
    if not _write(freezer / "cgroup.freeze", "1" if frozen else "0"):
        return False
    if not wait:
        return True
    deadline = time.monotonic() + _GONE_SECONDS
    while _event(freezer, "frozen") != frozen and time.monotonic() < deadline:
        time.sleep(0.005)  # a process in the kernel stops when it leaves it
    return True


def is_frozen(freezer: Path) -> bool:
    """Whether the processes of a group are stopped, or about to be."""
    try:
        return (freezer / "cgroup.freeze").read_text().strip() == "1"
    except OSError:
        return False


def _event(group: Path, name: str) -> bool:
    try:
        return f"{name} 1" in (group / "cgroup.events").read_text().splitlines()
    except OSError:
        return False


def _hierarchies() -> Iterator[_Hierarchy]:
    """That of version 2, and those of version 1 that count what can be limited."""
    try:
        own = {}
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            own[controllers] = group
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in mounts:
        found = re.fullmatch(r"\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)", line)
        if found is None:
            continue
        root, place, kind, options = found.groups()
        path, counted = None, tuple(key for key in _LIMITS[False] if key in options.split(","))
        if kind == "cgroup2":
            path = own.get("")
        elif counted:
            path = next((own[key] for key in own if counted[0] in key.split(",")), None)
        if path is None or not (path + "/").startswith(root.rstrip("/") + "/"):
            continue
        below = path[len(root.rstrip("/")) :].lstrip("/")
        yield _Hierarchy(Path(place), Path(place, below), kind == "cgroup2", counted)


def _make(hierarchy: _Hierarchy, name: str, controllers: tuple[str, ...]) -> Path | None:
    """A new group as near to this process as one can be made that offers the controllers.

    Not simply below: a group of version 2 that has processes of its own cannot hand out controllers.
    """
    parent = hierarchy.own
    while True:
        if os.access(parent, os.W_OK) and all(_offers(parent, controller) for controller in controllers):
            _sweep(parent)
            group = parent / f"{_PREFIX}{name}-{os.getpid()}"
            try:
                group.mkdir(exist_ok=True)
            except OSError:
                pass
            else:
                return group
        if parent == hierarchy.top or parent == parent.parent:
            return None
        parent = parent.parent


def _offers(group: Path, controller: str) -> bool:
    try:
        if controller not in (group / "cgroup.controllers").read_text().split():
            return False
        if controller in (group / "cgroup.subtree_control").read_text().split():
            return True
    except OSError:
        return False
    return _write(group / "cgroup.subtree_control", f"+{controller}")


def _sweep(parent: Path) -> None:
    """Remove what sessions that were killed left behind."""
    for group in parent.glob(f"{_PREFIX}*-*"):
        pid = group.name.rpartition("-")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            try:
                group.rmdir()
            except OSError:
                pass  # somebody is in it


def _write(file: Path, text: str) -> bool:
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        try:
            group.rmdir()
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(0.005)  # its last process is not reaped yet
                continue
        return
