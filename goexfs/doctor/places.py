"""Checks of places: the base one means to run over, and where the store is.

Owns the inotify limits, the store's room and the reflink probe.  Leaves nothing behind; any thread.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from goexfs.doctor.check import Check, as_root, number_in

FICLONE = 0x40049409
WATCHES_SPARE = 1024
SPACE_WANTED = 1 << 30
SCAN_SECONDS = 1.0


def inotify(base: Path) -> Iterator[Check]:
    """The limits on watches against what watching ``base`` takes: one watch per directory, one instance per run."""
    limit = number_in("/proc/sys/fs/inotify/max_user_watches")
    instances = number_in("/proc/sys/fs/inotify/max_user_instances")
    if limit is None or instances is None:
        yield Check(
            "inotify",
            False,
            "this kernel has none: changes of the base are seen after a second",
            False,
            "use a kernel with CONFIG_INOTIFY_USER",
        )
        return
    needed, all_seen = count_directories(base)
    used_watches, used_instances = watches_in_use()
    shown = f"{needed}{'' if all_seen else ' or more'} needed for {base}, {used_watches} in use, {limit} allowed"
    enough = used_watches + needed + WATCHES_SPARE <= limit
    target = max(524288, 2 * (used_watches + needed + WATCHES_SPARE))
    yield Check(
        "inotify watches",
        enough,
        shown,
        False,
        None if enough else as_root(f"sysctl -w fs.inotify.max_user_watches={target}"),
    )
    enough = used_instances + 8 <= instances
    yield Check(
        "inotify instances",
        enough,
        f"{used_instances} in use, {instances} allowed, one per mounted run",
        False,
        None if enough else as_root(f"sysctl -w fs.inotify.max_user_instances={max(1024, 2 * instances)}"),
    )


def count_directories(top: Path, *, seconds: float = SCAN_SECONDS) -> tuple[int, bool]:
    """Directories at and below ``top`` on its own file system; False when the time was up before the end."""
    deadline = time.monotonic() + seconds
    number, stack = 0, [os.fsencode(top)]
    try:
        device = os.stat(top).st_dev
    except OSError:
        return 0, True
    while stack:
        if time.monotonic() > deadline:
            return number + len(stack), False
        number += 1
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                        stack.append(entry.path)
        except OSError:
            continue  # unreadable, or gone meanwhile
    return number, True


def watches_in_use() -> tuple[int, int]:
    """inotify watches and instances of this user's processes, as far as /proc shows them."""
    watches = instances = 0
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or process.stat().st_uid != os.geteuid():
                continue
            for descriptor in os.listdir(process / "fd"):
                if os.readlink(process / "fd" / descriptor) == "anon_inode:inotify":
                    instances += 1
                    watches += (process / "fdinfo" / descriptor).read_text().count("inotify wd:")
        except OSError:
            continue  # ended meanwhile
    return watches, instances


def store_place(store: Path) -> Iterator[Check]:
    """Where the store is (or will be): writable, and with room."""
    there = _nearest(store)
    state = "exists" if store.is_dir() else "will be created"
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check(
            "store",
            False,
            f"{store} {state}, but {there} may not be written",
            mend=f"export GOEXFS_HOME=DIR  (or: {as_root(f'chown -R {os.getuid()} {there}')})",
        )
        return
    yield Check("store", True, f"{store} ({state})")
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    ok = free >= SPACE_WANTED
    yield Check(
        "free space",
        ok,
        f"{free / 2**30:.1f} GiB below {there}",
        False,
        None if ok else "goexfs gc, or export GOEXFS_HOME=DIR on a larger disk",
    )


def reflink(base: Path, store: Path) -> Iterator[Check]:
    """Whether file systems can share blocks between files: large files are then staged without copying."""
    for name, place in (("store", _nearest(store)), ("base", base)):
        try:
            can = can_reflink(place)
        except OSError as error:
            yield Check(
                f"reflink ({name})",
                False,
                f"{place}: not tried: {error.strerror}",
                False,
                f"make {place} writable for this user, and run goexfs doctor again",
            )
            continue
        yield Check(
            f"reflink ({name})",
            can,
            f"{place}: {'yes' if can else 'no: large files are copied'}",
            False,
            None if can else "nothing has to be done; btrfs and XFS (mkfs.xfs -m reflink=1) can",
        )


def can_reflink(directory: Path) -> bool:
    """Clone one block between two unnamed files; OSError where none can be made there."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    source = os.open(directory, flags, 0o600)
    try:
        target = os.open(directory, flags, 0o600)
        try:
            os.write(source, bytes(4096))
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            return False
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def _nearest(path: Path) -> Path:
    """The path itself, or its nearest ancestor that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
