"""A run with several bases: the verbs of a run, for all of its parts.

Owns what they mean for several.  Each part is a run of its own in the store, with a base, an upper and a history; the
run itself is the first of them.  Whatever is asked of the run goes to the parts; whatever changes a base is one merge
(``snapshots.merging.jointmerge``).  Paths are written as ``bases`` says.  What is about its past is ``jointpast``'s.
Belongs to the thread of its store.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from goexfs.session import checks
from goexfs.session.bases import Bases
from goexfs.session.handle import RunHandle, State
from goexfs.session.jointpast import JointPast, point
from goexfs.session.onto import resolver
from snapshots.errors import Conflict, RunState
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.policy.rules import Limit, Waiting
    from goexfs.session.effects import Wish
    from goexfs.session.onto import Choices
    from snapshots.history.journal import Process
    from snapshots.history.log import ReadEvent
    from snapshots.history.recovery import Recovery
    from snapshots.merging.choosing import Selection
    from snapshots.merging.jointmerge import JointGate, Wanted
    from snapshots.merging.merge import MergeResult, Progress, Review
    from snapshots.merging.rebase import Rebased
    from snapshots.merging.rejections import Rejection
    from snapshots.merging.settle import Resolve
    from snapshots.review.changes import Change


class JointHandle(JointPast, RunHandle):
    """A run with several bases."""

    def __init__(self, store: Store, record: Run, further: Sequence[Run]) -> None:
        super().__init__(store, record)
        self._join((RunHandle(store, record), *(RunHandle(store, part) for part in further)))

    def _join(self, parts: tuple[RunHandle, ...]) -> None:
        self._parts = parts
        self._bases = Bases([part.base for part in parts])

    @property
    def parts(self) -> tuple[RunHandle, ...]:  # type: ignore[override]
        """One handle for each base, the first for the run's own; for looking: a verdict is the run's."""
        return self._parts

    def place(self, number: int, path: bytes) -> bytes:
        """A path relative to the base of a part, as the run calls it."""
        return self._bases.place(number, path)

    def find(self, path: bytes) -> tuple[RunHandle, bytes]:
        """The part that a path of the run is in, and what it is relative to its base."""
        number, below = self._bases.find(path)
        return self._parts[number], below

    def divide(self, changes: "Sequence[Change]") -> "list[tuple[int, list[Change]]]":
        """Changes of the run by number of the part, as changes of that."""
        return sorted(self._bases.within(changes).items(), key=lambda each: each[0])

    @property
    def state(self) -> State:  # type: ignore[override]
        """The state now; as long as one part is mounted, that."""
        states = [part.state for part in self._parts]
        for state in states:
            if state == "active" or (state == "crashed" and "active" not in states):
                return state
        return states[0]

    @property
    def number_of_changes(self) -> int:
        """In all bases."""
        return sum(part.number_of_changes for part in self._parts)

    @property
    def bytes_held(self) -> int:
        """In all parts."""
        return sum(part.bytes_held for part in self._parts)

    # -- looking

    def diff(self, paths: Iterable[bytes] = (), *, times: bool = False, at: str | None = None) -> "list[Change]":
        """What the run changed in all bases, sorted by base and path."""
        changes: list[Change] = []
        positions = None if at is None else self.positions(at)
        for number, below in self._bases.divide(paths).items():
            part = self._parts[number]
            found = part.diff(below, times=times, at=None if positions is None else point(positions[number]))
            changes += self._bases.placed(number, found)
        return changes

    def groups(self) -> "tuple[list[list[Change]], set[bytes]]":
        """As ``RunHandle.groups``, of all bases."""
        groups, moved = [], set()
        for number, part in enumerate(self._parts):
            found, gone = part.groups()
            groups += [self._bases.placed(number, group) for group in found]
            moved |= {self._bases.place(number, path) for path in gone}
        return groups, moved

    def paired(self, changes: "Sequence[Change]", *, times: bool = False, from_base: bool = True) -> "list[Change]":
        """As ``RunHandle.paired``, within each base."""
        found = []
        for number, within in self.divide(changes):
            paired = self._parts[number].paired(within, times=times, from_base=from_base)
            found += self._bases.placed(number, paired)
        return found

    def paths_written_by(self, pattern: str) -> frozenset[bytes]:
        """As ``RunHandle.paths_written_by``, in all bases."""
        return frozenset(
            self._bases.place(number, path)
            for number, part in enumerate(self._parts)
            for path in part.paths_written_by(pattern)
        )

    def by_process(self, changes: "list[Change]") -> "list[tuple[tuple[Process, ...], list[Change]]]":
        """As ``RunHandle.by_process``, in all bases: one command line is one group wherever it wrote."""
        groups: dict[tuple[bytes, ...], tuple[tuple[Process, ...], list[Change]]] = {}
        for number, within in self.divide(changes):
            for lineage, made in self._parts[number].by_process(within):
                key = (lineage[0].command or (lineage[0].executable,)) if lineage else ()
                groups.setdefault(key, (lineage, []))[1].extend(self._bases.placed(number, made))
        return sorted(groups.values(), key=lambda group: not group[0])

    def reads(self, *, at: str | None = None) -> "list[ReadEvent]":
        """As ``RunHandle.reads``, of all bases."""
        positions = None if at is None else self.positions(at)
        return [
            msgspec.structs.replace(read, path=self._bases.place(number, read.path))
            for number, part in enumerate(self._parts)
            for read in part.reads()
            if positions is None or read.number < positions[number]
        ]

    def reject(self, path: bytes, part: str | None, reason: str, *, at: str | None = None) -> "Rejection":
        """As ``RunHandle.reject``."""
        holder, below, then = self.part_at(path, at)
        return self._placed(self._parts.index(holder), holder.reject(below, part, reason, at=then))

    def rejected(self) -> "list[Rejection]":
        """What was rejected in all bases, the latest last."""
        found = [self._placed(n, each) for n, part in enumerate(self._parts) for each in part.rejected()]
        return sorted(found, key=lambda each: each.made_ns)

    def _placed(self, number: int, rejection: "Rejection") -> "Rejection":
        return msgspec.structs.replace(rejection, path=self._bases.place(number, rejection.path))

    # -- while it is mounted

    @property
    def waiting(self) -> "tuple[Waiting, ...]":
        """Operations that wait for a decision about a limit, in all bases."""
        return tuple(waiting for part in self._parts for waiting in part.waiting)

    def waiting_now(self) -> "Callable[[], tuple[Waiting, ...]]":
        """What looks for that, in any thread."""
        looking = [part.waiting_now() for part in self._parts]
        return lambda: tuple(waiting for look in looking for waiting in look())

    def allow(self, limit: str = "", *, most: int | None = None) -> "tuple[tuple[str, Limit], ...]":
        """As ``RunHandle.allow``, wherever something waits."""
        return tuple(each for part in self._waiting_parts() for each in part.allow(limit, most=most))

    def deny(self, limit: str = "") -> "tuple[tuple[str, Limit], ...]":
        """As ``RunHandle.deny``, wherever something waits."""
        return tuple(each for part in self._waiting_parts() for each in part.deny(limit))

    def _waiting_parts(self) -> tuple[RunHandle, ...]:
        return tuple(part for part in self._parts if part.waiting) or self._parts[:1]

    def seal(self) -> None:
        """Bring what is in all mounts into the store."""
        for part in self._parts:
            if part.state == "active":
                part.seal()

    def recover(self) -> "Recovery | None":
        """Clean up after servers that died; what the first of them had."""
        found = [part.recover() for part in self._parts if part.state == "crashed"]
        return next((each for each in found if each is not None), None)

    def unmount(self, *, force: bool = False) -> tuple[str, ...]:
        """Unmount all parts; otherwise as ``RunHandle.unmount``."""
        mounted = [part for part in self._parts if part.state in ("active", "crashed")]
        if not mounted:
            raise RunState(f"run {self.record.label} is not mounted: it is {self.state}")
        return tuple(dict.fromkeys(holder for part in mounted for holder in part.unmount(force=force)))

    # -- verdicts

    def merge(
        self, *, dry_run: bool = False, choose: "Callable[[Change], bool] | None" = None,
        hunks: "Selection | None" = None, verify: Sequence[str] = (), effects: "Wish | None" = None,
        resolve: "Choices | None" = None, check_reads: bool = False, progress: "Progress | None" = None,
        review: "Review | None" = None,
    ) -> "MergeResult":  # fmt: skip
        """One merge into all bases, or into none; otherwise as ``RunHandle.merge``."""
        from snapshots.merging.jointmerge import merge_parts

        for part in self._parts:
            if dry_run and part.state == "active":
                part.seal()
            elif not part._settled("merge").is_live:
                raise RunState(f"run {part.record.label} has been {part.record.state} already")
            checks.same_base(part.record)
        wish = effects or ("refuse" if choose is None and hunks is None else "skip")
        if not dry_run:
            self.effects.check_merge(wish)
        gate: JointGate | None = None
        if verify and not dry_run:
            from goexfs.session.gate import Verification

            gate = Verification(self._store, [part.record for part in self._parts], verify).over
        if review is not None:
            shown = [change for change in self.diff() if choose is None or choose(change)]
            review(shown if hunks is None else [change for change in shown if change.path in hunks])
        wanted = self._wanted(choose, hunks, resolver(resolve), check_reads)
        results = merge_parts(self._store, wanted, dry_run=dry_run, gate=gate, progress=progress)
        if wish == "run" and not dry_run:
            self.effects.run()
        return self._one(results)

    def _wanted(
        self, choose: "Callable[[Change], bool] | None", hunks: "Selection | None", resolve: "Resolve | None",
        check_reads: bool,
    ) -> "list[Wanted]":  # fmt: skip
        from goexfs.session.screening import Screen
        from snapshots.merging.jointmerge import Wanted
        from snapshots.merging.merge import How

        canaries = tuple(canary for part in self._parts for canary in part.policy.canaries)
        found = []
        for number, part in enumerate(self._parts):
            record = part.record
            within = None
            if hunks is not None:
                paths = {path: self._bases.find(path) for path in hunks}
                within = {paths[path][1]: chosen for path, chosen in hunks.items() if paths[path][0] == number}
            screen = Screen(self._store, record, canaries=canaries)
            how = How(self._choice(number, choose), within, screen, self._settling(number, resolve), check_reads)
            found.append(Wanted(record, None if within == {} else how))
        return found

    def _choice(self, number: int, choose: "Callable[[Change], bool] | None") -> "Callable[[Change], bool] | None":
        if choose is None or not number:
            return choose
        return lambda change: choose(self._bases.placed(number, [change])[0])

    def _settling(self, number: int, resolve: "Resolve | None") -> "Resolve | None":
        if resolve is None or not number:
            return resolve
        return lambda path: resolve(self._bases.place(number, path))

    def _one(self, results: "Sequence[MergeResult | None]") -> "MergeResult":
        """The outcome in all bases as that of the run."""
        from snapshots.merging.merge import MergeResult
        from snapshots.merging.plan import Plan

        first = results[0]
        done = [(number, each) for number, each in enumerate(results) if each is not None]
        some = done[0][1]
        live = self._store.runs.get(self.id).is_live
        return MergeResult(
            self.id, some.merged, first.plan if first is not None else Plan((), (), (), (), None, ()), _leftover(done),
            some.number,
            live if some.merged else any(each.partly for _, each in done),
            tuple(self._bases.place(number, path) for number, each in done for path in each.completed),
            tuple(
                msgspec.structs.replace(settled, path=self._bases.place(number, settled.path))
                for number, each in done for settled in each.settled
            ),
            tuple((self._parts[number].base, each) for number, each in done if number),
        )  # fmt: skip

    def rebase(
        self, *, dry_run: bool = False, resolve: "Choices | None" = None, at: str | None = None
    ) -> "Rebased":
        """All parts, one after the other, once it is known that none is in conflict; otherwise as
        ``RunHandle.rebase``.
        """
        if at is not None:
            return super().rebase(dry_run=dry_run, resolve=resolve, at=at)
        from snapshots.merging.jointmerge import absolute
        from snapshots.merging.rebase import Rebased

        how = resolver(resolve)
        done: list[Rebased] = []
        conflicts: tuple[Any, ...] = ()
        for trial in (True, False) if not dry_run else (True,):
            done = []
            for number, part in enumerate(self._parts):
                try:
                    done.append(part.rebase(dry_run=trial, resolve=self._settling(number, how)))
                except Conflict as refused:
                    conflicts += absolute(part.base if number else None, refused.conflicts)
            if conflicts:
                raise Conflict(f"run {self.record.label} conflicts with its bases; nothing was changed", conflicts)
        settled = tuple(
            msgspec.structs.replace(settled, path=self._bases.place(number, settled.path))
            for number, each in enumerate(done) for settled in each.settled
        )  # fmt: skip
        return Rebased(self.id, settled, next((each.before for each in done if each.before is not None), None))

    def discard(self, *, forget: bool | None = None, undo: "Literal['sandbox', 'outside', 'skip']" = "sandbox") -> None:
        """All parts at once; otherwise as ``RunHandle.discard``."""
        for part in self._parts:
            if not part._settled("discard").is_live:
                raise RunState(f"run {self.record.label} has been {part.record.state} already")
        if undo != "skip":
            self.effects.give_up(outside=undo == "outside")
        self._store.discard(*(part.id for part in self._parts))
        if forget:
            self.forget()

    def forget(self) -> None:
        """Drop the records of all parts, once they are discarded."""
        for part in reversed(self._parts):
            self._store.runs.forget(part.id)


def _leftover(done: "Iterable[tuple[int, MergeResult]]") -> bytes | None:
    return next((each.leftover for _, each in done if each.leftover is not None), None)
