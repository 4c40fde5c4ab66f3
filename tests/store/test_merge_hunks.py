"""Merging parts of files: whatever is merged in whatever order, the run shows the same at every step."""

import os
import random
import shutil
import stat

import pytest

from snapshots.errors import Conflict, MergeError, SelectionRefused
from snapshots.layers.aliases import with_aliases
from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import UpperTree
from snapshots.merging import hunks
from snapshots.merging.choosing import Chosen
from snapshots.merging.merge import merge
from snapshots.merging.partial import together
from snapshots.merging.undo import undo
from snapshots.review.compare import Sides, carried
from snapshots.review.diff import Status, diff
from tests.store.sessions import every_kind_of_change, write
from tests.support.trees import differences, picture

OLD = "".join(f"line {n}\n" for n in range(40))


def edited(text, *numbers):
    lines = text.splitlines(keepends=True)
    for number in numbers:
        lines[number] = f"LINE {number}\n"
    return "".join(lines)


def with_changes(w, look):
    with BaseTree(os.fsencode(w.base)) as base:
        tree = with_aliases(UpperTree(w.store.upper(w.run.id).load()), BasePaths(base))
        return look(tree, diff(tree, base, w.store.objects), base)


def view(w):
    """What the run shows over the base as it is now: path -> what is there."""

    def look(tree, _, base):
        paths = BasePaths(base)
        sides, shown, waiting = Sides(paths, w.store.objects), {}, [tree.root]
        while waiting:
            place = waiting.pop()
            side = sides.of_place(place)
            if side is None:
                continue
            content = None
            if side.kind == stat.S_IFREG:
                with side.open() as file:
                    content = file.read(0, file.size)
            xattrs = tuple(sorted(carried(side.xattrs).items()))
            shown[place.path] = oct(side.mode), side.uid, side.gid, side.rdev, side.target, content, xattrs
            if side.is_dir:
                waiting += tree.children(place, paths)
        return shown

    return with_changes(w, look)


def offered(w):
    """Groups of changes, with the names of the parts of each."""
    return with_changes(
        w, lambda tree, changes, _: [
            [(change.path, hunks.parts(change).ids) for change in group] for group in together(tree.state, changes)
        ]
    )  # fmt: skip


