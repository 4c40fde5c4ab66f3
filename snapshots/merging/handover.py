"""Giving a large object to the base instead of copying it.

Owns which objects may be given.  Belongs to the thread of its store.

A merged file of one large object becomes a hard link of the object's file: on the same filesystem that costs nothing,
whatever the size.  It is done only where the object is used once, by the run that is merged as a whole, so that it goes
from the store with the run.  Objects never change, and a file in the base may, so nobody else must come to use the
object: its file loses an object's mode as soon as it has two names, before anybody can see the second, and what has not
that mode is not taken for an object when the same content is stored again (``ObjectFiles.equals``).  Whoever came
before that is asked for afterwards.
"""

import os
import stat

from snapshots.entries import Entry
from snapshots.layers.large import whole_object
from snapshots.merging.plan import Plan
from snapshots.storage.layout import OBJECT_MODE
from snapshots.storage.lease import NOBODY
from snapshots.storage.store import Store


class Handover:
    """What can be given of one run that is merged as a whole."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id

    def path_of(self, entry: Entry) -> bytes | None:
        """The file of the object that is all of an entry's content, if it may be given."""
        name = whole_object(entry)
        if name is None or stat.S_IMODE(entry.mode) == OBJECT_MODE or not self.is_free(entry):
            return None
        path = os.fsencode(self._store.layout.object_path(name))
        return path if _size_of_single(path) == entry.size else None

    def is_free(self, entry: Entry) -> bool:
        """Whether nothing but this entry uses the object, and nobody else has asked for it."""
        row = self._store.database.one(
            "SELECT (SELECT count(*) FROM uses u WHERE u.object = o.id),"
            " (SELECT count(*) FROM uses u JOIN runs r ON r.key = u.run WHERE u.object = o.id AND r.id = ?"
            "   AND NOT EXISTS (SELECT 1 FROM forks f WHERE f.parent = r.key OR f.run = r.key)),"
            " (SELECT count(*) FROM loose l WHERE l.object = o.id AND l.holder NOT IN (?, ?))"
            " FROM objects o WHERE o.name = ?",
            (self._run_id, self._store.lease.holder, NOBODY, whole_object(entry)),
        )
        return row is not None and tuple(row) == (1, 1, 0)


def forget_given(store: Store, plan: Plan) -> None:
    """The run is over: what was given is no object, also not for those who marked it before they looked at its file."""
    for name in {whole_object(make.entry) for make in plan.makes} - {None}:
        assert name is not None
        try:
            st = os.lstat(store.layout.object_path(name))
        except FileNotFoundError:
            continue
        if stat.S_IMODE(st.st_mode) == OBJECT_MODE:
            continue
        with store.database.transaction():
            unused = "SELECT id FROM objects WHERE name = ? AND NOT EXISTS (SELECT 1 FROM uses WHERE object = id)"
            row = store.database.one(unused, (name,))
            if row is not None:
                store.database.run("DELETE FROM loose WHERE object = ?", row)
                store.objects.free(row)


def _size_of_single(path: bytes) -> int:
    """The size of a file that has one name; -1 for any other."""
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return -1
    return st.st_size if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 else -1
