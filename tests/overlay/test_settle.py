"""Both sides changed something: what merges by itself, what is refused, and what a choice makes of it."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapshots.errors import Conflict, MergeError
from snapshots.history.rewind import rewind
from snapshots.merging.merge import MergeResult, merge
from snapshots.merging.rebase import rebase
from snapshots.merging.settle import Resolution, by_pattern
from snapshots.merging.undo import undo
from snapshots.storage.store import Store
from tests.overlay.scene import Scene
from tests.support.trees import differences, picture

LINES = [f"line {number}" for number in range(30)]


def text(**changed: str) -> str:
    """Thirty lines, some of them others: ``text(l3="x")``."""
    return "".join(f"{changed.get(f'l{number}', line)}\n" for number, line in enumerate(LINES))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    base = tmp_path / "base"
    (base / "d" / "sub").mkdir(parents=True)
    for path in ("f", "g", "d/a", "d/sub/b"):
        (base / path).write_text(text())
    (base / "binary").write_bytes(b"\0" * 100)
    with Store.open(tmp_path / "store") as store:
        made = Scene(tmp_path, store)
        yield made
        made.close()


def write(scene: Scene, path: str, content: str) -> None:
    """As an editor that truncates."""
    where = path.encode()
    file = scene.mount.open(where, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    scene.mount.write(file, 0, content.encode())
    scene.mount.close(file)


def replace(scene: Scene, path: str, content: str) -> None:
    """As an editor that writes a new file and renames it into place."""
    write(scene, "tmp", content)
    scene.mount.rename(b"tmp", path.encode())


def in_base(scene: Scene, path: str, content: str) -> None:
    scene.seal()
    time.sleep(0.01)
    (scene.base / path).write_text(content)


def replace_in_base(scene: Scene, path: str, content: str) -> None:
    scene.seal()
    time.sleep(0.01)
    (scene.base / "new~").write_text(content)
    (scene.base / "new~").rename(scene.base / path)


def merged(scene: Scene, **kwargs: object) -> MergeResult:
    scene.seal()
    return merge(scene.store, scene.store.runs.get(scene.run), **kwargs)  # type: ignore[arg-type]


def all_of(side: str) -> Callable[[bytes], Resolution]:
    return lambda _: Resolution(side)


def refused(scene: Scene, **kwargs: object) -> list[tuple[str, str]]:
    before = picture(scene.base)
    with pytest.raises(Conflict) as e:
        merged(scene, **kwargs)
    assert differences(before, picture(scene.base)) == []
    return [(c.path.decode(), c.kind.name) for c in e.value.conflicts]  # type: ignore[attr-defined]


@pytest.mark.parametrize("by_base", [in_base, replace_in_base])
@pytest.mark.parametrize("by_run", [write, replace])
def test_texts_are_merged(scene: Scene, by_run, by_base) -> None:  # type: ignore[no-untyped-def]
    by_run(scene, "f", text(l3="of the run"))
    by_base(scene, "f", text(l20="of the base"))
    before = picture(scene.base)
    result = merged(scene)
    assert [(each.path, each.how) for each in result.settled] == [(b"f", "merged")]
    assert (scene.base / "f").read_text() == text(l3="of the run", l20="of the base")
    assert result.number is not None
    undo(scene.store, result.number)
    assert differences(before, picture(scene.base)) == []


def test_texts_that_meet(scene: Scene) -> None:
    write(scene, "f", text(l3="of the run", l9="and here"))
    in_base(scene, "f", text(l3="of the base"))
    assert refused(scene) == [("f", "BOTH_MODIFIED")]
    assert merged(scene, resolve=all_of("markers")).settled[0].how == "markers"
    run = scene.store.runs.get(scene.run)
    conflict = f"<<<<<<< base\nof the base\n=======\nof the run\n>>>>>>> {run.label}"
    assert (scene.base / "f").read_text() == text(l3=conflict, l9="and here")


@pytest.mark.parametrize(("side", "expected"), [("ours", "of the base"), ("theirs", "of the run")])
@pytest.mark.parametrize("by_run", [write, replace])
def test_one_side_is_taken(scene: Scene, side: str, expected: str, by_run) -> None:  # type: ignore[no-untyped-def]
    by_run(scene, "f", text(l3="of the run"))
    write(scene, "g", text(l5="also"))
    in_base(scene, "f", text(l3="of the base"))
    before = picture(scene.base)
    result = merged(scene, resolve=all_of(side))
    assert (scene.base / "f").read_text() == text(l3=expected)
    assert (scene.base / "g").read_text() == text(l5="also")
    assert result.number is not None
    undo(scene.store, result.number)
    assert differences(before, picture(scene.base)) == []


def test_by_pattern(scene: Scene) -> None:
    for path in ("f", "g", "d/a", "d/sub/b"):
        write(scene, path, text(l3="of the run"))
    for path in ("f", "g", "d/a", "d/sub/b"):
        in_base(scene, path, text(l3="of the base"))
    resolve = by_pattern(theirs=["d/"], ours=["/f"])
    assert refused(scene, resolve=resolve) == [("g", "BOTH_MODIFIED")]
    with pytest.raises(MergeError, match="--ours and --theirs"):
        merged(scene, resolve=by_pattern(theirs=["f"], ours=["f"]))
    merged(scene, resolve=by_pattern(theirs=["d/"], ours=["/f"], markers=["**"]))
    assert (scene.base / "d" / "a").read_text() == text(l3="of the run")
    assert (scene.base / "f").read_text() == text(l3="of the base")
    assert "<<<<<<<" in (scene.base / "g").read_text()


def test_the_same_result_is_no_conflict(scene: Scene) -> None:
    for by_run, path in ((write, "f"), (replace, "g"), (write, "new")):
        by_run(scene, path, text(l3="the same"))
    for path in ("f", "g", "new"):
        in_base(scene, path, text(l3="the same"))
    assert merged(scene).settled == ()


def test_modes_are_merged_three_way(scene: Scene) -> None:
    write(scene, "f", text(l3="of the run"))
    scene.mount.chmod(b"g", 0o755)
    scene.seal()
    time.sleep(0.01)
    (scene.base / "f").chmod(0o600)
    (scene.base / "g").write_text(text(l20="of the base"))
    merged(scene)
    assert (scene.base / "f").read_text() == text(l3="of the run")
    assert stat.S_IMODE((scene.base / "f").stat().st_mode) == 0o600
    assert (scene.base / "g").read_text() == text(l20="of the base")
    assert stat.S_IMODE((scene.base / "g").stat().st_mode) == 0o755


def test_modes_in_conflict(scene: Scene) -> None:
    scene.mount.chmod(b"f", 0o755)
    scene.mount.chmod(b"d", 0o711)
    scene.seal()
    time.sleep(0.01)
    (scene.base / "f").chmod(0o600)
    (scene.base / "d").chmod(0o700)
    assert refused(scene) == [("d", "ATTRIBUTES"), ("f", "BOTH_MODIFIED")]
    merged(scene, resolve=by_pattern(ours=["d"], theirs=["f"]))
    assert stat.S_IMODE((scene.base / "f").stat().st_mode) == 0o755
    assert stat.S_IMODE((scene.base / "d").stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["owner", "xattr"])
def test_attributes_that_a_new_file_would_take_away(scene: Scene, what: str) -> None:
    """Of a replaced file all attributes are the run's; what the base set meanwhile must not go unnoticed."""
    replace(scene, "f", text(l3="run"))
    in_base(scene, "f", text(l20="base"))
    if what == "owner":
        os.chown(scene.base / "f", 1234, 1234)
    else:
        os.setxattr(scene.base / "f", "user.mine", b"1")
    before = picture(scene.base)
    assert refused(scene) == [("f", "BOTH_MODIFIED")]
    assert differences(before, picture(scene.base)) == []
    assert merged(scene, resolve=all_of("theirs")).number == 1
    assert (scene.base / "f").read_text() == text(l3="run")
    undo(scene.store, 1)
    assert differences(before, picture(scene.base)) == []


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_file_of_the_base_moved_over_one_that_the_base_changed(scene: Scene, side: str, edited: bool) -> None:
    if edited:
        write(scene, "d/a", text(l3="run"))
    scene.mount.rename(b"d/a", b"f")
    in_base(scene, "f", text(l20="base"))
    before = picture(scene.base)
    assert refused(scene) == [("f", "BOTH_MODIFIED")]
    with pytest.raises(Conflict, match="cannot be written with markers"):
        merged(scene, resolve=all_of("markers"))
    merged(scene, resolve=all_of(side))
    if side == "ours":
        assert (scene.base / "f").read_text() == text(l20="base")
        assert (scene.base / "d" / "a").read_text() == text()
        return
    assert (scene.base / "f").read_text() == (text(l3="run") if edited else text())
    assert not (scene.base / "d" / "a").exists()
    undo(scene.store, 1)
    assert differences(before, picture(scene.base)) == []


