"""A base whose names are not in memory: how often a thread has to be asked, for whom walks through it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goexfs.overlay import localbase
from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.warming import NAMES_LIMIT, Known, read_tree

DIRECTORIES, FILES = 8, 20


def not_in_memory(*_: object) -> Any:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def threads_asked(ask: Callable[[], object]) -> int:
    """How many threads an operation needs."""
    for count in range(10):
        try:
            ask()
        except WouldBlock as blocked:
            blocked.prepare()
        else:
            return count
    raise AssertionError("it has to wait again and again")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalBaseTree:
    for directory in range(DIRECTORIES):
        (tmp_path / f"{directory}").mkdir()
        for name in range(FILES):
            (tmp_path / f"{directory}" / f"{name}").write_text(f"{name}")
    monkeypatch.setattr(localbase, "stat_now", not_in_memory)
    tree = LocalBaseTree(os.fsencode(tmp_path))
    tree.waiting = False
    return tree


def test_the_second_name_of_a_directory_brings_the_others(tree: LocalBaseTree) -> None:
    place = tree.dir(b"0")
    asked = [threads_asked(lambda name=b"%d" % name: tree.stat(place, name)) for name in range(FILES)]  # type: ignore[misc]
    assert asked == [1, 1, *[0] * (FILES - 2)]
    other = tree.dir(b"1")
    assert threads_asked(lambda: tree.stat(other, b"0")) == 1, "and no other directory"
    tree.close()


def test_who_walks_finds_what_is_below_in_memory(tree: LocalBaseTree, tmp_path: Path) -> None:
    (tmp_path / "5" / "below").mkdir()
    (tmp_path / "5" / "below" / "file").touch()
    for directory in (b"0", b"1", b"2", b"5"):
        place = tree.dir(directory)
        for name in (b"0", b"1"):
            threads_asked(lambda name=name, place=place: tree.stat(place, name))  # type: ignore[misc]
    below = tree.dir(b"5/below")
    tree.fd(below)  # now it is known which directory that is
    assert threads_asked(lambda: tree.stat(below, b"file")) == 0
    tree.close()


def test_a_huge_directory_is_read_once_and_then_left_alone(
    tree: LocalBaseTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "huge").mkdir()
    for name in range(NAMES_LIMIT + 1):
        (tmp_path / "huge" / f"{name}").touch()
    read = []

    def counted(top: int, *, attributes: bool, seconds: float) -> list[Known]:
        read.append(top)
        return read_tree(top, attributes=attributes, seconds=seconds)

    monkeypatch.setattr(localbase, "read_tree", counted)
    place = tree.dir(b"huge")
    for name in range(10):
        threads_asked(lambda name=b"%d" % name: tree.stat(place, name))  # type: ignore[misc]
    assert len(read) == 1
    tree.close()
