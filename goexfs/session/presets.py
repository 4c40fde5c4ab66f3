"""Presets: what an agent or a package manager needs, and what every run is kept from, as data.

Owns the form of a preset's file and where it is looked for: the user's own first, then those of the package.  Knows no
run.  Values are immutable; any thread.
"""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from goexfs.session.confinement import Confinement, Net
from goexfs.session.errors import SandboxError

SHIPPED = Path(__file__).resolve().parent.parent / "presets"
DEFAULT = "default"


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file.  Paths begin with ``~`` or ``/``; those that do not exist are passed over."""

    description: str = ""
    rw: tuple[str, ...] = ()
    ro: tuple[str, ...] = ()
    cow: tuple[str, ...] = ()
    """further bases of the run"""
    hide: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """``NAME`` (also with ``*``) is given although it looks like a secret; ``NAME=VALUE`` is set"""
    net: str | None = None
    """as for ``--net``; None: says nothing"""
    secrets: tuple[str, ...] = ()
    """only in ``default``: names, with ``*``, of variables that are not given, which is said"""
    services: tuple[str, ...] = ()
    """only in ``default``: the same, but not said"""

    @property
    def confinement(self) -> Confinement:
        """What it wishes, of what exists."""
        rw, ro, hide = ([*_there(paths)] for paths in (self.rw, self.ro, self.hide))
        net = Net() if self.net is None else Net.parse(self.net)
        return Confinement.of(rw=rw, ro=ro, hide=hide, env=self.env, net=net)

    @property
    def bases(self) -> tuple[bytes, ...]:
        """The further bases that exist."""
        return tuple(path for path in _there(self.cow) if os.path.isdir(path))


@functools.cache
def load(name: str) -> Preset:
    """The preset of that name.  Raises ``SandboxError`` when there is none, or its file says what is not understood."""
    for directory in _directories():
        file = directory / f"{name}.toml"
        if "/" not in name and file.is_file():
            try:
                return msgspec.toml.decode(file.read_bytes(), type=Preset)
            except (msgspec.MsgspecError, OSError, ValueError) as error:
                raise SandboxError(f"the preset {file} cannot be used: {error}") from None
    raise SandboxError(f"there is no preset {name!r}; there are {', '.join(found for found, _, _ in available())}")


def available() -> list[tuple[str, Path, Preset]]:
    """Every preset that can be asked for: name, file and content, sorted; a user's own hides one of the package."""
    names = {file.stem for directory in _directories() for file in directory.glob("*.toml")} - {DEFAULT}
    return [(name, next(d / f"{name}.toml" for d in _directories() if (d / f"{name}.toml").is_file()), load(name))
            for name in sorted(names)]  # fmt: skip


def _directories() -> Iterable[Path]:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return (Path(config, "goexfs", "presets"), SHIPPED)


def _there(paths: Iterable[str]) -> Iterable[bytes]:
    for path in paths:
        full = os.fsencode(os.path.expanduser(path))
        if os.path.isabs(full) and os.path.exists(full):
            yield os.path.realpath(full)
