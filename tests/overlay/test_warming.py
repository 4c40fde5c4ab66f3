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
from goexfs.overlay.warming import LEVELS_LIMIT, NAMES_LIMIT, Known, Place, Walk, read_directory

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


def test_who_walks_waits_once_for_each_directory_as_long_as_it_shows(
    tree: LocalBaseTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    places = [tree.dir(b"%d" % directory) for directory in range(DIRECTORIES)]

    def asked(directory: int, *names: bytes) -> list[int]:
        return [threads_asked(lambda name=name: tree.stat(places[directory], name)) for name in names]  # type: ignore[misc]

    assert [asked(directory, b"0", b"1", b"2") for directory in range(4)] == [[1, 1, 0]] * 4
    now[0] += localbase.WARM_S * 0.9
    assert [asked(directory, b"0", b"1", b"2") for directory in (4, 5)] == [[1, 0, 0]] * 2
    now[0] += localbase.WARM_S * 0.2
    assert [asked(directory, b"0") for directory in (6, 7)] == [[1]] * 2
    assert asked(7, b"1", b"2") == [1, 0], "one name of a directory after the other is no walk"
    tree.close()


def test_a_huge_directory_is_read_once_and_then_left_alone(
    tree: LocalBaseTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "huge").mkdir()
    for name in range(NAMES_LIMIT + 1):
        (tmp_path / "huge" / f"{name}").touch()
    read = []

    def counted(top: int, *, attributes: bool) -> list[Known]:
        read.append(top)
        return read_directory(top, attributes=attributes)

    monkeypatch.setattr(localbase, "read_directory", counted)
    place = tree.dir(b"huge")
    for name in range(10):
        threads_asked(lambda name=b"%d" % name: tree.stat(place, name))  # type: ignore[misc]
    assert len(read) == 1
    tree.close()


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Three directories of three, with a file in each."""
    for one in "abc":
        for other in "xyz":
            (tmp_path / one / other).mkdir(parents=True)
            (tmp_path / one / other / "file").touch()
    return tmp_path


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def place_of(path: Path) -> Place:
    return (path.stat().st_dev, path.stat().st_ino)


def listed(known: list[Known]) -> set[Place]:
    return {place for what, place in known if what == "list"}


def all_below(top: Path) -> set[Place]:
    return {place_of(path) for path in (top, *top.rglob("*")) if path.is_dir()}


def read(walk: Walk, path: Path, above: Path | None = None, *, seconds: float = 0.0) -> set[Place]:
    fd = opened(path)
    try:
        return listed(walk.read(
            fd, place_of(above) if above else None, os.fsencode(path.name), attributes=False, seconds=seconds,
        ))  # fmt: skip
    finally:
        os.close(fd)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_walk_goes_on_where_it_was(deep: Path) -> None:
    walk = Walk()
    assert read(walk, deep) == {place_of(deep)}
    one = next(path for path in deep.iterdir())
    assert read(walk, one, deep) == {place_of(one)}
    assert read(walk, next(one.iterdir()), one, seconds=60) == all_below(deep) - {place_of(deep), place_of(one)}
    assert walk.is_done


def test_a_walk_is_begun_anew_by_who_goes_somewhere_else(deep: Path) -> None:
    walk = Walk()
    assert read(walk, deep / "a") == {place_of(deep / "a")}
    assert read(walk, deep / "b", deep, seconds=60) == all_below(deep / "b"), "which it never had before it"
    read(walk, deep)
    assert read(walk, deep / "a", deep) == {place_of(deep / "a")}
    assert read(walk, deep / "a", deep, seconds=60) == all_below(deep / "a"), "which it had read already"


def test_a_walk_is_begun_anew_by_who_jumps(deep: Path) -> None:
    walk = Walk()
    read(walk, deep)
    read(walk, deep / "a", deep)
    assert read(walk, deep / "b", deep, seconds=60) == all_below(deep / "b"), "before what is in the one begun last"


def test_a_walk_in_another_order_reads_everything_once(deep: Path) -> None:
    walk = Walk()
    seen = [read(walk, deep)]
    for one in "cab":
        seen += [read(walk, deep / one, deep), *(read(walk, deep / one / other, deep / one) for other in "zxy")]
    walk.close()
    assert sum(len(places) for places in seen) == len(all_below(deep)) == len(set().union(*seen))


def test_a_deep_walk_holds_few_descriptors(tmp_path: Path) -> None:
    path = tmp_path
    before, walk = descriptors(), Walk()
    for _ in range(LEVELS_LIMIT + 20):
        (path / "d").mkdir()
        read(walk, path, path.parent)
        assert descriptors() <= before + LEVELS_LIMIT
        path = path / "d"
    assert read(walk, tmp_path, seconds=60) == all_below(tmp_path), "all of it is read nevertheless"
    assert walk.is_done
    assert descriptors() == before


@pytest.mark.parametrize(("seconds", "threads"), [(60.0, 1), (0.0, 13)])
def test_who_lists_directory_after_directory_asks_a_thread_for_what_was_not_read_along(
    deep: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, threads: int
) -> None:
    defaults = Walk.read.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "seconds", seconds)
    tree = LocalBaseTree(os.fsencode(deep))
    tree.waiting = False
    places = [tree.root, *(tree.dir(os.fsencode(p.relative_to(deep))) for p in sorted(deep.rglob("*")) if p.is_dir())]
    assert sum(threads_asked(lambda place=place: tree.list(place)) for place in places) == threads  # type: ignore[misc]
    tree.close()