def test_binaries_are_not_merged(scene: Scene) -> None:
    scene.write(b"binary", 0, b"\1")
    scene.seal()
    (scene.base / "binary").write_bytes(b"\2" * 50)
    for resolve in (None, all_of("markers")):
        assert refused(scene, resolve=resolve) == [("binary", "BOTH_MODIFIED")]
    merged(scene, resolve=all_of("theirs"))
    assert (scene.base / "binary").read_bytes() == b"\1" + bytes(99)


@pytest.mark.parametrize("by_run", [write, replace])
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_deleted_in_the_base(scene: Scene, side: str, by_run) -> None:  # type: ignore[no-untyped-def]
    by_run(scene, "f", text(l3="of the run"))
    scene.seal()
    (scene.base / "f").unlink()
    assert refused(scene) == [("f", "DELETED_IN_BASE")]
    assert refused(scene, resolve=all_of("markers")) == [("f", "DELETED_IN_BASE")]
    merged(scene, resolve=all_of(side))
    assert (scene.base / "f").exists() == (side == "theirs")


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_deleted_by_the_run(scene: Scene, side: str) -> None:
    scene.mount.unlink(b"f")
    in_base(scene, "f", "changed")
    assert refused(scene) == [("f", "MODIFIED_IN_BASE")]
    merged(scene, resolve=all_of(side))
    assert (scene.base / "f").exists() == (side == "ours")


