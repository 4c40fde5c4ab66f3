"""What is text, and the merge of two texts that have a common ancestor.

Owns that rule and the use of libgit2 for it.  Pure; any thread.

libgit2 merges blobs of a repository, so each merge has one of its own, in memory.  pygit2 hands the result out as a
``str``: the bytes go in and come out as if they were Latin-1, which is a bijection and changes no line.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pygit2

_LOOKED_AT = 8000
"""Bytes; as git does."""


class Merged(NamedTuple):
    """Two texts in one."""

    data: bytes
    clean: bool
    """False: there are conflict markers in it"""


def is_text(data: bytes) -> bool:
    """Whether a content is text: no NUL where git looks for one."""
    return b"\0" not in data[:_LOOKED_AT]


def merge_texts(
    ancestor: bytes | None, ours: bytes, theirs: bytes, *, our_label: bytes, their_label: bytes
) -> Merged:
    """Both changes in one text; where they meet, both versions between markers with these labels.

    Without an ancestor all that differs is in conflict.
    """
    if ours == theirs:
        return Merged(ours, True)
    if ancestor is not None and ancestor in (ours, theirs):
        return Merged(theirs if ancestor == ours else ours, True)
    import pygit2
    from pygit2.enums import FileMode, ObjectType

    store = pygit2.Odb()
    store.add_backend(_memory(pygit2), 1)
    repository = pygit2.Repository()
    repository.set_odb(store)

    def blob(label: bytes, data: bytes) -> Any:
        name = store.write(int(ObjectType.BLOB), data.decode("latin-1").encode())
        return pygit2.IndexEntry(label.decode(errors="replace").replace("\n", " "), name, FileMode.BLOB)

    result = repository.merge_file_from_index(
        blob(b"ancestor", ancestor) if ancestor is not None else None, blob(our_label, ours), blob(their_label, theirs)
    )
    return Merged(result.contents.encode("latin-1"), result.automergeable)


def _memory(library: Any) -> "pygit2.OdbBackend":
    class Memory(library.OdbBackend):  # type: ignore[misc]
        """The objects of one merge."""

        def __init__(self) -> None:
            super().__init__()
            self._blobs: dict[str, tuple[int, bytes]] = {}

        def read_cb(self, name: object) -> tuple[int, bytes]:
            return self._blobs[str(name)]

        def read_header_cb(self, name: object) -> tuple[int, int]:
            kind, data = self._blobs[str(name)]
            return kind, len(data)

        def exists_cb(self, name: object) -> bool:
            return str(name) in self._blobs

        def write_cb(self, name: object, data: bytes, kind: int) -> None:
            self._blobs[str(name)] = kind, bytes(data)

        def refresh_cb(self) -> None:
            """There is nothing to look at again."""

        def __iter__(self) -> Iterator[str]:
            return iter(self._blobs)

    return Memory()
