"""The past of a run, and other runs that begin in it: snapshots, forks, rewinds, files as they were.

Owns what these verbs mean for a run in each state: of a mounted run everything is sealed first, a crashed one is
recovered.  The library below does the work (``snapshots.history.history``, ``forks``, ``rewind``, ``timeline``); a
mounted run is rewound by its server.  Belongs to the thread of its store.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from goexfs.session import checks
from snapshots.errors import RunBusy, RunError, RunState
from snapshots.names import readable
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.session.effects import RunEffects
    from goexfs.session.handle import RunHandle
    from snapshots.entries import UpperState
    from snapshots.history.history import History, Kind, Snapshot
    from snapshots.history.recovery import Recovery
    from snapshots.history.rewind import Rewound
    from snapshots.layers.content import Readable
    from snapshots.layers.tree import Place
    from snapshots.review.changes import Change

LATEST = "~1"
"""The latest snapshot."""
_NOW = ("~0", "#", "{")
"""What points begin with that may mean something that is not sealed yet."""
_CHUNK = 1 << 20


def is_now(point: str | None) -> bool:
    """Whether a point is no point of the past."""
    return point is None or point == "~0"


def split(ref: str) -> tuple[str, str | None]:
    """The run and the point that ``RUN@POINT`` names; no point for a run alone.  ``@@POINT`` is of the run ``@``."""
    if ref.startswith("@"):
        return "@", ref[1:].removeprefix("@") or None
    run, _, point = ref.partition("@")
    return run, point or None


class Past:
    """The verbs about its past of a ``RunHandle``, which has the rest."""

    id: str
    base: bytes
    _store: Store
    record: Run
    state: object
    seal: Callable[[], None]
    effects: "RunEffects"
    recover: "Callable[[], Recovery | None]"
    discard: Callable[..., None]
    parts: "tuple[RunHandle, ...]"
    find: "Callable[[bytes], tuple[RunHandle, bytes]]"

    def snapshot(self, name: str | None = None, message: str = "") -> "Snapshot":
        """Name what the run is at this moment, also while programs go on changing it.

        Without a name it gets one (``s1``, …).  Raises ``SnapshotExists``, ``RunState``.
        """
        self._settle(seal=True)
        return self._history.snapshot(name, message)

    def snapshot_now(self, kind: "Kind") -> "Snapshot":
        """An automatic snapshot; the one there is already, when nothing has changed since."""
        self._settle(seal=True)
        return self._history.snapshot(kind=kind)

    def snapshots(self, *, at: str | None = None) -> "list[Snapshot]":
        """All snapshots, the latest last; with ``at`` those of states up to that point."""
        snapshots = self._history.snapshots()
        if at is None:
            return snapshots
        position = self.position(at)
        return [each for each in snapshots if each.position <= position]

    def drop_snapshot(self, name: str) -> None:
        """Forget a snapshot, and free what only it kept.  Raises ``SnapshotUnknown``."""
        from snapshots.history.retention import thin

        self._history.drop(name)
        thin(self._store, self.id)

    def position(self, point: str | None) -> int:
        """The place in the journal that a point means (see ``snapshots.history.history``); None: this moment."""
        self._settle(seal=point is None or point.startswith(_NOW))
        return self._history.position("~0" if point is None else point)

    def part_at(self, path: bytes, at: str | None) -> "tuple[RunHandle, bytes, str | None]":
        """The part that a path of the run is in, what it is relative to its base, and the point ``at`` of that part."""
        part, below = self.find(path)
        return part, below, at

    def fork(self, name: str | None = None, *, at: str | None = None, store_limit: int | None = None) -> Self:
        """A new, kept run that begins as this one is, or was at a point.

        Both go their own ways from there, whatever becomes of the other.  ``store_limit`` as in ``RunStore.start``.
        Raises ``SnapshotUnknown``, ``HistoryGone``, ``RunExists``, ``RunState``, ``StoreLimit``.
        """
        from goexfs.session import home
        from snapshots.upkeep.room import check_room

        check_room(self._store, limit=home.store_limit() if store_limit is None else store_limit)
        return self._forked(name, at)

    def _forked(self, name: str | None, at: str | None) -> Self:
        from snapshots.history.forks import fork

        position = self.position(at)
        return type(self)._of(self._store, fork(self._store, self.id, None if is_now(at) else position, name=name))

    @classmethod
    def _of(cls, store: Store, record: Run) -> Self:
        raise NotImplementedError

    @contextmanager
    def as_it_was(self, at: str) -> Iterator[Self]:
        """A fork at a point, for what can only be done with a run; forgotten at the end of the block unless it was
        merged, in whole or in part.
        """
        fork = self._forked(None, at)  # which makes room, if anything
        try:
            yield fork
        finally:
            if not fork.was_merged:
                fork.discard(forget=True, undo="skip")

    @property
    def was_merged(self) -> bool:
        """Whether there is a merge of it, as a whole or in part."""
        from snapshots.merging.mergelog import MergeLog

        ids = {part.id for part in self.parts}
        return any(each.run_id in ids for each in MergeLog(self._store).records())

    def rewind(self, at: str = LATEST, paths: tuple[bytes, ...] = ()) -> "Rewound":
        """Become, or have these paths (relative to the base) become, what the run was at a point.

        What it was just before gets a snapshot, so a rewind can be rewound.  A mounted run too: open files that are
        still there show their old content, those that are not keep what they have, as after an unlink.  Raises
        ``SnapshotUnknown``, ``HistoryGone``, ``RunState``, ``RunError``.
        """
        position = self.position(at)
        if not paths:
            named = [each for each in self.snapshots() if each.position == position and at in (each.name, LATEST)]
            # What was done outside since has to be undone while the run is as it was then.
            self.effects.before_rewind(position, named[-1].created_ns if named else 0)
        return self._rewind(position, paths)

    def aims(self, at: str, paths: tuple[bytes, ...] = ()) -> list[tuple[str, int, tuple[bytes, ...]]]:
        """What a rewind to a point means for each part that it is about: its id, place in the journal, and paths."""
        return [(self.id, self.position(at), paths)]

    def take_back(self, process: str, paths: tuple[bytes, ...] = ()) -> "Rewound":
        """Take back what commands matching a pattern (see ``paths_written_by``) did to files, and keep the rest.

        Every path that they wrote, made, moved or deleted becomes what it was before they first did; with ``paths``
        only what is at or below one of these.  What others changed since stays as it is: ``Rewound.left`` says what.
        Otherwise as ``rewind``; what was done outside the filesystem is not undone.
        """
        self._settle(seal=False)
        return self._rewind(0, paths, process)

    def _rewind(self, position: int, paths: tuple[bytes, ...], process: str = "") -> "Rewound":
        from goexfs.session import control
        from snapshots.history.rewind import Rewound, rewind
        from snapshots.history.takeback import Left

        if self.state == "crashed":  # since it was settled: what only its journal has comes first
            self.recover()
        if self.state != "active":
            with self._store.runs.lock(self.id):
                if self.record.state == "active":
                    raise RunBusy(f"run {self.record.label} was mounted meanwhile, and died: try again")
                return rewind(self._store, self.id, position, paths, process=process)
        question = control.Question("rewind", position=position, paths=paths, process=process)
        answer = control.put(self._store.runs.directory(self.id), question, timeout=control.SEAL_SECONDS)
        before = next((s for s in reversed(self.snapshots()) if s.name == answer.snapshot), None)
        return Rewound(answer.nodes, before, tuple(Left(*each) for each in answer.left))

    def diff_from(
        self,
        before: "Past",
        *,
        before_at: str | None = None,
        at: str | None = None,
        paths: Iterable[bytes] = (),
        times: bool = False,
    ) -> "list[Change]":
        """What makes this run, now or at a point, of another run over the same base, or of itself at another point.

        ``paths`` and ``times`` as in ``diff``.  Raises ``RunError`` for two bases, ``HistoryGone``, ``RunState``.
        """
        from snapshots.history.forks import shared_numbers
        from snapshots.layers.base import BaseTree
        from snapshots.review.between import difference_of

        one, other = before.record, self.record
        if (one.base, one.base_identity) != (other.base, other.base_identity):
            raise RunError(f"{one.label} and {other.label} are runs over two bases: they cannot be compared")
        checks.same_base(other)
        then, now = before._state(before_at), self._state(at)
        return difference_of(
            then, now, BaseTree(self.base), self._store.objects,
            shared=shared_numbers(self._store, before.id, self.id), times=times, paths=paths,
        )  # fmt: skip

    def _state(self, at: str | None) -> "UpperState":
        from snapshots.history.timeline import state_at

        position = self.position(at)
        return self._store.upper(self.id).load() if is_now(at) else state_at(self._store, self.id, position)

    @contextmanager
    def open(self, path: bytes, *, at: str | None = None) -> "Iterator[Readable]":
        """A regular file of the run (path relative to the base), now or as it was at a point, to be read in the block.

        Raises ``RunError`` where there is no regular file, ``HistoryGone``, ``SnapshotUnknown``.
        """
        from snapshots.history.timeline import Moment, content_gone, moment_at
        from snapshots.layers.base import BaseTree
        from snapshots.layers.basepaths import BasePaths
        from snapshots.layers.content import open_base, open_entry
        from snapshots.layers.tree import UpperTree

        position = self.position(at)
        # The present may have moved on, and what it was is not kept by every run.
        now = Moment(self._store.upper(self.id).load(), {}) if is_now(at) else None
        state, lost = now or moment_at(self._store, self.id, position)
        with BaseTree(self.base) as tree:
            base = BasePaths(tree)
            place = UpperTree(state).resolve(path.strip(b"/"))
            self._check_file(path, place, base)
            assert place is not None
            if place.entry is None:
                content: Readable = open_base(base, place.base or b"")
            elif place.entry.ino in lost:
                raise content_gone(self.id, position, path)
            else:
                content = open_entry(place.entry, base, self._store.objects)
            with content:
                yield content

    def _check_file(self, path: bytes, place: "Place | None", base: object) -> None:
        import stat

        from snapshots.layers.basepaths import BasePaths

        assert isinstance(base, BasePaths)
        mode = None
        if place is not None and place.entry is not None:
            mode = place.entry.mode
        elif place is not None and (st := base.stat(place.base or b"")) is not None:
            mode = st.st_mode
        if mode is None:
            raise RunError(f"there is no {readable(path)} in run {self.record.label} at that point")
        if not stat.S_ISREG(mode):
            raise RunError(f"{readable(path or b'.')} in run {self.record.label} is not a regular file")

    def cat(self, path: bytes, *, at: str | None = None) -> bytes:
        """All bytes of a file, see ``open``."""
        with self.open(path, at=at) as content:
            return b"".join(content.read(offset, _CHUNK) for offset in range(0, content.size, _CHUNK))

    @property
    def _history(self) -> "History":
        from snapshots.history.history import History

        return History(self._store, self.id)

    def _settle(self, *, seal: bool) -> None:
        """Have the store know what is asked about."""
        record = self.record
        if not record.is_live:
            raise RunState(f"run {record.label} has been {record.state}: its history is gone")
        state = self.state
        if state == "crashed":
            self.recover()
        elif state == "active" and seal:
            self.seal()
