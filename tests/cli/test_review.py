"""``diff``, ``merge``, ``discard``, ``ls``, ``show``, ``gc`` and ``fsck`` as processes, on real runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from goexfs import open_store
from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.trees import differences, picture

EDIT = """
echo more >> README; rm src/tool.sh; mv src/pkg src/parcel; chmod 600 src/parcel/core.py
printf 'a\\nb\\n' > new.txt; printf '\\001\\002\\000' > new.bin; ln -s new.txt symlink; chmod +x docs/data.bin
sed -i s/line_7/LINE_7/ src/parcel/core.py; rm docs/link; mkdir -p deep/er; echo x > deep/er/file
"""
HOSTILE = (
    """touch -- "$(printf 'x\\033[2Jy')" "$(printf 'new\\nline')" "$(printf 'raw\\377')" 'spa ce' '"quoted"' -dash"""
)


@pytest.fixture
def edited(goexfs: Command) -> str:
    """A kept run with changes of every kind."""
    return goexfs.kept(EDIT, name="work")


def test_name_status(goexfs: Command, edited: str) -> None:
    done = goexfs("diff", edited, "--name-status")
    assert done.returncode == 0
    assert "M\tREADME\n" in done.stdout
    assert "D\tsrc/tool.sh\n" in done.stdout
    assert "R\tsrc/pkg\tsrc/parcel\n" in done.stdout
    assert "A\tnew.txt\n" in done.stdout
    assert "X\tdocs/data.bin\n" in done.stdout


@pytest.mark.parametrize("apply", [["git", "apply", "-p1"], ["patch", "-p1", "-s"]], ids=["git", "patch"])
def test_a_piped_patch_applies(apply: list[str], goexfs: Command, area: Path, fresh_base: Path) -> None:
    """Off a terminal the patch is the default, byte for byte, whatever is in the files."""
    script = "echo more >> README; rm src/tool.sh; printf 'caf\\351 \\033[1m\\r\\n' > latin1; echo x >> src/pkg/core.py"
    if apply[0] == "git":
        script += "; " + EDIT.replace("rm src/tool.sh;", "").replace("echo more >> README;", "")
    run = goexfs.kept(script)
    done = goexfs("diff", run, text=False)
    assert done.returncode == 0, done.stderr
    copy = area / "copy"
    shutil.copytree(fresh_base, copy, symlinks=True)
    applied = subprocess.run(apply, cwd=copy, input=done.stdout, capture_output=True, check=False)
    assert applied.returncode == 0, applied.stderr
    assert goexfs("merge", run).returncode == 0
    assert no_metadata(copy) == no_metadata(fresh_base)


def no_metadata(root: Path) -> dict[bytes, tuple[object, ...]]:
    """What a git patch carries: kinds, contents, targets, the executable bit; no empty directories."""
    return {
        path: (facts["mode"][:4], int(facts["mode"], 8) & 0o100, facts.get("content"), facts.get("target"))
        for path, facts in picture(root).items()
        if "content" in facts or "target" in facts
    }


def test_stat(goexfs: Command, edited: str) -> None:
    done = goexfs("diff", edited, "--stat")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ README +\| +1 \+$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"files? changed", done.stdout.splitlines()[-1])


def test_json(goexfs: Command, edited: str) -> None:
    document = goexfs.json("diff", edited)
    assert document["run"] == edited
    by_path = {change["path"]: change for change in document["changes"]}
    assert by_path["README"]["status"] == "M"
    assert by_path["README"]["before"]["size"] == 11
    assert by_path["src/parcel"]["old_path"] == "src/pkg"
    assert by_path["symlink"]["after"]["target"] == "new.txt"


def test_paths_are_of_the_current_directory_or_the_base(
    goexfs: Command, edited: str, fresh_base: Path, area: Path
) -> None:
    def listed(*paths: str | Path, cwd: Path) -> list[str]:
        done = goexfs("diff", edited, "--name-status", *paths, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return sorted(line.split("\t")[-1] for line in done.stdout.splitlines())

    assert listed("docs", cwd=fresh_base) == ["docs/README.hard", "docs/data.bin", "docs/link"]
    assert listed("data.bin", cwd=fresh_base / "docs") == ["docs/data.bin"]
    assert listed(".", cwd=fresh_base / "docs") == ["docs/README.hard", "docs/data.bin", "docs/link"]
    assert listed("../README", cwd=fresh_base / "docs") == ["README"]
    assert listed("docs/link", cwd=area) == ["docs/link"], "outside the base: relative to the base"
    assert listed(fresh_base / "README", cwd=area) == ["README"]
    assert len(listed(fresh_base, cwd=area)) > 8
    done = goexfs("diff", edited, "--name-status", "/etc")
    assert done.returncode == 2
    assert "is not inside the base" in done.stderr


def test_exit_code(goexfs: Command, edited: str) -> None:
    assert goexfs("diff", edited, "--exit-code", "--name-status").returncode == 1
    assert goexfs("diff", edited, "--exit-code", "--name-status", "empty").returncode == 0
    assert goexfs("diff", edited, "--name-status").returncode == 0


def test_hostile_names(goexfs: Command) -> None:
    run = goexfs.kept(HOSTILE)
    done = goexfs("diff", run, "--name-status")
    assert sorted(done.stdout.splitlines()) == sorted(
        ["A\t-dash", 'A\t"\\"quoted\\""', 'A\t"new\\nline"', 'A\t"raw\\377"', "A\tspa ce", 'A\t"x\\033[2Jy"']
    )
    raw = goexfs("diff", run, "--name-status", "-z", text=False)
    fields = raw.stdout.split(b"\0")
    assert set(fields[1::2]) == {b"-dash", b'"quoted"', b"new\nline", b"raw\xff", b"spa ce", b"x\x1b[2Jy"}
    assert goexfs("diff", run, "-z", text=False).stdout == raw.stdout
    changes = {change["path"]: change for change in goexfs.json("diff", run)["changes"]}
    odd = [change for change in changes.values() if "path_base64" in change]
    assert len(odd) == 1, "only what text cannot hold"
    for form in ("--patch", "--stat", "--name-status"):
        assert "\x1b" not in goexfs("diff", run, form).stdout, "git quotes names in patches, too"
    summary = goexfs("run", "--run", run, "--", "true")
    assert "\x1b" not in summary.stderr
    assert '  A  "new\\nline"' in summary.stderr
    assert goexfs("merge", run).returncode == 0


def test_a_colored_patch_is_harmless_even_when_piped(goexfs: Command) -> None:
    run = goexfs.kept("printf 'x\\033[2Jy\\n' > new")
    done = goexfs("diff", run, "--color", "always")
    assert "\x1b[32m+x^[[2Jy\x1b[0m" in done.stdout
    assert "\x1b[2J" in goexfs("diff", run).stdout, "but off a terminal, uncoloured, it is exact"


def test_a_reader_that_has_seen_enough(goexfs: Command) -> None:
    run = goexfs.kept("seq 200000 > big; seq 300000 > big2")
    script = 'set -o pipefail; "$@" | head -n 1'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *GOEXFS, "diff", run],
        cwd=goexfs.cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 141
    assert done.stdout == "diff --git a/big b/big\n"
    assert done.stderr == ""


# merge and discard


def test_merge_dry_run_changes_nothing(goexfs: Command, edited: str, fresh_base: Path) -> None:
    before = picture(fresh_base)
    done = goexfs("merge", edited, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would be" in done.stdout
    assert differences(before, picture(fresh_base)) == []
    assert goexfs.json("merge", edited, "--dry-run")["merged"] is False
    assert goexfs.json("show", edited)["state"] == "kept"


def test_merge(goexfs: Command, edited: str, fresh_base: Path) -> None:
    document = goexfs.json("merge", edited)
    assert document["merged"] is True
    assert (fresh_base / "new.txt").read_text() == "a\nb\n"
    assert goexfs.json("show", edited)["state"] == "merged"
    assert goexfs("merge", edited).returncode == 72


def test_a_path_with_characters_of_patterns_is_a_path(goexfs: Command, fresh_base: Path) -> None:
    names = ["[a]", "end ", "tab\t", "a\\b", "esc\x1b[31m", "!not", "#is"]
    made = [*names, "other"]
    run = goexfs.kept("".join(f"mkdir 'd{name}'; echo x > 'd{name}/f'; echo x > '{name}';" for name in made))
    assert goexfs("merge", run, *(f"./{name}" for name in names), *(f"d{name}" for name in names)).returncode == 0
    for name in names:
        assert (fresh_base / name).exists() and (fresh_base / f"d{name}" / "f").exists()
    assert not (fresh_base / "other").exists()


def test_a_conflict_is_refused_with_the_paths(goexfs: Command, edited: str, fresh_base: Path) -> None:
    (fresh_base / "README").write_text("changed meanwhile\n")
    before = picture(fresh_base)
    for words in (["merge", edited], ["merge", edited, "--dry-run"]):
        done = goexfs(*words)
        assert done.returncode == 79
        assert "README" in done.stderr
        assert differences(before, picture(fresh_base)) == []
    document = json.loads(goexfs("merge", edited, "--json").stdout)
    assert document["merged"] is False
    assert [conflict["path"] for conflict in document["conflicts"]] == ["README"]
    assert goexfs.json("show", edited)["state"] == "kept"


def test_discard_several(goexfs: Command, edited: str) -> None:
    other = goexfs.kept("echo x > other")
    done = goexfs("discard", edited, "no-such-run")
    assert done.returncode == 67
    assert goexfs.json("show", edited)["state"] == "kept", "nothing is discarded when one is not known"
    done = goexfs("discard", "work", other, other[:8])
    assert done.returncode == 0, done.stderr
    assert goexfs.json("ls")["runs"] == []
    assert goexfs("discard", edited).returncode == 72


# ls, show, gc, fsck


def test_ls(goexfs: Command, edited: str) -> None:
    goexfs.kept("echo x > other")
    done = goexfs("ls")
    header, first, _second = done.stdout.splitlines()
    assert header.split() == ["RUN", "NAME", "STATE", "AGE", "CHANGES", "HELD", "BASE", "COMMAND"]
    assert first.startswith(edited)
    assert "work" in first
    assert "kept" in first
    (run, _other) = goexfs.json("ls")["runs"]
    assert run["id"] == edited
    assert run["changes"] >= 8
    assert run["bytes_held"] > 0
    assert run["command"][:2] == ["sh", "-c"]
    assert goexfs("ls", "-q").stdout.splitlines()[0] == edited
    goexfs("discard", "work")
    assert len(goexfs.json("ls")["runs"]) == 1
    assert len(goexfs.json("ls", "--all")["runs"]) == 2


def test_ls_without_a_store(goexfs: Command, goexfs_home: Path) -> None:
    done = goexfs("ls")
    assert (done.returncode, done.stdout) == (0, "")
    assert goexfs.json("ls")["runs"] == []
    assert not goexfs_home.exists(), "looking creates nothing"


def test_commands_with_hostile_arguments_are_listed_harmlessly(goexfs: Command) -> None:
    goexfs("run", "--keep", "--", "sh", "-c", "echo x > a", b"\x1b[2J\n\xff")
    done = goexfs("ls")
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2
    (run,) = goexfs.json("ls")["runs"]
    assert "command_base64" in run
    assert "\x1b" not in goexfs("show", "@").stdout


def test_show(goexfs: Command, edited: str, fresh_base: Path) -> None:
    for ref in (edited, edited[:5], "work", "@"):
        done = goexfs("show", ref)
        assert done.returncode == 0
        assert re.search(rf"^run +{edited}$", done.stdout, re.MULTILINE)
    assert re.search(r"^state +kept$", done.stdout, re.MULTILINE)
    assert goexfs.json("show", "work")["base"] == str(fresh_base)


def test_refs_that_mean_no_run_or_several(goexfs: Command, area: Path) -> None:
    assert goexfs("show", "x").returncode == 74, "there is no store yet"
    goexfs.kept("echo x > new")
    assert goexfs("show", "no-such").returncode == 67
    assert goexfs("show", "@", cwd=area).returncode == 67
    with open_store() as store:  # until two ids begin with the same character
        ids = [store.store.runs.create(base=os.fsencode(goexfs.cwd)).id for _ in range(33)]
    first = next(run[0] for run in ids if sum(other[0] == run[0] for other in ids) > 1)
    done = goexfs("show", first)
    assert done.returncode == 68
    assert sum(run in done.stderr for run in ids) > 1


def test_gc(goexfs: Command, edited: str) -> None:
    done = goexfs("gc")
    assert done.returncode == 0
    assert re.match(r"freed \d", done.stdout)
    assert goexfs.json("gc")["freed_bytes"] == 0
    assert goexfs("diff", edited).returncode == 0


def test_fsck(goexfs: Command, goexfs_home: Path) -> None:
    run = goexfs.kept("head -c 1000000 /dev/urandom > big")
    done = goexfs("fsck")
    assert done.returncode == 0
    assert "the store is sound" in done.stdout
    assert goexfs.json("fsck")["clean"] is True
    (file,) = [path for path in (goexfs_home / "objects").rglob("*") if path.is_file()]
    file.chmod(0o600)
    with file.open("r+b") as damaged:
        damaged.write(b"damage")
    file.chmod(0o444)
    done = goexfs("fsck")
    assert done.returncode == 1
    assert "object-damaged" in done.stdout
    goexfs("fsck", "--repair")
    assert run in goexfs("fsck").stdout, "the run whose content is lost is named"
    goexfs("discard", run)
    goexfs("fsck", "--repair")
    assert goexfs("fsck").returncode == 0


def test_statuses_of_stores_that_cannot_be_used(
    goexfs: Command, goexfs_home: Path, edited: str, area: Path, fresh_base: Path
) -> None:
    file = area / "file"
    file.touch()

    def status(home: Path, *words: str | Path, cwd: Path | None = None) -> int:
        done = goexfs(*words, env=environment(GOEXFS_HOME=str(home)), cwd=cwd)
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("goexfs: ")
        return done.returncode

    assert status(area / "none", "gc") == 74
    assert status(file, "run", "--", "true") == 78
    assert status(fresh_base / "store", "run", "--", "true") == 81
    damaged = shutil.copytree(goexfs_home, area / "damaged")
    (damaged / "store.db").write_bytes(b"not a database" * 100)
    for left in damaged.glob("store.db-*"):
        left.unlink()
    assert status(damaged, "ls") == 76
    assert status(goexfs_home, "run", "--base", area / "missing", "--", "true") == 65
    assert status(goexfs_home, "run", "--base", file, "--", "true") == 65


def test_a_mistyped_path_is_said(goexfs: Command, edited: str) -> None:
    done = goexfs("diff", edited, "no-such-file")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "goexfs: neither the run nor its base has no-such-file\n"


def test_completion_of_runs(goexfs: Command, edited: str) -> None:
    def completed(words: str, position: int) -> str:
        environ = environment(_GOEXFS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(position))
        return goexfs(env=environ).stdout

    assert completed("goexfs d", 1).split() == ["plain,diff", "plain,discard", "plain,doctor"]
    assert completed("goexfs diff wor", 2) == "plain,work\n"
    assert completed(f"goexfs discard work {edited[:3]}", 3) == f"plain,{edited}\n"
