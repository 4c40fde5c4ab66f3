"""Diff: every change and only changes, on uppers derived from real directories."""

import json
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.review.diff import Status, as_json, diff
from tests.store.mirror import DictObjects, Mirror
from tests.store.operations import base_sequences, perform, sequences
from tests.support.trees import picture


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base"
    path.mkdir()
    return path


@pytest.fixture
def run(base, tmp_path):
    made = []

    def start():
        made.append(Mirror(base, tmp_path / "run"))
        return made[-1], tmp_path / "run"

    yield start
    for mirror in made:
        mirror.close()


def changes_of(mirror, style="whole", **kwargs):
    objects = DictObjects()
    state = mirror.state(objects, style=style, omit_aliases=kwargs.pop("omit_aliases", False))
    with BaseTree(mirror.base) as tree:
        return [
            (str(c.status), c.path.decode(), c.old_path and c.old_path.decode(), c.attrs)
            for c in diff(UpperTree(state), tree, objects, **kwargs)
        ]


def short(mirror, **kwargs):
    return [
        f"{status} {old}->{path}" if old else f"{status} {path}" + (f" [{','.join(attrs)}]" if attrs else "")
        for status, path, old, attrs in changes_of(mirror, **kwargs)
    ]


def write(path: Path, text, mtime=10**18 + 5):
    path.write_text(text)
    os.utime(path, ns=(mtime, mtime))


def test_nothing_changed(base, run):
    write(base / "f", "x")
    mirror, _ = run()
    assert short(mirror) == []


def test_each_status(base, run):
    for name in ("same", "modified", "deleted", "renamed", "retyped", "mode", "rewritten"):
        write(base / name, f"content of {name}")
    mirror, there = run()
    write(there / "added", "")
    write(there / "modified", "other content")
    (there / "deleted").unlink()
    (there / "renamed").rename(there / "now")
    (there / "retyped").unlink()
    (there / "retyped").mkdir()
    (there / "retyped" / "inner").write_text("")
    (there / "mode").chmod(0o600)
    write(there / "rewritten", "content of rewritten", 10**18 + 9)
    assert short(mirror) == [
        "A added", "D deleted", "X mode [mode]", "M modified", "R renamed->now", "T retyped", "A retyped/inner",
    ]
    assert "X rewritten [mtime]" in short(mirror, times=True)


def test_a_renamed_directory_is_one_change_and_what_changed_below_it(base, run):
    for i in range(5):
        (base / "old" / "sub").mkdir(parents=True, exist_ok=True)
        write(base / "old" / "sub" / f"f{i}", str(i))
    mirror, there = run()
    (there / "old").rename(there / "new")
    write(there / "new" / "sub" / "f1", "modified")
    (there / "new" / "sub" / "f2").unlink()
    (there / "new" / "sub" / "f3").rename(there / "out")
    write(there / "new" / "sub" / "g", "added")
    assert short(mirror) == [
        "R old->new", "M new/sub/f1", "A new/sub/g", "D old/sub/f2", "R old/sub/f3->out",
    ]


def test_a_deleted_directory_lists_what_was_below_minus_what_moved(base, run):
    (base / "d" / "e").mkdir(parents=True)
    write(base / "d" / "e" / "f", "f")
    write(base / "d" / "g", "g")
    mirror, there = run()
    (there / "d" / "e" / "f").rename(there / "saved")
    shutil.rmtree(there / "d")
    assert short(mirror) == ["D d", "D d/e", "D d/g", "R d/e/f->saved"]


def test_deleted_and_created_anew_at_the_same_name(base, run):
    (base / "d").mkdir()
    write(base / "d" / "same", "same")
    write(base / "d" / "other", "other")
    write(base / "d" / "gone", "gone")
    mirror, there = run()
    shutil.rmtree(there / "d")
    (there / "d").mkdir()
    write(there / "d" / "same", "same")
    write(there / "d" / "other", "changed")
    assert short(mirror) == ["D d/gone", "M d/other"]


def test_renamed_away_and_something_new_in_its_place_is_not_a_rename(base, run):
    write(base / "f", "version 1")
    mirror, there = run()
    (there / "f").rename(there / "f~")
    write(there / "f", "version 2")
    assert short(mirror) == ["M f", "A f~"]


def test_swapped_files(base, run):
    write(base / "a", "content of a")
    write(base / "b", "content of b")
    mirror, there = run()
    (there / "a").rename(there / "t")
    (there / "b").rename(there / "a")
    (there / "t").rename(there / "b")
    assert short(mirror) == ["M a", "M b"]


