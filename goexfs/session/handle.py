"""One run of a store: what it is, what it changed, and the verdicts on it.

Owns the rules about which verb applies in which state, the conversation with the server of a mounted run, and the
recovery of a crashed one.  Starts nothing: see ``store`` and ``run``.  Belongs to the thread of its store.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from goexfs.session import checks, policing
from goexfs.session.account import Account
from goexfs.session.activity import Activity
from goexfs.session.errors import ServerError
from goexfs.session.history import Past
from goexfs.session.onto import Onto, resolver
from snapshots.errors import BaseError, RunBusy, RunState
from snapshots.layers.base import BaseTree
from snapshots.names import readable
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.policy.rules import Limit, Policy, Refused, Waiting
    from goexfs.policy.survey import Survey
    from goexfs.session import control
    from goexfs.session.effects import RunEffects, Wish
    from goexfs.session.onto import Choices
    from snapshots.history.recovery import Recovery
    from snapshots.merging.choosing import Selection
    from snapshots.merging.hunks import Parts
    from snapshots.merging.merge import MergeResult, Progress, Review
    from snapshots.merging.rejections import Rejection
    from snapshots.review.diff import Change

State = Literal["active", "kept", "merged", "discarded", "crashed"]
"""As recorded, but ``crashed`` for a run that is recorded as active and that nobody serves."""

EXACT_COUNT_LIMIT = 500
"""Entries up to which ``number_of_changes`` is the length of the diff; above it is an estimate."""

_EXIT_SECONDS = 30.0


class RunHandle(Past, Account, Activity, Onto):
    """One run.  Its properties are looked up when asked for; a handle stays valid when the run changes state."""

    _surveyed: "Survey | None" = None

    def __init__(self, store: Store, record: Run) -> None:
        self._store = store
        self.id = record.id
        self.base = record.base
        """absolute path"""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} over {readable(self.base)}>"

    @property
    def record(self) -> Run:  # type: ignore[override]
        """The run as recorded now.  Raises ``RunUnknown`` once it is forgotten."""
        return self._store.runs.get(self.id)

    @classmethod
    def _of(cls, store: Store, record: Run) -> "RunHandle":
        return RunHandle.of(store, record)

    @staticmethod
    def of(store: Store, record: Run) -> "RunHandle":
        """The handle of a run, whether it has one base or several."""
        # A part that is over while the run is not lost its servers at a bad moment (fsck says so): the rest is there.
        further = [part for part in store.runs.parts(record.id) if part.is_live or not record.is_live]
        if not further:
            return RunHandle(store, record)
        from goexfs.session.joint import JointHandle

        return JointHandle(store, record, further)

    @property
    def parts(self) -> "tuple[RunHandle, ...]":  # type: ignore[override]
        """One handle for each base of the run: itself, unless there are several (``joint``)."""
        return (self,)

    def place(self, number: int, path: bytes) -> bytes:
        """A path relative to the base of a part, as the run calls it: absolute in all but the first."""
        return path

    def find(self, path: bytes) -> "tuple[RunHandle, bytes]":
        """The part that a path of the run is in, and what it is relative to its base."""
        return self, path

    def divide(self, changes: "Sequence[Change]") -> "list[tuple[int, list[Change]]]":
        """Changes of the run by number of the part, as changes of that."""
        return [(0, list(changes))]

    @property
    def name(self) -> str | None:
        """What the user called it."""
        return self.record.name

    @property
    def state(self) -> State:  # type: ignore[override]
        """The state now."""
        recorded = self.record.state
        if recorded == "active" and not self._store.runs.is_locked(self.id):
            # It may have ended between the two questions.
            return "crashed" if self.record.state == "active" else self.record.state
        return recorded

    @property
    def number_of_changes(self) -> int:
        """Lines of a diff without paths; for a large run, or one whose base is gone, the number of its entries.

        A mounted run is counted as far as it is sealed.
        """
        usage = self._store.usage(self.id)
        entries = usage.entries + usage.whiteouts
        if not 0 < entries <= EXACT_COUNT_LIMIT:
            return entries
        try:
            return len(self._changes())
        except BaseError:
            return entries

    @property
    def policy(self) -> "Policy":
        """What it may see, write and use, as it was when the run began.  Raises ``PolicyError``."""
        return policing.policy_of(self.record)

    @property
    def survey(self) -> "Survey":
        """What the policy hides or masks of the base, as far as a short look finds it.  Raises ``PolicyError``."""
        return self._surveyed or policing.survey_of(self.record)

    @property
    def waiting(self) -> "tuple[Waiting, ...]":
        """Operations of the mounted run that wait for a decision about a limit."""
        return self.waiting_now()() if self.state == "active" else ()

    def waiting_now(self) -> "Callable[[], tuple[Waiting, ...]]":
        """What looks for that, in any thread."""
        return partial(policing.waiting_in, self._store.runs.directory(self.id))

    def allow(self, limit: str = "", *, most: int | None = None) -> "tuple[tuple[str, Limit], ...]":
        """Let what waits go on, with as much again (or up to ``most``) of one limit, or of all that matter now.

        The limits as they are now.  Raises ``PolicyError`` when nothing waits, ``RunState`` when it is not mounted.
        """
        return policing.decide(self._mounted_directory(), limit, allow=True, most=most)

    def deny(self, limit: str = "") -> "tuple[tuple[str, Limit], ...]":
        """Refuse what waits, and from now on whatever goes over that limit; otherwise as ``allow``."""
        return policing.decide(self._mounted_directory(), limit, allow=False)

    def _mounted_directory(self) -> "Path":
        if (state := self.state) != "active":
            raise RunState(f"nothing waits in run {self.record.label}: it is {state}")
        return self._store.runs.directory(self.id)

    @property
    def refused_for_room(self) -> "Refused | None":
        """What the run could not do because its store was full, the last time (or this time) that it was mounted."""
        return policing.refused_in(self._store.runs.directory(self.id))

    @property
    def bytes_held(self) -> int:
        """Bytes in the objects that the run uses, shared ones too."""
        return self._store.bytes_held(self.id)

    def diff(self, paths: Iterable[bytes] = (), *, times: bool = False, at: str | None = None) -> "list[Change]":
        """What the run changed, sorted by path; of a mounted run what is in the mount at this moment.

        Renames are found by the identity of files alone; for those that only equal contents tell see ``paired``.

        With ``at`` what it had changed at that point, compared with the base as it is now.

        ``paths`` (relative to the base) limit it to what lies at or below one of them; ``times`` makes a changed mtime
        a change.  The changes read their contents from the store: use them before it is closed.
        """
        if at is not None:
            return self._changes(paths, times=times, position=self.position(at))
        state = self.state
        if state == "active":
            try:
                self.seal()
            except ServerError:
                # The lock may be that of whoever recovers it at this moment: then there is no server any more.
                if not self._wait_for_end(2.0):
                    raise
                self.recover()
        elif state == "crashed":
            self.recover()
        return self._changes(paths, times=times)

    def _changes(
        self, paths: Iterable[bytes] = (), *, times: bool = False, position: int | None = None
    ) -> "list[Change]":
        from snapshots.history.timeline import state_at
        from snapshots.layers.tree import UpperTree
        from snapshots.review.diff import diff

        record = self.record
        if not record.is_live:
            raise RunState(f"run {record.label} has been {record.state}: there is nothing left to compare")
        checks.same_base(record)
        state = self._store.upper(self.id).load() if position is None else state_at(self._store, self.id, position)
        return diff(UpperTree(state), BaseTree(self.base), self._store.objects, times=times, paths=paths)

    def seal(self) -> None:
        """Bring everything that is in the mount at this moment into the store.

        The server has the kernel write back what it holds, if anybody has a file open for writing.
        """
        self._ask("seal")

    def status(self) -> "control.Status":
        """What the server of a mounted run says of itself."""
        status = self._ask("status").status
        assert status is not None
        return status

    def _ask(self, verb: "control.Verb", *, force: bool = False) -> "control.Answer":
        from goexfs.session import control

        return control.ask(self._store.runs.directory(self.id), verb, timeout=control.PATIENCE[verb], force=force)

    def unmount(self, *, force: bool = False) -> tuple[str, ...]:
        """Unmount; the run is kept, and everything written to the mount is in the store when this returns.

        Raises ``MountBusy``, naming who uses the mount, unless ``force``: then it is taken away from them, and they are
        returned.  A crashed run is cleaned up.  Raises ``RunState`` when it is not mounted.
        """
        state = self.state
        if state == "crashed":
            self.recover()
            return ()
        if state != "active":
            raise RunState(f"run {self.record.label} is not mounted: it is {state}")
        try:
            self._ask("ping")  # stopping may take long, saying that one lives may not
            answer = self._ask("stop", force=force)
        except ServerError:
            if force and self._kill_server():
                self.recover()
                return ()
            # Somebody may have unmounted it at the same moment: then it ends without us, and all is well.
            if not self._wait_for_end(2.0) or self.record.state == "active":
                raise
            return ()
        self._wait_for_end(_EXIT_SECONDS)
        return answer.holders

    def _kill_server(self) -> bool:
        """Kill a server that lives and does not answer; False when there is none."""
        from goexfs.session import birth, processes

        pid = self.record.pid
        pidfd = -1 if pid is None or not self._store.runs.is_locked(self.id) else processes.open_pid(pid)
        if pidfd < 0:
            return False
        try:
            # Looked at after the pidfd was opened: from then on the number cannot change its owner unnoticed.
            if processes.status_field(pid or 0, "Name") != birth.NAME:
                return False
            processes.signal_pidfd(pidfd, signal.SIGKILL)
            return processes.wait_pidfd(pidfd, _EXIT_SECONDS)
        finally:
            os.close(pidfd)

    def _wait_for_end(self, timeout: float) -> bool:
        """Wait until the server has let go of the run's lock."""
        deadline = time.monotonic() + timeout
        while self._store.runs.is_locked(self.id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def recover(self) -> "Recovery | None":
        """Clean up after a server that died: its dead mount goes, and the run is kept with all that was
        acknowledged.

        Answers what its journal had beyond the store; None for nothing.  What is lost (a damaged end of the journal) is
        also logged, as a warning: any verb on a crashed run recovers it.
        """
        from goexfs.session import mounts  # not for those who only look
        from goexfs.session.recovered import tell
        from snapshots.history.recovery import recover

        with self._store.runs.lock(self.id):
            record = self.record
            if record.state != "active":
                return None
            for place in {record.mountpoint, os.fsencode(self._store.runs.directory(self.id) / "mnt")}:
                if place is not None and mounts.is_mounted(place) and _is_dead(place):
                    mounts.unmount_now(place)
            recovered = recover(self._store, self.id)
            self._store.runs.update(self.id, state="kept", mountpoint=None, pid=None)
        tell(record.label, recovered)
        return recovered

    def _settled(self, verb: str) -> Run:
        """The record, once nothing serves the run any more; raises what forbids the verb."""
        state = self.state
        if state == "crashed":
            self.recover()
        elif state == "active":
            record = self.record
            place = readable(record.mountpoint or b"?")
            raise RunBusy(
                f"run {record.label} is mounted at {place}: unmount it before you {verb} it (goexfs umount {self.id})"
            )
        return self.record

    def hunks(self, paths: Iterable[bytes] = (), *, at: str | None = None) -> "list[tuple[Change, Parts]]":
        """What the run changed and the parts that each change can be merged in; as ``diff`` otherwise."""
        from snapshots.merging.hunks import parts

        return [(change, parts(change)) for change in self.diff(paths, at=at)]

    def groups(self) -> "tuple[list[list[Change]], set[bytes]]":
        """The changes, in groups that can only be merged as a whole; and the paths whose hunks cannot be taken apart,
        because the base has changed there, too.
        """
        from snapshots.layers.aliases import with_aliases
        from snapshots.layers.basepaths import BasePaths
        from snapshots.layers.tree import UpperTree
        from snapshots.merging.choosing import moved
        from snapshots.merging.partial import together

        changes = self.diff()
        with BaseTree(self.base) as opened:
            base = BasePaths(opened)
            tree = with_aliases(UpperTree(self._store.upper(self.id).load()), base)
            return together(tree.state, changes), moved(tree, changes, base)

    def reject(self, path: bytes, part: str | None, reason: str, *, at: str | None = None) -> "Rejection":
        """Say why the change at ``path`` (or a part of it, see ``hunks``) is not wanted; it stays in the run.

        With ``at`` the change as it was at that point.  Raises ``SelectionRefused`` when there is no such change.
        """
        from snapshots.errors import SelectionRefused
        from snapshots.merging.rejections import Rejections

        change = next((change for change in self.diff([path], at=at) if change.path == path), None)
        if change is None:
            raise SelectionRefused(f"the run has no change at {readable(path)}; goexfs hunks lists them")
        return Rejections(self._store, self.id).add(change, part, reason)

    def rejected(self) -> "list[Rejection]":
        """What was rejected of the run, and why; the latest last."""
        from snapshots.merging.rejections import Rejections

        return Rejections(self._store, self.id).list()

    @property
    def effects(self) -> "RunEffects":  # type: ignore[override]
        """What the run did, or wants done, outside the filesystem."""
        from goexfs.session.effects import RunEffects

        return RunEffects(self, self._store)

    def merge(
        self, *, dry_run: bool = False, choose: "Callable[[Change], bool] | None" = None,
        hunks: "Selection | None" = None, verify: Sequence[str] = (), effects: "Wish | None" = None,
        resolve: "Choices | None" = None, check_reads: bool = False, progress: "Progress | None" = None,
        review: "Review | None" = None,
    ) -> "MergeResult":  # fmt: skip
        """Apply everything the run changed to the base; with ``dry_run`` only say what would be done.

        With ``choose`` only the changes that it accepts, with ``hunks`` only these parts; the run is kept then, with
        the others.  ``verify`` are shell commands that have to succeed over the result, before the base is touched.

        ``resolve`` says what becomes of conflicts that are left when texts are merged: ``"ours"`` (the base's version),
        ``"theirs"`` (the run's), ``"markers"``, patterns by these words, or a function.  With ``check_reads`` a file
        that the run only read, and that has changed in the base since, is a conflict, too.

        ``effects`` is what becomes of those that are pending: ``refuse`` (the default: ``EffectsPending``), ``run``
        them after the merge, or ``skip`` (the default for a part): they stay pending.  ``EffectFailed`` comes after it.

        ``review`` is shown the changes that are wanted before anything is done about them: it can read them, and what
        it raises ends the merge.  That saves whoever wants to tell of them a diff of their own.

        Raises ``Conflict``, ``MergeError``, ``SelectionRefused`` or ``VerificationFailed`` (then nothing was applied),
        ``RunBusy`` while it is mounted, ``RunState`` when there is nothing to merge any more.
        """
        from snapshots.merging.merge import merge

        if dry_run and self.state == "active":
            self.seal()
            record = self.record
        else:
            record = self._settled("merge")
        if not record.is_live:
            raise RunState(f"run {record.label} has been {record.state} already")
        checks.same_base(record)
        wish = effects or ("refuse" if choose is None and hunks is None else "skip")
        if not dry_run:
            self.effects.check_merge(wish)
        gate = None
        if verify and not dry_run:
            from goexfs.session.gate import Verification

            gate = Verification(self._store, [record], verify)
        from goexfs.session.screening import Screen

        screen = Screen(self._store, record)
        result = merge(
            self._store, record, dry_run=dry_run, choose=choose, hunks=hunks, gate=gate, screen=screen,
            resolve=resolver(resolve), check_reads=check_reads, progress=progress, review=review,
        )  # fmt: skip
        if wish == "run" and not dry_run:
            self.effects.run()
        return result

    def discard(self, *, forget: bool | None = None, undo: "Literal['sandbox', 'outside', 'skip']" = "sandbox") -> None:
        """Free everything that only this run held; with ``forget`` its record goes too: nothing remains.

        What the run did outside is undone before (``undo`` says where; ``skip``: it is not), and what it deferred is
        dropped.  Raises ``EffectFailed`` when that could not be done: the run is kept then.  Raises ``RunBusy`` while
        it is mounted, ``RunState`` when it has been merged or discarded.
        """
        record = self._settled("discard")
        if not record.is_live:
            raise RunState(f"run {record.label} has been {record.state} already")
        if undo != "skip":
            self.effects.give_up(outside=undo == "outside")
        self._store.discard(self.id)
        if forget:
            self._store.runs.forget(self.id)


def _is_dead(mountpoint: bytes) -> bool:
    """Whether nobody serves the mount; asked by a child, for a server that hangs would hang the one who asks."""
    import subprocess

    try:
        done = subprocess.run(
            [b"stat", b"-f", b"--", mountpoint], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=5, cwd="/", check=False,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode != 0
