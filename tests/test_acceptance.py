"""The main job on real input: a run over a copy of the interpreter's library, diffed, merged, discarded."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import trees
from tests.support.commands import CHECKOUT, Goexfs, eventually
from tests.support.users import OrdinaryUser


@pytest.fixture
def goexfs(goexfs_home: Path) -> Goexfs:
    return Goexfs(goexfs_home)


def every_kind_of_change(root: Path) -> dict[bytes, str]:
    """Edit, create, delete, rename, chmod, symlink, hard-link, in ``root``; returns what a diff has to say."""
    expected: dict[bytes, str] = {}

    def changed(path: str, status: str) -> Path:
        expected[path.encode()] = status
        return root / path

    # Edits: in the middle, at the end, truncated, replaced by a rename, to the same bytes (which is no change).
    with changed("argparse.py", "M").open("r+b") as file:
        file.seek(10_000)
        file.write(b"EDITED IN PLACE")
    with changed("ast.py", "M").open("ab") as file:
        file.write(b"\n# appended\n")
    os.truncate(changed("base64.py", "M"), 1000)
    (root / "bisect.py.new").write_bytes(b"# replaced\n")
    (root / "bisect.py.new").replace(changed("bisect.py", "M"))
    same = (root / "calendar.py").read_bytes()
    (root / "calendar.py").write_bytes(same)
    (root / "cmd.py").unlink()
    changed("cmd.py", "T").symlink_to("code.py")

    # Creations.
    changed("made", "A").mkdir()
    changed("made/empty", "A").mkdir(mode=0o711)
    changed("made/file", "A").write_bytes(b"new\n" * 1000)
    changed("made/large", "A").write_bytes(os.urandom(3_000_000))
    changed("made/link", "A").symlink_to("../argparse.py")
    changed("made/dangling", "A").symlink_to("/nowhere/at all")
    os.link(root / "made/file", changed("made/hard", "A"))
    os.mkfifo(changed("made/fifo", "A"), 0o640)
    with changed("made/sparse", "A").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    expected[b"made/not\xffutf8\nname"] = "A"
    Path(os.fsdecode(os.path.join(os.fsencode(root), b"made/not\xffutf8\nname"))).write_bytes(b"x")

    # Deletions: a file, a tree.
    changed("chunk.py" if (root / "chunk.py").exists() else "code.py", "D").unlink()
    for folder, names, files in os.walk(root / "wsgiref", topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
            expected[os.fsencode(os.path.relpath(os.path.join(folder, name), root))] = "D"
        for name in names:
            os.rmdir(os.path.join(folder, name))
            expected[os.fsencode(os.path.relpath(os.path.join(folder, name), root))] = "D"
    changed("wsgiref", "D").rmdir()

    # Renames: a file, a file with an edit, a directory with an edit below it, a file out of a renamed directory.
    (root / "copy.py").rename(changed("made/copy.py", "R copy.py"))
    (root / "csv.py").rename(changed("csv2.py", "R csv.py"))
    with (root / "csv2.py").open("ab") as file:
        file.write(b"# renamed and edited\n")
    (root / "json").rename(changed("json_renamed", "R json"))
    with changed("json_renamed/decoder.py", "M").open("ab") as file:
        file.write(b"# edited below a renamed directory\n")
    (root / "json_renamed" / "scanner.py").rename(changed("scanner.py", "R json/scanner.py"))

    # Attributes: mode, times, owner, extended attributes, a hard link to a base file.
    changed("dis.py", "X").chmod(0o755)
    changed("email", "X").chmod(0o700)
    os.setxattr(changed("enum.py", "X"), "user.note", b"value \0 with a NUL")
    os.utime(root / "fnmatch.py", ns=(1_000_000_000_000_000_001, 1_500_000_000_999_999_999))
    if os.geteuid() == 0:
        os.chown(changed("ftplib.py", "X"), 12345, 54321)
    os.link(root / "glob.py", changed("glob_hard.py", "A"))
    return expected


def test_merge_makes_the_base_what_the_mount_showed(goexfs: Goexfs, standard_library_base: Path, area: Path) -> None:
    base = standard_library_base
    before = trees.picture(base)
    assert len(before) >= 1500
    with goexfs.mounted(area / "mnt", base, "--name", "work") as mount:
        assert trees.differences(before, trees.picture(mount)) == []
        expected = every_kind_of_change(mount)
        assert goexfs.changes("work") == expected
        shown = trees.picture(mount)
    assert trees.differences(before, trees.picture(base)) == [], "the base was written before the merge"
    assert goexfs.changes("work") == expected
    with goexfs.mounted(area / "mnt", "--run", "work") as mount:
        assert trees.differences(shown, trees.picture(mount)) == [], "a remount shows something else"
    assert goexfs("fsck").returncode == 0

    goexfs("merge", "work")
    assert trees.differences(shown, trees.picture(base)) == []
    assert goexfs("fsck").returncode == 0
    assert [run["state"] for run in goexfs.json("ls", "--all")["runs"]] == ["merged"]


def test_discard_leaves_no_trace(goexfs: Goexfs, standard_library_base: Path, area: Path) -> None:
    base = standard_library_base
    goexfs("run", "--base", base, "--discard", "--", "true")  # the store exists
    before, held = trees.picture(base), goexfs.bytes_held()
    with goexfs.mounted(area / "mnt", base, "--name", "work") as mount:
        every_kind_of_change(mount)
    assert goexfs.bytes_held() > held + 3_000_000
    goexfs("discard", "work")
    assert trees.differences(before, trees.picture(base)) == []
    assert goexfs.bytes_held() <= held + 64 * 1024, "the store is not as small as before"
    assert goexfs("fsck").returncode == 0


def test_the_same_through_run_at_the_bases_own_path(goexfs: Goexfs, standard_library_base: Path) -> None:
    """The child sees the run at the base's own path, and what it saw is what the merge makes."""
    base = standard_library_base
    program = (
        "import os, pickle, sys; from pathlib import Path\n"
        "from tests import test_acceptance; from tests.support import trees\n"
        "here = Path(os.getcwd()); expected = test_acceptance.every_kind_of_change(here)\n"
        "assert os.environ['GOEXFS_BASE'] == str(here) and os.environ['GOEXFS_RUN']\n"
        "sys.stdout.buffer.write(pickle.dumps((expected, trees.picture(here)))); sys.exit(7)\n"
    )
    before = trees.picture(base)
    done = goexfs("run", "--keep", "--name", "work", "--", sys.executable, "-c", program, cwd=base, status=7)
    assert trees.differences(before, trees.picture(base)) == []
    import pickle

    expected, shown = pickle.loads(done.stdout)
    assert goexfs.changes("work") == expected
    goexfs("merge", "work")
    assert trees.differences(shown, trees.picture(base)) == []