def test_a_directory_moved_into_what_was_below_it(base, run):
    (base / "x" / "d").mkdir(parents=True)
    write(base / "x" / "f", "f")
    mirror, there = run()
    (there / "x" / "d").rename(there / "e")
    (there / "x").rename(there / "e" / "x")
    assert short(mirror) == ["R x/d->e", "R x->e/x"]


def test_symlinks_devices_and_fifos(base, run):
    (base / "l").symlink_to("one")
    os.mkfifo(base / "p")
    mirror, there = run()
    (there / "l").unlink()
    (there / "l").symlink_to("two")
    (there / "p").unlink()
    (there / "p").write_text("")
    os.mkfifo(there / "q")
    assert short(mirror) == ["M l", "T p", "A q"]


def test_attributes(base, run):
    write(base / "f", "f")
    write(base / "x", "x")
    os.setxattr(base / "x", "user.a", b"1")
    (base / "d").mkdir()
    mirror, there = run()
    os.chown(there / "f", 1000, 1001)
    os.setxattr(there / "x", "user.a", b"2")
    (there / "d").chmod(0o700)
    there.chmod(0o700)
    assert short(mirror) == ["X  [mode]", "X d [mode]", "X f [uid,gid]", "X x [xattrs]"]


def test_hard_links(base, run):
    write(base / "f", "f")
    write(base / "one", "linked")
    os.link(base / "one", base / "two")
    mirror, there = run()
    os.link(there / "f", there / "g")
    write(there / "n", "new")
    os.link(there / "n", there / "m")
    (there / "two").unlink()
    write(there / "two", "linked")
    objects = DictObjects()
    with BaseTree(mirror.base) as tree:
        found = {c.path: c for c in diff(UpperTree(mirror.state(objects)), tree, objects)}
    assert {path: (str(c.status), c.link_to) for path, c in found.items()} == {
        b"g": ("A", b"f"), b"m": ("A", None), b"n": ("A", b"m"), b"two": ("X", None),
    }
    assert found[b"two"].attrs == ("links",)


def test_a_changed_file_is_changed_under_all_its_base_names(base, run):
    (base / "deep" / "er").mkdir(parents=True)
    write(base / "a", "shared")
    os.link(base / "a", base / "deep" / "er" / "b")
    mirror, there = run()
    write(there / "a", "changed!")
    assert short(mirror) == ["M a", "M deep/er/b"]
    assert short(mirror, omit_aliases=True) == ["M a", "M deep/er/b"]


def test_paths_limit_the_diff(base, run):
    (base / "d").mkdir()
    write(base / "d" / "f", "f")
    write(base / "dx", "x")
    mirror, there = run()
    write(there / "d" / "f", "changed")
    write(there / "dx", "changed")
    assert short(mirror, paths=[b"d"]) == ["M d/f"]
    assert short(mirror, paths=[b"d/"]) == ["M d/f"]
    assert short(mirror, paths=[b"dx", b"nothing"]) == ["M dx"]
    assert short(mirror, paths=[b""]) == ["M d/f", "M dx"]


def test_what_vanished_from_the_base_meanwhile_is_no_deletion(base, run):
    write(base / "f", "f")
    (base / "d").mkdir()
    write(base / "d" / "g", "g")
    mirror, there = run()
    (there / "f").unlink()
    (there / "d" / "g").unlink()
    objects = DictObjects()
    state = mirror.state(objects)
    (base / "f").unlink()
    shutil.rmtree(base / "d")
    with BaseTree(mirror.base) as tree:
        assert diff(UpperTree(state), tree, objects) == []


def test_json_of_odd_names(base, run):
    mirror, there = run()
    for name in (b"plain", b"new\nline", b"\xff\xfe"):
        os.close(os.open(os.path.join(os.fsencode(there), name), os.O_CREAT))
    os.symlink(b"\xff", os.path.join(os.fsencode(there), b"s"))
    objects = DictObjects()
    with BaseTree(mirror.base) as tree:
        found = json.loads(json.dumps([as_json(c) for c in diff(UpperTree(mirror.state(objects)), tree, objects)]))
    assert [f["path"] for f in found] == ["new\nline", "plain", "s", "��"]
    assert [f.get("path_base64") for f in found] == [None, None, None, "//4="]
    assert found[2]["after"]["target_base64"] == "/w=="


