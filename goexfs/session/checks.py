"""Can this base be run over, and from this place?  Asked before anything is made.

Owns the rules between base, store and mountpoint, and the messages of their violation.  What mounting itself finds
wrong (``/dev/fuse``, the mountpoint) is said by ``goexfs.fuse.device``.  Changes nothing.  Any thread.
"""

import os
import stat
from collections.abc import Iterable

from goexfs.session.errors import BaseReplaced, MountpointInsideBase, NestedStore
from snapshots.errors import BaseError
from snapshots.names import is_inside, readable
from snapshots.storage.runs import Run


def usable_base(base: str | bytes | os.PathLike[str]) -> bytes:
    """The canonical path of a base; raises ``BaseError`` when it is missing, not a directory, or may not be read."""
    given = os.fsencode(base)
    try:
        path = os.path.realpath(given, strict=True)
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        if given in (b"", b"."):
            raise BaseError("the current directory is not there any more; go to another one, or name a base") from None
        raise BaseError(f"the base {readable(given)} does not exist; name a directory that does") from None
    except PermissionError:
        raise BaseError(f"the base {readable(given)} may not be reached; check the permissions on the way") from None
    except OSError as error:
        raise BaseError(f"the base {readable(given)} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(kind):
        raise BaseError(f"the base {readable(path)} is not a directory; name a directory")
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        raise BaseError(f"the base {readable(path)} may not be read; check its permissions")
    return path


def apart(bases: Iterable[str | bytes | os.PathLike[str]]) -> list[bytes]:
    """The canonical paths of the bases of one run; raises ``BaseError`` also when one is inside another."""
    found: list[bytes] = []
    for base in map(usable_base, bases):
        for other in found:
            if is_inside(base, other) or is_inside(other, base):
                raise BaseError(
                    f"the bases {readable(other)} and {readable(base)} are inside one another: a run has each file once"
                )
        found.append(base)
    return found


def outside(bases: Iterable[bytes], mountpoints: Iterable[str | bytes | os.PathLike[str]]) -> None:
    """Raise ``MountpointInsideBase`` for a mountpoint of one base of a run that lies in any of them."""
    places = [os.path.realpath(os.fsencode(place)) for place in mountpoints]
    for base in bases:
        for place in places:
            if is_inside(place, base):
                raise MountpointInsideBase(
                    f"the mountpoint {readable(place)} is inside the base {readable(base)}: choose one outside"
                )


def same_base(run: Run) -> None:
    """Raise ``BaseError``, ``BaseReplaced`` when the base is not the directory that the run was made over."""
    if not os.path.lexists(run.base):
        raise BaseError(
            f"the base {readable(run.base)} of run {run.label} is gone; put it back (goexfs discard still works)"
        )
    path = usable_base(run.base)
    st = os.stat(path)
    if path != run.base or (st.st_dev, st.st_ino) != run.base_identity:
        raise BaseReplaced(
            f"the base {readable(run.base)} is not the directory that run {run.label} was made over: it was "
            "replaced, or is not mounted; put the old one back (goexfs discard still works)"
        )


def left_alone(base: bytes) -> frozenset[bytes]:
    """What of a base, relative to it, is neither watched nor searched, though it can be seen in the mount: with ``/``
    as the base, what the kernel makes up and what is only for now.  The sandbox has its own in these places.
    """
    return frozenset({b"proc", b"sys", b"dev", b"run", b"tmp", b"var/tmp"} if base == b"/" else ())


def hidden_places(base: bytes, store: bytes, mountpoint: bytes | None, *, allow_nested: bool) -> tuple[bytes, ...]:
    """What of goexfs's own lies inside the base, relative to it: to be hidden from the run.

    All paths are canonical; ``mountpoint`` is None when it is the run's own, below the store.  Raises ``NestedStore``
    or ``MountpointInsideBase`` unless ``allow_nested``; a base inside the store, or a mount over it, never is allowed.
    """
    if is_inside(base, store):
        raise NestedStore(f"the base {readable(base)} is inside the store {readable(store)}; name another base")
    hidden = []
    if is_inside(store, base):
        if not allow_nested:
            raise NestedStore(
                f"the store {readable(store)} is inside the base {readable(base)}: choose a smaller base, set "
                "GOEXFS_HOME to a place outside, or have it hidden from the run with --allow-nested"
            )
        hidden.append(os.path.relpath(store, base))
    if mountpoint is not None and is_inside(mountpoint, base):
        if mountpoint == base or not allow_nested:
            raise MountpointInsideBase(
                f"the mountpoint {readable(mountpoint)} is inside the base {readable(base)}: choose one outside"
                + ("" if mountpoint == base else ", or have it hidden from the run with --allow-nested")
            )
        hidden.append(os.path.relpath(mountpoint, base))
    return tuple(hidden)