def test_a_hunk(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    before = view(w)
    first, second = dict(offered(w)[0])[b"text"]
    result = merge(store, w.run, hunks={b"text": Chosen(frozenset({first}))})
    assert result.partly
    assert (w.base / "text").read_text() == edited(OLD, 3)
    assert view(w) == before
    assert dict(offered(w)[0])[b"text"] == (second,)
    merge(store, w.run)
    w.assert_merged()


def test_a_hunk_can_be_undone_and_the_run_has_it_again(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    first, _ = dict(offered(w)[0])[b"text"]
    number = merge(store, w.run, hunks={b"text": Chosen(frozenset({first}))}).number
    undo(store, number)
    assert (w.base / "text").read_text() == OLD
    assert view(w)[b"text"][5].decode() == edited(OLD, 3, 20)
    assert dict(offered(w)[0])[b"text"][0] == first
    assert merge(store, w.run).settled == ()
    assert (w.base / "text").read_text() == edited(OLD, 3, 20)


def test_edited_content(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    before = view(w)
    merge(store, w.run, hunks={b"text": Chosen(frozenset(), b"something else\n")})
    assert (w.base / "text").read_text() == "something else\n"
    assert view(w) == before


@pytest.mark.parametrize("ours", [b"aaa", b"zzz"], ids=["sorts before the run's", "sorts after it"])
def test_a_hunk_that_was_edited_can_be_shown_and_edited_again(ours):
    """What is shown of it is its own edit and the file's lines around that, whatever was edited."""
    text = hunks.compare(OLD.encode(), edited(OLD, 10, 20).encode())
    hunk = hunks.hunks(text)[0]
    shown = hunks.unified(text, hunk)[1:]
    mine = [line.replace(b"LINE 10", ours) for line in shown]
    first = hunks.edited(text, hunk, mine)
    assert hunks.unified(text, first) == [b"@@ -8,7 +8,7 @@", *mine]
    assert first.edits == ((10, 11, 10, (ours + b"\n",)),)
    again = hunks.edited(text, first, hunks.unified(text, first)[1:])
    assert again == first
    assert hunks.apply(text, again.edits) == edited(OLD, 10).replace("LINE 10", ours.decode()).encode()


def test_a_part_of_a_new_file_in_a_new_directory(work, store):
    def change(there):
        (there / "a" / "b").mkdir(parents=True)
        write(there / "a" / "b" / "text", "one\ntwo\n")
        write(there / "a" / "other", "other")

    w = work(change)
    before = view(w)
    result = merge(store, w.run, hunks={b"a/b/text": Chosen(frozenset(), b"one\n")})
    assert result.completed == (b"a", b"a/b")
    assert sorted(os.listdir(w.base / "a")) == ["b"]
    assert (w.base / "a" / "b" / "text").read_text() == "one\n"
    assert view(w) == before
    assert {path: len(ids) for [(path, ids)] in offered(w)} == {b"a/b/text": 1, b"a/other": 1}
    merge(store, w.run)
    w.assert_merged()


def test_a_file_of_a_new_directory_alone(work, store):
    def change(there):
        (there / "a" / "b").mkdir(parents=True)
        write(there / "a" / "b" / "text", "one\ntwo\n")
        write(there / "a" / "other", "other")

    w = work(change)
    before = view(w)
    merge(store, w.run, choose=lambda change: change.path == b"a/other")
    assert sorted(os.listdir(w.base / "a")) == ["other"]
    assert view(w) == before
    merge(store, w.run, choose=lambda change: change.path in (b"a/b", b"a/b/text"))
    w.assert_merged()


def test_mode_and_content_apart(work, store):
    def change(there):
        write(there / "text", edited(OLD, 3))
        (there / "text").chmod(0o755)

    w = work(change, lambda base: write(base / "text", OLD))
    before = view(w)
    assert [ids[0] for _, ids in offered(w)[0]] == ["attributes"]
    merge(store, w.run, hunks={b"text": Chosen(frozenset({"attributes"}))})
    assert (w.base / "text").read_text() == OLD
    assert (w.base / "text").stat().st_mode & 0o777 == 0o755
    assert view(w) == before
    merge(store, w.run)
    w.assert_merged()


def test_hunks_of_a_renamed_file_need_the_renaming(work, store):
    def change(there):
        (there / "text").rename(there / "dir" / "now")
        write(there / "dir" / "now", edited(OLD, 3, 20))

    w = work(change, lambda base: write(base / "text", OLD))
    before = view(w)
    [(path, (lead, first, _))] = offered(w)[0]
    assert (path, lead) == (b"dir/now", "rename")
    with pytest.raises(SelectionRefused, match="renaming"):
        merge(store, w.run, hunks={path: Chosen(frozenset({first}))})
    merge(store, w.run, hunks={path: Chosen(frozenset({"rename", first}))})
    assert not (w.base / "text").exists()
    assert (w.base / "dir" / "now").read_text() == edited(OLD, 3)
    assert view(w) == before
    merge(store, w.run)
    w.assert_merged()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({b"nowhere": Chosen(frozenset({"whole"}))}, "no change at nowhere"),
        ({b"text": Chosen(frozenset({"whole"}))}, "no part whole"),
        ({b"text": Chosen(frozenset())}, "nothing of that kind"),
    ],
)
def test_what_is_not_there(work, store, selection, message):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    with pytest.raises(SelectionRefused, match=message):
        merge(store, w.run, hunks=selection)
    w.assert_untouched()


def test_a_base_that_moved(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    write(w.base / "text", edited(OLD, 30), mtime=10**18 + 9)
    name = dict(offered(w)[0])[b"text"][0]
    with pytest.raises((SelectionRefused, Conflict)):
        merge(store, w.run, hunks={b"text": Chosen(frozenset({name}))})
    assert (w.base / "text").read_text() == edited(OLD, 30)


def test_what_somebody_wrote_after_a_part_was_merged_is_a_conflict(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    first, _ = dict(offered(w)[0])[b"text"]
    merge(store, w.run, hunks={b"text": Chosen(frozenset({first}))})
    write(w.base / "text", "mine\n")
    with pytest.raises(Conflict):
        merge(store, w.run)
    assert (w.base / "text").read_text() == "mine\n"


def test_the_gate_sees_what_would_be_merged_and_can_refuse(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    first, _ = dict(offered(w)[0])[b"text"]
    seen = []
    with pytest.raises(ZeroDivisionError):
        merge(store, w.run, hunks={b"text": Chosen(frozenset({first}))}, gate=lambda state: seen.append(state) or 1 / 0)
    w.assert_untouched()
    contents = [entry.content for entry in seen[0].entries.values() if entry.content is not None]
    assert [content.size for content in contents] == [len(edited(OLD, 3))]


def test_a_base_that_changes_at_the_gate(work, store):
    w = work(lambda there: write(there / "text", edited(OLD, 3, 20)), lambda base: write(base / "text", OLD))
    with pytest.raises((MergeError, Conflict)):
        merge(store, w.run, gate=lambda state: write(w.base / "text", "mine\n"))
    assert (w.base / "text").read_text() == "mine\n"


@pytest.mark.parametrize("seed", range(8))
def test_in_any_order(work, store, seed):
    """Every kind of change, some part of it at a time."""
    rng = random.Random(seed)

    def before(base):
        for name in ("edited", "replaced", "renamed"):
            write(base / name, OLD)
        write(base / "moded", OLD)

    def change(there):
        every_kind_of_change(there)
        for name in ("edited", "moded"):
            write(there / name, edited(OLD, 1, 12, 13, 30))
        (there / "moded").chmod(0o640)
        (there / "fresh" / "in").mkdir(parents=True)
        for name in "abc":
            write(there / "fresh" / "in" / name, f"{name}\n" * 9)

    w = work(change, before)
    shown = view(w)
    for _ in range(40):
        if w.state != "kept":
            break
        group = rng.choice(offered(w))
        if len(group) == 1 and len(group[0][1]) > 1:
            path, ids = group[0]
            lead = [ids[0]] if ids[0] == hunks.RENAME else []
            selection = {path: Chosen(frozenset([*lead, rng.choice(ids)]))}
        else:
            selection = {path: Chosen(frozenset(ids)) for path, ids in group}
        merge(store, w.run, hunks=selection)
        if w.state == "kept":
            assert view(w) == shown
    if w.state == "kept":
        merge(store, w.run)
    assert differences(picture(w.there, times=False), picture(w.base, times=False)) == []


def test_every_status_is_offered(work):
    w = work(every_kind_of_change)
    seen = with_changes(w, lambda tree, changes, _: {change.status for change in changes})
    assert seen >= {Status.ADDED, Status.MODIFIED, Status.DELETED, Status.RENAMED, Status.TYPE_CHANGED}


def opaque(there):
    shutil.rmtree(there / "doomed")
    (there / "doomed").mkdir()
    write(there / "doomed" / "other", "new in a directory of the same name")


def hard_links(there):
    write(there / "one", "under three names")


def renamed_directory(there):
    (there / "dir").rename(there / "moved")
    write(there / "moved" / "sub" / "f", "edited there")


def exchanged(there):
    (there / "swap1").rename(there / "t")
    (there / "swap2").rename(there / "swap1")
    (there / "t").rename(there / "swap2")
    write(there / "swap1" / "f", "and edited")


def retyped(there):
    (there / "retyped").unlink()
    (there / "retyped").mkdir()
    write(there / "retyped" / "inner", "inner")


@pytest.mark.parametrize(
    ("change", "chosen"),
    [
        (lambda there: shutil.rmtree(there / "doomed"), {b"doomed/saved"}),
        (lambda there: shutil.rmtree(there / "doomed"), {b"doomed"}),
        (opaque, {b"doomed/other"}),
        (opaque, {b"doomed/saved"}),
        (hard_links, {b"one"}),
        (hard_links, {b"three", b"two"}),
        (renamed_directory, {b"moved"}),
        (renamed_directory, {b"moved/sub/f"}),
        (exchanged, {b"swap1/f"}),
        (retyped, {b"retyped/inner"}),
        (retyped, {b"retyped"}),
    ],
)
def test_a_part_that_makes_no_sense_alone_is_refused_by_name(work, store, change, chosen):
    w = work(change)
    with pytest.raises(SelectionRefused, match=r"as a whole|has another name|came from|cannot be left out alone"):
        merge(store, w.run, choose=lambda change: change.path in chosen)
    w.assert_untouched()
    groups = with_changes(w, lambda tree, changes, _: together(tree.state, changes))
    [group] = [group for group in groups if chosen & {change.path for change in group}]
    merge(store, w.run, choose=lambda change: change.path in {each.path for each in group})
    w.assert_merged()


def test_what_is_needed_for_a_part_is_added_and_said(work, store):
    def change(there):
        (there / "a" / "b" / "c").mkdir(parents=True)
        for name in ("a/x", "a/b/y", "a/b/c/z"):
            write(there / name, name)

    w = work(change)
    assert merge(store, w.run, choose=lambda change: change.path == b"a/b/y").completed == (b"a", b"a/b")
    assert sorted(os.listdir(w.base / "a")) == ["b"]
    assert sorted(os.listdir(w.base / "a" / "b")) == ["y"]
    merge(store, w.run)
    w.assert_merged()
