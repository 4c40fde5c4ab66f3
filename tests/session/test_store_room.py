"""A store never grows without a bound: what goes when its limit is reached, what stays, and who is told."""

import contextlib
import errno
import io
import os
import re
import tarfile
from pathlib import Path

import pytest

import goexfs
from goexfs.cli.errors import STATUS
from snapshots.errors import HistoryGone, StoreDamaged, StoreError, StoreLimit
from snapshots.storage import bound
from snapshots.upkeep.fsck import fsck
from tests.cli.conftest import Command
from tests.support.commands import CHECKOUT

MIB = 1 << 20
LIMIT = 26 * MIB
"""of which the reserve takes four"""


def write(path: Path, mark: int, size: int = 6 * MIB) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(16) + bytes([mark]) * (size - 16))
        file.flush()
        os.fsync(file.fileno())


def test_a_store_keeps_to_its_limit(goexfs_home: Path, fresh_base: Path) -> None:
    with goexfs.open_store() as store:
        store.set_limit(LIMIT)
        with store.start(fresh_base, name="one", on_exit="keep") as run:
            place = Path(os.fsdecode(run.mountpoint))
            positions = []
            for mark in (1, 2, 3):  # the second can go
                write(place / "a", mark)
                positions.append(run.position(None))
                if mark == 1:
                    run.snapshot("mine")
            assert store.use().used > LIMIT - 6 * MIB
            write(place / "b", 4)
            assert run.refused_for_room is None
            assert run.cat(b"a", at="mine")[16] == 1 and run.cat(b"a")[16] == 3 and run.cat(b"b")[16] == 4
            with pytest.raises(HistoryGone):
                run.cat(b"a", at=f"#{positions[1] - 1}")
            with pytest.raises(OSError) as refused:
                write(place / "c", 5)
            assert refused.value.errno == errno.ENOSPC
            for _ in range(3):
                with pytest.raises(OSError) as refused:
                    write(place / "d", 6, 8 * MIB)
                assert refused.value.errno in (errno.ENOSPC, errno.EIO)
            assert run.refused_for_room is not None and run.refused_for_room.limit == LIMIT
            assert store.use().used <= LIMIT + MIB
            for name in "cd":
                (place / name).unlink(missing_ok=True)
            (place / "b").unlink()
            write(place / "e", 7)
        found = store.run("one")
        assert found.refused_for_room is not None and found.refused_for_room.operations >= 1
        assert found.cat(b"a")[16] == 3 and found.cat(b"e")[16] == 7
        assert "ENOSPC" in (store.store.runs.directory(found.id) / "server.log").read_text()

        store.set_limit(18 * MIB)
        waste = store.waste()
        assert waste.use.is_reached and waste.use.limit == 18 * MIB
        with pytest.raises(StoreLimit, match="discard some"):
            store.start(fresh_base)
        with pytest.raises(StoreLimit, match="discard some"):
            found.fork()
        with found.as_it_was("~0") as fork:
            assert fork.cat(b"a")[16] == 3, "what a merge of a point needs"
        assert [each.id for each in store.runs(all=True)] == [found.id]
        with store.start(fresh_base, store_limit=0, on_exit="forget") as lifted:
            write(Path(os.fsdecode(lifted.mountpoint)) / "f", 8)
        with store.resume("one") as again:  # to be looked at, and to be made smaller
            place = Path(os.fsdecode(again.mountpoint))
            assert (place / "a").stat().st_size == 6 * MIB
            with pytest.raises(OSError):
                (place / "g").write_bytes(b"x")
            (place / "e").unlink()
        assert found.cat(b"a", at="mine")[16] == 1
        store.set_limit(bound.NONE)
        assert not store.use().is_near and store.gc().limit == 0
        assert fsck(store.store).clean


def test_merges_that_cannot_be_undone_any_more(goexfs_home: Path, fresh_base: Path) -> None:
    target = fresh_base / "a"
    with goexfs.open_store() as store:
        for mark in (1, 2, 3):
            with store.start(fresh_base, on_exit="keep") as run:
                write(Path(os.fsdecode(run.mountpoint)) / "a", mark)
            run.merge()
        before = store.use()
        assert before.merges >= 12 * MIB
        assert store.gc().merges == 0
        store.set_limit(before.used - 5 * MIB)
        assert store.waste().over > 0
        report = store.gc()
        assert report.merges == 2 and report.used_bytes < report.limit
        store.set_limit(MIB)
        assert store.gc().merges == 0, "the latest can always be undone"
        store.undo(3)
        assert target.read_bytes()[16] == 2


