"""Where the store is."""

import os
from pathlib import Path

import pytest

from goexfs.session.home import default_store_path


def test_order(monkeypatch: pytest.MonkeyPatch, area: Path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("GOEXFS_HOME", raising=False)
    assert default_store_path() == Path("/home/me/.local/state/goexfs")
    monkeypatch.setenv("XDG_STATE_HOME", "relative, so ignored")
    assert default_store_path() == Path("/home/me/.local/state/goexfs")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_store_path() == Path("/state/goexfs")
    monkeypatch.setenv("GOEXFS_HOME", "")
    assert default_store_path() == Path("/state/goexfs")
    monkeypatch.chdir(area)
    monkeypatch.setenv("GOEXFS_HOME", "here")
    assert default_store_path() == Path(os.getcwd()) / "here"
