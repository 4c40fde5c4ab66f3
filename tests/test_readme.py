"""The README's worked session, run as it is written: every ``console`` block, in order, against the real program."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from snapshots.storage.runs import ID_LENGTH
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
    """Without what differs from one time to the next: ids of runs, ages, width of columns."""
    text = re.sub(rf"\b[0-9a-z]{{{ID_LENGTH}}}\b", _id, text)
    text = re.sub(r"\b\d+ (s|min|h)\b", "AGE", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))


def _id(match: re.Match[str]) -> str:
    return "ID" if any(character.isdigit() for character in match.group()) else match.group()


def test_there_is_a_session() -> None:
    assert len(session()) >= 5


def outputs(area: Path) -> list[str]:
    """What the session's commands print, run one after the other by one shell in a fresh home directory."""
    home = area / "home"
    home.mkdir()
    script = ["cd\n"]
    for command, _expected in session():
        script += [command, "printf '\\036'\n"]
    environ = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{command_directory(area / 'bin')}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "COLUMNS": "110",
    }
    done = subprocess.run(
        ["bash", "-s"], input="".join(script), env=environ, text=True, timeout=150, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.split("\036")[:-1]


@pytest.mark.usefixtures("goexfs_home")
def test_the_session_runs_as_written(area: Path) -> None:
    actual = outputs(area)
    for (command, expected), output in zip(session(), actual, strict=True):
        assert normalised(output) == normalised(expected), f"$ {command}"
