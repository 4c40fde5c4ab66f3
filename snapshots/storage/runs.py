"""The registry of runs: ids, names, states, and the directory and lock of each.

Owns the table ``runs`` and the directories ``runs/<id>``.  Knows nothing of what a run changed
(``snapshots.storage.upper``) and never mounts or unmounts.  Belongs to one store, so to one thread.

The state in the record says what was asked for last; whether a run is mounted is what its lock says.  A run whose
state is ``active`` while its lock is free has crashed.
"""

import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import msgspec

from snapshots.entries import FIRST_NEW_INO
from snapshots.errors import (
    BaseError,
    RunAmbiguous,
    RunBusy,
    RunExists,
    RunState,
    RunUnknown,
    StoreDamaged,
    StoreFull,
)
from snapshots.names import is_inside, readable
from snapshots.storage import durable, locks
from snapshots.storage.database import Database
from snapshots.storage.layout import DIRECTORY_MODE, Layout
from snapshots.storage.lease import Lease
from snapshots.storage.reserve import Reserve
from snapshots.storage.runrecord import COLUMNS, FIELDS, LIVE, STATES, Run, State, check_name, pack, unpack

__all__ = ["LIVE", "STATES", "Run", "RunLock", "Runs", "State"]

ID_LENGTH = 12

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # 32 characters; without i, l, o, u, which are misread
_NO_PART = "(whole IS NULL OR NOT EXISTS (SELECT 1 FROM runs AS w WHERE w.id = runs.whole))"
"""A part whose run is gone stands for itself."""
_SELECT = f"SELECT {COLUMNS} FROM runs"
_RUN_LOCK_BYTE = 0
_CANDIDATES = 8  # candidates named in a message

RunList = list[Run]  # inside Runs, ``list`` is a method


