"""Programs people use, working inside a run: version control, tests, installs, builds, databases, editors."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.support import trees
from tests.support.commands import Goexfs


@pytest.fixture
def goexfs(goexfs_home: Path) -> Goexfs:
    return Goexfs(goexfs_home)


def sh(goexfs: Goexfs, base: Path, script: str, *, status: int = 0) -> bytes:
    """Run a shell script in a run over ``base``, kept as ``work``; returns its output."""
    words = ("run", "--keep", "--name", "work", "--", "sh", "-euc", textwrap.dedent(script))
    return goexfs(*words, cwd=base, status=status).stdout


def merge(goexfs: Goexfs) -> None:
    goexfs("merge", "work")
    assert goexfs("fsck").returncode == 0


GIT = 'git() { command git -c user.name=A -c user.email=a@example.org "$@"; }\n'


def test_git(goexfs: Goexfs, fresh_base: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main", fresh_base], check=True)
    out = sh(
        goexfs,
        fresh_base,
        GIT
        + """
        git add . && git commit -qm first
        test -z "$(git status --porcelain)"
        echo more >> README && git rm -q src/tool.sh && git mv docs/data.bin data.bin
        git status --porcelain
        git commit -qam second && git checkout -qb side HEAD~1 && git checkout -q main && git gc -q && git fsck --strict
        git log --format=%s
        """,
    )
    assert out.split(b"\n")[:4] == [
        b" M README", b"R  docs/data.bin -> data.bin", b" M docs/README.hard", b"D  src/tool.sh",
    ]  # fmt: skip
    assert out.endswith(b"second\nfirst\n")
    assert not list((fresh_base / ".git" / "refs" / "heads").iterdir())
    merge(goexfs)
    git = ["git", "-C", str(fresh_base)]
    assert subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=True).stdout == b""
    subprocess.run([*git, "fsck", "--strict"], capture_output=True, check=True)


def test_git_clone_and_rebase(goexfs: Goexfs, fresh_base: Path) -> None:
    sh(
        goexfs,
        fresh_base,
        GIT
        + """
        git init -q -b main origin && cd origin
        for n in 1 2 3 4 5; do echo "$n" > "file$n"; git add .; git commit -qm "commit $n"; done
        cd .. && git clone -q origin copy && cd copy && git checkout -qb topic HEAD~3
        echo t > topic && git add . && git commit -qm topic
        git rebase -q main && git stash list && echo dirty >> file1 && git stash -q && git stash pop -q
        test "$(git log --format=%s | head -n 2 | tr '\\n' ' ')" = "topic commit 5 "
        """,
    )
    merge(goexfs)
    assert (fresh_base / "copy" / "file5").read_text() == "5\n"


def test_pytest(goexfs: Goexfs, fresh_base: Path) -> None:
    (fresh_base / "test_it.py").write_text(
        "import os\n"
        "def test_a(tmp_path): (tmp_path / 'x').write_text('y')\n"
        "def test_b(monkeypatch): assert os.path.exists('README')\n"
        "def test_c(): assert 1 == 2\n"
    )
    command = f'"{sys.executable}" -m pytest -q -p no:cacheprovider --basetemp=tmp test_it.py'
    out = sh(goexfs, fresh_base, f"unset PYTHONDONTWRITEBYTECODE; {command} || true; {command} -k 'not c'")
    assert b"1 failed, 2 passed" in out
    assert b"2 passed, 1 deselected" in out
    assert any(path.endswith(b".pyc") for path in goexfs.changes("work"))
    assert not (fresh_base / "__pycache__").exists()


def build_wheel(directory: Path) -> Path:
    """A wheel made by hand, so that installing it needs no network and no build."""
    wheel = directory / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "tiny_thing-1.0.dist-info"
        archive.writestr("tiny_thing/__init__.py", "VALUE = 42\n")
        for n in range(50):
            archive.writestr(f"tiny_thing/part{n}.py", f"N = {n}\n" * 50)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in [*archive.namelist(), f"{info}/RECORD"]))
    return wheel


def test_pip_install(goexfs: Goexfs, fresh_base: Path) -> None:
    wheel = build_wheel(fresh_base)
    python = f'"{sys.executable}"'
    out = sh(
        goexfs,
        fresh_base,
        f"""
        {python} -m pip install -q --no-index --no-deps --disable-pip-version-check -t site {wheel.name} 2>/dev/null
        PYTHONPATH=site {python} -c 'import tiny_thing, tiny_thing.part7; print(tiny_thing.VALUE)'
        """,
    )
    assert out == b"42\n"
    merge(goexfs)
    assert len(list((fresh_base / "site" / "tiny_thing").glob("*.py"))) == 51


def test_make_with_gcc(goexfs: Goexfs, fresh_base: Path) -> None:
    (fresh_base / "Makefile").write_text(
        "prog: main.o part.o\n\t$(CC) -o $@ $^\n%.o: %.c part.h\n\t$(CC) -O1 -g -c -o $@ $<\n"
        "lib.a: part.o\n\tar rcs $@ $^\n"
    )
    (fresh_base / "part.h").write_text("int part(void);\n")
    (fresh_base / "part.c").write_text('#include "part.h"\nint part(void) { return 41; }\n')
    (fresh_base / "main.c").write_text(
        '#include <stdio.h>\n#include "part.h"\nint main(void) { printf("%d\\n", part() + 1); return 0; }\n'
    )
    out = sh(
        goexfs,
        fresh_base,
        """
        make -s -j2 prog lib.a && ./prog
        make -q prog
        sleep 0.02 && touch part.h && ! make -q prog && make -s && ./prog
        """,
    )
    assert out == b"42\n42\n"
    merge(goexfs)
    assert subprocess.run([fresh_base / "prog"], capture_output=True, check=True).stdout == b"42\n"
    assert subprocess.run(["make", "-q", "prog"], cwd=fresh_base, check=False).returncode == 0, "mtimes did not survive"


SQLITE = """
import sqlite3
for mode in ("delete", "truncate", "persist", "wal", "memory"):
    db = sqlite3.connect(f"{mode}.db", isolation_level=None)
    assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    db.execute("create table t (n integer primary key, data blob)")
    for batch in range(20):
        db.execute("begin")
        db.executemany("insert into t (data) values (randomblob(?))", [(100 + 37 * n,) for n in range(50)])
        db.execute("rollback" if batch % 5 == 4 else "commit")
    db.execute("delete from t where n % 3 = 0")
    db.execute("vacuum")
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert db.execute("select count(*) from t").fetchone()[0] == 534, db.execute("select count(*) from t").fetchone()
    other = sqlite3.connect(f"{mode}.db", timeout=0, isolation_level=None)
    db.execute("begin immediate")
    try:
        other.execute("begin immediate")
    except sqlite3.OperationalError:
        pass
    else:
        raise SystemExit("two writers at once")
    db.execute("commit")
    other.close()
    db.close()
