"""The one table of statuses: complete, unambiguous, and the same as its page."""

import re
from pathlib import Path

from goexfs.cli import errors
from snapshots.errors import Conflict, GoexfsError
from snapshots.merging.plan import ConflictKind, PathConflict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exit-status.md"


def subclasses(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))}


def documented() -> set[int]:
    return {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}


def test_every_error_has_a_row() -> None:
    import goexfs.fuse.errors
    import goexfs.session.errors  # noqa: F401  both define subclasses

    ours = {kind for kind in subclasses(GoexfsError) if kind.__module__.split(".")[0] in ("goexfs", "snapshots")}
    assert ours - errors.STATUS.keys() == set()


def test_own_statuses_stay_clear_of_a_childs() -> None:
    assert all(64 <= status < 126 or status in (126, 127) for status in errors.STATUS.values())
    assert errors.INTERNAL not in errors.STATUS.values()


def test_the_page_has_the_same_statuses() -> None:
    own = {*errors.STATUS.values(), errors.INTERNAL, errors.INTERRUPTED, errors.READER_GONE, errors.USAGE, 0, 1}
    assert documented() == own


def test_conflicts_are_listed_and_bounded() -> None:
    conflicts = tuple(PathConflict(b"path%d\x1b" % n, ConflictKind.BOTH_MODIFIED, "look") for n in range(60))
    lines = errors.describe(Conflict("refused", conflicts))
    assert lines[0] == "goexfs: refused"
    assert lines[1] == '  "path0\\033": both modified; look'
    assert lines[-1] == "  … and 10 more conflicts"
    assert len(lines) == errors.CONFLICTS_SHOWN + 2
