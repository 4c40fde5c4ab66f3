"""Who holds what no entry names yet: one lease per open store.

Between the moment an object is put and the moment an entry that names it is committed, only the process doing that
knows the object.  A collector that ran in between must not take it.  So an open store has a *holder* number and
keeps the byte of that number locked in the store's ``locks`` file; what it puts is marked in the table ``loose`` with
the number, in the transaction that stores it; and a mark counts as long as its byte is locked.  A process that dies
in whatever way drops the lock with its last descriptor, and its marks turn into candidates for collection.

The same goes for what is written or removed in ``incoming/``, where the number is in the names.

Owns the ``locks`` file and the names in ``incoming/``.  Knows no SQLite.  Belongs to one store, so to one thread; a
forked child shares the lease.
"""

import os

from snapshots.storage import durable, locks
from snapshots.storage.layout import Layout

NOBODY = 0
"""The holder of a mark that waits for the next collection."""

_MAKING = 0  # byte locked while the database is made; no holder has number 0
_HIGHEST = 1 << 60


class Lease:
    """The open ``locks`` file of one store.  Errors: StoreFull, StoreUnusable."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        with durable.reporting(f"cannot use the store {layout.root}"):
            self._fd = os.open(layout.locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._holder = NOBODY

    @property
    def holder(self) -> int:
        """The number of this store, taken when first asked for."""
        if self._holder != NOBODY:
            return self._holder
        import secrets  # with all of OpenSSL, which a look at the store does not need

        while self._holder == NOBODY:
            number = 1 + secrets.randbelow(_HIGHEST)
            if locks.try_lock(self._fd, number):
                self._holder = number
        return self._holder

    def is_alive(self, holder: int) -> bool:
        """Whether the open store of this number still exists, in any process."""
        return holder == self._holder != NOBODY or locks.is_locked(self._fd, holder)

    def temporary(self) -> str:
        """A free path in ``incoming/`` with the number in it: it says whose it is, should the process die."""
        return f"{self._layout.incoming}/{self.holder:x}-{os.urandom(6).hex()}"

    def abandoned(self) -> list[str]:
        """Paths in ``incoming/`` whose makers are dead."""
        return [
            f"{self._layout.incoming}/{name}"
            for name in sorted(durable.listdir(self._layout.incoming))
            if (holder := _holder_in(name)) is None or not self.is_alive(holder)
        ]

    def close(self) -> None:
        """End the lease; a second time is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _holder_in(name: str) -> int | None:
    head, dash, _ = name.partition("-")
    try:
        return int(head, 16) if dash else None
    except ValueError:
        return None


class Making:
    """Context in which only one process makes the database of a store; the others wait."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fd = -1

    def __enter__(self) -> None:
        with durable.reporting(f"cannot use the store {self._layout.root}"):
            self._fd = os.open(self._layout.locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.wait_lock(self._fd, _MAKING)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
