"""Taking back what one command did, and keeping the rest."""

from pathlib import Path

import pytest

from goexfs.session import RunHandle, RunStore, Session
from snapshots.errors import HistoryGone
from tests.support import trees

POSTINSTALL = """
mkdir modules modules/sub; echo 1 > modules/1; echo 2 > modules/sub/2
echo evil >> README; chmod 700 src/tool.sh; rm docs/data.bin; mv src/pkg src/parcel
echo new > made.tmp; mv made.tmp docs/link
"""


@pytest.fixture
def base(fresh_base: Path) -> Path:
    (fresh_base / "postinstall").write_text(POSTINSTALL)
    (fresh_base / "shared").write_text("base\n")
    return fresh_base


def changed(run: RunHandle) -> dict[bytes, str]:
    return {change.path: str(change.status) for change in run.diff()}


def left(run: RunHandle, pattern: str, *paths: bytes) -> list[tuple[bytes, bytes]]:
    return [(each.path, each.by) for each in run.take_back(pattern, paths).left]


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "kept"])
def test_the_rest_stays(store: RunStore, base: Path, mounted: bool) -> None:
    with store.start(base) as session:
        session.exec(["sh", "-c", "echo mine > mine; echo before >> shared"])
        before = trees.picture(session.mountpoint, times=False)
        session.exec(["sh", "postinstall"])
        session.exec(["sh", "-c", "echo later > later; mkdir own"])
        after = changed(session)
        if mounted:
            assert left(session, "sh postinstall") == []
            seen = trees.picture(session.mountpoint, times=False)
        session.keep()
        run = store.run(session.id)
        if not mounted:
            assert left(run, "sh postinstall") == []
            with store.resume(run) as again:
                seen = trees.picture(again.mountpoint, times=False)
        assert changed(run) == {b"mine": "A", b"shared": "M", b"later": "A", b"own": "A"}
        assert trees.differences(before, seen) == ["only after: b'later'", "only after: b'own'"]
        assert run.take_back("sh postinstall").before is None
        run.rewind()
        assert changed(run) == after


def test_what_others_changed_since_is_left(store: RunStore, base: Path) -> None:
    with store.start(base) as run:
        run.exec(["sh", "postinstall"])
        run.exec(["sh", "-c", "echo more >> README; echo own > modules/own; mv src/parcel src/moved"])
        run.exec(["sh", "-c", "echo y > docs/data.bin"])
        stays = dict(left(run, "postinstall"))
        assert set(stays) - {b"docs/README.hard"} == {b"README", b"modules", b"src/pkg", b"src/moved"}
        assert stays[b"README"].startswith(b"sh -c")
        now = changed(run)
        assert run.cat(b"README").endswith(b"evil\nmore\n")
        assert b"modules/1" not in now and now[b"modules/own"] == "A"
        assert run.cat(b"docs/data.bin") == b"y\n"
        assert b"src/tool.sh" not in now


def test_only_some_paths(store: RunStore, base: Path) -> None:
    with store.start(base) as run:
        run.exec(["sh", "postinstall"])
        assert left(run, "postinstall", b"docs") == []
        now = changed(run)
        assert [path for path in now if path.startswith(b"docs")] == [b"docs/README.hard"]  # it is README, too
        assert b"modules/1" in now and b"README" in now


def test_a_command_between_two_others(store: RunStore, base: Path) -> None:
    """Each goes back to what it was just before; what was written again by name is another file."""
    with store.start(base) as run:
        write(run, "one", "echo 1 > a; echo 1 > b; mkdir d")
        write(run, "two", "echo 2 >> a; echo 2 > d/in; rm b; echo 2 > b")
        write(run, "three", "rm -f a; echo 3 > a; echo 3 > d/other")
        assert left(run, "two") == []
        assert (run.cat(b"a"), run.cat(b"b"), run.cat(b"d/other")) == (b"3\n", b"1\n", b"3\n")
        assert set(changed(run)) == {b"a", b"b", b"d", b"d/other"}


def write(run: Session, name: str, script: str) -> None:
    run.exec(["sh", "-c", f"eval \"$1\" # {name}", name, script])


def test_what_a_fork_has_from_its_parent(store: RunStore, base: Path) -> None:
    with store.start(base) as session:
        session.exec(["sh", "-c", "echo mine > mine; echo before >> shared"])
        session.exec(["sh", "postinstall"])
        session.keep()
    parent = store.run(session.id)
    fork = parent.fork()
    with store.resume(fork) as again:
        again.exec(["sh", "-c", "echo later > later; echo more >> README"])
        again.keep()
    grandchild = fork.fork()
    author = grandchild.blame(b"docs/link")
    assert author is not None and author.lineage[0].command == (b"sh", b"postinstall")
    for run in (fork, grandchild):
        assert left(run, "sh postinstall") == [(b"README", b"sh -c echo later > later; echo more >> README")]
        assert changed(run) == {b"mine": "A", b"shared": "M", b"later": "A", b"README": "M", b"docs/README.hard": "M"}
        run.rewind()
        assert b"modules/1" in changed(run) and run.blame(b"later") is not None
    parent.discard()
    with pytest.raises(HistoryGone, match="is over"):
        left(grandchild, "sh postinstall")
