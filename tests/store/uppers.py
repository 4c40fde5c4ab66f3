"""Entries and checkpoints as an overlay would make them, for a flat directory of files, and sizes of stores."""

import os
import stat
from pathlib import Path

from snapshots.entries import (
    FIRST_NEW_INO,
    ROOT_INO,
    WHITEOUT,
    Changed,
    Checkpoint,
    Content,
    Entry,
    Extent,
    Link,
)
from snapshots.storage.store import Store


def entry(
    ino: int,
    *,
    mode: int = stat.S_IFREG | 0o644,
    content: Content | None = None,
    target: bytes | None = None,
    **fields: object,
) -> Entry:
    size = content.size if content is not None else len(target or b"")
    values = {
        "uid": 0,
        "gid": 0,
        "rdev": 0,
        "nlink": 1,
        "size": size,
        "atime_ns": 1,
        "mtime_ns": 2,
        "ctime_ns": 3,
        "changed": int(Changed.ATTRS | Changed.DATA),
        "origin": None,
        "xattrs": None,
        "opaque": False,
    } | fields
    return Entry(ino=ino, mode=mode, content=content, target=target, **values)


def whole(name: bytes, size: int) -> Content:
    """The content of a file that is one object."""
    return Content(size, 0, (Extent(0, size, name, 0),) if size else ())


def checkpoint(entries=(), links=(), gone=(), unlinked=(), next_ino=FIRST_NEW_INO) -> Checkpoint:
    return Checkpoint(tuple(entries), tuple(gone), tuple(links), tuple(unlinked), next_ino)


def files(contents: dict[bytes, tuple[bytes, int]], first: int = FIRST_NEW_INO) -> Checkpoint:
    """New files in the root: name -> (object, size)."""
    numbered = list(enumerate(contents.items(), first))
    return checkpoint(
        [entry(ino, content=whole(*content)) for ino, (_, content) in numbered],
        [Link(ROOT_INO, name, ino) for ino, (name, _) in numbered],
        next_ino=first + len(contents),
    )


def save(store: Store, run_id: str, contents: dict[bytes, bytes], **hold) -> None:
    """Put contents and commit files of them, as the sealing of an overlay does."""
    names = store.objects.put_many(contents.values())
    named = {file: (name, len(data)) for (file, data), name in zip(contents.items(), names, strict=True)}
    store.upper(run_id).commit(files(named, store.upper(run_id).load().next_ino), **hold)


def read_back(store: Store, run_id: str) -> dict[bytes, bytes]:
    """The files of the root with their contents."""
    state = store.upper(run_id).load()
    found = {}
    for name, ino in state.links.get(ROOT_INO, {}).items():
        if ino != WHITEOUT:
            content = state.entries[ino].content
            found[name] = b"".join(store.objects.read(x.object, x.start, x.length) for x in content.extents)
    return found


def disk_usage(path: Path) -> int:
    """Bytes on the disk below a directory; not what SQLite shares between its connections."""
    return sum(
        os.lstat(os.path.join(directory, name)).st_blocks * 512
        for directory, directories, names in os.walk(path)
        for name in [".", *names]
        if not name.endswith("-shm")
    )
