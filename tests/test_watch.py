"""The watch of the base by itself: what it reports, and what it says when it cannot."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from goexfs.watch import BaseWatch


class Heard:
    """What a watch reported."""

    def __init__(self) -> None:
        self.watched: list[bool] = []
        self.changed: set[bytes] = set()
        self.everything = 0
        self.messages: list[str] = []

    def on_changed(self, paths: Iterable[bytes] | None) -> None:
        if paths is None:
            self.everything += 1
        else:
            self.changed.update(paths)


def watching(base: Path, act: Callable[[BaseWatch, Heard], object], hidden: Iterable[bytes] = ()) -> Heard:
    """Watch *base*; when that is in place do *act* (in a thread), and answer what was heard half a second later."""
    heard = Heard()

    async def main() -> None:
        watch = BaseWatch(os.fsencode(base), hidden=hidden)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, heard.watched.append, heard.on_changed, heard.messages.append)
            with trio.fail_after(10):
                while not heard.watched and not heard.messages:
                    await trio.sleep(0.005)
            await trio.to_thread.run_sync(act, watch, heard)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return heard


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    (base / "a" / "b").mkdir(parents=True)
    (base / "a" / "b" / "file").write_text("1")
    return base


def test_each_kind_of_change_is_reported_by_its_path(base: Path) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        assert watch.count == 3
        (base / "a" / "b" / "file").write_text("2")
        (base / "a" / "new").write_text("")
        (base / "a" / "new").rename(base / "renamed")
        (base / "a" / "b").chmod(0o700)
        (base / "gone").mkdir()
        (base / "gone").rmdir()

    heard = watching(base, act)
    assert heard.changed >= {b"a/b/file", b"a/new", b"renamed", b"a/b", b"gone"}
    assert heard.watched == [True]
    assert not heard.messages
    assert not heard.everything


def test_reading_is_not_reported(base: Path) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        for _ in range(10):
            (base / "a" / "b" / "file").read_text()
            os.listdir(base / "a")

    assert not watching(base, act).changed


def test_symlinks_are_not_followed_and_hidden_paths_are_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "deeper").mkdir(parents=True)
    (base / "a" / "link").symlink_to(tmp_path / "outside")
    (base / "a" / "store").mkdir()

    def act(watch: BaseWatch, heard: Heard) -> None:
        assert watch.count == 3
        (tmp_path / "outside" / "deeper" / "file").write_text("")
        (base / "a" / "store" / "file").write_text("")

    assert not watching(base, act, hidden=[b"a/store"]).changed


def test_what_is_made_in_a_new_directory_at_once_is_reported(base: Path) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        for number in range(30):
            (base / f"n{number}" / "x" / "y").mkdir(parents=True)
            (base / f"n{number}" / "x" / "y" / "file").write_text("")

    heard = watching(base, act)
    assert {b"n%d/x/y/file" % number for number in range(30)} <= heard.changed


def test_a_directory_goes_on_being_watched_after_a_rename(base: Path, tmp_path: Path) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        (base / "a").rename(base / "z")
        (base / "z" / "b" / "file").write_text("2")
        (base / "z" / "b").rename(tmp_path / "out")
        (tmp_path / "out" / "file").write_text("3")
        (tmp_path / "out").rename(base / "back")
        (base / "back" / "file").write_text("4")

    heard = watching(base, act)
    assert heard.changed >= {b"z", b"z/b/file", b"z/b", b"back", b"back/file"}
    assert not any(b"out" in path for path in heard.changed)


def test_names_of_any_bytes_and_paths_beyond_the_limit(base: Path) -> None:
    directory = os.open(base, os.O_RDONLY)
    for _ in range(25):
        os.mkdir(b"d" * 200, dir_fd=directory)
        below = os.open(b"d" * 200, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below

    def act(watch: BaseWatch, heard: Heard) -> None:
        assert watch.count == 28
        os.close(os.open(b"\xff\n", os.O_CREAT | os.O_WRONLY, dir_fd=directory))

    assert b"/".join([b"d" * 200] * 25 + [b"\xff\n"]) in watching(base, act).changed
    os.close(directory)


def test_lost_events_mean_that_anything_may_have_changed(base: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to overflow in a test")

    def act(watch: BaseWatch, heard: Heard) -> None:
        with watch._lock:  # the reader cannot go on
            one, two = base / "one", base / "two"
            one.write_text("")
            for _ in range(limit // 4 + 100):
                one.rename(two)
                two.rename(one)
            (base / "unseen" / "inner").mkdir(parents=True)
        trio.from_thread.run(trio.sleep, 1)
        heard.changed.clear()
        (base / "unseen" / "inner" / "file").write_text("")

    heard = watching(base, act)
    assert heard.everything >= 1
    assert b"unseen/inner/file" in heard.changed, "directories made while events were lost are watched afterwards"


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_the_loss_of_the_base_is_reported(base: Path, tmp_path: Path, how: str) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        if how == "moved":
            base.rename(tmp_path / "elsewhere")
        else:
            subprocess.run(["rm", "-rf", base], check=True)

    heard = watching(base, act)
    assert heard.watched == [True, False]
    (message,) = heard.messages
    assert "moved or removed" in message


@pytest.mark.parametrize(
    ("limit", "said"), [("inotify_watches", "max_user_watches"), ("inotify_instances", "max_user_instances")]
)
def test_a_limit_of_the_kernel_is_reported_once(base: Path, limit: str, said: str) -> None:
    for number in range(50):
        (base / f"d{number}").mkdir()
    script = f"""
import sys, trio, time
from goexfs.watch import BaseWatch
open("/proc/sys/user/max_{limit}", "w").write("{20 if limit == "inotify_watches" else 0}")
told = []
def report(line):
    told.append(line)
watch = BaseWatch({os.fsencode(base)!r})
trio.run(watch.run, lambda watched: told.append(watched), lambda paths: told.append(paths), report)
assert len(told) == 1, told
print(told[0])
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_limit_that_is_reached_later_ends_the_watch(base: Path) -> None:
    def act(watch: BaseWatch, heard: Heard) -> None:
        assert watch._inotify is not None

        def refuse(*_: object) -> None:
            raise OSError(28, "no space")

        watch._inotify.add_callback = refuse  # type: ignore[method-assign,assignment]
        (base / "one too many").mkdir()

    heard = watching(base, act)
    assert heard.watched == [True, False]
    assert "max_user_watches" in heard.messages[0]
