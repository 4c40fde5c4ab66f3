"""Merging: the base ends up as the mirror, attribute by attribute, or is left as it was."""

import os
import shutil
import signal
import stat
import struct
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.entries import Content, Extent
from snapshots.errors import Conflict, MergeError
from snapshots.layers.base import BaseTree
from snapshots.merging.apply import carry_out
from snapshots.merging.plan import ConflictKind, Plan
from tests.store.operations import base_sequences, perform, sequences
from tests.store.sessions import STAGING, Session, every_kind_of_base, every_kind_of_change, write
from tests.support.trees import differences, picture


@pytest.fixture
def area(tmp_path):
    (tmp_path / "base").mkdir()
    return tmp_path


@pytest.fixture
def start(area):
    made = []

    def begin():
        made.append(Session(area))
        return made[-1]

    yield begin
    for session in made:
        session.mirror.close()


def test_every_kind_of_change(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    places = {"renamed": "moved/now", "dir": "moved", "doomed/saved": "saved", "swap1": "swap2", "deep/a/b": "b"}
    kept = {name: os.lstat(s.base / name).st_ino for name in places}
    s.seal()
    s.merge()
    s.check()
    assert {name: os.lstat(s.base / place).st_ino for name, place in places.items()} == kept
    assert not (s.base / STAGING.decode()).exists()


def test_partly_copied_contents(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal(style="ranges", omit_aliases=True, eager=True)
    s.merge()
    s.check()


def test_nothing_is_done_where_nothing_changed(area, start):
    write(area / "base" / "f", "f")
    s = start()
    s.seal(eager=True)
    assert s.plan().operations == ()


def test_the_same_bytes_again_keep_the_inode(area, start):
    write(area / "base" / "f", "same bytes")
    s = start()
    write(s.there / "f", "same bytes", 10**18 + 99)
    s.seal()
    ino = (s.base / "f").stat().st_ino
    s.merge()
    s.check()
    assert (s.base / "f").stat().st_ino == ino


def test_holes_stay_holes(area, start):
    s = start()
    size = 4 << 20
    with open(s.there / "sparse", "wb") as file:
        file.write(b"start")
        file.truncate(size)
    s.seal()
    (ino, entry), = [(i, e) for i, e in s.state.entries.items() if e.content is not None]
    content = Content(size, 0, (Extent(0, 5, s.objects.put(b"start"), 0),))
    s.state.entries[ino] = msgspec.structs.replace(entry, content=content)
    s.merge()
    s.check()
    assert (s.base / "sparse").stat().st_blocks < 100


def test_holes_of_the_base_stay_holes(area, start):
    size = 4 << 20
    with open(area / "base" / "sparse", "wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"middle")
    s = start()
    with open(s.there / "sparse", "r+b") as file:
        file.write(b"start")
    s.seal()
    (ino, entry), = [(i, e) for i, e in s.state.entries.items() if e.content is not None]
    content = Content(size, size, (Extent(0, 5, s.objects.put(b"start"), 0),))
    s.state.entries[ino] = msgspec.structs.replace(entry, content=content)
    s.merge()
    s.check()
    assert (s.base / "sparse").stat().st_blocks < 100


def test_access_control_lists(area, start):
    def acl(mask):
        entries = [(1, 7, 0xFFFFFFFF), (2, 6, 1000), (4, 5, 0xFFFFFFFF), (16, mask, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
        return b"\2\0\0\0" + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    base = area / "base"
    write(base / "f", "f")
    (base / "d").mkdir()
    try:
        os.setxattr(base, "system.posix_acl_default", acl(7))
    except OSError:
        pytest.skip("no access control lists here")
    s = start()
    os.removexattr(s.there, "system.posix_acl_default")
    for name in ("plain", "new"):
        write(s.there / name, name)
    os.setxattr(s.there / "new", "system.posix_acl_access", acl(6))
    os.setxattr(s.there / "f", "system.posix_acl_access", acl(4))
    os.setxattr(s.there / "d", "system.posix_acl_default", acl(7))
    (s.there / "sub").mkdir()
    write(s.there / "sub" / "inner", "x")
    os.setxattr(s.there, "system.posix_acl_default", acl(7))
    s.seal()
    s.merge()
    s.check()


def test_what_was_below_a_replaced_directory_and_moved(area, start):
    (area / "base" / "d").mkdir()
    write(area / "base" / "d" / "f", "f")
    s = start()
    (s.there / "d" / "f").rename(s.there / "d.tmp")
    (s.there / "d").rmdir()
    (s.there / "d.tmp").rename(s.there / "d")
    s.seal()
    s.merge()
    s.check()


def test_an_opaque_directory(area, start):
    (area / "base" / "d").mkdir()
    write(area / "base" / "d" / "hidden", "hidden")
    write(area / "base" / "d" / "kept", "kept")
    s = start()
    (s.there / "d" / "hidden").unlink()
    write(s.there / "d" / "new", "new")
    os.utime(s.there / "d" / "kept", ns=(1, 1))
    s.seal(eager=True)
    (entry,) = [e for e in s.state.entries.values() if e.origin and e.origin.path == b"d"]
    s.state.entries[entry.ino] = msgspec.structs.replace(entry, opaque=True)
    del s.state.links[entry.ino][b"hidden"]
    s.merge()
    s.check()


def test_a_device(area, start):
    s = start()
    try:
        os.mknod(s.there / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("may not make devices here")
    s.seal()
    s.merge()
    s.check()


def test_trees_deeper_than_path_max(area, start):
    def nest(root, levels, name=b"n" * 100):
        fd = os.open(root, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        return fd

    os.close(nest(area / "base", 30))
    s = start()
    fd = os.open(s.there, os.O_RDONLY)
    names = []
    while names != [] or not names:
        found = os.listdir(fd)
        if not found:
            break
        inner = os.open(found[0], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, names = inner, found
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    s.seal()
    s.merge()
    s.check()


def test_an_earlier_interrupted_merge_is_not_overwritten(area, start):
    s = start()
    write(s.there / "f", "f")
    s.seal()
    (s.base / STAGING.decode()).mkdir()
    with pytest.raises(MergeError, match="interrupted"):
        s.merge()
    assert os.listdir(s.base) == [STAGING.decode()]


# -- conflicts


def test_identities_that_moved_are_conflicts(area, start):
    for name in ("edited", "same result", "only touched", "deleted", "mode", "renamed", "gone", "kind", "untouched"):
        write(area / "base" / name, "content of " + name)
    (area / "base" / "dir").mkdir()
    (area / "base" / "dir2").mkdir()
    (area / "base" / "dir3").mkdir()
    s = start()
    write(s.there / "edited", "by the run")
    write(s.there / "same result", "by both", 10**18 + 6)
    write(s.there / "gone", "by the run")
    write(s.there / "kind", "by the run")
    write(s.there / "untouched", "by the run")
    (s.there / "mode").chmod(0o600)
    (s.there / "renamed").rename(s.there / "now")
    write(s.there / "dir" / "added", "added")
    (s.there / "dir2").chmod(0o700)
    (s.there / "dir3").rename(s.there / "dir4")
    s.seal()
    write(s.base / "edited", "by the user")
    write(s.base / "same result", "by both", 10**18 + 7)
    write(s.base / "mode", "new content")
    (s.base / "renamed").unlink()
    (s.base / "gone").unlink()
    (s.base / "kind").unlink()
    (s.base / "kind").symlink_to("x")
    shutil.rmtree(s.base / "dir")
    (s.base / "dir2").chmod(0o750)
    (s.base / "dir3").rmdir()
    before = picture(s.base)
    assert s.conflicts() == [
        ("dir", ConflictKind.DELETED_IN_BASE),
        ("dir2", ConflictKind.ATTRIBUTES),
        ("dir4", ConflictKind.DELETED_IN_BASE),
        ("edited", ConflictKind.BOTH_MODIFIED),
        ("gone", ConflictKind.DELETED_IN_BASE),
        ("kind", ConflictKind.KIND),
        ("mode", ConflictKind.BOTH_MODIFIED),
        ("now", ConflictKind.DELETED_IN_BASE),
    ]
    with BaseTree(s.mirror.base) as tree, pytest.raises(ValueError):
        carry_out(s.plan(), tree, s.objects, STAGING, lambda: None)
    assert picture(s.base) == before


def test_what_the_run_hides_must_not_have_changed_since_it_began(area, start):
    for name in ("deleted", "replaced", "unchanged"):
        write(area / "base" / name, name)
    (area / "base" / "d").mkdir()
    write(area / "base" / "d" / "f", "f")
    s = start()
    for name in ("deleted", "unchanged"):
        (s.there / name).unlink()
    shutil.rmtree(s.there / "d")
    (s.there / "replaced").unlink()
    write(s.there / "replaced", "new file")
    write(s.there / "both", "one")
    write(s.there / "both the same", "same")
    s.seal()
    time.sleep(0.02)
    since = time.time_ns()
    time.sleep(0.02)
    assert s.conflicts(since) == []
    write(s.base / "deleted", "changed")
    write(s.base / "replaced", "changed")
    write(s.base / "d" / "new", "new")
    write(s.base / "both", "two")
    write(s.base / "both the same", "same")
    assert s.conflicts(since) == [
        ("both", ConflictKind.BOTH_ADDED),
        ("d/new", ConflictKind.MODIFIED_IN_BASE),
        ("deleted", ConflictKind.MODIFIED_IN_BASE),
        ("replaced", ConflictKind.BOTH_MODIFIED),
    ]


def test_changes_elsewhere_in_the_base_are_kept(area, start):
    for name in ("mine", "theirs", "dir/inner"):
        (area / "base" / name).parent.mkdir(exist_ok=True)
        write(area / "base" / name, name)
    s = start()
    write(s.there / "mine", "changed by the run")
    (s.there / "dir").rename(s.there / "moved")
    s.seal()
    since = time.time_ns()
    write(s.base / "theirs", "changed by the user")
    write(s.base / "dir" / "added", "by the user")
    s.merge(since)
    assert (s.base / "mine").read_text() == "changed by the run"
    assert (s.base / "theirs").read_text() == "changed by the user"
    assert (s.base / "moved" / "added").read_text() == "by the user"


def test_what_the_run_only_touched_keeps_the_times_of_the_base(area, start):
    write(area / "base" / "f", "f")
    s = start()
    (s.there / "f").chmod(0o600)
    s.seal()
    write(s.base / "f", "newer", 10**18 + 50)
    (s.base / "f").chmod(0o600)
    s.merge()
    assert (s.base / "f").read_text() == "newer"
    assert (s.base / "f").stat().st_mtime_ns == 10**18 + 50


def test_a_plan_can_be_written_down(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal(style="ranges")
    plan = s.plan()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan


def test_signals_wait_until_the_base_is_whole_again(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal()

    def record():
        signal.raise_signal(signal.SIGINT)  # in the middle of it

    with pytest.raises(KeyboardInterrupt):
        s.merge(record=record)
    s.check()


def test_a_change_between_plan_and_apply_takes_everything_back(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal()
    plan = s.plan()
    write(s.base / "edited", "at the last moment")
    before = picture(s.base)
    with BaseTree(s.mirror.base) as tree, pytest.raises(Conflict) as caught:
        carry_out(plan, tree, s.objects, STAGING, lambda: None)
    assert [c.path for c in caught.value.conflicts] == [b"edited"]
    assert differences(before, picture(s.base)) == []


def test_a_directory_replaced_by_a_symlink_between_plan_and_apply(area, start):
    (area / "base" / "d").mkdir()
    write(area / "base" / "d" / "f", "f")
    outside = area / "outside"
    outside.mkdir()
    write(outside / "f", "f")
    s = start()
    write(s.there / "d" / "f", "changed")
    write(s.there / "d" / "g", "added")
    s.seal()
    plan = s.plan()
    (s.base / "d").rename(s.base / "was d")
    (s.base / "d").symlink_to(outside)
    before, there = picture(s.base), picture(outside)
    with BaseTree(s.mirror.base) as tree, pytest.raises((Conflict, MergeError)):
        carry_out(plan, tree, s.objects, STAGING, lambda: None)
    assert differences(before, picture(s.base)) == []
    assert differences(there, picture(outside)) == []


def test_a_record_that_fails_takes_everything_back(area, start):
    every_kind_of_base(area / "base")
    s = start()
    every_kind_of_change(s.there)
    s.seal()
    before = picture(s.base)

    def record():
        raise RuntimeError("the store is full")

    with pytest.raises(RuntimeError):
        s.merge(record=record)
    assert differences(before, picture(s.base)) == []


@settings(max_examples=2 * settings.default.max_examples)
@given(base_sequences, sequences, st.sampled_from(["whole", "ranges"]), st.booleans(), st.booleans())
def test_merging_makes_the_base_what_the_run_showed(base_ops, ops, style, omit_aliases, eager):
    with tempfile.TemporaryDirectory(prefix="gxm-") as name:
        area = Path(name)
        (area / "base").mkdir()
        for op in base_ops:
            perform(os.fsencode(area / "base"), op)
        s = Session(area)
        try:
            for op in ops:
                perform(os.fsencode(s.there), op)
            s.seal(style=style, omit_aliases=omit_aliases, eager=eager)
            s.merge()
            s.check()
        finally:
            s.mirror.close()
