"""What must not be in a merge: changes of what is hidden or fixed, and canaries.

Owns this last look, which does not rely on what the filesystem has refused already.  Belongs to the thread of the
store.
"""

import stat

from goexfs.policy.canaries import Finders
from goexfs.policy.matching import FIXED, HIDDEN, Matcher
from goexfs.policy.rules import Canary
from goexfs.session.errors import CanaryFound, PolicyViolated
from goexfs.session.policing import policy_of
from snapshots.entries import ROOT_INO, UpperState
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths, join
from snapshots.layers.tree import UpperTree
from snapshots.names import readable
from snapshots.review.changes import Change, Side, Status
from snapshots.review.diff import diff
from snapshots.storage.runs import Run
from snapshots.storage.store import Store


class Screen:
    """Looks at what is about to be merged; to be given to ``snapshots.merging.merge.merge``."""

    def __init__(self, store: Store, run: Run, *, canaries: tuple[Canary, ...] = ()) -> None:
        """``canaries`` are those of the run's other parts: read in one base, one can be carried into another."""
        self._store = store
        self._run = run
        policy = policy_of(run)
        self._matcher = Matcher(policy)
        self._finders = Finders(tuple(dict.fromkeys((*policy.canaries, *canaries))))

    def __call__(self, state: UpperState) -> None:
        """Raise ``PolicyViolated`` or ``CanaryFound`` when this must not be merged."""
        with BaseTree(self._run.base) as base:
            if not self._finders and not self._concerns(state, BasePaths(base)):
                return
            for change in diff(UpperTree(state), base, self._store.objects):
                self._check_paths(change)
                if self._finders and change.after is not None:
                    self._check_canaries(change, change.after)

    def _concerns(self, state: UpperState, base: BasePaths) -> bool:
        """Whether some rule may have to do with it: a name that one matches, or a directory of the base that goes."""
        if not self._matcher.kinds:
            return False
        waiting = [(ROOT_INO, b"", True)]
        while waiting:
            parent, above, in_base = waiting.pop()
            for name, ino in state.links.get(parent, {}).items():
                path = join(above, name)
                entry = state.entries.get(ino)
                if self._matcher.may_match(name):
                    return True
                may_be_there = in_base
                if in_base and (entry is None or not entry.is_dir or entry.opaque or entry.origin is None):
                    st = base.stat(path)
                    if st is not None and stat.S_ISDIR(st.st_mode):
                        return True
                    may_be_there = False
                if entry is not None and entry.is_dir:
                    waiting.append((ino, path, may_be_there))
        return False

    def _check_paths(self, change: Change) -> None:
        """The filesystem has let nothing of this happen; what a run did without this policy, it may have."""
        path, side = change.old_path or change.path, change.before
        if side is not None and change.status is not Status.RENAMED:
            flags = self._matcher.flags(path, is_dir=side.is_dir) if self._may_match(path) else 0
            if flags & (HIDDEN | FIXED):
                kept_from = "is hidden from it" if flags & HIDDEN else "it may only read"
                raise PolicyViolated(
                    f"run {self._run.label} would change {readable(path)}, which {kept_from}; nothing was merged "
                    f"(--exclude leaves it in the run)"
                )

    def _may_match(self, path: bytes) -> bool:
        return any(self._matcher.may_match(part) for part in path.split(b"/"))

    def _check_canaries(self, change: Change, side: Side) -> None:
        canary = self._carried(change, side)
        if canary is not None:
            raise CanaryFound(
                f"run {self._run.label} carries the canary {readable(canary.path)} in {readable(change.path)}: it was "
                f"read and passed on; nothing was merged (goexfs blame says who wrote it, --exclude leaves it out)"
            )

    def _carried(self, change: Change, side: Side) -> Canary | None:
        pieces = [change.path, side.target or b"", *(part for pair in side.xattrs.items() for part in pair)]
        found = self._finders.in_pieces(pieces)
        if found is not None or not change.content_changed or not stat.S_ISREG(side.mode) or not side.size:
            return found
        content = side.open()
        try:
            return self._finders.in_content(content.size, content.read)
        finally:
            content.close()
