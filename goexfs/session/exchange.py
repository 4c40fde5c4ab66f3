"""Runs as files for other tools, and back.

Owns which form is which, where one is written (beside its place first, so that nothing half-written gets the name), and
what a file that is to be imported is.  The forms are ``snapshots.exchange``'s.  Belongs to the thread of the store.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, get_args

from goexfs.session import checks
from goexfs.session.handle import RunHandle
from goexfs.session.home import store_limit
from snapshots.errors import ExportFailed, ImportRefused
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.names import readable
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from snapshots.exchange.arrivals import Arrival
    from snapshots.exchange.patches import Letter

Form = Literal["patch", "mbox", "tar", "overlayfs", "oci"]
FORMS: tuple[Form, ...] = get_args(Form)
LIMIT = 64 << 30
"""Bytes of content that are imported at most, if nothing else is said."""


def export(
    run: RunHandle, form: Form, place: Path | None, out: IO[bytes], *, at: str | None = None,
    letter: "Letter | None" = None,
) -> list[str]:  # fmt: skip
    """Write what a run changed (or had changed at a point) to a file or directory ``place``, or to ``out``.

    What the form cannot carry is returned, one line each.  An OCI layer becomes an image layout when ``place`` is a
    directory.  Raises ``ExportFailed`` when it is there already, or cannot be written.
    """
    changes = run.diff(at=at)
    if form in ("patch", "mbox"):
        from snapshots.exchange import patches

        with _output(place, out) as file:
            if form == "patch":
                return patches.write(changes, file)
            return patches.write_mail(changes, file, letter or default_letter(run))
    from snapshots.exchange import oci, overlayfs, tarred
    from snapshots.exchange.layers import layer

    with BaseTree(run.base) as base:
        items = layer(changes, base)
        if form == "overlayfs" or (form == "oci" and place is not None and place.is_dir()):
            if place is None:
                raise ExportFailed("an upper directory needs a place: --output DIR")
            with _directory(place) as made:
                if form == "overlayfs":
                    return overlayfs.write(items, made)
                return oci.write(items, made, f"goexfs run {run.record.label}")
        with _output(place, out) as file:
            return tarred.write(items, file, "oci" if form == "oci" else "own")


def default_letter(run: RunHandle) -> "Letter":
    """Author, subject and text of a mail about a run: git's user, if it has one."""
    import getpass
    import socket

    import pygit2

    from snapshots.exchange.patches import Letter

    record = run.record
    config: pygit2.Config | dict[str, str]
    try:
        config = pygit2.Config.get_global_config()
    except OSError:
        config = {}
    name = str(config["user.name"]) if "user.name" in config else getpass.getuser()
    address = str(config["user.email"]) if "user.email" in config else f"{getpass.getuser()}@{socket.gethostname()}"
    command = " ".join(record.command)
    subject = " ".join(command.split())[:60] or f"Changes of run {record.label}"
    return Letter(name, address, subject, f"Changes of goexfs run {record.label}: {command}", time.time())


@contextlib.contextmanager
def _output(place: Path | None, out: IO[bytes]) -> Iterator[IO[bytes]]:
    if place is None:
        yield out
        return
    try:
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.replace(file.name, place)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ExportFailed(f"{readable(os.fsencode(place))} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _directory(place: Path) -> Iterator[Path]:
    """An empty directory to be filled, at ``place`` when that is done."""
    shown = readable(os.fsencode(place))
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ExportFailed(f"{shown} is there already and is not an empty directory; name another place")
        made = Path(tempfile.mkdtemp(dir=place.absolute().parent, prefix=f".{place.name}."))
        try:
            made.chmod(0o777 & ~_umask())
            yield made
            os.replace(made, place)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise ExportFailed(f"{shown} cannot be written: {error.strerror}") from None


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before


def form_of(place: str) -> Form:
    """Which form a file or directory has.  ImportRefused."""
    from snapshots.exchange import oci, tarred

    shown = readable(os.fsencode(place))
    if not os.path.exists(place):
        raise ImportRefused(f"there is no {shown}; name a file or directory to import")
    if os.path.isdir(place):
        return "oci" if oci.is_layout(place) else "overlayfs"
    if not os.path.isfile(place):
        raise ImportRefused(f"{shown} is neither a file nor a directory; nothing was imported")
    if tarred.is_archive(place):
        return "tar"
    with open(place, "rb") as file:
        return "mbox" if file.read(5) == b"From " else "patch"


def import_run(
    store: Store, place: str, base: str | bytes | os.PathLike[str], *, form: Form | None = None,
    name: str | None = None, limit: int = LIMIT,
) -> RunHandle:  # fmt: skip
    """A kept run over ``base`` with what a file or directory holds; the base is only read.

    Raises ``ImportRefused``, ``StoreLimit`` when the store may not grow by so much (and ``BaseError``,
    ``NestedStore``, ``RunExists``, store errors): then there is no run.
    """
    from goexfs.session.arriving import make_run
    from snapshots.exchange.arrivals import checked

    path = checks.usable_base(base)
    checks.hidden_places(path, os.path.realpath(os.fsencode(store.path)), None, allow_nested=False)
    found = form or form_of(place)
    source = readable(os.fsencode(place))
    layers = (checked(layer, source=source, most_bytes=limit) for layer in _layers(place, found, path))
    command = ("import", os.path.basename(place.rstrip("/")))
    record = make_run(store, path, layers, name=name, command=command, store_limit=store_limit())
    return RunHandle(store, record)


def _layers(place: str, form: Form, base: bytes) -> "Iterable[Iterable[Arrival]]":
    from snapshots.exchange import oci, overlayfs, patches, tarred

    if form == "overlayfs":
        return [overlayfs.read(place)]
    if form == "oci" and os.path.isdir(place):
        return oci.read(place)
    if form in ("tar", "oci"):
        return [tarred.read(place)]
    try:
        with open(place, "rb") as file:
            data = file.read(patches.MOST_PATCH + 1)
    except OSError as error:
        raise ImportRefused(f"{readable(os.fsencode(place))} cannot be read: {error.strerror}") from None
    if len(data) > patches.MOST_PATCH:
        raise ImportRefused(f"{readable(os.fsencode(place))} is too large for a patch; nothing was imported")
    with BaseTree(base) as tree:
        return [list(patches.read(data, BasePaths(tree), source=readable(os.fsencode(place))))]
