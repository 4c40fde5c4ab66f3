"""Patches, through the real ``git apply`` and the real ``patch -p1``."""

import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given

from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.review.diff import diff
from snapshots.review.patch import patch, quoted
from tests.store.mirror import DictObjects, Mirror
from tests.store.operations import base_sequences, perform, sequences


def as_git_sees(root):
    """Files and symlinks only: kind, executable bit, content."""
    found = {}
    for folder, names, files in os.walk(os.fsencode(root)):
        for name in names + files:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[os.path.relpath(path, os.fsencode(root))] = ("link", os.readlink(path))
            elif os.path.isfile(path):
                executable = bool(os.stat(path).st_mode & 0o100)
                found[os.path.relpath(path, os.fsencode(root))] = (executable, Path(os.fsdecode(path)).read_bytes())
    return found


def patch_of(mirror, **kwargs):
    objects = DictObjects()
    state = mirror.state(objects)
    with BaseTree(mirror.base) as tree:
        return b"".join(patch(diff(UpperTree(state), tree, objects), **kwargs))


def git_apply(target, data):
    if b"diff --git" not in data:
        return
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(target).parent), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"], input=data, cwd=target, capture_output=True, env=environment
    )
    assert done.returncode == 0, (done.stderr + data).decode(errors="replace")


def gnu_patch(target, data):
    if b"diff --git" not in data:
        return
    command = ["patch", "-p1", "--force", "--no-backup-if-mismatch"]
    done = subprocess.run(command, input=data, cwd=target, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr + data).decode(errors="replace")


@pytest.fixture
def area(tmp_path):
    (tmp_path / "base").mkdir()
    return tmp_path


class Session:
    def __init__(self, area):
        self.area = area
        self.mirror = Mirror(area / "base", area / "run")
        self.there = area / "run"

    def round_trip(self, *, programs=(git_apply, gnu_patch), **kwargs):
        data = patch_of(self.mirror, **kwargs)
        expected = as_git_sees(self.there)
        for program in programs:
            target = self.area / program.__name__
            subprocess.run(["cp", "-a", self.area / "base", target], check=True)
            program(target, data)
            assert as_git_sees(target) == expected, program.__name__
        return data


@pytest.fixture
def start(area):
    made = []

    def begin():
        made.append(Session(area))
        return made[-1]

    yield begin
    for session in made:
        session.mirror.close()


def lines(n, **changed):
    return "".join(changed.get(f"l{i}", f"line {i}\n") for i in range(n))


def test_edits_additions_deletions_and_renames(area, start):
    base = area / "base"
    (base / "edited").write_text(lines(50))
    (base / "deleted").write_text("gone\n")
    (base / "renamed").write_text("same\n")
    (base / "moved and edited").write_text(lines(50))
    (base / "no newline").write_text("a\nb")
    (base / "script").write_text("#!/bin/sh\n")
    s = start()
    (s.there / "edited").write_text(lines(50, l10="ten\n", l40=""))
    (s.there / "deleted").unlink()
    (s.there / "renamed").rename(s.there / "new name")
    (s.there / "moved and edited").rename(s.there / "elsewhere")
    (s.there / "elsewhere").write_text(lines(50, l3="three\n"))
    (s.there / "no newline").write_text("a\nc")
    (s.there / "script").chmod(0o755)
    (s.there / "sub").mkdir()
    (s.there / "sub" / "added").write_text("new\n")
    (s.there / "sub" / "tool").write_text("new\n")
    (s.there / "sub" / "tool").chmod(0o755)
    (s.there / "empty dir").mkdir()
    data = s.round_trip()
    assert b"similarity index 100%\nrename from renamed\nrename to new name\n" in data
    assert b"old mode 100644\nnew mode 100755\n" in data
    assert b"empty dir" not in data
    assert b"\\ No newline at end of file" in data


def test_empty_files(area, start):
    (area / "base" / "goes").write_text("")
    (area / "base" / "filled").write_text("")
    (area / "base" / "emptied").write_text("x\n")
    s = start()
    (s.there / "goes").unlink()
    (s.there / "comes").write_text("")
    (s.there / "filled").write_text("x\n")
    (s.there / "emptied").write_text("")
    s.round_trip()


def test_symlinks(area, start):
    (area / "base" / "kept").symlink_to("old/target")
    (area / "base" / "goes").symlink_to("x")
    (area / "base" / "file").write_text("file\n")
    (area / "base" / "link").symlink_to("link")
    s = start()
    (s.there / "kept").unlink()
    (s.there / "kept").symlink_to("new/target")
    (s.there / "goes").unlink()
    (s.there / "comes").symlink_to("../outside")
    (s.there / "file").unlink()
    (s.there / "file").symlink_to("instead")
    (s.there / "link").unlink()
    (s.there / "link").write_text("instead\n")
    s.round_trip(programs=(git_apply,))


def test_added_and_removed_symlinks_with_patch(area, start):
    (area / "base" / "goes").symlink_to("x")
    s = start()
    (s.there / "goes").unlink()
    (s.there / "comes").symlink_to("there")
    s.round_trip()


