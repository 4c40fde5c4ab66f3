"""What only a union filesystem can get wrong: names of different layers exchanged and replaced, also while open.

Every pair of things (of the base, changed, made by the run, put in the place of a deleted one) is exchanged, and one
put over the other, natively and in a mount, and looked at once more in the next mount.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.test_names import EXCHANGE, NOREPLACE, renameat2
from tests.support import trees
from tests.support.mounts import mounted

THINGS: dict[str, Callable[[Path], object]] = {
    "file of the base": lambda path: None,
    "file that was changed": lambda path: path.write_text("changed"),
    "file whose attributes were changed": lambda path: path.chmod(0o600),
    "file that was made": lambda path: path.write_text("made"),
    "file in the place of a deleted one": lambda path: (path.unlink(), path.write_text("in its place")),
    "directory of the base": lambda path: None,
    "directory with a change": lambda path: (path / "inner").write_text("changed"),
    "directory that was made": lambda path: (path.mkdir(), (path / "inner").write_text("made")),
    "directory in the place of a deleted one": lambda path: ((path / "inner").unlink(), path.rmdir(), path.mkdir()),
    "empty directory of the base": lambda path: None,
    "symlink of the base": lambda path: None,
    "symlink that was made": lambda path: path.symlink_to("made"),
}
WAYS: dict[str, Callable[[Path, Path], object]] = {
    "exchange": lambda a, b: renameat2(a, b, EXCHANGE),
    "over": os.rename,
    "not over": lambda a, b: renameat2(a, b, NOREPLACE),
}


def make_base(top: Path) -> None:
    """What is there before: one of each for either side of each pair."""
    for way in WAYS:
        for a in THINGS:
            for b in THINGS:
                pair = top / way / a / b
                for name, what in (("one", a), ("other/two", b)):
                    path = pair / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if "that was made" in what:
                        continue
                    if "file" in what:
                        path.write_text(f"{what} {name}")
                    elif "symlink" in what:
                        path.symlink_to("of the base")
                    else:
                        path.mkdir()
                        if "empty" not in what:
                            (path / "inner").write_text(what)


def descriptor(path: Path) -> int:
    return os.open(path, os.O_RDWR) if path.is_file() and not path.is_symlink() else -1


def meet(pair: Path, a: str, b: str, way: str) -> object:
    """What becomes of two things, and of who has them open."""
    one, two = pair / "one", pair / "other" / "two"
    THINGS[a](one)
    THINGS[b](two)
    held = [descriptor(one), descriptor(two)]
    try:
        WAYS[way](one, two)
        failed = 0
    except OSError as e:
        failed = e.errno or -1
    seen: list[object] = [failed]
    for fd, data in zip(held, (b"by one", b"by two"), strict=True):
        if fd >= 0:
            os.pwrite(fd, data, 2)
            st = os.fstat(fd)
            seen.append((os.pread(fd, 100, 0), st.st_nlink, st.st_mode))
            os.close(fd)
    return seen


def without_times(picture: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    for facts in picture.values():
        facts.pop("mtime_ns", None)
    return picture


@pytest.mark.timeout(120)
def test_things_of_all_layers_meet(area: Path) -> None:
    for top in (area / "native", area / "base"):
        make_base(top)
    with mounted(area / "base", area) as mount:
        mount.wait_watched()
        for way in WAYS:
            for a in THINGS:
                for b in THINGS:
                    expected = meet(area / "native" / way / a / b, a, b, way)
                    assert meet(mount.path / way / a / b, a, b, way) == expected, (way, a, b)
        native = without_times(trees.picture(area / "native"))
        assert trees.differences(native, without_times(trees.picture(mount.path))) == []
    with mounted(area / "base", area, run_id=mount.run_id) as mount:
        assert trees.differences(native, without_times(trees.picture(mount.path))) == []
