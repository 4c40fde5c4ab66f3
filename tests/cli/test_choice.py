"""Which changes ``goexfs merge`` takes: patterns, kinds of changes, and who made them."""

from pathlib import Path

from tests.cli.conftest import Command

WORK = """
mkdir -p made/deep; echo 1 > made/a.log; echo 2 > made/deep/b.log; echo 3 > made/deep/keep.txt
echo changed >> edited; rm gone; mv moved elsewhere; echo by another | tee made/tool.txt > /dev/null
"""


def left(goexfs: Command, run: str) -> dict[str, str]:
    return {change["path"]: change["status"] for change in goexfs.json("diff", run)["changes"]}


def test_what_was_not_chosen_stays_in_the_run(goexfs: Command, fresh_base: Path) -> None:
    for name in ("edited", "gone", "moved"):
        (fresh_base / name).write_text(f"{name} {'x' * 50}\n")
    goexfs.kept(WORK, name="r")
    everything = left(goexfs, "r")
    assert everything == {
        "made": "A", "made/a.log": "A", "made/deep": "A", "made/deep/b.log": "A", "made/deep/keep.txt": "A",
        "made/tool.txt": "A", "edited": "M", "gone": "D", "elsewhere": "R",
    }  # fmt: skip
    for words in (["--only-status", "QQ"], ["--only-status", ""], ["--process", ""]):
        assert goexfs("merge", "r", *words).returncode == 2, words
    assert goexfs("merge", "r", "--only-status", "T").returncode == 110
    assert goexfs("merge", "r", "--process", "no such command").returncode == 110
    assert left(goexfs, "r") == everything

    done = goexfs("merge", "r", "--process", "tee *")
    assert done.returncode == 0, done.stderr
    assert "with what they are in: made" in done.stderr
    assert [path.name for path in (fresh_base / "made").iterdir()] == ["tool.txt"]

    assert goexfs("merge", "r", "--only-status", "dr").returncode == 0
    assert not (fresh_base / "gone").exists()
    assert (fresh_base / "elsewhere").exists()
    assert "D" not in left(goexfs, "r").values()

    # A later pattern takes back what an earlier one left out, as in .gitignore; "b.log" is anywhere.
    assert goexfs("merge", "r", "made/*", "--exclude", "*.log", "--exclude", "!b.log").returncode == 0
    assert left(goexfs, "r") == {"made/a.log": "A", "edited": "M"}
    assert sorted(path.name for path in (fresh_base / "made" / "deep").iterdir()) == ["b.log", "keep.txt"]
    assert goexfs("merge", "r").returncode == 0
    assert (fresh_base / "made" / "a.log").read_text() == "1\n"
    assert (fresh_base / "edited").read_text().endswith("changed\n")
