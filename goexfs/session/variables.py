"""The environment of a command: what of the caller's it gets, and what goexfs adds.

Owns the rules.  Which names look like secrets is data (``goexfs/presets/default.toml``).  Values only; any thread.
"""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from goexfs.session import presets
from goexfs.session.confinement import Confinement
from goexfs.session.sandbox import PRIVATE, Sandbox
from snapshots.names import is_inside


class Given(NamedTuple):
    """An environment, divided."""

    variables: dict[bytes, bytes]
    """what the command gets"""
    withheld: tuple[bytes, ...]
    """names of what looks like a secret and is not given, sorted"""


def divide(env: Mapping[bytes, bytes], confinement: Confinement) -> Given:
    """The caller's environment without secrets and the ways to services of the host, but with what is asked for."""
    default = presets.load(presets.DEFAULT)
    assigned = dict(word.split(b"=", 1) for word in confinement.env if b"=" in word)
    wanted = _pattern(os.fsdecode(word) for word in confinement.env if b"=" not in word)
    secret, service = _pattern(default.secrets), _pattern(default.services)
    variables, withheld = {}, []
    for name, value in env.items():
        text = os.fsdecode(name)
        if name in assigned or wanted.fullmatch(text):
            variables[name] = value
        elif secret.fullmatch(text):
            withheld.append(name)
        elif not service.fullmatch(text):
            variables[name] = value
    return Given({**variables, **assigned}, tuple(sorted(withheld)))


def agent_socket(env: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    """The socket of the key agent, if the command was given the variable that names it."""
    path = env.get(b"SSH_AUTH_SOCK", b"")
    return (os.path.realpath(path),) if os.path.isabs(path) and os.path.exists(path) else ()


def for_command(
    env: Mapping[bytes, bytes], *, run_id: str, base: bytes, sandbox: Sandbox | None
) -> dict[bytes, bytes]:
    """With ``GOEXFS_RUN``, ``GOEXFS_BASE``, ``GOEXFS_BASES`` where there are several (all of them, one a line), and a
    ``TMPDIR`` that can be used.
    """
    child = {**env, b"GOEXFS_RUN": run_id.encode(), b"GOEXFS_BASE": base}
    child.pop(b"GOEXFS_BASES", None)
    if sandbox is not None and sandbox.parts:
        child[b"GOEXFS_BASES"] = b"\n".join([base, *(part.base for part in sandbox.parts)])
    child.pop(b"GOEXFS_HOME", None)  # the store is not there
    for name in (b"TMPDIR", b"TMP", b"TEMP"):
        if sandbox is not None and name in child:
            bases = (base, *(part.base for part in sandbox.parts))
            places = (*(each for each in bases if each != b"/"), *sandbox.rw)
            if child[name] not in PRIVATE and not any(is_inside(os.path.normpath(child[name]), p) for p in places):
                child[name] = b"/tmp"
    return child


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(word) for word in words) or r"(?!)")