def remove_tree(scene: Scene) -> None:
    for path in (b"d/sub/b", b"d/a"):
        scene.mount.unlink(path)
    for path in (b"d/sub", b"d"):
        scene.mount.rmdir(path)


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_directory_deleted_by_the_run(scene: Scene, side: str, replaced: bool) -> None:
    remove_tree(scene)
    if replaced:
        write(scene, "d", "a file")
    in_base(scene, "d/sub/b", "changed")
    assert refused(scene) == [("d/sub/b", "MODIFIED_IN_BASE")]
    merged(scene, resolve=all_of(side))
    found = sorted(path.decode() for path in picture(scene.base) if path.startswith(b"d"))
    if side == "theirs":
        assert found == (["d"] if replaced else [])
    else:
        assert found == (["d", "d/a", "d/sub", "d/sub/b"] if replaced else ["d", "d/sub", "d/sub/b"])


def test_some_of_a_deleted_directory(scene: Scene) -> None:
    remove_tree(scene)
    in_base(scene, "d/sub/b", "changed")
    in_base(scene, "d/a", "changed, too")
    assert refused(scene, resolve=by_pattern(ours=["a"])) == [("d/sub/b", "MODIFIED_IN_BASE")]
    merged(scene, resolve=by_pattern(ours=["a"], theirs=["b"]))
    assert sorted(path.decode() for path in picture(scene.base) if path.startswith(b"d")) == ["d", "d/a"]


def test_directories_that_both_made(scene: Scene) -> None:
    scene.mount.mkdir(b"new", 0o755)
    scene.mount.mkdir(b"new/deep", 0o755)
    write(scene, "new/deep/run", "run")
    write(scene, "new/both", "run")
    scene.seal()
    time.sleep(0.01)
    (scene.base / "new" / "deep").mkdir(parents=True)
    (scene.base / "new" / "deep" / "base").write_text("base")
    (scene.base / "new" / "both").write_text("base")
    assert refused(scene) == [("new/both", "BOTH_ADDED")]
    result = merged(scene, resolve=all_of("markers"))
    assert [(each.path, each.how) for each in result.settled] == [
        (b"new", "combined"), (b"new/both", "markers"), (b"new/deep", "combined"),
    ]
    assert sorted(os.listdir(scene.base / "new" / "deep")) == ["base", "run"]
    assert "<<<<<<< base\nbase\n=======\nrun\n>>>>>>>" in (scene.base / "new" / "both").read_text()


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_file_and_a_directory(scene: Scene, side: str) -> None:
    write(scene, "f", text(l3="of the run"))
    write(scene, "d/a", text(l3="of the run"))
    scene.seal()
    (scene.base / "f").unlink()
    (scene.base / "f").mkdir()
    (scene.base / "f" / "inner").write_text("x")
    assert refused(scene) == [("f", "KIND")]
    merged(scene, resolve=all_of(side))
    assert (scene.base / "f").is_dir() == (side == "ours")
    assert (scene.base / "d" / "a").read_text() == text(l3="of the run")


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_directory_deleted_in_the_base(scene: Scene, side: str) -> None:
    write(scene, "d/a", text(l3="of the run"))
    write(scene, "d/sub/new", "new")
    scene.seal()
    remove_in_base(scene.base / "d")
    assert refused(scene) == [("d", "DELETED_IN_BASE")]
    merged(scene, resolve=all_of(side))
    found = sorted(path.decode() for path in picture(scene.base) if path.startswith(b"d"))
    assert found == ([] if side == "ours" else ["d", "d/a", "d/sub", "d/sub/new"])


