"""What a diff and a merge must come to, by brute force: every path of two directories is compared.

Knows pictures of trees (``trees``) and changes; knows no overlay and no upper.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snapshots.review.changes import Change, Side, Status
from tests.support.trees import Picture, differences, picture

_CONTENT = ("content", "size", "target", "rdev")
_ATTRS = ("mode", "uid", "gid", "xattrs")

Facts = dict[str, Any]


def check_diff(base: Path, plain: Path, changes: Iterable[Change]) -> None:
    """Applied to the picture of *base*, *changes* give the picture of *plain*, and none of them changes nothing."""
    before, after = _without_dot(picture(base)), _without_dot(picture(plain))
    listed = [change for change in changes if change.path]
    paths = [change.path for change in listed if change.status is not Status.DELETED]
    assert len(set(paths)) == len(paths), f"a path is listed twice: {sorted(paths)}"
    for change in listed:
        _check_change(change, before, after)
    predicted = _predicted(before, after, listed)
    wanted = {path: _facts(facts) for path, facts in after.items()}
    assert predicted == wanted, "\n".join(["not in the diff:", *differences(predicted, wanted)])


def _without_dot(tree: Picture) -> Picture:
    return {path: facts for path, facts in tree.items() if path != b"."}


def _facts(facts: Facts) -> Facts:
    return {key: value for key, value in facts.items() if key in _CONTENT or key in _ATTRS}


def _check_change(change: Change, before: Picture, after: Picture) -> None:
    old = change.before.path if change.before is not None else change.path
    if change.status is Status.ADDED:
        assert change.path not in before, f"{change} was there before"
    elif change.status is Status.DELETED:
        assert change.path not in after, f"{change} is still there"
    elif change.status is Status.RENAMED:
        assert old not in after and change.path not in before, f"{change} did not move"
    if change.after is not None:
        _check_side(change.after, after[change.path])
    if change.before is not None:
        _check_side(change.before, before[old])
    if change.status in (Status.MODIFIED, Status.ATTRS_CHANGED, Status.RENAMED):
        was, now = before[old], after[change.path]
        content = {key: was.get(key) for key in _CONTENT} != {key: now.get(key) for key in _CONTENT}
        assert change.content_changed == content, f"{change}: content changed: {content}"
        assert change.status is not Status.ATTRS_CHANGED or change.attrs, f"{change} changes nothing"
        for attr in set(change.attrs) & set(_ATTRS):
            assert _attr(was, attr) != _attr(now, attr), f"{change}: {attr} is the same"


def _attr(facts: Facts, name: str) -> Any:
    return facts[name]


def _check_side(side: Side, facts: Facts) -> None:
    assert oct(side.mode) == facts["mode"], side
    assert (side.uid, side.gid) == (facts["uid"], facts["gid"]), side
    assert side.target == facts.get("target"), side
    if "size" in facts:
        assert side.size == facts["size"], side


def _predicted(before: Picture, after: Picture, changes: list[Change]) -> dict[bytes, Facts]:
    deleted = {change.path for change in changes if change.status is Status.DELETED}
    retyped = {change.path for change in changes if change.status is Status.TYPE_CHANGED}
    renamed = {change.old_path: change.path for change in changes if change.old_path is not None}
    now_at: dict[bytes, bytes | None] = {b"": b""}
    predicted: dict[bytes, Facts] = {}
    for path in sorted(before, key=lambda path: (path.count(b"/"), path)):
        above, _, name = path.rpartition(b"/")
        over = now_at[above]
        if path in deleted:
            now_at[path] = None
        elif path in renamed:
            now_at[path] = renamed[path]
        else:
            now_at[path] = None if over is None else (over + b"/" + name if over else name)
        place = now_at[path]
        if place is not None:
            predicted[place] = _facts(before[path])
        if path in retyped:
            now_at[path] = None  # what was in it
    for change in changes:
        if change.status is Status.DELETED:
            continue
        facts = _facts(after[change.path])
        if change.status in (Status.ADDED, Status.TYPE_CHANGED):
            predicted[change.path] = facts
            continue
        changed = [*change.attrs, *(_CONTENT if change.content_changed else ())]
        predicted[change.path] = {
            key: facts.get(key) if key in changed else value for key, value in predicted[change.path].items()
        }
    return predicted


def check_merged(base: Path, plain: Path, *, set_by_hand: int) -> None:
    """After a merge *base* is *plain*; times from *set_by_hand* on come from two clocks and are not compared."""
    pictures = [picture(base), picture(plain)]
    for found in pictures:
        for facts in found.values():
            facts.pop("nlink", None)  # what a merge replaced is one more name of a hard link, until it cannot be undone
            if facts["mtime_ns"] >= set_by_hand:
                facts["mtime_ns"] = "now"
    lines = differences(*pictures)
    assert not lines, "\n".join(["after the merge:", *lines])
