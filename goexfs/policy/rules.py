"""The values that a policy is made of.

Owns their meaning and the form in which a run remembers them.  Knows no patterns (``matching``) and no files
(``files``).  Values only; any thread.

A policy is a list of sources, the weakest first: built-in, the user's file, the base's file, ``--policy FILE``, the
command line.  For each kind of rule the strongest source that has a pattern for a path decides; within one source the
last pattern that matches does, as in .gitignore.
"""

from enum import StrEnum
from typing import Literal

import msgspec

from snapshots.errors import GoexfsError


class PolicyError(GoexfsError):
    """A policy cannot be read, or makes no sense: the message names file and key."""


class Kind(StrEnum):
    """What a rule does to the paths that it matches."""

    HIDE = "hide"
    """they are not there"""
    MASK = "mask"
    """they show a placeholder, and cannot be changed"""
    READ_ONLY = "read_only"
    """they cannot be changed, nor anything below them"""
    NO_DELETE = "no_delete"
    """their names stay; their contents may change"""


Answer = Literal["deny", "pause", "snapshot"]
"""What happens to an operation that would go over a limit: it fails; it waits until the user has decided; a snapshot is
made first, and the limit counts from there."""

LIMITS = ("bytes", "files", "deletions", "open_files")


class Limit(msgspec.Struct, frozen=True):
    """How much of something a run may have."""

    most: int
    then: Answer = "deny"


class Waiting(msgspec.Struct, frozen=True):
    """Requests of a mounted run that wait for the user's decision about one limit."""

    limit: str
    most: int
    used: int
    operation: str
    """of the first of them"""
    pid: int
    """the process, 0 when it is unknown"""
    requests: int


class Refused(msgspec.Struct, frozen=True):
    """What a run could not do because its store was full."""

    limit: int
    """bytes that the store may take up"""
    used: int
    """that it did, when somebody last looked"""
    operations: int
    """that failed with ENOSPC"""


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules that come from one place."""

    name: str
    """for people: a file, ``built-in`` or the option"""
    only_stricter: bool = False
    """its exceptions (``!pattern``) and larger limits do not loosen what weaker sources say"""
    hide: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    no_delete: tuple[str, ...] = ()
    mask: dict[str, str] = {}
    """pattern -> placeholder"""
    limits: dict[str, Limit] = {}

    def patterns(self, kind: Kind) -> tuple[str, ...]:
        """Its patterns of one kind, in their order."""
        return tuple(self.mask) if kind is Kind.MASK else getattr(self, kind.value)


class Canary(msgspec.Struct, frozen=True):
    """A fake secret that nobody has a reason to read or to pass on."""

    path: bytes
    """relative to the base"""
    token: str
    """occurs nowhere else in the world"""
    content: bytes


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that holds for one run, as it was when the run began."""

    sources: tuple[Source, ...] = ()
    """the weakest first"""
    canaries: tuple[Canary, ...] = ()

    def pack(self) -> bytes:
        """The form in which a run remembers it."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, data: bytes | None) -> "Policy":
        """The way back; no policy forbids nothing.  Raises `PolicyError`."""
        try:
            return msgspec.msgpack.decode(data, type=cls) if data else cls()
        except msgspec.MsgspecError as error:
            raise PolicyError(f"the policy that the run remembers is damaged: {error}") from None

    def limit(self, name: str) -> tuple[Limit, Source] | None:
        """The limit of that name, and where it comes from."""
        found: tuple[Limit, Source] | None = None
        for source in self.sources:
            limit = source.limits.get(name)
            if limit is None or (found is not None and source.only_stricter and limit.most > found[0].most):
                continue
            found = limit, source
        return found

    @property
    def pauses(self) -> bool:
        """Whether something may have to wait for the user."""
        return any(found[0].then == "pause" for name in LIMITS if (found := self.limit(name)) is not None)

    def with_limit(self, name: str, limit: Limit, because: str) -> "Policy":
        """The same with another limit, which the user decided on while the run was going."""
        latest = self.sources[-1] if self.sources else None
        if latest is not None and latest.name == because:
            changed = msgspec.structs.replace(latest, limits={**latest.limits, name: limit})
            return msgspec.structs.replace(self, sources=(*self.sources[:-1], changed))
        return msgspec.structs.replace(self, sources=(*self.sources, Source(because, limits={name: limit})))
