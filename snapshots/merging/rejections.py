"""What a person said about changes that were not wanted: for whoever made them, to do better.

Owns the file ``runs/<id>/rejected`` (JSON).  A rejection holds the change as it was, so that it can be read when the
run has gone on.  Rejecting changes nothing else: what was rejected stays in the run until somebody takes it out.
Belongs to the thread of the store.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from snapshots.errors import SelectionRefused, StoreDamaged
from snapshots.merging.hunks import Parts, parts, unified
from snapshots.names import readable, text_fields
from snapshots.review.changes import Change
from snapshots.storage import durable
from snapshots.storage.store import Store

FILE = "rejected"
MOST = 10_000
"""The oldest go first."""


class Rejection(msgspec.Struct, frozen=True):
    """One change, or part of one, that was not wanted."""

    number: int
    """1 for the first of a run"""
    path: bytes
    status: str
    """of the change, as in a diff"""
    part: str | None
    """name of the hunk (or other part, see ``snapshots.merging.hunks``); None: all of the change"""
    reason: str
    lines: tuple[bytes, ...]
    """the hunks as in a unified diff; empty when the change is not made of hunks"""
    made_ns: int


class Rejections:
    """The rejections of the run ``run_id``."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._path = store.runs.directory(run_id) / FILE

    def list(self) -> list[Rejection]:
        """All of them, the latest last.  StoreDamaged."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise durable.failure(exc, f"cannot read {self._path}") from exc
        try:
            return msgspec.json.decode(data, type=list[Rejection])
        except msgspec.MsgspecError as exc:
            raise StoreDamaged(f"{self._path} is damaged ({exc}); remove it to reject anew") from exc

    def add(self, change: Change, part: str | None, reason: str) -> Rejection:
        """Reject a change, or a part of it.  SelectionRefused when it has no such part."""
        lines = _lines(change, parts(change), part)
        with self._store.database.transaction():  # one writer at a time
            before = self.list()
            number = before[-1].number + 1 if before else 1
            made = Rejection(number, change.path, str(change.status), part, reason, lines, time.time_ns())
            durable.write_file(self._path, msgspec.json.encode([*before, made][-MOST:]))
        return made


def _lines(change: Change, found: Parts, part: str | None) -> tuple[bytes, ...]:
    hunks = {hunk.id: hunk for hunk in (*found.hunks, *found.smaller)}
    if part is not None and part not in (*hunks, found.lead):
        raise SelectionRefused(
            f"{readable(change.path)} has no part {readable(part.encode())}; goexfs hunks lists those it has"
        )
    if found.text is None:
        return ()
    chosen = found.hunks if part is None else [hunks[part]] if part in hunks else []
    return tuple(line for hunk in chosen for line in unified(found.text, hunk))


def as_json(rejections: Sequence[Rejection], changes: Sequence[Change] | None = None) -> list[dict[str, Any]]:
    """Rejections as JSON values; with all changes of the run, ``still_there`` says whether it has what was rejected."""
    rejected = {each.path for each in rejections}
    ids = {change.path: parts(change) for change in changes or () if change.path in rejected}
    listed = []
    for each in rejections:
        fields = {
            "number": each.number, **text_fields("path", each.path), "status": each.status, "part": each.part,
            "reason": each.reason, "lines": [line.decode("utf-8", "backslashreplace") for line in each.lines],
            "made_ns": each.made_ns,
        }  # fmt: skip
        if changes is not None:
            found = ids.get(each.path)
            known = () if found is None else (None, *found.ids, *(hunk.id for hunk in found.smaller))
            fields["still_there"] = each.part in known
        listed.append(fields)
    return listed