print("ok")
"""


def test_sqlite(goexfs: Goexfs, fresh_base: Path) -> None:
    (fresh_base / "work.py").write_text(SQLITE)
    with contextlib.closing(sqlite3.connect(fresh_base / "base.db")) as seed:
        seed.execute("create table t (n)")
        seed.executemany("insert into t values (?)", [(n,) for n in range(20_000)])
        seed.commit()
    edit = "import sqlite3; d = sqlite3.connect('base.db'); d.execute('update t set n = -n where n % 100 = 0')"
    out = sh(goexfs, fresh_base, f'"{sys.executable}" work.py; "{sys.executable}" -c "{edit}; d.commit()"')
    assert out == b"ok\n"
    changed = goexfs.changes("work")
    assert changed[b"base.db"] == "M"
    assert b"base.db-journal" not in changed
    merge(goexfs)
    with contextlib.closing(sqlite3.connect(fresh_base / "base.db")) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select count(*) from t where n < 0").fetchone() == (199,)


EDITOR = """
import os, sys
def rename_save(path, text):
    st = os.stat(path)
    with open(path + "~new", "w") as new:
        os.fchmod(new.fileno(), st.st_mode & 0o7777)
        new.write(text); new.flush(); os.fsync(new.fileno())
    os.rename(path + "~new", path)
