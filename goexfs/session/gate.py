"""The gate before a merge: commands that have to succeed over what the base would be.

Owns the temporary run in which they work: it has what is about to be merged, is mounted as any run is, and nothing
remains of it, nor of what the commands write.  Belongs to the thread of its store.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from snapshots.entries import UpperState
from snapshots.errors import GoexfsError, VerificationFailed
from snapshots.names import readable
from snapshots.storage.runs import Run
from snapshots.storage.states import difference
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.session.handle import RunHandle

_INTERRUPTED = 130


class Verification:
    """Shell commands, to be given to ``snapshots.merging.merge.merge`` as its gate.

    They see the base's own path, work there in the sandbox of runs, and have this process's terminal.  The first that
    does not succeed raises ``VerificationFailed``; Ctrl-C raises ``KeyboardInterrupt``.
    """

    def __init__(self, store: Store, parts: Sequence[Run], commands: Sequence[str]) -> None:
        self._store = store
        self._run = parts[0]
        self._parts = tuple(parts)
        self._commands = tuple(commands)

    def __call__(self, state: UpperState) -> None:
        """Let what is to be merged pass, or raise."""
        self.over({self._run.id: state})

    def over(self, states: Mapping[str, UpperState]) -> None:
        """The same for a run with several bases: what is to be merged of each part, by id."""
        made: list[Run] = []
        try:
            for part in self._parts:
                made.append(self._store.runs.create(
                    base=part.base, name=None, command=("sh", "-c", self._commands[0]), options={},
                    identity=part.base_identity, whole=made[0].id if made else None,
                ))  # fmt: skip
                self._store.runs.update(made[-1].id, state="kept")
                state = states.get(part.id)
                if state is not None:
                    nothing = UpperState({}, {}, state.next_ino)
                    self._store.upper(made[-1].id).commit(difference(nothing, state, 0))
            self._try_in(made[0])
        finally:
            with contextlib.suppress(GoexfsError):  # the session has forgotten it
                self._store.discard(*(record.id for record in made))
                for record in reversed(made):
                    self._store.runs.forget(record.id)

    def _try_in(self, record: Run) -> None:
        from goexfs.session.store import RunStore

        handle = _handle(self._store, self._store.runs.get(record.id))
        with RunStore(self._store).resume(handle, on_exit="forget") as session:
            for command in self._commands:
                ended = session.exec(("sh", "-c", command), cwd=self._run.base)
                if ended.returncode == _INTERRUPTED:
                    raise KeyboardInterrupt
                if ended.returncode:
                    raise VerificationFailed(
                        f"`{readable(command.encode('utf-8', 'surrogateescape'))}` ended with status"
                        f" {ended.returncode} over what run {self._run.label} would make of the base; nothing was"
                        " merged"
                    )


def _handle(store: Store, record: Run) -> "RunHandle":
    from goexfs.session.handle import RunHandle

    return RunHandle.of(store, record)
