"""Whatever somebody does to the base while a merge or an undo is under way, nothing outside of it is touched."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from snapshots.errors import BaseError, Conflict, GoexfsError, MergeError
from snapshots.merging import disk
from snapshots.merging.course import Course
from snapshots.merging.merge import merge
from snapshots.merging.mergelog import MergeLog
from snapshots.merging.mergerecovery import recover_merges
from snapshots.merging.undo import undo
from snapshots.storage import durable
from snapshots.storage.store import Store
from tests.store.sessions import write
from tests.store.work import Work
from tests.support.trees import differences, picture


class Scene:
    """A run that changes, adds, deletes and renames in directories of a base, and a place outside that looks alike."""

    def __init__(self, place: Path) -> None:
        self.place, self.base, self.outside = place, place / "base", place / "outside"
        for top in (self.base, self.outside):
            (top / "d" / "sub").mkdir(parents=True)
            for name in ("d/edited", "d/deleted", "d/mode", "d/sub/edited", "d/sub/renamed"):
                write(top / name, name)
        self.there = picture(self.outside)
        with Store.open(place / "store") as store:
            work = Work(store, os.fsencode(self.base), place / "there", self.change)
            work.mirror.close()
            self.run = work.run
        (self.base / "aside").symlink_to(self.outside / "d")

    @staticmethod
    def change(there: Path) -> None:
        for name in ("d/edited", "d/sub/edited", "d/new"):
            write(there / name, "of the run")
        (there / "d" / "deleted").unlink()
        (there / "d" / "mode").chmod(0o777)
        (there / "d" / "sub" / "renamed").rename(there / "d" / "renamed")
        (there / "d" / "made").mkdir()
        write(there / "d" / "made" / "f", "f")

    def swap(self) -> None:
        """``d`` and a symlink that leads outside change places."""
        fd = os.open(self.base, os.O_RDONLY)
        try:
            assert disk._renameat2(fd, b"d", fd, b"aside", 2)
        finally:
            os.close(fd)

    def assert_untouched(self) -> None:
        assert differences(self.there, picture(self.outside)) == []


@pytest.mark.parametrize("verb", ["merge", "undo"])
def test_a_directory_that_becomes_a_symlink_at_any_step(tmp_path: Path, verb: str) -> None:
    """Swapped before step N, for all N: refused and taken back, or done already; and never done outside."""
    refused = 0
    for number in range(1, 200, 2):
        scene = Scene(tmp_path / str(number))
        count = 0

        def seam(name: str, where: object, number: int = number, scene: Scene = scene) -> None:
            nonlocal count
            count += 1
            if count == number:
                scene.swap()

        with Store.open(scene.place / "store") as store:
            if verb == "undo":
                merge(store, scene.run)
            durable.seam = seam
            try:
                if verb == "merge":
                    merge(store, scene.run)
                else:
                    undo(store, 1)
            except (Conflict, MergeError, BaseError):
                refused += 1
            finally:
                durable.seam = None
            scene.assert_untouched()
            if count < number:
                break
            scene.swap()
            recover_merges(store, base=os.fsencode(scene.base))
            assert list(MergeLog(store).interrupted()) == []
        scene.assert_untouched()
    assert count < number
    assert refused


def racing(work: Callable[[], None]) -> int:
    """A process that does something over and over until it is killed."""
    pid = os.fork()
    if not pid:
        try:
            while True:
                work()
        finally:
            os._exit(0)
    return pid


def test_a_process_that_swaps_symlinks_all_the_time(tmp_path: Path) -> None:
    outcomes: list[str] = []
    deadline = time.monotonic() + 6
    number = 0
    while time.monotonic() < deadline and number < 12:
        number += 1
        scene = Scene(tmp_path / str(number))

        def flip(scene: Scene = scene) -> None:
            scene.swap()
            time.sleep(0.0005)

        pid = racing(flip)
        try:
            with Store.open(scene.place / "store") as store:
                for _ in range(5):
                    try:
                        if store.runs.get(scene.run.id).state == "kept":
                            merge(store, scene.run)
                        else:
                            undo(store, 1)
                        outcomes.append("done")
                    except GoexfsError as e:
                        outcomes.append(type(e).__name__)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        scene.assert_untouched()
    assert outcomes


def test_a_base_that_becomes_a_symlink_before_the_merge(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "x")
    scene.base.rename(tmp_path / "moved")
    scene.base.symlink_to(scene.outside)
    with Store.open(scene.place / "store") as store, pytest.raises(BaseError, match="not the directory"):
        merge(store, scene.run)
    scene.assert_untouched()


def test_a_base_that_becomes_a_symlink_during_the_merge(tmp_path: Path) -> None:
    """The directory is known by its descriptor: what is called by its name later is nothing to the merge."""
    scene = Scene(tmp_path / "x")
    count = 0

    def seam(name: str, where: object) -> None:
        nonlocal count
        count += 1
        if count == 8:
            scene.base.rename(tmp_path / "moved")
            scene.base.symlink_to(scene.outside)

    with Store.open(scene.place / "store") as store:
        durable.seam = seam
        try:
            merge(store, scene.run)
        finally:
            durable.seam = None
    scene.assert_untouched()
    assert (tmp_path / "moved" / "d" / "new").read_text() == "of the run"


def test_links_that_the_run_planted_are_links_in_the_base(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    base.mkdir()
    outside.mkdir()
    write(outside / "secret", "secret")
    write(base / "f", "f")
    (base / "d").mkdir()

    def change(there: Path) -> None:
        (there / "f").unlink()
        (there / "f").symlink_to(outside / "secret")
        (there / "d").rmdir()
        (there / "d").symlink_to(outside)
        (there / "up").symlink_to("../outside/secret")
        (there / "loop").symlink_to("loop")

    before = picture(outside)
    with Store.open(tmp_path / "store") as store:
        work = Work(store, os.fsencode(base), tmp_path / "there", change)
        work.mirror.close()
        merge(store, work.run)
        assert differences(work.expected, picture(base)) == []
        undo(store, 1)
        assert differences(work.before, picture(base)) == []
    assert differences(before, picture(outside)) == []


NAMES = [
    b"new\nline", b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07", b"caf\xc3\xa9", b"cafe\xcc\x81", b"README", b"readme",
    b"\xff\xfe", b"-rf", b"a\\b", b" ", b"\xe2\x80\xaegnp.exe", b"x" * 255, b"con", b".goexfs-merg",
]  # fmt: skip


def test_names_of_every_kind_and_devices(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in NAMES[::2]:
        write(Path(os.fsdecode(os.path.join(os.fsencode(base), name))), "of the base")

    def change(there: Path) -> None:
        for name in NAMES:
            write(Path(os.fsdecode(os.path.join(os.fsencode(there), name))), "of the run")
        os.mknod(there / "device", stat.S_IFCHR | 0o640, os.makedev(1, 3))
        os.mknod(there / "block", stat.S_IFBLK | 0o600, os.makedev(7, 99))

    with Store.open(tmp_path / "store") as store:
        work = Work(store, os.fsencode(base), tmp_path / "there", change)
        work.mirror.close()
        number = merge(store, work.run).number
        assert differences(work.expected, picture(base)) == []
        assert number is not None
        undo(store, number)
        assert differences(work.before, picture(base)) == []
        again = Work(store, os.fsencode(base), tmp_path / "there2", change)
        again.mirror.close()
        time.sleep(0.01)
        for name in NAMES:
            write(Path(os.fsdecode(os.path.join(os.fsencode(base), name))), "in conflict")
        with pytest.raises(Conflict) as e:
            merge(store, again.run)
        assert str(e.value).isprintable()
        assert len(e.value.conflicts) == len(NAMES)


def killed_before(place: Path, step: str, verb: Callable[[Store], object]) -> None:
    """A process that dies before the first step of this name."""
    pid = os.fork()
    if not pid:
        def seam(name: str, where: object) -> None:
            if name == step:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.seam = seam
        with Store.open(place / "store") as store:
            verb(store)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["symlink", "file", "fifo"])
def test_something_else_has_the_name_of_an_interrupted_merge(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path / "x")
    killed_before(scene.place, "base mkdir", lambda store: merge(store, scene.run))
    with Store.open(scene.place / "store") as store:
        (pending,) = MergeLog(store).interrupted()
        planted = scene.base / os.fsdecode(pending.staging)
        if kind == "symlink":
            planted.symlink_to(scene.outside)
        elif kind == "file":
            write(planted, "somebody's own")
        else:
            os.mkfifo(planted)
        assert recover_merges(store) == []
        for _ in range(2):
            with pytest.raises(MergeError, match="move it away"):
                merge(store, scene.run)
        scene.assert_untouched()
        planted.unlink()
        assert merge(store, scene.run).merged


@pytest.mark.parametrize("verb", ["merge", "undo"])
def test_a_journal_that_somebody_put_into_the_base_is_not_carried_out(tmp_path: Path, verb: str) -> None:
    """Else the owner of a base would have what he likes done with the rights of whoever recovers."""
    scene = Scene(tmp_path / "x")
    if verb == "undo":
        with Store.open(scene.place / "store") as store:
            merge(store, scene.run)
    do: Callable[[Store], object] = (lambda s: merge(s, scene.run)) if verb == "merge" else (lambda s: undo(s, 1))
    killed_before(scene.place, "base exchange", do)
    with Store.open(scene.place / "store") as store:
        (pending,) = MergeLog(store).interrupted()
        staging = scene.base / os.fsdecode(pending.staging)
        (journal,) = (path for path in staging.iterdir() if path.name in ("attach", "detach"))
        real = journal.read_bytes()
        forged = msgspec.msgpack.decode(real, type=Course)
        journal.write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(forged, token=bytes(16))))
        with pytest.raises(MergeError, match="not that of the merge"):
            recover_merges(store, base=os.fsencode(scene.base))
        journal.write_bytes(real)
        assert len(recover_merges(store, base=os.fsencode(scene.base))) == 1
        assert list(MergeLog(store).interrupted()) == []
