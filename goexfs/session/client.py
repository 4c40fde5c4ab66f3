"""``goexfs`` as the command of a run finds it: the installation that began the run, wherever that lies.

Owns what of the installation has to be seen inside, and the launcher that stands in for a ``goexfs`` that is not on the
command's ``PATH``.  Decides about no mount: the sandbox shows what it would otherwise hide.  Any thread.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from goexfs.session.errors import CommandNotExecutable, CommandNotFound
from goexfs.session.sandbox import BIN, Sandbox
from goexfs.session.view import DEFAULT_PATH, find_command
from snapshots.names import is_inside

NAME = "goexfs"
"""of the launcher, in the run's directory and inside"""

_LIBRARIES = (b"site-packages", b"dist-packages")


def provide(
    box: Sandbox, variables: Mapping[bytes, bytes], directory: Path
) -> tuple[Sandbox, dict[bytes, bytes]]:
    """The sandbox with what ``goexfs`` needs in it, and the variables with a ``PATH`` on which it is found."""
    given = dict(variables)
    box = replace(box, shown=_places())
    try:
        find_command(NAME.encode(), view=box.view(), cwd=b"/", env=given)
    except (CommandNotFound, CommandNotExecutable):
        launcher = directory / NAME
        _write(launcher)
        box = replace(box, launcher=os.fsencode(launcher))
        given[b"PATH"] = given.get(b"PATH", DEFAULT_PATH) + b":" + BIN
    return box, given


def _places() -> tuple[bytes, ...]:
    """Where the interpreter, goexfs and its libraries are."""
    import goexfs
    import snapshots

    packages = [os.path.dirname(os.path.realpath(module.__file__ or "")) for module in (goexfs, snapshots)]
    found = {os.path.realpath(os.fsencode(place)) for place in (sys.prefix, sys.base_prefix, *packages)}
    found |= {os.path.realpath(place) for place in _libraries()}
    places = sorted(place for place in found if place != b"/" and os.path.isdir(place))
    return tuple(p for p in places if not any(p != other and is_inside(p, other) for other in places))


def _libraries() -> list[bytes]:
    paths = [os.fsencode(path) for path in sys.path if os.path.isabs(path)]
    return [path for path in paths if os.path.basename(path) in _LIBRARIES]


def _write(launcher: Path) -> None:
    """A program of a few lines.  Isolated (``-I``), so that nothing in the base or the environment comes in between."""
    import goexfs

    root = os.path.dirname(os.path.dirname(os.path.realpath(goexfs.__file__)))
    paths = [root, *(os.fsdecode(path) for path in _libraries())]
    program = f"import sys; sys.path += {paths!a}; from goexfs.cli.main import main; main()"
    python = os.path.join(os.path.realpath(os.path.dirname(sys.executable)), os.path.basename(sys.executable))
    script = f'#!/bin/sh\nexec {shlex.quote(python)} -I -c {shlex.quote(program)} "$@"\n'
    fd = os.open(launcher, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o755)
    try:
        os.fchmod(fd, 0o755)
        os.write(fd, script.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)