def remove_in_base(path: Path) -> None:
    import shutil

    shutil.rmtree(path)


def test_what_the_base_renamed_is_changed_there(scene: Scene) -> None:
    write(scene, "f", text(l3="of the run"))
    write(scene, "d/a", text(l4="of the run"))
    write(scene, "d/new", "new")
    scene.seal()
    time.sleep(0.01)
    (scene.base / "d").rename(scene.base / "e")
    (scene.base / "f").rename(scene.base / "e" / "moved")
    before = picture(scene.base)
    result = merged(scene)
    assert {(each.path, each.how) for each in result.settled} == {(b"f", "followed"), (b"d", "followed")}
    assert (scene.base / "e" / "moved").read_text() == text(l3="of the run")
    assert (scene.base / "e" / "a").read_text() == text(l4="of the run")
    assert sorted(os.listdir(scene.base / "e")) == ["a", "moved", "new", "sub"]
    assert not (scene.base / "f").exists()
    assert not (scene.base / "d").exists()
    assert result.number is not None
    undo(scene.store, result.number)
    assert differences(before, picture(scene.base)) == []


@pytest.mark.parametrize(("side", "name"), [("ours", "by-base"), ("theirs", "by-run")])
def test_what_both_renamed(scene: Scene, side: str, name: str) -> None:
    scene.mount.rename(b"f", b"by-run")
    scene.mount.rename(b"d", b"dir-by-run")
    scene.seal()
    (scene.base / "f").rename(scene.base / "by-base")
    assert refused(scene) == [("by-run", "RENAMED_IN_BOTH")]
    merged(scene, resolve=all_of(side))
    assert sorted(os.listdir(scene.base)) == sorted(["binary", name, "dir-by-run", "g"])
    assert (scene.base / name).read_text() == text()


def test_nothing_that_the_run_moved_is_lost_with_ours(scene: Scene) -> None:
    """The run's new directory has a file of the base in it: without the directory the file goes back."""
    scene.mount.mkdir(b"new", 0o755)
    scene.mount.rename(b"f", b"new/f")
    scene.seal()
    time.sleep(0.01)
    (scene.base / "new").write_text("a file of the base")
    assert refused(scene) == [("new", "BOTH_ADDED")]
    merged(scene, resolve=all_of("ours"))
    assert (scene.base / "new").read_text() == "a file of the base"
    assert (scene.base / "f").read_text() == text()


def test_a_rebase(scene: Scene) -> None:
    write(scene, "f", text(l3="of the run"))
    write(scene, "g", text(l3="of the run"))
    in_base(scene, "f", text(l20="of the base"))
    run = scene.store.runs.get(scene.run)
    before = picture(scene.base)
    result = rebase(scene.store, run)
    assert [(each.path, each.how) for each in result.settled] == [(b"f", "merged")]
    assert differences(before, picture(scene.base)) == []
    scene.close()
    scene.reopen()
    assert scene.read(b"f").decode() == text(l3="of the run", l20="of the base")
    assert rebase(scene.store, run).settled == ()
    in_base(scene, "f", text(l20="of the base", l25="once more"))
    assert rebase(scene.store, run).settled != ()  # the ancestor of this one is the base of the first
    merge(scene.store, run)
    assert (scene.base / "f").read_text() == text(l3="of the run", l20="of the base", l25="once more")


def test_a_rebase_that_is_refused_or_taken_back(scene: Scene) -> None:
    write(scene, "f", text(l3="of the run"))
    in_base(scene, "f", text(l3="of the base"))
    run = scene.store.runs.get(scene.run)
    state = scene.store.upper(scene.run).load()
    with pytest.raises(Conflict):
        rebase(scene.store, run)
    assert scene.store.upper(scene.run).load() == state
    result = rebase(scene.store, run, resolve=all_of("markers"))
    assert result.before is not None
    rewind(scene.store, scene.run, result.before.position)
    assert scene.store.upper(scene.run).load().entries == state.entries
    assert refused(scene) == [("f", "BOTH_MODIFIED")]
