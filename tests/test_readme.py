"""The README's worked session, run as it is written: every ``console`` block, in order, against the real program."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import CHECKOUT, command_directory

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def session() -> list[tuple[str, str]]:
    """(command, output) pairs of the README; a command may go on in lines that begin with ``> ``."""
    steps: list[tuple[str, str]] = []
    for block in BLOCK.findall((CHECKOUT / "README.md").read_text()):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:], ""))
            elif line.startswith("> ") and not steps[-1][1]:
                steps[-1] = (steps[-1][0] + line[2:], "")
            else:
                steps[-1] = (steps[-1][0], steps[-1][1] + line)
    return steps


def normalised(text: str) -> str:
    """Without what differs from one time to the next: ids of runs, ages, hashes, trailing blanks."""
    text = re.sub(r"\b[0-9a-z]{8,32}\b(?=[^.]|$)", _id, text)
    text = re.sub(r"\b\d+ (s|min|h)\b", "AGE", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "TIME", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))


def _id(match: re.Match[str]) -> str:
    word = match.group()
    return "ID" if any(c.isdigit() for c in word) and any(c.isalpha() for c in word) else word


def test_there_is_a_session() -> None:
    assert len(session()) >= 5


@pytest.mark.usefixtures("goexfs_home")
def test_the_session_runs_as_written(area: Path) -> None:
    bin_directory = command_directory(area / "bin")
    home = area / "home"
    home.mkdir()
    script = ["cd\n"]
    for number, (command, _output) in enumerate(session()):
        script += [command, f"printf '\\036%s\\036' {number}\n"]
    environ = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-s"], input="".join(script), env=environ, cwd=home, text=True, timeout=150, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    outputs = re.split("\036\\d+\036", done.stdout)
    for (command, expected), actual in zip(session(), outputs, strict=False):
        assert normalised(actual) == normalised(expected), f"$ {command}{done.stdout}"
    assert len(outputs) == len(session()) + 1
