"""The Python API: a store with runs that can be started, mounted again, looked at and judged.

Owns the beginning of a run: checks, record, lock, server.  What is done with it then is ``run`` and ``handle``.  A
``RunStore`` belongs to one thread.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec

from goexfs.session import checks, policing
from goexfs.session.handle import RunHandle
from goexfs.session.history import split
from goexfs.session.home import default_store_path, store_limit
from goexfs.session.merged import Merged
from goexfs.session.options import HISTORY_LIMIT, STORE_LIMIT, remembered
from snapshots.errors import GoexfsError, RunError, RunState, RunUnknown
from snapshots.names import readable
from snapshots.storage.runs import Run, RunLock
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.policy.effective import PolicyWishes
    from goexfs.policy.rules import Policy
    from goexfs.session.launch import Server
    from goexfs.session.run import OnExit, Session
    from snapshots.merging.mergeall import Attempt
    from snapshots.storage.bound import Use
    from snapshots.upkeep.findings import FsckReport
    from snapshots.upkeep.gc import GcReport
    from snapshots.upkeep.room import Waste

Place = str | bytes | os.PathLike[str]


def open_store(path: os.PathLike[str] | str | None = None, *, create: bool = True) -> "RunStore":
    """Open the store at ``path`` (default: the user's, see ``goexfs.session.home``), making it unless told not to.

    A merge that was interrupted is brought to its end.  Raises a ``StoreError``.
    """
    store = Store.open(default_store_path() if path is None else Path(path), create=create)
    if store.has_interrupted_merges():
        from snapshots.merging.mergerecovery import recover_merges

        recover_merges(store)
    return RunStore(store)


class RunStore(Merged):
    """An open store and its runs.  A context manager that closes the store; it ends no run."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def close(self) -> None:
        """Close the store; a second time is fine."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, ref: str) -> RunHandle:
        """The run that ``ref`` means: an id, its beginning, a name, or ``@`` for the latest of the current directory.

        Raises ``RunUnknown`` or ``RunAmbiguous``.
        """
        try:
            cwd = os.getcwdb()
        except FileNotFoundError:
            cwd = None
        run, point = split(ref)
        if point is not None:
            raise RunUnknown(
                f"{ref} is a point in the past, and this is about a run as it is now; `goexfs fork {ref}` makes a run"
                " of it"
            )
        return RunHandle.of(self.store, self.store.runs.resolve(run, cwd=cwd))

    def point(self, ref: str) -> tuple[RunHandle, str | None]:
        """The run, and the point in its past, that ``RUN[@POINT]`` means; None: the run as it is.

        Raises ``RunUnknown`` or ``RunAmbiguous``; whether there is such a point is found out when it is used.
        """
        run, point = split(ref)
        return self.run(run), point

    def runs(self, *, all: bool = False) -> list[RunHandle]:
        """Runs, the latest last; without ``all`` only those that are active, crashed or kept."""
        return [RunHandle.of(self.store, record) for record in self.store.runs.list(all=all)]

    def mounted_at(self, place: Place) -> RunHandle:
        """The run that is mounted at ``place`` (or whose dead mount is).  Raises ``RunUnknown``."""
        path = os.fsencode(place)
        above, name = os.path.split(os.path.abspath(path))  # the mount itself must not be asked: it may be dead
        canonical = os.path.join(os.path.realpath(above), name)
        for handle in self.runs():
            if any(part.record.mountpoint == canonical for part in handle.parts):
                return handle
        raise RunUnknown(f"no run is mounted at {readable(path)}; `goexfs ls` lists the runs")

    def merge_all(self, refs: Iterable[str], **options: Any) -> "list[Attempt]":
        """Merge several runs, in order; those that are in conflict are left, and the others are merged.

        ``options`` are those of ``RunHandle.merge``.  Each is a merge of its own, with a number to undo it by.
        """
        from snapshots.merging.mergeall import merge_all

        handles = [self.run(ref) for ref in refs]
        merges = {handle.id: handle.merge for handle in handles}
        return merge_all((handle.record for handle in handles), lambda record: merges[record.id](**options))

    def gc(self, *, progress: Callable[[int, int], None] | None = None) -> "GcReport":
        """Free what no run holds, and what the store's limit has no room for (``snapshots.upkeep.room`` says what that
        is).

        ``progress`` is called with how much is done of how much.
        """
        from snapshots.upkeep.gc import gc
        from snapshots.upkeep.room import make_room

        report = gc(self.store, progress=progress)
        freed = make_room(self.store, limit=store_limit())
        more = freed.before.used - freed.after.used
        return msgspec.structs.replace(
            report, used_bytes=freed.after.used, limit=freed.after.limit, merges=len(freed.merges),
            object_bytes=report.object_bytes + max(more, 0),
        )  # fmt: skip

    def waste(self) -> "Waste":
        """What ``gc`` would free, at least; nothing is changed."""
        from snapshots.upkeep.room import waste

        return waste(self.store, limit=store_limit())

    def use(self) -> "Use":
        """What the store takes up on the disk, and what it may."""
        from snapshots.storage.bound import measure

        return measure(self.store.layout, limit=store_limit())

    def known_use(self, limit: int | None = None) -> "Use":
        """The same, as somebody saw it before, if there was plenty of room then: quickly known."""
        from snapshots.storage.bound import known_use

        return known_use(self.store.layout, limit=store_limit() if limit is None else limit)

    def set_limit(self, limit: int | None) -> None:
        """How many bytes the store may take up on the disk from now on; 0: there is no limit, None: the default one."""
        from snapshots.storage.bound import set_limit

        set_limit(self.store.layout, limit)

    def fsck(self, *, repair: bool = False, progress: Callable[[int, int], None] | None = None) -> "FsckReport":
        """Check every object, entry and reference; with ``repair`` mend what can be; ``progress`` as in ``gc``."""
        from snapshots.storage.ledger import has_transactions
        from snapshots.upkeep.findings import Finding, Kind
        from snapshots.upkeep.fsck import fsck

        report = fsck(self.store, repair=repair, progress=progress)
        if not has_transactions(self.store):
            return report
        from goexfs.effects.strays import release, strays

        found = [
            Finding(
                Kind.EFFECT, f"run {stray.effect.run_id} effect {stray.effect.number}",
                f"database {stray.database}: {stray.detail}" + (f" (transaction {stray.gid})" if stray.gid else ""),
                repair and not stray.effect.is_pending and release(stray),
            )
            for stray in strays(self.store)
        ]  # fmt: skip
        return msgspec.structs.replace(report, findings=(*report.findings, *found))

    def start(
        self,
        base: Place,
        *,
        name: str | None = None,
        command: tuple[str, ...] = (),
        mountpoint: Place | None = None,
        allow_other: bool = False,
        allow_nested: bool = False,
        auto_snapshot: Iterable[str] = (),
        history_limit: int | None = None,
        store_limit: int | None = None,
        policy: "PolicyWishes | Policy | None" = None,
        on_exit: "OnExit" = "discard",
        cow: Iterable[Place] = (),
    ) -> "Session":
        """Begin a run over ``base`` and mount it, for as long as this process lives or until its verdict.

        ``mountpoint`` is an empty directory (default: one in the store); ``allow_other`` lets other users in;
        ``allow_nested`` hides a store or mountpoint inside the base instead of refusing it; ``auto_snapshot`` are
        occasions (``exit``, ``quiet=SECONDS``, ``every=CHANGES``) on which a snapshot is made; ``history_limit`` is how
        much of its past it keeps, in bytes (``snapshots.history.retention``); ``store_limit`` how much the whole store
        may take up while the run is mounted (0: no limit; default: ``$GOEXFS_STORE_LIMIT``, else the store's own, see
        ``set_limit``): without room a write in the run fails with ENOSPC, and a new run does not begin; ``on_exit``
        says what becomes of it without a verdict. ``policy`` is what it may see, write and use: by default the built-in
        rules and those of the policy files; ``goexfs.PolicyWishes`` adds to them, a ``goexfs.Policy`` is taken as it
        is.  ``cow`` are further bases of the run: a command has all of them at their places, and a verdict is on all.

        Raises ``PolicyError``, ``BaseError``, ``NestedStore``, ``RunExists``, ``StoreError`` (``StoreLimit``),
        ``MountError`` (and their subtypes).
        """
        options: dict[str, Any] = {
            "allow_other": allow_other,
            "allow_nested": allow_nested,
            "auto_snapshot": tuple(auto_snapshot),
        }
        if history_limit is not None:
            options[HISTORY_LIMIT] = history_limit
        if store_limit is not None:
            options[STORE_LIMIT] = store_limit
        if policy is not None:
            options[policing.OPTION] = policy
        further = list(cow)
        if not further:
            return cast("Session", self._begin(base, name, command, options, mountpoint, on_exit))
        from goexfs.session.jointsession import begin

        bases = checks.apart([base, *further])
        runs: list[RunHandle] = []

        def part(number: int) -> "Session":
            if not number:
                runs.append(self._begin(bases[0], name, command, dict(options), mountpoint, on_exit))
            else:
                own = {**options, policing.OPTION: policing.of_further(policy)}
                runs.append(self._begin(bases[number], None, (), own, None, on_exit, whole=runs[0].id))
            return cast("Session", runs[-1])

        return begin([partial(part, number) for number in range(len(bases))], new=True)

    def resume(
        self,
        ref: str | RunHandle,
        *,
        command: tuple[str, ...] | None = None,
        mountpoint: Place | None = None,
        on_exit: "OnExit" = "keep",
        **options: Any,
    ) -> "Session":
        """Mount a kept (or crashed) run again: it goes on where it stopped.

        Options are as for ``start``, by default as they were.  Raises also ``RunState``, ``RunBusy``, ``BaseReplaced``.
        """
        handle = self.run(ref) if isinstance(ref, str) else ref
        if len(handle.parts) > 1:
            _check_one_place(handle, mountpoint)
            from goexfs.session.jointsession import begin

            return begin(
                [
                    partial(self.resume, part, command=None if number else command, on_exit=on_exit, **options)
                    for number, part in enumerate(handle.parts)
                ],
                new=False,
            )
        return cast("Session", self._again(handle, command, options, mountpoint, on_exit))

    def mount(
        self,
        what: Place | RunHandle,
        *mountpoints: Place,
        name: str | None = None,
        foreground: bool = False,
        **options: Any,
    ) -> RunHandle:
        """Mount a new run over the base ``what``, or the kept run ``what``, for agents that are started some other way.

        A run with several bases takes a mountpoint for each, in their order.  The server outlives this process;
        ``RunHandle.unmount`` ends it.  With ``foreground`` it does not, and a ``Session`` is returned.  Options
        (``allow_other``, ``allow_nested``, ``auto_snapshot``, ``history_limit``) and errors are those of ``start`` and
        ``resume``.
        """
        on_exit: OnExit | None = "keep" if foreground else None
        if not isinstance(what, RunHandle):
            (mountpoint,) = mountpoints
            return self._begin(what, name, (), options, mountpoint, on_exit)
        parts = what.parts
        if len(mountpoints) != len(parts):
            bases = ", ".join(readable(part.base) for part in parts)
            raise RunError(
                f"run {what.record.label} takes {len(parts)} mountpoint{'s'[: len(parts) > 1]}, for {bases}"
            )
        if len(parts) == 1:
            return self._again(what, None, options, mountpoints[0], on_exit)
        checks.outside([part.base for part in parts], mountpoints)
        from goexfs.session.jointsession import begin, mount_all

        again = [
            partial(self._again, part, None, dict(options), place, on_exit)
            for part, place in zip(parts, mountpoints, strict=True)
        ]
        if foreground:
            return begin(cast("list[Callable[[], Session]]", again), new=False)
        mount_all(again)
        return RunHandle.of(self.store, what.record)

    # beginnings

    def _begin(
        self, base: Place, name: str | None, command: tuple[str, ...], options: dict[str, Any],
        mountpoint: Place | None, on_exit: "OnExit | None", *, whole: str | None = None,
    ) -> RunHandle:  # fmt: skip
        path = checks.usable_base(base)
        place, hidden = self._places(path, mountpoint, options)
        limits = self._room(options, new=True)
        from goexfs.session.launch import Server

        server = Server.take()
        try:
            policy = policing.begin(path, options.pop(policing.OPTION, None))
            known = {**remembered(options), policing.OPTION: policy.pack()}
            record = self.store.runs.create(base=path, name=name, command=command, options=known, whole=whole)
            try:
                self._limit(record, options)
                with self.store.runs.lock(record.id) as lock:
                    return self._serve(server, record, place, hidden, lock, on_exit, limits)
            except BaseException:
                with contextlib.suppress(GoexfsError):  # what went wrong first is what the user has to know
                    self.store.discard(record.id)  # there was never anything in it
                    self.store.runs.forget(record.id)
                raise
        except BaseException:
            server.let_go()
            raise

    def _again(
        self, handle: RunHandle, command: tuple[str, ...] | None, options: dict[str, Any],
        mountpoint: Place | None, on_exit: "OnExit | None",
    ) -> RunHandle:  # fmt: skip
        record = handle.record
        if not record.is_live:
            raise RunState(f"run {record.label} has been {record.state}: it cannot be mounted again")
        if handle.state == "crashed":
            handle.recover()
        checks.same_base(record)
        limits = self._room(options, new=False)
        merged = {**record.options, **remembered(options)}
        place, hidden = self._places(record.base, mountpoint, merged)
        with self.store.runs.lock(record.id) as lock:
            fields = {} if command is None else {"command": command}
            record = self.store.runs.update(record.id, state="active", options=merged, **fields)
            self._limit(record, options)
            from goexfs.session.launch import Server

            server = Server.take()
            try:
                return self._serve(server, record, place, hidden, lock, on_exit, limits)
            except BaseException:
                server.let_go()
                self.store.runs.update(record.id, state="kept", mountpoint=None, pid=None)
                raise

    def _room(self, options: dict[str, Any], *, new: bool) -> tuple[int, int]:
        """The limit of the whole store for this mount, and the room there is.  StoreLimit for a new run without any."""
        from snapshots.storage.bound import NONE, known_use

        given = options.get(STORE_LIMIT)
        limit = store_limit() if given is None else int(given)
        if limit == NONE:
            return NONE, 0
        use = known_use(self.store.layout, limit=limit)
        if use.is_reached:
            from snapshots.upkeep.room import check_room, make_room

            use = check_room(self.store, limit=limit) if new else make_room(self.store, limit=limit).after
        return use.limit, use.room

    def _limit(self, record: Run, options: dict[str, Any]) -> None:
        if HISTORY_LIMIT in options:
            from snapshots.history.retention import set_limit

            set_limit(self.store, record.id, max(int(options[HISTORY_LIMIT]), 0))

    def _places(
        self, base: bytes, mountpoint: Place | None, options: dict[str, Any]
    ) -> tuple[bytes | None, tuple[bytes, ...]]:
        """The canonical mountpoint (None: the run's own) and what is to be hidden from the run."""
        place = None if mountpoint is None else os.path.realpath(os.fsencode(mountpoint))
        store = os.path.realpath(os.fsencode(self.store.path))
        return place, checks.hidden_places(base, store, place, allow_nested=bool(options.get("allow_nested")))

    def _serve(
        self, server: "Server", record: Run, place: bytes | None, hidden: tuple[bytes, ...], lock: RunLock,
        on_exit: "OnExit | None", limits: tuple[int, int],
    ) -> RunHandle:  # fmt: skip
        """``on_exit`` None: the server outlives this process; ``limits``: of the store, and its room."""
        from goexfs.session.launch import LOG, Assignment
        from goexfs.session.run import Session

        directory = self.store.runs.directory(record.id)
        mountpoint = place or os.path.realpath(os.fsencode(directory / "mnt"))
        # Recorded before it is there: whoever cleans up after a crash has to know where to look.
        self.store.runs.update(record.id, mountpoint=mountpoint)
        assignment = Assignment(
            store=os.fsencode(self.store.path),
            run_id=record.id,
            base=record.base,
            mountpoint=mountpoint,
            hidden=hidden,
            allow_other=bool(record.options.get("allow_other")),
            attached=on_exit is not None,
            discard=on_exit == "forget",
            auto_snapshot=tuple(record.options.get("auto_snapshot", ())),
            policy=record.options.get(policing.OPTION, b""),
            store_limit=limits[0],
            store_room=limits[1],
        )
        if on_exit is None:
            server.assign(assignment, lock.fileno(), directory / LOG, lambda: None)
            return RunHandle(self.store, record)
        from goexfs.session.readying import get_ready

        found = server.assign(assignment, lock.fileno(), directory / LOG, partial(get_ready, record))
        return Session(self.store, record, server, mountpoint, on_exit, surveyed=found)


def _check_one_place(handle: RunHandle, mountpoint: Place | None) -> None:
    """Raise ``RunError`` for a run with several bases that is to be mounted at one place."""
    if mountpoint is not None and len(handle.parts) > 1:
        label = handle.record.label
        raise RunError(
            f"run {label} has {len(handle.parts)} bases, and a mountpoint is one place; goexfs run --run {label} -- CMD"
            " has all of them at their own places"
        )