def test_depth_beyond_recursion_and_path_max(base, run, tmp_path):
    levels, name = 1200, b"directory"
    fd = os.open(base, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    from snapshots.entries import ROOT_INO, WHITEOUT, UpperState

    try:
        with BaseTree(os.fsencode(base)) as tree:
            state = UpperState({}, {ROOT_INO: {name: WHITEOUT}}, 2)
            found = diff(UpperTree(state), tree, DictObjects())
            assert len(found) == levels
            assert len(found[-1].path) > 4096
    finally:
        subprocess.run(["rm", "-rf", base / name.decode()], check=True)


# -- property: the diff, applied to a picture of the base, is a picture of the run


def facts_of(side):
    facts = {"mode": oct(side.mode), "uid": side.uid, "gid": side.gid, "xattrs": side.xattrs}
    if side.kind == stat.S_IFREG:
        with side.open() as content:
            facts["bytes"] = content.read(0, content.size + 1)
            assert len(facts["bytes"]) == content.size == side.size
    elif side.kind == stat.S_IFLNK:
        facts["target"] = side.target
    return facts


def flat_picture(root):
    result = {}
    for path, facts in picture(root, times=False, contents=False).items():
        kept = {k: v for k, v in facts.items() if k in ("mode", "uid", "gid", "target")}
        kept["xattrs"] = {os.fsencode(k): v for k, v in facts["xattrs"].items()}
        if "size" in facts:
            kept["bytes"] = Path(os.fsdecode(os.path.join(os.fsencode(root), path))).read_bytes()
        result[b"" if path == b"." else path] = kept
    return result


def apply_to_picture(before, changes):
    """What a reader of the diff would do."""
    tree = dict(before)
    for c in changes:
        if c.status is Status.DELETED:
            assert c.path in tree, "deletes something that is not there"
            del tree[c.path]
    moved = {}
    renames = [c for c in changes if c.status is Status.RENAMED]
    for c in sorted(renames, key=lambda c: -c.old_path.count(b"/")):
        parts = {p: f for p, f in tree.items() if p == c.old_path or p.startswith(c.old_path + b"/")}
        for p in parts:
            del tree[p]
        moved[c.path] = {p[len(c.old_path) :]: f for p, f in parts.items()}
    for c in sorted(renames, key=lambda c: c.path.count(b"/")):
        for suffix, facts in moved[c.path].items():
            assert c.path + suffix not in tree, "renames onto something"
            tree[c.path + suffix] = facts
    for c in changes:
        if c.status is Status.DELETED:
            continue
        if c.status is Status.ADDED:
            assert c.path not in tree, "adds what is there"
        else:
            assert c.path in tree
            if c.status is not Status.RENAMED:
                assert tree[c.path] != facts_of(c.after) or c.attrs == ("links",), "not a change"
        tree[c.path] = facts_of(c.after)
    return tree


@settings(max_examples=2 * settings.default.max_examples)
@given(base_sequences, sequences, st.sampled_from(["whole", "ranges"]), st.booleans(), st.booleans())
def test_the_diff_applied_to_the_base_is_the_run(base_ops, ops, style, omit_aliases, eager):
    with tempfile.TemporaryDirectory(prefix="gxd-") as area:
        root = os.fsencode(area)
        base, there = os.path.join(root, b"base"), os.path.join(root, b"run")
        os.mkdir(base)
        for op in base_ops:
            perform(base, op)
        mirror = Mirror(Path(os.fsdecode(base)), Path(os.fsdecode(there)))
        try:
            for op in ops:
                perform(there, op)
            objects = DictObjects()
            state = mirror.state(objects, style=style, omit_aliases=omit_aliases, eager=eager)
            with BaseTree(base) as tree:
                changes = diff(UpperTree(state), tree, objects)
                assert [c.path for c in changes] == sorted(c.path for c in changes)
                assert apply_to_picture(flat_picture(base), changes) == flat_picture(there)
        finally:
            mirror.close()


def test_the_cost_goes_with_the_changes_not_with_the_base(tmp_path, monkeypatch):
    """Ten changes are found with as many questions to a base of 50 files as to one of 1,000."""
    asked = []
    for size in (50, 1000):
        base = tmp_path / f"base{size}"
        for number in range(size):
            (base / f"d{number % 10}").mkdir(parents=True, exist_ok=True)
            (base / f"d{number % 10}" / f"f{number}").write_text(f"{number}\n")
        mirror = Mirror(base, tmp_path / f"run{size}")
        there = tmp_path / f"run{size}"
        for number in range(5):
            write(there / f"d{number}" / f"f{number}", "changed\n")
            (there / f"d{number}" / f"f{number + 10}").unlink()
        objects = DictObjects()
        state = mirror.state(objects)
        mirror.close()
        count = 0
        with BaseTree(os.fsencode(base)) as tree, monkeypatch.context() as patched:
            for name in ("stat", "list", "open", "xattrs", "readlink"):
                real = getattr(BaseTree, name)

                def counted(*args, real=real, **kwargs):
                    nonlocal count
                    count += 1
                    return real(*args, **kwargs)

                patched.setattr(BaseTree, name, counted)
            assert len(diff(UpperTree(state), tree, objects)) == 10
        asked.append(count)
    assert asked[0] == asked[1] < 100