def backup_save(path, text):
    os.rename(path, path + ".bak")
    with open(path, "w") as new:
        new.write(text)
    os.chmod(path, os.stat(path + ".bak").st_mode & 0o7777)
    os.unlink(path + ".bak")
def in_place_save(path, text):
    with open(path, "r+") as file:
        file.truncate(0); file.write(text)
rename_save("README", "saved by rename\\n")
backup_save("src/tool.sh", "#!/bin/sh\\necho saved\\n")
in_place_save("src/pkg/core.py", "saved = 'in place'\\n")
"""


def test_an_editors_ways_to_save(goexfs: Goexfs, fresh_base: Path) -> None:
    (fresh_base / "edit.py").write_text(EDITOR)
    sh(goexfs, fresh_base, f'"{sys.executable}" edit.py && ./src/tool.sh && sed -i s/saved/SAVED/ README')
    assert goexfs.changes("work") == {b"README": "M", b"src/tool.sh": "M", b"src/pkg/core.py": "M"}
    merge(goexfs)
    assert (fresh_base / "README").read_text() == "SAVED by rename\n"
    assert (fresh_base / "src/tool.sh").read_text() == "#!/bin/sh\necho saved\n"
    assert (fresh_base / "src/tool.sh").stat().st_mode & 0o777 == 0o755
    assert (fresh_base / "src/pkg/core.py").read_text() == "saved = 'in place'\n"


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
@pytest.mark.parametrize("backupcopy", ["yes", "no", "auto"])
def test_vim(goexfs: Goexfs, fresh_base: Path, backupcopy: str) -> None:
    sh(
        goexfs,
        fresh_base,
        f"vim -Nu NONE -i NONE -n -es -c 'set backup backupcopy={backupcopy} backupdir=. backupskip=' "
        "-c '%s/line_7 /edited /' -c wq src/pkg/core.py",
    )
    # The backup has the bytes that the file had.
    assert goexfs.changes("work") == {b"src/pkg/core.py": "M", b"src/pkg/core.py~": "C src/pkg/core.py"}
    merge(goexfs)
    assert "edited = 7\n" in (fresh_base / "src/pkg/core.py").read_text()


@pytest.mark.skipif(shutil.which("tar") is None or shutil.which("cp") is None, reason="tar or cp is not installed")
def test_tar_cp_and_rm(goexfs: Goexfs, fresh_base: Path) -> None:
    before = trees.picture(fresh_base, times=False)
    sh(
        goexfs,
        fresh_base,
        """
        tar cf /tmp/all.tar .
        mkdir out && tar xpf /tmp/all.tar -C out && cp -a src copied && diff -r src copied && diff -r src out/src
        mkdir deep && cd deep && for n in $(seq 60); do mkdir "d$n" && cd "d$n"; done && echo bottom > file
        """,
    )
    merge(goexfs)
    shutil.rmtree(fresh_base / "deep")
    shutil.rmtree(fresh_base / "copied")
    assert trees.differences(before, trees.picture(fresh_base / "out", times=False)) == []


def test_mmap(goexfs: Goexfs, fresh_base: Path) -> None:
    program = (
        "import mmap\n"
        "with open('docs/data.bin', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "    m[1000:1003] = b'MAP'; m.flush(); assert open('docs/data.bin', 'rb').read()[1000:1003] == b'MAP'\n"
        "    m[200000:200003] = b'END'\n"
    )
    original = (fresh_base / "docs/data.bin").read_bytes()
    goexfs("run", "--keep", "--name", "work", "--", sys.executable, "-c", program, cwd=fresh_base)
    merge(goexfs)
    assert (fresh_base / "docs/data.bin").read_bytes() == (
        original[:1000] + b"MAP" + original[1003:200000] + b"END" + original[200003:]
    )


def test_the_childs_temporary_directory_is_private(goexfs: Goexfs, fresh_base: Path, area: Path) -> None:
    mark = Path("/tmp") / f"goexfs-{area.name}"
    sh(goexfs, fresh_base, f"echo x > {mark} && test -s {mark}")
    assert not mark.exists()
    assert os.listdir(fresh_base) != []