def test_the_limit(goexfs_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with goexfs.open_store() as store:
        layout = store.store.layout
        disk = os.statvfs(layout.root)
        usual = min(20 << 30, max(disk.f_frsize * disk.f_blocks // 10, 1 << 30))
        assert store.use().limit == usual
        store.set_limit(5 << 30)
        assert store.use().limit == store.known_use().limit == 5 << 30
        monkeypatch.setenv("GOEXFS_STORE_LIMIT", "3G")
        assert store.use().limit == 3 << 30
        monkeypatch.setenv("GOEXFS_STORE_LIMIT", "none")
        assert store.use().limit == bound.NONE and store.use().room > 1 << 60
        monkeypatch.setenv("GOEXFS_STORE_LIMIT", "much")
        with pytest.raises(StoreError, match="GOEXFS_STORE_LIMIT"):
            store.use()
        monkeypatch.delenv("GOEXFS_STORE_LIMIT")
        layout.usage.write_bytes(b"{")
        assert store.known_use().used > 0
        layout.limit.write_bytes(b"plenty")
        with pytest.raises(StoreDamaged):
            store.use()
        store.set_limit(None)
        assert store.use().limit == usual


def test_on_the_command_line(goexfs_home: Path, fresh_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOEXFS_STORE_LIMIT", "12M")
    command = Command(fresh_base)
    done = command("run", "--keep", "--name", "one", "--", "sh", "-c", "head -c 20M /dev/urandom > a; echo x > b")
    assert "No space left on device" in done.stderr and "limit of 12.0 MiB" in done.stderr
    (goexfs_home / "filler").write_bytes(os.urandom(8 * MIB))
    listed = command("ls")
    assert "of the 12.0 MiB that it may" in listed.stderr and "one" in listed.stdout
    document = command.json("ls")["store"]
    assert document["limit"] == 12 * MIB
    refused = command("run", "--keep", "--", "true")
    assert refused.returncode == STATUS[StoreLimit] and refused.stderr.count("\n") == 1
    lifted = command("run", "--keep", "--store-limit", "none", "--name", "two", "--", "sh", "-c", "echo x > b")
    assert lifted.returncode == 0 and command("cat", "two", "b").stdout == "x\n"
    assert command("run", "--store-limit", "0", "--", "true").returncode == 2
    told = command("gc", "--dry-run").stdout
    assert "of the 12.0 MiB that it may" in told and "would free" in told
    monkeypatch.delenv("GOEXFS_STORE_LIMIT")
    assert "of the 1.0 GiB" in command("gc", "--store-limit", "1G").stdout
    assert command.json("gc", "--dry-run")["use"]["limit"] == 1 << 30


def test_an_import_keeps_to_the_limit(
    goexfs_home: Path, fresh_base: Path, area: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("small", 3), ("large", 20)):
        with tarfile.open(area / f"{name}.tar", "w") as archive:
            for number in range(count):
                member = tarfile.TarInfo(f"{name}{number}")
                member.size = MIB
                archive.addfile(member, io.BytesIO(os.urandom(MIB)))
    monkeypatch.setenv("GOEXFS_STORE_LIMIT", "12M")
    command = Command(fresh_base)
    assert command("import", str(area / "small.tar")).returncode == 0
    refused = command("import", str(area / "large.tar"))
    assert refused.returncode == STATUS[StoreLimit] and refused.stderr.count("\n") == 1
    assert "nothing was imported" in refused.stderr and len(command.json("ls")["runs"]) == 1
    with goexfs.open_store() as store:
        assert store.use().used < 12 * MIB


def test_the_example_of_the_documentation(goexfs_home: Path, area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (CHECKOUT / "docs" / "history.md").read_text()
    (area / "project").mkdir()
    (area / "project" / "README").write_text("a project\n")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    with contextlib.chdir(area):
        exec(compile(example, "docs/history.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "b'one\\n' b'two\\n'" and said[1].endswith(", 'good']") and said[2] == "[b'a', b'b']"
    assert said[-2] == "[(1, True)]" and said[-1].endswith(" True")
