"""What a patch has no word for, in readable lines."""

import os
import struct
import subprocess

import pytest

from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.review import remarks
from snapshots.review.diff import as_json, diff
from snapshots.review.patch import patch
from tests.store.mirror import DictObjects, Mirror

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 7, 0xFFFFFFFF), (2, 5, 1000), (4, 4, 0xFFFFFFFF), (16, 5, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


@pytest.fixture
def compare(tmp_path):
    """Changes made by a function in a mirror of what another one made in a base."""
    made = []

    def compared(prepare, change, **kwargs):
        base, there = tmp_path / "base", tmp_path / "run"
        base.mkdir()
        prepare(base)
        made.append(Mirror(base, there))
        change(there)
        objects = DictObjects()
        tree = BaseTree(os.fsencode(base))
        return diff(UpperTree(made[-1].state(objects, **kwargs)), tree, objects, times=False)

    yield compared
    for mirror in made:
        mirror.close()


def said(changes) -> list[str]:
    return [line for change in changes for line in remarks.remarks(change)]


def test_access_control_lists_are_readable(compare):
    def prepare(base):
        (base / "f").write_text("x")

    def change(there):
        os.setxattr(there / "f", "system.posix_acl_access", ACL)

    changes = compare(prepare, change)
    lines = said(changes)
    assert "access control list of f: none -> user::rwx,user:1000:r-x,group::r--,mask::r-x,other::---" in lines
    assert as_json(changes[0])["xattrs"]["system.posix_acl_access"]["after"]["text"].startswith("user::rwx,user:1000")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "none"), (b"", '""'), (b"plain", '"plain"'), (b"\0\1\xff", "0x0001ff"), (b"a\nb", "0x610a62"),
        (b"x" * 100, '"' + "x" * 60 + '"… 100 bytes'), ("ü".encode(), '"ü"'),
    ],
)  # fmt: skip
def test_values_are_short_and_harmless(value, shown):
    assert remarks.xattr_value(b"user.x", value) == shown


def test_what_is_no_list_is_shown_as_bytes():
    for value in (b"", b"\2\0\0\0x", b"\3\0\0\0", b"\2\0\0\0" + b"\xff" * 8):
        assert remarks.acl_text(value) in (None, "")
    assert remarks.acl_text(struct.pack("<I", 2)) == ""


def test_kinds_rights_and_attributes_of_new_files(compare):
    def prepare(base):
        (base / "f").write_text("x")
        (base / "g").write_text("x")

    def change(there):
        (there / "f").unlink()
        (there / "f").symlink_to("g")
        (there / "suid").write_text("x")
        (there / "suid").chmod(0o4755)
        os.setxattr(there / "suid", "user.a", b"1")

    lines = said(compare(prepare, change))
    assert lines == ["kind of f: file -> symlink", "mode of suid: 4755", 'extended attribute user.a of suid: "1"']


def test_sparse_files_are_said_to_be(compare):
    def prepare(base):
        with open(base / "s", "wb") as file:
            file.truncate(1 << 20)

    def change(there):
        with open(there / "s", "r+b") as file:
            file.write(b"data")

    (line,) = [line for line in said(compare(prepare, change, style="ranges")) if line.startswith("sparse")]
    assert line.startswith("sparse: s has 1048576 bytes, ")


def test_a_large_patched_file_is_told_by_its_ranges(compare):
    def prepare(base):
        (base / "l").write_bytes(b"x" * 100_000)

    def change(there):
        with open(there / "l", "r+b") as file:
            file.seek(50_000)
            file.write(b"y" * 8)
            file.seek(0, os.SEEK_END)
            file.write(b"more")

    changes = compare(prepare, change, style="ranges")
    data = b"".join(patch(changes, large=1000))
    assert b"# of l written: bytes 50000-50007 (8)\n# of l written: bytes 100000-100003 (4)\n" in data
    assert data.endswith(b"Binary files a/l and b/l differ\n")


def test_ranges_are_counted_where_they_are_not_listed():
    ranges = [(n * 100, 10) for n in range(remarks.MOST_RANGES + 5)]
    lines = remarks.ranges_text(ranges)
    assert len(lines) == remarks.MOST_RANGES + 1
    assert lines[-1] == "… 5 more ranges, 50 bytes"


def test_comments_are_no_obstacle_to_git(compare, tmp_path):
    def prepare(base):
        (base / "f\nname").write_text("x\n")

    def change(there):
        (there / "f\nname").write_text("y\n")
        (there / "f\nname").chmod(0o640)
        os.setxattr(there / "f\nname", "user.a", b"line\ndiff --git a/x b/x")

    data = b"".join(patch(compare(prepare, change)))
    assert data.count(b"diff --git") == 1
    done = subprocess.run(["git", "apply"], cwd=tmp_path / "base", input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "base" / "f\nname").read_text() == "y\n"