def test_a_renamed_directory_is_expanded(area, start):
    base = area / "base"
    (base / "old" / "sub").mkdir(parents=True)
    for name in ("kept", "edited", "deleted", "moved", "sub/deep"):
        (base / "old" / name).write_text(lines(20) + name)
    s = start()
    (s.there / "old").rename(s.there / "new")
    (s.there / "new" / "edited").write_text(lines(20, l5="five\n"))
    (s.there / "new" / "deleted").unlink()
    (s.there / "new" / "moved").rename(s.there / "out")
    (s.there / "new" / "added").write_text("added\n")
    s.round_trip()


def test_odd_names(area, start):
    base = area / "base"
    names = [b"with space", b'quo"te', b"tab\there", b"new\nline", b"back\\slash", b"\xc3\xbc", b"\xff\xfe raw"]
    names.append(b"\x01")
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(base), name))).write_text("one\ntwo\n")
    s = start()
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(s.there), name)))
        path.write_text("one\nTWO\n")
        Path(os.fsdecode(os.path.join(os.fsencode(s.there), b"new " + name))).write_text("new\n")
        Path(os.fsdecode(os.path.join(os.fsencode(s.there), b"empty " + name))).write_text("")
    s.round_trip()


def test_quoting_is_gits(tmp_path):
    names = [b"plain", b'a"b', b"a\tb\n\a\v", b"\xff", b"\\", b"a\x7f"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    listed = subprocess.run(
        ["git", "-c", "core.quotePath=false", "ls-files", "--others"], cwd=tmp_path, capture_output=True, check=True
    ).stdout.splitlines()
    # Without quotePath git leaves bytes above 127 as they are; we do only where they are UTF-8.
    expected = {line if line != b"\xff" else b'"\\377"' for line in listed}
    assert {quoted(name) for name in names} == expected


def test_binary_files(area, start):
    rng = random.Random(1)
    old = rng.randbytes(5000)
    (area / "base" / "edited").write_bytes(old)
    (area / "base" / "goes").write_bytes(b"\0" + old)
    (area / "base" / "moves").write_bytes(b"\0" + old)
    s = start()
    (s.there / "edited").write_bytes(old[:2000] + b"changed" + old[2000:])
    (s.there / "goes").unlink()
    (s.there / "comes").write_bytes(b"\0" + rng.randbytes(300))
    (s.there / "moves").rename(s.there / "moved")
    (s.there / "moved").write_bytes(b"\0" + old + b"more")
    data = s.round_trip(programs=(git_apply,))
    assert b"GIT binary patch" in data
    assert b"Binary files a/edited and b/edited differ" in patch_of(s.mirror, binary=False)


def test_large_files_are_not_read(area, start):
    (area / "base" / "large").write_bytes(b"x" * 100)
    s = start()
    (s.there / "large").write_bytes(b"y" * 100)
    data = patch_of(s.mirror, large=99)
    assert data == b"diff --git a/large b/large\nBinary files a/large and b/large differ\n"


def test_kinds_that_change(area, start):
    base = area / "base"
    (base / "d").mkdir()
    (base / "d" / "inner").write_text("inner\n")
    (base / "d" / "moves").write_text(lines(20))
    (base / "f").write_text("file\n")
    s = start()
    (s.there / "d" / "moves").rename(s.there / "z")
    shutil.rmtree(s.there / "d")
    (s.there / "d").write_text("now a file\n")
    (s.there / "f").unlink()
    (s.there / "f").mkdir()
    (s.there / "f" / "inner").write_text("below\n")
    s.round_trip(programs=(git_apply,))


def test_what_git_cannot_express_is_a_comment(area, start):
    base = area / "base"
    (base / "f").write_text("f\n")
    (base / "m").write_text("m\n")
    (base / "x").write_text("x\n")
    os.mkfifo(base / "goes")
    s = start()
    os.mkfifo(s.there / "pipe")
    (s.there / "goes").unlink()
    os.chown(s.there / "f", 1000, 0)
    (s.there / "m").chmod(0o600)
    os.setxattr(s.there / "x", "user.a", b"1")
    os.link(s.there / "x", s.there / "y")
    (s.there / "x").write_text("changed\n")
    data = s.round_trip()
    for line in (
        b"# FIFO made: pipe\n", b"# FIFO removed: goes\n", b"# uid of f: 0 -> 1000\n", b"# mode of m: 0644 -> 0600\n",
        b"# extended attribute user.a of x: none -> \"1\"\n", b"# hard link: y is x\n",
    ):
        assert line in data


@given(base_sequences, sequences)
def test_any_patch_goes_through_git(base_ops, ops):
    with tempfile.TemporaryDirectory(prefix="gxp-") as name:
        area = Path(name)
        (area / "base").mkdir()
        for op in base_ops:
            perform(os.fsencode(area / "base"), op)
        for folder, _, _ in os.walk(area / "base", topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)  # git does not know of empty directories, so they can be in its way
        (area / "base").mkdir(exist_ok=True)
        session = Session(area)
        try:
            for op in ops:
                perform(os.fsencode(session.there), op)
            session.round_trip(programs=(git_apply,))
        finally:
            session.mirror.close()
