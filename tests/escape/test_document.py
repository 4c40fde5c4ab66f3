"""docs/security.md: every promise names a test, and every test that is named is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/security.md").read_text()


def test_every_named_test_exists() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^(?:async )?def (\w+)", file.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(?:tests/[\w/]+\.py::)?(test_\w+|judged_again)`", TEXT))
    assert len(named) > 30
    assert named - defined == set()
    for path in re.findall(r"`((?:tests|goexfs)/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path


def test_every_promise_names_one() -> None:
    promised = TEXT.partition("## Promised")[2].partition("\n## ")[0]
    lines = re.findall(r"^\* (.*?)(?=^\* |\Z)", promised, re.MULTILINE | re.DOTALL)
    assert len(lines) > 20
    assert [line.splitlines()[0] for line in lines if "test_" not in line and "tests/" not in line] == []
