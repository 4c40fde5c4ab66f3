"""The pager's choice, and a patch dressed for a terminal."""

import pytest

from goexfs.cli import pager

PATCH = b"""diff --git a/x b/x
index 1..2 100644
--- a/x
+++ b/x
@@ -1,2 +1,2 @@ def f():
-old \x1b[2Jline
+new\xff line\r
 same
--- not a header
"""


def test_pager_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOEXFS_PAGER", raising=False)
    monkeypatch.delenv("PAGER", raising=False)
    assert pager.pager_command() == ["less", "-FRX"]
    monkeypatch.setenv("PAGER", "more -d")
    assert pager.pager_command() == ["more", "-d"]
    monkeypatch.setenv("GOEXFS_PAGER", "LESS=X less | cat")
    assert pager.pager_command() == ["sh", "-c", "LESS=X less | cat"]
    monkeypatch.setenv("GOEXFS_PAGER", "cat")
    assert pager.pager_command() is None
    monkeypatch.setenv("GOEXFS_PAGER", "")
    assert pager.pager_command() is None


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_content_cannot_act_on_the_terminal(size: int) -> None:
    chunks = [PATCH[start : start + size] for start in range(0, len(PATCH), size)]
    lines = b"".join(pager.dressed(chunks, color=False)).decode().splitlines()
    assert lines[5] == "-old ^[[2Jline"
    assert lines[6] == "+new<FF> line^M"
    assert len(lines) == 9


def test_colors_follow_the_place_in_the_patch() -> None:
    lines = b"".join(pager.dressed([PATCH], color=True)).decode().splitlines()
    assert lines[0].startswith("\x1b[1m")
    assert lines[4].startswith("\x1b[36m@@ -1,2 +1,2 @@\x1b[0m")
    assert lines[5].startswith("\x1b[31m-old ^[[2J")
    assert lines[6].startswith("\x1b[32m+")
    assert lines[8].startswith("\x1b[31m---"), "a removed line that looks like a header"


def test_a_missing_pager_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("GOEXFS_PAGER", "/does/not/exist")
    monkeypatch.setattr(pager, "on_terminal", lambda: True)
    pager.page([b"one\n", b"two\n"])
    assert capfdbinary.readouterr().out == b"one\ntwo\n"


def test_a_pager_quit_early_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOEXFS_PAGER", "true")
    monkeypatch.setattr(pager, "on_terminal", lambda: True)
    pager.page(b"x" * 65536 for _ in range(100))
