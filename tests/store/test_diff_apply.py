"""The diff of A to B, applied to A by git, is B, and taken back it is A: on random trees."""

import os
import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.layers.base import BaseTree
from snapshots.layers.basepaths import BasePaths
from snapshots.layers.tree import UpperTree
from snapshots.review.compare import Sides
from snapshots.review.diff import diff
from snapshots.review.moves import with_moves
from snapshots.review.patch import patch
from tests.store.mirror import DictObjects, Mirror
from tests.store.test_patch import as_git_sees

NAMES = (b"a", b"b c", b"d", b"e\n", b"\xff", b'"q"', b"\xc3\xbc")
CONTENTS = (
    b"", b"one\n", b"one", b"one\ntwo\nthree\n", b"one\r\ntwo\r\n", b"one\nTWO\nthree", b"\0binary\n", b"\0binary",
    b"\xff\xfe not utf-8\n", b"@@ -1 +1 @@\n-x\n+y\n", b"diff --git a/x b/x\n", b"\\ No newline at end of file\n",
    b"".join(b"line %d\n" % n for n in range(60)), b"".join(b"line %d\n" % n for n in range(60) if n != 30), b"\n\n\n",
    bytes(range(256)) * 4,
)  # fmt: skip

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(b"/".join)
files = st.tuples(st.just("file"), st.sampled_from(CONTENTS), st.booleans())
links = st.tuples(st.just("link"), st.sampled_from([b"a", b"../x", b"/etc/passwd", b"b c"]), st.just(False))
trees = st.dictionaries(paths, files | links, max_size=6)
moves_made = st.lists(st.tuples(st.sampled_from(["rename", "copy"]), paths, paths), max_size=3)


def put(root: bytes, tree) -> None:
    for path, (kind, data, executable) in sorted(tree.items()):
        full = os.path.join(root, path)
        try:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            if os.path.lexists(full):
                os.unlink(full)
            if kind == "link":
                os.symlink(data, full)
                continue
            with open(full, "wb") as file:
                file.write(data)
            os.chmod(full, 0o755 if executable else 0o644)
        except OSError:
            pass  # below a file, or where a directory is


def move(root: bytes, how: str, old: bytes, new: bytes) -> None:
    old, new = os.path.join(root, old), os.path.join(root, new)
    if not os.path.lexists(old) or os.path.lexists(new) or new.startswith(old + b"/"):
        return
    try:
        os.makedirs(os.path.dirname(new), exist_ok=True)
        if how == "rename":
            os.rename(old, new)
        else:
            subprocess.run([b"cp", b"-a", b"--", old, new], check=True)
    except OSError:
        pass


def without_empty_directories(root: bytes) -> None:
    """Git does not know of them, so they could be in its way."""
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != root and not os.listdir(folder):
            os.rmdir(folder)


def git(target: Path, data: bytes, *options: str) -> None:
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(target.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "apply", "--whitespace=nowarn", *options, "-"]
    done = subprocess.run(command, input=data, cwd=target, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, (done.stderr + data).decode(errors="replace")


@settings(max_examples=40)
@given(trees, trees, moves_made, st.sets(paths, max_size=3), st.sampled_from([0, 1, 3]), st.booleans())
def test_the_diff_of_two_trees_applied_to_the_first_is_the_second(before, edits, moved, dropped, context, copies):
    with tempfile.TemporaryDirectory(prefix="gxd-") as name:
        area = Path(name)
        (area / "a").mkdir()
        put(os.fsencode(area / "a"), before)
        mirror = Mirror(area / "a", area / "b")
        try:
            there = os.fsencode(area / "b")
            for path in dropped:
                if os.path.isfile(os.path.join(there, path)) or os.path.islink(os.path.join(there, path)):
                    os.unlink(os.path.join(there, path))
            for how, old, new in moved:
                move(there, how, old, new)
            put(there, edits)
            without_empty_directories(there)
            objects = DictObjects()
            with BaseTree(mirror.base) as tree:
                base = BasePaths(tree)
                sides = Sides(base, objects)
                read = [sides.of_base(path, st) for path in sorted(before) if (st := base.stat(path)) is not None]
                changes = with_moves(diff(UpperTree(mirror.state(objects)), tree, objects), read)
                data = b"".join(patch(changes, context=context, copies=copies))
        finally:
            mirror.close()
        unified = ["--unidiff-zero"] if context == 0 else []
        first, second = as_git_sees(area / "a"), as_git_sees(area / "b")
        if b"diff --git" in data:
            git(area / "a", data, *unified)
            assert as_git_sees(area / "a") == second, data.decode(errors="replace")
            if b"\ncopy from " in data:
                return  # git apply -R leaves copies there
            git(area / "a", data, "-R", *unified)
        assert as_git_sees(area / "a") == first
        assert (first == second) == (b"diff --git" not in data)