class RunLock:
    """A held lock on a run: a context manager, or ``release`` it.

    It belongs to the open file and so is shared with forked children: it is free when the last of them has released
    it or died.  To hand it to a child, fork and release it in the parent.
    """

    def __init__(self, run_id: str, fd: int) -> None:
        self.run_id = run_id
        self._fd = fd

    @property
    def held(self) -> bool:
        """Whether this process has not released it yet."""
        return self._fd >= 0

    def fileno(self) -> int:
        """The descriptor that carries the lock."""
        return self._fd

    def release(self) -> None:
        """Let go; a second time is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Runs:
    """All runs of a store.  Errors of every method: StoreDamaged, StoreFull, StoreUnusable."""

    def __init__(self, database: Database, layout: Layout, lease: Lease, reserve: Reserve) -> None:
        self._db = database
        self._layout = layout
        self._lease = lease
        self._reserve = reserve
        self._held: dict[str, RunLock] = {}

    def create(
        self,
        *,
        base: bytes,
        name: str | None = None,
        command: tuple[str, ...] = (),
        options: dict[str, Any] | None = None,
        identity: tuple[int, int] | None = None,
        whole: str | None = None,
    ) -> Run:
        """Register a new run over ``base`` (an absolute path), state ``active``, and make its directory.

        ``identity`` is known when the run begins where another one was; the base is asked for it otherwise.  With
        ``whole`` it is a part of that run, about a further base.  Errors: BaseError, RunExists, RunError for a name
        that cannot be one.
        """
        if name is not None:
            check_name(name)
        path = _normal(base)
        identity = identity or _identity(path)
        now = time.time_ns()
        with self._db.transaction():
            if name is not None:
                self._check_free(name)
            run_id = self._new_id()
            run = Run(
                run_id, name, path, identity, "active", tuple(command), now, now, None, None, None, dict(options or {}),
                whole,
            )  # fmt: skip
            self.make_directory(run_id)
            self._db.insert(
                "INSERT INTO runs (id, name, state, base, created_ns, changed_ns, next_ino, record, whole)"
                " VALUES (?, ?, 'active', ?, ?, ?, ?, ?, ?)",
                (run_id, name, path, now, now, FIRST_NEW_INO, pack(run), whole),
            )
        return self.get(run_id)

    def get(self, run_id: str) -> Run:
        """The run of this id.  Errors: RunUnknown."""
        row = self._db.one(f"{_SELECT} WHERE id = ?", (run_id,))
        if row is None:
            raise RunUnknown(f"no run {run_id}; `goexfs ls --all` lists them")
        return unpack(row)

    def resolve(self, ref: str, *, cwd: bytes | None = None) -> Run:
        """The run that a user means by an id, a name, an unambiguous beginning of an id, or ``@``.

        ``@`` is the latest run whose base is ``cwd`` or a directory above it.  Runs that are merged or discarded are
        meant only where no live one is; a part means its run.  Errors: RunUnknown, RunAmbiguous.
        """
        if ref == "@":
            return self._latest(cwd)
        ref = ref.encode("utf-8", "replace").decode()  # what cannot be text is no reference, and SQLite refuses it
        row = self._db.one(f"{_SELECT} WHERE id = ?", (ref,))
        if row is not None:
            return self._whole(unpack(row))
        named = self._rows("name = ?", (ref,))
        prefix = ref.lower()
        started = []
        if not named and prefix.isalnum():
            started = self._rows(f"{_NO_PART} AND substr(id, 1, ?) = ?", (len(prefix), prefix))
        for what, runs in (("name", named), ("id beginning with", started)):
            choice = [run for run in runs if run.is_live] or runs
            if len(choice) == 1:
                return choice[0]
            if choice:
                raise RunAmbiguous(f"{len(choice)} runs have the {what} {ref!r}: {_candidates(choice)}; give the id")
        raise RunUnknown(
            f"no run is called {ref!r} or has an id beginning so; {self._similar(ref)}`goexfs ls --all` lists them"
        )

    def _similar(self, ref: str) -> str:
        from difflib import get_close_matches

        found = get_close_matches(ref, [run.name for run in self.list() if run.name], 1)
        return f"did you mean {found[0]!r}? " if found else ""

    def _latest(self, cwd: bytes | None) -> Run:
        if cwd is None:
            raise RunUnknown("'@' means a run of the current directory, and there is none here; name the run")
        here = _normal(cwd)
        runs = [run for run in self.list(all=True, parts=True) if is_inside(here, run.base)]
        choice = [run for run in runs if run.is_live] or runs
        if not choice:
            raise RunUnknown(f"no run has {readable(here)} or a directory above it as its base; `goexfs ls` lists runs")
        return self._whole(choice[-1])

    def _whole(self, run: Run) -> Run:
        try:
            return run if run.whole is None else self.get(run.whole)
        except RunUnknown:
            return run

    def list(self, *, all: bool = False, parts: bool = False) -> RunList:
        """Runs, newest last: only live ones (active and kept) unless ``all``; with ``parts`` what is of others, too."""
        where = "1" if all else "state IN ('active', 'kept')"
        return self._rows(where if parts else f"{where} AND {_NO_PART}", ())

    def parts(self, run_id: str) -> RunList:
        """The parts of a run beside itself: what it changed below each of its further bases, in their order."""
        return self._rows("whole = ?", (run_id,))

    def update(self, run_id: str, **fields: Any) -> Run:
        """Change fields of a run (all but id, base and the times); the run as it is then.

        Works on a full disk too, as long as the reserve lasts: that a run ended must be recorded somewhere.
        Errors: RunUnknown; RunExists or RunError for the name.
        """
        unknown = fields.keys() - FIELDS
        if unknown:
            raise TypeError(f"a run has no field {sorted(unknown)[0]!r} to update")
        if fields.get("state", "active") not in STATES:
            raise ValueError(f"no such state of a run: {fields['state']!r}")
        if fields.get("name") is not None:
            check_name(fields["name"])
        try:
            return self._update(run_id, fields)
        except StoreFull:
            if not self._reserve.spend_slice():
                raise
            return self._update(run_id, fields)

    def _update(self, run_id: str, fields: dict[str, Any]) -> Run:
        with self._db.transaction():
            run = msgspec.structs.replace(self.get(run_id), **fields, changed_ns=time.time_ns())
            if run.name is not None and run.is_live:
                self._check_free(run.name, run_id)
            self._write(run)
        return run

    def forget(self, run_id: str) -> None:
        """Drop the record of a discarded run: nothing of it remains, but for what forks need of it.

        Errors: RunUnknown, RunState.
        """
        with self._db.transaction():
            run = self.get(run_id)
            if run.state != "discarded":
                raise RunState(f"run {run.label} is {run.state}; only a discarded run can be forgotten")
            if self._db.one("SELECT 1 FROM runs JOIN forks ON parent = runs.key WHERE id = ?", (run_id,)) is not None:
                return  # the record stays with what forks see of the run
            if self._db.one("SELECT 1 FROM effects WHERE run = ? AND open = 1", (run_id,)) is not None:
                return  # the record stays with what is still to be done outside, or to be undone
            if run_id in self.given_up():
                raise RunState(f"run {run.label} has not been freed wholly yet; `goexfs gc` does it")
            self._db.run("DELETE FROM effects WHERE run = ?", (run_id,))
            self._db.run("DELETE FROM runs WHERE id = ?", (run_id,))
        self._db.fold_log()

    def has_effects(self, run_id: str) -> bool:
        """Whether anything that the run did or wanted outside was ever recorded."""
        return self._db.one("SELECT 1 FROM effects WHERE run = ? LIMIT 1", (run_id,)) is not None

    def given_up(self) -> tuple[str, ...]:
        """Ids of runs of which rows are left that nobody wants any more."""
        rows = self._db.all("SELECT id FROM runs WHERE over = 1")
        return tuple(run_id for (run_id,) in rows)

    def directory(self, run_id: str) -> Path:
        """``runs/<id>``; it exists until the run is discarded."""
        return self._layout.run_directory(run_id)

    def _busy(self, run_id: str) -> str:
        run = self.get(run_id)
        if run.mountpoint is not None:
            place = readable(run.mountpoint)
            return f"run {run.label} is mounted at {place}; unmount it first (goexfs umount {run.label})"
        return f"run {run.label} is in use (being mounted, merged or discarded); wait for it"

    def lock(self, run_id: str) -> RunLock:
        """Lock a run for mounting, merging or discarding it.

        Errors: RunBusy at once if anybody holds it (also this process); RunUnknown; RunState if it is discarded.
        """
        fd = -1 if self.held_lock(run_id) is not None else self._open_lock(run_id)
        if fd < 0 or not locks.try_lock(fd, _RUN_LOCK_BYTE):
            if fd >= 0:
                os.close(fd)
            raise RunBusy(self._busy(run_id))
        if os.fstat(fd).st_nlink == 0:  # discarded by the one who held it before us
            os.close(fd)
            raise RunState(f"run {run_id} has been discarded")
        lock = RunLock(run_id, fd)
        self._held[run_id] = lock
        return lock

    def held_lock(self, run_id: str) -> RunLock | None:
        """The lock on this run that was taken here and not released, if any."""
        lock = self._held.get(run_id)
        if lock is not None and not lock.held:
            del self._held[run_id]
            return None
        return lock

    def is_locked(self, run_id: str) -> bool:
        """Whether anybody holds the run's lock; asks without taking it.  False for a discarded run."""
        if self.held_lock(run_id) is not None:
            return True
        try:
            fd = os.open(self.directory(run_id) / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise durable.failure(exc, f"cannot look at the lock of run {run_id}") from exc
        try:
            return locks.is_locked(fd, _RUN_LOCK_BYTE)
        finally:
            os.close(fd)

    def make_directory(self, run_id: str) -> None:
        """Make ``runs/<id>``, or what is missing of it."""
        directory = self.directory(run_id)
        with durable.reporting(f"cannot make the directory of run {run_id}"):
            for below in (directory, directory / "spool", directory / "mnt"):
                durable.mkdir(below, DIRECTORY_MODE)
            try:
                os.close(durable.create(directory / "lock", 0o600))
            except FileExistsError:
                pass

    def missing_parts(self, run_id: str) -> tuple[str, ...]:
        """Paths in the directory of a live run that should be there and are not.  (``mnt`` may be a dead mount.)"""
        directory = self.directory(run_id)
        names = set(durable.listdir(directory))
        return tuple(str(directory / part) for part in ("lock", "spool", "mnt") if part not in names)

    def remove_directory(self, run_id: str) -> None:
        """Remove ``runs/<id>`` and all in it; whoever calls holds the run's lock, or there is no run.

        It disappears at once, and is emptied elsewhere.  Never descends into a mount.  Errors: RunBusy if something is
        mounted there.
        """
        directory = self.directory(run_id)
        self.check_unmounted(run_id)
        away = self._lease.temporary()
        with durable.reporting(f"cannot remove {directory}"):
            try:
                durable.rename(directory, away)
            except FileNotFoundError:
                return
            durable.remove_tree(away)

    def check_unmounted(self, run_id: str) -> None:
        """Raise RunBusy if anything is mounted in the run's directory, dead mounts included.

        Asks the kernel's table: to touch a mount whose server hangs would hang too.
        """
        directory = os.fsencode(os.path.realpath(self.directory(run_id)))
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            point = _unescape(line.split(b" ", 5)[4])
            if is_inside(point, directory):
                raise RunBusy(f"something is mounted at {readable(point)}; unmount it first")

    # records

    def _rows(self, where: str, args: tuple[object, ...]) -> RunList:
        return [unpack(row) for row in self._db.all(f"{_SELECT} WHERE {where} ORDER BY key", args)]

    def _write(self, run: Run) -> None:
        self._db.run(
            "UPDATE runs SET name = ?, state = ?, changed_ns = ?, record = ? WHERE id = ?",
            (run.name, run.state, run.changed_ns, pack(run), run.id),
        )

    def _check_free(self, name: str, but: str = "") -> None:
        row = self._db.one(
            "SELECT id FROM runs WHERE name = ? AND state IN ('active', 'kept') AND id != ?", (name, but)
        )
        if row is not None:
            raise RunExists(f"run {row[0]} has the name {name!r} already; choose another, or merge or discard that run")

    def _new_id(self) -> str:
        import secrets  # with all of OpenSSL, which a look at the store does not need

        while True:
            run_id = "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))
            if self._db.one("SELECT 1 FROM runs WHERE id = ? OR name = ?", (run_id, run_id)) is None:
                return run_id

    def _open_lock(self, run_id: str) -> int:
        try:
            return os.open(self.directory(run_id) / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            run = self.get(run_id)
            if not run.is_live:
                raise RunState(f"run {run.label} has been {run.state}") from None
            raise StoreDamaged(
                f"the directory of run {run.label} is damaged; `goexfs fsck --repair` mends it"
            ) from None
        except OSError as exc:
            raise durable.failure(exc, f"cannot lock run {run_id}") from exc


def _candidates(runs: RunList) -> str:
    shown = [run.id if run.name is None else f"{run.id} ({run.name})" for run in runs[-_CANDIDATES:]]
    return ", ".join(shown) + (", …" if len(runs) > _CANDIDATES else "")


def _normal(path: bytes) -> bytes:
    if not path.startswith(b"/"):
        raise BaseError(f"{readable(path)} is not an absolute path")
    return b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def _identity(base: bytes) -> tuple[int, int]:
    try:
        st = os.stat(base)
    except OSError as exc:
        raise BaseError(f"cannot use {readable(base)} as a base: {exc.strerror}") from exc
    if not stat.S_ISDIR(st.st_mode):
        raise BaseError(f"cannot use {readable(base)} as a base: it is not a directory")
    return st.st_dev, st.st_ino


def _unescape(field: bytes) -> bytes:
    """A path of mountinfo: blanks and backslashes are written as octal numbers there."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
