"""The content store: immutable objects, named by their hash, small ones as rows and large ones as files.

Owns the table ``objects`` and the marks in ``loose``; the files are in ``snapshots.storage.objectfiles``.  Knows
entries only as the table ``uses`` (which entry needs which object).  Belongs to one store, so to one thread.

Names.  An object is named by its xxh3_128 digest.  That hash is not collision-resistant and whoever writes the contents
is not trusted, so an equal digest is a hint: the bytes are compared, and different bytes with a digest that is taken
get the digest and a counter (``digest + b"\\x01"``, …) for a name.

What keeps an object.  At every instant each object is used by an entry, or has a mark in ``loose``:

1. ``put…`` marks what it stores *and what it finds already there*, with the number of this store's lease, in the
   transaction that stores or finds it.  So an object that a caller was told the name of cannot be collected before
   the caller's next commit.
2. ``Upper.commit`` inserts the uses and removes the marks in one transaction; what it takes out of use it marks.
3. A mark whose lease is dead or given up is a candidate (holder ``NOBODY``).  ``collect`` deletes a candidate that
   nothing uses and nobody else marks, deciding and deleting in one transaction.

Every transaction takes the database's write lock first, so 1 to 3 are serial across processes, and a file appears and
disappears only under that lock, by whoever also writes its row.
"""

import os
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from snapshots.entries import INLINE_LIMIT, Extent
from snapshots.errors import ObjectMissing
from snapshots.storage import durable
from snapshots.storage.database import Database
from snapshots.storage.hashing import DIGEST_SIZE, Hasher, xxh3_128
from snapshots.storage.lease import NOBODY, Lease
from snapshots.storage.objectfiles import ObjectFiles

Data = bytes | bytearray | memoryview

_BATCH_BYTES = 4 << 20  # per transaction of put_many: bounds memory, the log, and how long others wait
_BATCH_ROWS = 4000
_COLLECT_ROWS = 1000  # per transaction of collect
_PAGE_ROWS = 2000
_AHEAD_ROWS = 32
_LAST_SUFFIX = b"\xff" * 8

T = TypeVar("T")


class Place(IntEnum):
    """Where the bytes of an object are."""

    ROW = 0
    FILE = 1
    QUARANTINE = 2
    """found damaged: the name stays taken, nothing can be read"""


class Collected(NamedTuple):
    """What a collection freed."""

    objects: int
    bytes: int
    """sum of the objects' sizes"""


