"""The gate sees what the merge would make, of every kind of selection."""

import json

TEXT = "".join(f"{n}\n" for n in range(1, 41))


def test_hunks_and_merged_texts_are_what_is_verified(goexfs, area):
    (goexfs.cwd / "text").write_text(TEXT)
    (goexfs.cwd / "both").write_text(TEXT)
    goexfs.kept("sed -i 's/^5$/five/;s/^30$/thirty/' text; sed -i 's/^5$/five/' both", name="r")
    (goexfs.cwd / "both").write_text(TEXT.replace("30\n", "THIRTY\n"))
    first = goexfs.json("hunks", "r", "text")["changes"][0]["parts"][0]["id"]
    (area / "choice").write_text(json.dumps({"text": [first], "both": []}))
    check = 'test "$(grep -c five text)" = 1 && test "$(grep -c thirty text)" = 0 && ! grep five both'
    done = goexfs("merge", "r", "--hunks", area / "choice", "--verify", check)
    assert done.returncode == 0, done.stderr
    done = goexfs("merge", "r", "both", "--verify", "grep five both && grep THIRTY both && ! grep thirty text")
    assert done.returncode == 0, done.stderr
    assert (goexfs.cwd / "both").read_text() == TEXT.replace("5\n", "five\n", 1).replace("30\n", "THIRTY\n")
    assert (goexfs.cwd / "text").read_text() == TEXT.replace("5\n", "five\n", 1)
    assert len(goexfs.json("ls", "-a")["runs"]) == 1
