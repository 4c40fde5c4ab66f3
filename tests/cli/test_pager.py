"""The pager's choice."""

import pytest

from goexfs.cli import pager


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
