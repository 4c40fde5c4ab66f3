"""A mounted run with several bases in the hands of the one who started it.

Owns its beginning, part by part, and its end.  Commands in it are ``run``'s, verdicts ``joint``'s.  Belongs to the
thread of its store.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from goexfs.session.handle import RunHandle
from goexfs.session.joint import JointHandle
from goexfs.session.run import Session
from snapshots.errors import GoexfsError

if TYPE_CHECKING:
    from snapshots.merging.merge import MergeResult


class JointSession(JointHandle, Session):
    """As ``Session``, with a mount for each base; a command has all of them at their places."""

    def __init__(self, parts: Sequence[Session]) -> None:
        first = parts[0]
        Session.__init__(self, first._store, first.record, first._server, first._mountpoint, first._on_exit)
        self._sessions = tuple(parts)
        self._join(self._sessions)

    @property
    def _mounted(self) -> tuple[Session, ...]:
        return self._sessions

    def unmount(self, *, force: bool = False) -> tuple[str, ...]:
        """Unmount all parts; the run counts as kept."""
        found = JointHandle.unmount(self, force=force)
        self._settled_already = True
        return found

    def merge(self, *, dry_run: bool = False, **options: Any) -> "MergeResult":
        """Unmount and merge.  A refused merge leaves the run kept; ``dry_run`` leaves it mounted."""
        if not dry_run:
            self._end()
        return JointHandle.merge(self, dry_run=dry_run, **options)

    def discard(self, *, forget: bool | None = None, undo: "Literal['sandbox', 'outside', 'skip']" = "sandbox") -> None:
        """Unmount and discard; ``forget`` is by default what ``on_exit`` says."""
        self._end()
        JointHandle.discard(self, forget=self._on_exit == "forget" if forget is None else forget, undo=undo)

    def _end(self) -> None:
        try:
            for part in self._sessions:
                part._end()
        finally:
            self.taken_from = tuple(dict.fromkeys(name for part in self._sessions for name in part.taken_from))
        self._settled_already = True

    def wait(self) -> None:
        """Wait until somebody unmounts all parts."""
        for part in self._sessions:
            part.wait()
        self._settled_already = True


def mount_all(parts: Iterable[Callable[[], RunHandle]]) -> None:
    """Mount the parts of a kept run, for longer than this process lives; when one cannot be, none remains mounted."""
    begun: list[RunHandle] = []
    try:
        for start in parts:
            begun.append(start())
    except BaseException:
        for part in reversed(begun):
            with contextlib.suppress(GoexfsError):  # as below
                part.unmount(force=True)
        raise


def begin(parts: Iterable[Callable[[], Session]], *, new: bool) -> JointSession:
    """Mount the parts, in order; when one cannot be, none remains mounted, and nothing of what is ``new``."""
    begun: list[Session] = []
    try:
        for start in parts:
            begun.append(start())
        return JointSession(begun)
    except BaseException:
        for part in reversed(begun):
            with contextlib.suppress(GoexfsError):  # what went wrong first is what the user has to know
                if new:
                    part.discard(forget=True, undo="skip")
                else:
                    part.keep()
        raise