def test_ten_runs_at_once_do_not_see_each_other(goexfs: Goexfs, standard_library_base: Path) -> None:
    base = standard_library_base
    before = trees.picture(base)
    script = (
        'set -e; test ! -e mine; echo "$1" > mine; echo "$1" >> ast.py; rm argparse.py; mv json "json$1"; '
        'for n in 1 2 3 4 5 6 7 8 9; do sleep 0.1; test "$(cat mine)" = "$1"; test "$(tail -n 1 ast.py)" = "$1"; '
        'test "$(ls -d json*)" = "json$1"; done'
    )
    runs = [
        goexfs.start("run", "--base", base, "--name", f"run{n}", "--keep", "--", "sh", "-c", script, "sh", str(n))
        for n in range(10)
    ]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, (out, err)
    assert trees.differences(before, trees.picture(base)) == []
    for n in range(10):
        assert goexfs.changes(f"run{n}") == {
            b"mine": "A",
            b"ast.py": "M",
            b"argparse.py": "D",
            f"json{n}".encode(): "R json",
        }
    goexfs("discard", *[f"run{n}" for n in range(10)])
    assert goexfs("fsck").returncode == 0


def a_second() -> float:
    """One second; more on a machine that has more to do than processors to do it with."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def test_outside_changes_show_within_a_second(goexfs: Goexfs, standard_library_base: Path, area: Path) -> None:
    base = standard_library_base
    with goexfs.mounted(area / "mnt", base, "--name", "work") as mount:
        for name in ("ast.py", "bisect.py", "calendar.py", "json", "email"):
            os.stat(mount / name)
        assert (mount / "ast.py").read_bytes() == (base / "ast.py").read_bytes()
        assert not (mount / "outside").exists()  # a negative entry, to be forgotten too

        (base / "ast.py").write_bytes(b"shorter, from outside\n")
        (base / "outside").write_bytes(b"new, from outside\n")
        (base / "bisect.py").unlink()
        (base / "calendar.py").rename(base / "calendar_renamed.py")
        (base / "json" / "added.py").write_bytes(b"in a directory\n")
        (base / "email" / "__init__.py").chmod(0o600)

        pending = {
            "a rewritten file": lambda: (mount / "ast.py").read_bytes() == b"shorter, from outside\n",
            "a new file": lambda: (mount / "outside").exists(),
            "a deleted file": lambda: not (mount / "bisect.py").exists(),
            "the old name": lambda: not (mount / "calendar.py").exists(),
            "the new name": lambda: (mount / "calendar_renamed.py").exists(),
            "a new file in a directory": lambda: (mount / "json" / "added.py").exists(),
            "its name in the listing": lambda: "added.py" in os.listdir(mount / "json"),
            "a mode": lambda: stat.S_IMODE(os.stat(mount / "email" / "__init__.py").st_mode) == 0o600,
        }

        def all_shown() -> bool:
            for what in [what for what, shown in pending.items() if shown()]:
                del pending[what]
            return not pending

        assert eventually(all_shown, within=a_second()), f"not shown: {list(pending)}"
        assert goexfs.changes("work") == {}
        (base / "ast.py").write_bytes(b"a second time, and longer than the first time\n" * 1000)
        assert eventually(lambda: (mount / "ast.py").stat().st_size == 46_000, within=a_second())
        assert (mount / "ast.py").read_bytes() == (base / "ast.py").read_bytes()


def test_outside_changes_never_corrupt_a_touched_file(goexfs: Goexfs, standard_library_base: Path, area: Path) -> None:
    """A file the run has written keeps the run's content, also where its unwritten ranges came from the base."""
    base = standard_library_base
    large = base / "large.bin"
    original = os.urandom(4 << 20)
    large.write_bytes(original)
    small = (base / "ast.py").read_bytes()
    with goexfs.mounted(area / "mnt", base, "--name", "work") as mount:
        with (mount / "large.bin").open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"RUN" * 1000)
        with (mount / "ast.py").open("ab") as file:
            file.write(b"# the run's\n")
        expected = original[: 1 << 20] + b"RUN" * 1000 + original[(1 << 20) + 3000 :]
        assert (mount / "large.bin").read_bytes() == expected
        # Replaced as editors and git do it: the old inode lives on while somebody needs it.
        (base / "new").write_bytes(b"outside\n")
        (base / "new").replace(large)
        (base / "new").write_bytes(b"outside\n")
        (base / "new").replace(base / "ast.py")
        time.sleep(1.0)
        assert (mount / "ast.py").read_bytes() == small + b"# the run's\n"
        assert (mount / "large.bin").read_bytes() == expected
    assert large.read_bytes() == b"outside\n"
    done = goexfs("merge", "work", status=None)
    assert done.returncode not in (0, 1), "a conflict has an exit status of its own"
    assert b"Traceback" not in done.stderr
    assert large.read_bytes() == b"outside\n", "a refused merge changed the base"
    assert (base / "ast.py").read_bytes() == b"outside\n"


