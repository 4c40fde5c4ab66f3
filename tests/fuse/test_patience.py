"""Waiting for a quick disk without a thread, by itself, on a pipe instead of a device."""

import os

import pytest

from goexfs.fuse.patience import SPIN_SECONDS, Patience


def never() -> bool:
    return False


def test_what_arrives_at_once_is_waited_for(pipe: tuple[int, int]) -> None:
    patience = Patience(pipe[0])
    answers = iter([False, False, True])
    assert patience.caught(lambda: next(answers))
    assert (patience.paid, patience.missed) == (1, 0)


def test_another_request_is_not_kept_waiting(pipe: tuple[int, int]) -> None:
    patience = Patience(pipe[0])
    os.write(pipe[1], b"a request")
    assert not patience.caught(lambda: pytest.fail("asked, although there is something to do"))
    assert patience.missed == 0, "that says nothing about the disk"


def test_a_slow_disk_is_left_to_threads_until_it_is_quick_again(pipe: tuple[int, int]) -> None:
    patience = Patience(pipe[0])
    for _ in range(100):
        assert not patience.caught(never)
    assert 0 < patience.missed < 100, "it gives up"
    asked = patience.missed
    for _ in range(10):
        patience.took(0.01)
    assert not patience.caught(never)
    assert patience.missed == asked, "and does not try"
    for _ in range(100):
        patience.took(SPIN_SECONDS / 2)
    assert patience.caught(lambda: True), "until the threads find that it would pay"
