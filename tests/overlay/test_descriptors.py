"""The pool never holds more descriptors than it may, and gives every owner one of its own file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.overlay.descriptors import DescriptorPool

LIMIT = 3


class Owner:
    """Opens its own file again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0

    def open_fd(self) -> int:
        self.opened += 1
        return os.open(self.path, os.O_RDONLY)


def open_descriptors() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = [tmp_path_factory.mktemp("files") / str(number) for number in range(6)]
    for number, path in enumerate(found):
        path.write_bytes(b"%d" % number)
    return found


@given(steps=st.lists(st.tuples(st.sampled_from(("get", "put", "drop")), st.integers(0, 5)), max_size=40))
def test_bounded_and_right(paths: list[Path], steps: list[tuple[str, int]]) -> None:
    before = open_descriptors()
    pool = DescriptorPool(LIMIT)
    owners = [Owner(path) for path in paths]
    recent: list[int] = []
    for step, number in steps:
        if step == "get":
            held = number in recent[-LIMIT:]
            count = owners[number].opened
            assert os.pread(pool.get(owners[number]), 10, 0) == b"%d" % number
            assert owners[number].opened == count + (not held), "opened again only if it was not held"
        elif step == "put" and number not in recent[-LIMIT:]:
            pool.put(owners[number], owners[number].open_fd())
        elif step == "drop":
            pool.drop(owners[number])
        if number in recent:
            recent.remove(number)
        if step == "drop":
            continue
        recent.append(number)
        recent = recent[-LIMIT:]
        assert len(pool) == len(recent)
    assert open_descriptors() == before + len(pool) <= before + LIMIT
    pool.close()
    assert open_descriptors() == before


def test_an_owner_whose_file_is_gone_takes_no_place(tmp_path: Path) -> None:
    pool = DescriptorPool(LIMIT)
    with pytest.raises(FileNotFoundError):
        pool.get(Owner(tmp_path / "gone"))
    assert len(pool) == 0