class Objects:
    """The objects of one store.  Errors of every method: StoreDamaged, StoreFull, StoreUnusable."""

    def __init__(self, database: Database, files: ObjectFiles, lease: Lease, hasher: Hasher = xxh3_128) -> None:
        self._db = database
        self._files = files
        self._lease = lease
        self._hasher = hasher

    # storing

    def put(self, data: Data) -> bytes:
        """Store bytes; the object's name."""
        if len(data) > INLINE_LIMIT:
            return self._put_large(data)
        return self._put_rows([data])[0]

    def put_many(self, datas: Iterable[Data]) -> list[bytes]:
        """Store many contents in few transactions; their names, in order.  The iterable is read lazily."""
        names: list[bytes] = []
        batch: list[Data] = []
        held = 0
        for data in datas:
            if len(data) > INLINE_LIMIT:
                names += self._put_rows(batch)
                batch, held = [], 0
                names.append(self._put_large(data))
                continue
            batch.append(data)
            held += len(data)
            if held >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
                names += self._put_rows(batch)
                batch, held = [], 0
        names += self._put_rows(batch)
        return names

    def put_file(self, path: Path, *, keep: bool = False) -> bytes:
        """Store the content of a file of this filesystem without copying it; the object's name.

        Nobody may write to the file from here on, not even if this fails: it becomes the object (mode 0444).  Its name
        ``path`` is removed once the object is stored; with ``keep`` it stays, as a second name, until the caller
        removes it.  When this raises, ``path`` and its content are still there.
        """
        source = os.fspath(path)
        with durable.reporting(f"cannot store {source}"):
            if os.stat(source).st_size <= INLINE_LIMIT:
                with open(source, "rb") as file:
                    name = self.put(file.read())
            else:
                name = self._admit(source)
            if not keep:
                durable.unlink(source)
        return name

    def put_ranges(self, fd: int, ranges: list[tuple[int, int]]) -> list[Extent]:
        """Store these (offset, length) ranges of an open file as one object; one extent per range, in order.

        The file stays as it is.  ``ValueError`` if it ends before a range does.
        """
        wanted = [(offset, length) for offset, length in ranges if length]
        total = sum(length for _, length in wanted)
        if not wanted:
            return []
        with durable.reporting("cannot store a range of a file"):
            if total <= INLINE_LIMIT:
                name = self.put(b"".join(_pread(fd, offset, length) for offset, length in wanted))
            else:
                temporary = self._lease.temporary()
                try:
                    self._files.gather(temporary, fd, wanted)
                    name = self._admit(temporary)
                finally:
                    durable.unlink(temporary)
        extents = []
        start = 0
        for offset, length in wanted:
            extents.append(Extent(offset, length, name, start))
            start += length
        return extents

    def sync(self) -> None:
        """Make the large objects put since the last time durable (rows are, as far as the entries naming them are)."""
        with durable.reporting("cannot sync the objects of the store"):
            self._files.sync()

    def _put_rows(self, datas: list[Data]) -> list[bytes]:
        if not datas:
            return []
        hashed = [(self._hasher(data).digest(), data) for data in datas]  # before the lock is taken
        with self._db.transaction():
            return [self._put_row(digest, data) for digest, data in hashed]

    def _put_row(self, digest: bytes, data: Data) -> bytes:
        taken = self._taken(digest)
        for key, name, size, place in taken:
            if size == len(data) and place == Place.ROW and self._row_equals(key, data):
                self._mark(key)
                return name
        name = _free_name(digest, taken)
        self._mark(
            self._db.insert(
                "INSERT INTO objects (name, size, place, data) VALUES (?, ?, ?, ?)", (name, len(data), Place.ROW, data)
            )
        )
        return name

    def _put_large(self, data: Data) -> bytes:
        with durable.reporting("cannot store an object"):
            temporary = self._lease.temporary()
            try:
                self._files.write(temporary, data)
                return self._admit(temporary)
            finally:
                durable.unlink(temporary)

    def _admit(self, path: str) -> bytes:
        """Make the finished file at ``path`` an object, unless it is one already; the name.

        Files with the same digest are compared outside the lock (they may be large), marked so that they stay.
        """
        digest, size = self._files.finish(path, self._hasher)
        compared: set[int] = set()
        while True:
            with self._db.transaction():
                taken = self._taken(digest)
                same = [(k, n) for k, n, s, place in taken if s == size and place == Place.FILE and k not in compared]
                if not same:
                    name = _free_name(digest, taken)
                    self._files.admit(name, path)
                    self._mark(
                        self._db.insert(
                            "INSERT INTO objects (name, size, place) VALUES (?, ?, ?)", (name, size, Place.FILE)
                        )
                    )
                    return name
                for key, _ in same:
                    self._mark(key)
            for key, name in same:
                if self._files.equals(name, path):
                    self._files.touched(name)  # its first owner may not have synced the directory yet
                    return name
                compared.add(key)

    def _taken(self, digest: bytes) -> list[tuple[int, bytes, int, int]]:
        """All objects with this digest: id, name, size, place."""
        return self._db.all(
            "SELECT id, name, size, place FROM objects WHERE name BETWEEN ? AND ?", (digest, digest + _LAST_SUFFIX)
        )

    def _row_equals(self, key: int, data: Data) -> bool:
        row = self._db.one("SELECT data FROM objects WHERE id = ?", (key,))
        return row is not None and row[0] == data

    def _mark(self, key: int) -> None:
        self._db.run("INSERT OR REPLACE INTO loose (object, holder, run) VALUES (?, ?, 0)", (key, self._lease.holder))

    # reading

    def read(self, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``offset``, at most ``length`` (all the rest by default); fewer only at the end.

        Errors: ObjectMissing.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"no such range: {length} bytes from {offset}")
        try:
            if length is not None and self._files.is_open(name):
                return self._files.read(name, offset, length)
            size, place, data = self._row(name)
            end = size if length is None else min(size, offset + length)
            if place == Place.ROW:
                return data if end - offset == size else data[offset:end]
            return self._files.read(name, offset, end - offset) if offset < end else b""
        except FileNotFoundError:
            raise self._file_missing(name) from None
        except OSError as exc:
            raise durable.failure(exc, f"cannot read object {name.hex()}") from exc

    def read_rows(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of many objects that are small and there, by name, in few queries.  Of the others ``read`` tells."""
        found: dict[bytes, bytes] = {}
        for some in _hundreds(names):
            marks = ",".join("?" * len(some))
            query = f"SELECT name, data FROM objects WHERE place = ? AND name IN ({marks})"
            found.update(self._db.all(query, (Place.ROW, *some)))
        return found

    def read_ahead(self, name: bytes, limit: int) -> dict[bytes, bytes]:
        """A small object, and more that were stored right after it, up to about ``limit`` bytes together.

        Errors: ObjectMissing.
        """
        found = {name: self.read(name)}
        held = len(found[name])
        later = self._db.all(
            "SELECT name, size FROM objects WHERE place = ? AND id > (SELECT id FROM objects WHERE name = ?)"
            " ORDER BY id LIMIT ?",
            (Place.ROW, name, _AHEAD_ROWS),
        )
        for other, size in later:
            held += size
            if held > limit:
                break
            data = self._row(other)[2]
            found[other] = data
        return found

    def descriptor(self, name: bytes) -> int | None:
        """The open file of a large object, for copying in the kernel; None for a small one.  Errors: ObjectMissing.

        Borrowed until the next call on this store's objects: do not close it, do not write to it.
        """
        if self._row(name)[1] == Place.ROW:
            return None
        try:
            return self._files.descriptor(name)
        except FileNotFoundError:
            raise self._file_missing(name) from None
        except OSError as exc:
            raise durable.failure(exc, f"cannot read object {name.hex()}") from exc

    def size(self, name: bytes) -> int:
        """In bytes.  Errors: ObjectMissing."""
        row = self._db.one("SELECT size FROM objects WHERE name = ?", (name,))
        if row is None:
            raise self._missing(name)
        return int(row[0])

    def exists(self, name: bytes) -> bool:
        """Whether the object is in the store and was not found damaged."""
        row = self._db.one("SELECT place FROM objects WHERE name = ?", (name,))
        return row is not None and row[0] != Place.QUARANTINE

    def __contains__(self, name: bytes) -> bool:
        return self.exists(name)

    def __len__(self) -> int:
        row = self._db.one("SELECT count(*) FROM objects")
        return int(row[0]) if row else 0

    def __iter__(self) -> Iterator[bytes]:
        """Names of all objects; what comes or goes meanwhile may or may not be among them."""
        last = 0
        while rows := self._db.all("SELECT id, name FROM objects WHERE id > ? ORDER BY id LIMIT ?", (last, _PAGE_ROWS)):
            for _, name in rows:
                yield name
            last = rows[-1][0]

    def _row(self, name: bytes) -> tuple[int, int, bytes]:
        row = self._db.one("SELECT size, place, data FROM objects WHERE name = ?", (name,))
        if row is None:
            raise self._missing(name)
        if row[1] == Place.QUARANTINE:
            raise ObjectMissing(f"object {name.hex()} was found damaged and set aside; see quarantine/ in the store")
        return row

    @staticmethod
    def _missing(name: bytes) -> ObjectMissing:
        return ObjectMissing(f"there is no object {name.hex()} in the store; `goexfs fsck` says what needs it")

    def digest(self, parts: Iterable[bytes]) -> bytes:
        """The hash of some bytes: what an object of them is named by, apart from collisions."""
        state = self._hasher()
        for part in parts:
            state.update(part)
        return state.digest()

    @staticmethod
    def _file_missing(name: bytes) -> ObjectMissing:
        return ObjectMissing(f"the file of object {name.hex()} is missing; `goexfs fsck` says what needs it")

    # freeing

    def delete(self, name: bytes) -> bool:
        """Delete an object if no entry uses it and no open store holds it; whether it is gone."""
        with self._db.transaction():
            row = self._db.one("SELECT id FROM objects WHERE name = ?", (name,))
            if row is None:
                return True
            self._db.run("INSERT OR IGNORE INTO loose (object, holder, run) VALUES (?, ?, 0)", (row[0], NOBODY))
        self.collect()
        return self._db.one("SELECT 1 FROM objects WHERE name = ?", (name,)) is None

    def release(self) -> None:
        """Give up all marks of this store: what it put and did not commit is garbage, what entries dropped too."""
        with self._db.transaction():
            self._db.run("UPDATE OR REPLACE loose SET holder = ? WHERE holder = ?", (NOBODY, self._lease.holder))

    def collect(self, *, rows: int = _COLLECT_ROWS) -> Collected:
        """Delete the objects that nothing uses and nobody holds, among those marked as possibly so.

        At most ``rows`` in one transaction: others can write in between.  Costs what there is to delete, not the size
        of the store.
        """
        self._bury_dead_holders()
        objects = freed = 0
        while True:
            with self._db.transaction():
                keys = self._db.all("SELECT object FROM loose WHERE holder = ? LIMIT ?", (NOBODY, rows))
                if not keys:
                    return Collected(objects, freed)
                # A candidate that another holds loses only its candidacy: the other's mark becomes one in its time.
                self._db.many("DELETE FROM loose WHERE object = ? AND holder = ?", [(key, NOBODY) for (key,) in keys])
                done = self.free(key for (key,) in keys)
            objects += done.objects
            freed += done.bytes

    def free(self, keys: Iterable[int]) -> Collected:
        """Delete those of some objects, given by number, that nothing uses and nobody marks; in one transaction."""
        objects = freed = 0
        with self._db.transaction(), durable.reporting("cannot delete objects of the store"):
            for some in _hundreds(keys):
                marks = ",".join("?" * len(some))
                rows = self._db.all(
                    f"SELECT id, name, place, size FROM objects o WHERE id IN ({marks})"
                    " AND NOT EXISTS (SELECT 1 FROM uses WHERE object = o.id)"
                    " AND NOT EXISTS (SELECT 1 FROM loose WHERE object = o.id)",
                    some,
                )
                marks = ",".join("?" * len(rows))
                self._db.run(f"DELETE FROM objects WHERE id IN ({marks})", [key for key, _, _, _ in rows])
                for _, name, place, size in rows:
                    if place == Place.FILE:
                        self._files.remove(name)
                    objects += 1
                    freed += size
        return Collected(objects, freed)

    def _bury_dead_holders(self) -> None:
        for (holder,) in self._db.all("SELECT DISTINCT holder FROM loose WHERE holder != ?", (NOBODY,)):
            if not self._lease.is_alive(holder):
                with self._db.transaction():
                    self._db.run("UPDATE OR REPLACE loose SET holder = ? WHERE holder = ?", (NOBODY, holder))


def _hundreds(things: Iterable[T]) -> Iterator[tuple[T, ...]]:
    waiting = iter(things)
    while some := tuple(islice(waiting, 500)):
        yield some


def _free_name(digest: bytes, taken: list[tuple[int, bytes, int, int]]) -> bytes:
    names = {name for _, name, _, _ in taken}
    name = digest
    counter = 0
    while name in names:
        counter += 1
        name = digest + counter.to_bytes((counter.bit_length() + 7) // 8, "big")
    return name


def _pread(fd: int, offset: int, length: int) -> bytes:
    parts = []
    end = offset + length
    while offset < end:
        data = os.pread(fd, end - offset, offset)
        if not data:
            raise ValueError(f"the range ends at byte {end} and the file at {offset}")
        parts.append(data)
        offset += len(data)
    return b"".join(parts)


assert len(xxh3_128(b"").digest()) == DIGEST_SIZE