def test_the_mount_is_the_base_to_git(goexfs: Goexfs, standard_library_base: Path) -> None:
    """``git status`` of an untouched tree, seen at its own path: inode numbers and times are the base's."""
    base = standard_library_base
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(base)]
    subprocess.run([*git, "init", "-q"], check=True, timeout=60)
    subprocess.run([*git, "add", "."], check=True, timeout=60)
    subprocess.run([*git, "commit", "-qm", "base"], check=True, timeout=60)
    done = goexfs(
        "run", "--keep", "--name", "work", "--", "git", "--no-optional-locks", "status", "--porcelain", cwd=base,
        env={**goexfs.environ, "GIT_TRACE2_PERF": "2", "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.stdout == b""
    assert goexfs.changes("work") == {}


@pytest.mark.parametrize("path", ["README", "src/pkg/core.py"])
def test_one_edit_in_place_is_merged(goexfs: Goexfs, fresh_base: Path, path: str) -> None:
    """No name changes with it, so no directory does either: neither the base itself nor those on the way."""
    goexfs("run", "--merge", "--", "sh", "-c", f"echo edited >> {path}", cwd=fresh_base)
    assert (fresh_base / path).read_text().endswith("\nedited\n")
    assert [run["state"] for run in goexfs.json("ls", "--all")["runs"]] == ["merged"]


def test_the_main_job_as_an_ordinary_user(user: OrdinaryUser) -> None:
    """Mounted by fusermount3, confined by bubblewrap in a user namespace."""
    base = user.home / "project"
    make = "mkdir project && cd project && echo one > edited && touch deleted && mkdir -p dir/sub && ln edited hard"
    assert user.run(["sh", "-c", make]).returncode == 0
    goexfs = [sys.executable, "-m", "goexfs"]
    before = trees.picture(base)

    change = "echo two >> edited; rm deleted; mv dir moved; ln -s moved/sub link; install -m 750 edited new; id -u"
    done = user.run([*goexfs, "run", "--keep", "--name", "work", "--", "sh", "-euc", change], cwd=base)
    assert (done.returncode, done.stdout) == (0, f"{user.uid}\n"), done.stderr
    assert trees.differences(before, trees.picture(base)) == []
    done = user.run([*goexfs, "diff", "work", "--name-status"])
    expected = ["D\tdeleted", "M\tedited", "M\thard", "A\tlink", "R\tdir\tmoved", "A\tnew"]
    assert done.stdout.splitlines() == expected, done
    mountpoint = user.home / "mnt"
    mountpoint.mkdir()
    os.chown(mountpoint, user.uid, user.gid)
    look = (
        f'goexfs() {{ "{sys.executable}" -m goexfs "$@"; }}; goexfs mount --run work {mountpoint}; '
        f"cat {mountpoint}/hard; readlink {mountpoint}/link; goexfs umount work"
    )
    done = user.run(["sh", "-euc", look])
    assert done.stdout.splitlines()[:3] == ["one", "two", "moved/sub"], done
    done = user.run([*goexfs, "merge", "work"])
    assert done.returncode == 0, done
    assert (base / "hard").read_text() == "one\ntwo\n"
    assert (base / "new").stat().st_mode & 0o7777 == 0o750
    assert (base / "moved" / "sub").is_dir()
    assert {path.lstat().st_uid for path in base.rglob("*")} == {user.uid}
    assert user.run([*goexfs, "fsck"]).returncode == 0
