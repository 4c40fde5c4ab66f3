"""The paths a command sees inside the sandbox, and where each of them is on the host.

Owns the mapping (which the sandbox's mounts are made from) and the search for a command along it.  Starts nothing
and mounts nothing.  Values are immutable; any thread.
"""

import errno
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from goexfs.session.errors import CommandNotExecutable, CommandNotFound
from snapshots.names import is_inside, readable

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MOST_SYMLINKS = 40
"""As in the kernel."""


class Region(NamedTuple):
    """A directory of the view and where it really is; ``source`` None for a fresh, empty directory."""

    path: bytes
    source: bytes | None


class View:
    """Regions in the order in which they are mounted: of those that hold a path, the last one counts."""

    def __init__(self, regions: tuple[Region, ...]) -> None:
        self.regions = regions

    def source(self, path: bytes) -> bytes | None:
        """Where ``path`` (absolute, normal) is on the host; None when it lies in an empty directory of the view.

        Symlinks are not followed: see ``resolve``.
        """
        for region in reversed(self.regions):
            if is_inside(path, region.path):
                if region.source is None:
                    return None
                return os.path.normpath(os.path.join(region.source, os.path.relpath(path, region.path)))
        return None

    def resolve(self, path: bytes) -> bytes:
        """The host path of what ``path`` names in the view, symlinks followed as the view's own.

        Raises ``OSError`` (ENOENT, ELOOP, …) as opening it there would.
        """
        followed = 0
        pending = path.split(b"/")[::-1]
        here = b"/"
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = os.path.dirname(here)
                continue
            there = os.path.join(here, name)
            target = self._readlink(there)
            if target is None:
                here = there
                continue
            followed += 1
            if followed > _MOST_SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
            if target.startswith(b"/"):
                here = b"/"
            pending += target.split(b"/")[::-1]
        found = self.source(here)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
        return found

    def _readlink(self, path: bytes) -> bytes | None:
        """The target of the symlink ``path``, None when it is something else."""
        if any(region.path == path for region in self.regions):
            return None  # a mountpoint of the view is a directory, whatever the host has there
        source = self.source(path)
        if source is None:
            return None  # below an empty directory only mountpoints exist; ``resolve`` finds out at the end
        try:
            return os.readlink(source)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise


HOST = View((Region(b"/", b"/"),))
"""The view without a sandbox."""


def find_command(name: bytes, *, view: View, cwd: bytes, env: Mapping[bytes, bytes]) -> bytes:
    """The path in the view that executing ``name`` would start, as ``execvp`` searches.

    ``cwd`` is a path of the view.  Raises ``CommandNotFound`` or ``CommandNotExecutable``.
    """
    if not name:
        raise CommandNotFound("the command is empty; name a program after --")
    if b"/" in name:
        try:
            _check_executable(view, os.path.join(cwd, name), name)
        except PermissionError:
            raise CommandNotExecutable(f"{readable(name)}: permission denied on the way to it") from None
        return name
    refusal: CommandNotExecutable | None = None
    for directory in env.get(b"PATH", DEFAULT_PATH).split(b":"):
        candidate = os.path.join(cwd, directory, name)
        try:
            _check_executable(view, candidate, name)
        except (CommandNotFound, PermissionError):
            continue
        except CommandNotExecutable as error:
            refusal = refusal or error  # execvp goes on, and remembers that something was there
            continue
        return candidate
    raise refusal or CommandNotFound(f"{readable(name)}: command not found in the run; check its name and PATH")


def _check_executable(view: View, path: bytes, name: bytes) -> None:
    try:
        source = view.resolve(path)
        kind = os.stat(source, follow_symlinks=False).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CommandNotFound(f"{readable(name)}: no such file in the run; check the path") from None
    except PermissionError:
        raise
    except OSError as error:
        raise CommandNotExecutable(f"{readable(name)} cannot be reached: {error.strerror}") from None
    if not stat.S_ISREG(kind):
        what = "a directory" if stat.S_ISDIR(kind) else "not a regular file"
        raise CommandNotExecutable(f"{readable(name)} is {what}, not a program")
    if not os.access(source, os.X_OK, effective_ids=True):
        raise CommandNotExecutable(f"{readable(name)} may not be executed; chmod +x it, or name its interpreter")
