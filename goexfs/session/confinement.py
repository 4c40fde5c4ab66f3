"""What a command of a run is to be confined to: the wishes, before this machine is looked at.

Owns the values and the notations of ``--net`` and ``--env``.  Mounts nothing and reads no file but to say whether a
path exists.  Values are immutable; any thread.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Self

from goexfs.session.errors import SandboxError
from snapshots.names import is_inside, readable

Words = str | bytes | os.PathLike[str]

WEB_PORTS = (80, 443)
"""What a host that is named without a port may be reached at."""


class Host(NamedTuple):
    """Somewhere that a command may connect to."""

    name: str
    """a name, ``*.`` and a name for everything below it, or an address; lower case"""
    port: int | None
    """None: those of the web"""

    def allows(self, name: str, port: int) -> bool:
        """Whether this is ``name`` and ``port``."""
        if port not in (WEB_PORTS if self.port is None else (self.port,)):
            return False
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return name == self.name


@dataclass(frozen=True)
class Net:
    """The network a command has: the host's, none, or none but a way to some hosts."""

    kind: Literal["host", "off", "hosts"] = "host"
    hosts: tuple[Host, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """``off``, ``host``, or ``HOST[:PORT],…``.  Raises ``SandboxError``."""
        if text in ("off", "host"):
            return cls("off" if text == "off" else "host")
        return cls("hosts", tuple(_host(word.strip(), text) for word in text.split(",")))

    def and_also(self, other: "Net") -> "Net":
        """What both together allow; two wishes to name hosts add up, else the later wish counts."""
        if self.kind == other.kind == "hosts":
            return Net("hosts", (*self.hosts, *(host for host in other.hosts if host not in self.hosts)))
        return other


_HOST = re.compile(
    r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>(?:\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?))(?::(?P<port>\d{1,5}))?"
)


def _host(word: str, text: str) -> Host:
    found = _HOST.fullmatch(word.lower())
    port = int(found["port"]) if found and found["port"] else None
    if found is None or not (port is None or 0 < port < 65536):
        raise SandboxError(
            f"--net {readable(text.encode('utf-8', 'surrogateescape'))} names no hosts; "
            "write off, host, or HOST[:PORT],… such as pypi.org,*.example.com:8443"
        )
    return Host(found["six"] or found["name"], port)


@dataclass(frozen=True)
class Confinement:
    """All wishes together.  Paths are as given: made absolute and checked when there is a base to compare them with."""

    rw: tuple[bytes, ...] = ()
    """host paths that may be written to"""
    ro: tuple[bytes, ...] = ()
    """paths that may only be read, also where they lie inside a writable path or the base"""
    hide: tuple[bytes, ...] = ()
    """host paths outside the base that are empty inside"""
    net: Net = Net()
    env: tuple[bytes, ...] = ()
    """``NAME``: given although it looks like a secret; ``NAME=VALUE``: set"""
    user_namespaces: bool = False
    processes: int | None = None
    """how many processes and threads there may be at a time; 0: any number; None: as many as is usual"""
    memory: int | None = None
    """how many bytes all of them may have; None: any"""

    @classmethod
    def of(
        cls,
        *,
        rw: Iterable[Words] = (),
        ro: Iterable[Words] = (),
        hide: Iterable[Words] = (),
        net: str | Net = "host",
        env: Iterable[str | bytes] = (),
        user_namespaces: bool = False,
        processes: int | None = None,
        memory: int | None = None,
    ) -> Self:
        """From the kinds of words that people write.  Raises ``SandboxError``."""
        names = tuple(os.fsencode(word) for word in env)
        for word in names:
            if not word.partition(b"=")[0]:
                raise SandboxError(f"{readable(word)!r} names no variable; write NAME or NAME=VALUE")
        return cls(
            tuple(map(os.fsencode, rw)), tuple(map(os.fsencode, ro)), tuple(map(os.fsencode, hide)),
            Net.parse(net) if isinstance(net, str) else net, names, user_namespaces, processes, memory,
        )  # fmt: skip

    def and_also(self, other: "Confinement") -> "Confinement":
        """Both: lists add up, and of what there is one only the later counts where it says anything."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            mine, later = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, tuple):
                changes[field.name] = (*mine, *(item for item in later if item not in mine))
            elif isinstance(mine, Net):
                changes[field.name] = mine if later == Net() else mine.and_also(later)
            else:
                changes[field.name] = mine if later in (None, False) else later
        return Confinement(**changes)


def writable_paths(paths: Iterable[Words], *, bases: Iterable[bytes], hidden: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The ``rw`` paths made canonical; raises ``SandboxError`` for one that would open a base or the store."""
    found = []
    for given in paths:
        path = _existing(given, "writable")
        if any(is_inside(path, base) for base in bases):
            raise SandboxError(f"the writable path {readable(path)} is inside the base, which only a merge writes to")
        if path == b"/":
            raise SandboxError("/ cannot be writable: nothing would be confined; name the directories that are needed")
        if any(is_inside(path, place) for place in hidden):
            raise SandboxError(f"the writable path {readable(path)} is inside the store")
        found.append(path)
    return tuple(sorted(found))  # a directory before what is below it


def readonly_paths(paths: Iterable[Words], *, bases: Iterable[bytes], hidden: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The ``ro`` paths made canonical; raises ``SandboxError`` for the base itself, or something in the store."""
    found = []
    for given in paths:
        path = _existing(given, "read-only")
        if path in bases:
            raise SandboxError(f"the base {readable(path)} cannot be read-only: a run changes nothing else")
        if any(is_inside(path, place) for place in hidden):
            raise SandboxError(f"the read-only path {readable(path)} is inside the store, which a run never sees")
        found.append(path)
    return tuple(sorted(found))


def hidden_paths(paths: Iterable[Words]) -> tuple[bytes, ...]:
    """The ``hide`` paths made canonical, of those that exist."""
    found = {os.path.realpath(os.path.expanduser(os.fsencode(given))) for given in paths}
    return tuple(sorted(path for path in found if path != b"/" and os.path.exists(path)))


def _existing(given: Words, kind: str) -> bytes:
    path = os.path.realpath(os.path.expanduser(os.fsencode(given)))
    if not os.path.exists(path):
        raise SandboxError(f"the {kind} path {readable(os.fsencode(given))} does not exist; create it first")
    return path
