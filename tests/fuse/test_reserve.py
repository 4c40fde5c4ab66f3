"""Room that is kept for the journal."""

import errno
import os
from pathlib import Path

import pytest

from goexfs.fuse.recording import Recording
from goexfs.fuse.reserve import RESERVE_BYTES, Reserve
from snapshots.history.journal import Change


def full(fd: int, offset: int, length: int) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_a_change_is_refused_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(tmp_path / "reserve")
    reserve.check()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    monkeypatch.setattr(os, "posix_fallocate", full)
    reserve.check()  # it is there
    assert reserve.give()
    assert not reserve.give()
    assert (tmp_path / "reserve").stat().st_blocks == 0
    with pytest.raises(OSError, match="no room"):
        reserve.check()
    monkeypatch.undo()
    reserve.check()
    reserve.close()
    assert not list(tmp_path.iterdir())


def test_a_filesystem_that_sets_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    Reserve(tmp_path / "reserve").check()


def test_the_record_that_finds_the_disk_full_gets_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path / "journal", 1)
    change = Change("write", 1, 0, 5, b"f", (), (), (), ())
    real, calls = os.write, []

    def once(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "no room")
        return real(fd, data)

    monkeypatch.setattr(os, "write", once)
    recording.append(change)
    assert len(calls) == 2
    calls.clear()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no room"):
        recording.check_room()
    with pytest.raises(OSError, match="no room"):
        recording.append(change)
    monkeypatch.undo()
    recording.close()
