"""The adaptive wait by itself, on a pipe instead of a device."""

import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from goexfs.fuse import wait
from goexfs.fuse.wait import Waiter


class Loop:
    """Tasks like those of pyfuse3's session loop: wait, receive, handle."""

    def __init__(self, waiter: Waiter, fd: int) -> None:
        self.waiter = waiter
        self.fd = fd
        self.received: list[bytes] = []
        self.ended = 0
        self.go_on = trio.Event()

    async def task(self) -> None:
        while await self.waiter.wait():
            request = os.read(self.fd, 1)
            self.received.append(request)
            if request == b"s":
                await self.go_on.wait()
        self.ended += 1


@pytest.mark.parametrize("spin", [True, False])
def test_requests_are_received_in_order_and_the_end_reaches_every_task(pipe: tuple[int, int], spin: bool) -> None:
    async def main() -> None:
        waiter = Waiter(pipe[0], spin=spin)
        loop = Loop(waiter, pipe[0])
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(loop.task)
            for number in range(200):
                os.write(pipe[1], b"%d" % (number % 10))
                if number % 7 == 0:
                    await trio.sleep(0.001)
            with trio.fail_after(5):
                while len(loop.received) < 200:
                    await trio.sleep(0.001)
            waiter.stop()
            trio.lowlevel.notify_closing(pipe[0])
        assert loop.ended == 5
        assert b"".join(loop.received) == b"".join(b"%d" % (number % 10) for number in range(200))

    trio.run(main)


def test_a_handler_that_waits_is_relieved_by_another_task(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter(pipe[0], spin=True)
        loop = Loop(waiter, pipe[0])
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(loop.task)
            with trio.fail_after(20):
                os.write(pipe[1], b"ss")
                while len(loop.received) < 2:
                    await trio.sleep(0.001)
                os.write(pipe[1], b"1")
                while len(loop.received) < 3:  # while two handlers wait
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_other_tasks_get_their_turn_during_an_endless_burst(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter(pipe[0], spin=True)
        turns = 0

        async def endless() -> None:
            os.write(pipe[1], b"x")  # never read: always readable
            while await waiter.wait():
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(endless)
            while turns < 30:
                await trio.lowlevel.checkpoint()
                turns += 1
            nursery.cancel_scope.cancel()
        assert 0 < waiter.requests <= (turns + 1) * (wait.YIELD_REQUESTS + 1)

    trio.run(main)


def test_spinning_stops_when_requests_are_rare_and_begins_again_in_a_burst(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        waiter = Waiter(pipe[0], spin=True)
        loop = Loop(waiter, pipe[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.task)
            # A busy machine makes some of the rare ones look near and some of the near ones rare, but not all.
            with trio.fail_after(60):
                while waiter._score >= wait.WORTH_IT:
                    os.write(pipe[1], b"1")
                    await trio.sleep(0.002)
                while waiter._score <= wait.WORTH_IT:
                    os.write(pipe[1], b"1")
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_no_spinning_where_it_would_cost_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert not wait.spinning_pays()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    found = {"/sys/fs/cgroup/slice/cpu.max": b"50000"}
    monkeypatch.setattr(wait, "_first_word", lambda path: found.get(path, b""))
    real = open

    def fake_open(path: str, *arguments: Any, **options: Any) -> Any:
        if path == "/proc/self/cgroup":
            (tmp_path / "cgroup").write_text("0::/slice/job/part\n")
            path = tmp_path / "cgroup"
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", fake_open)
    assert not wait.spinning_pays(), "a limit of a group above counts as well"
    found.clear()
    found["/sys/fs/cgroup/slice/job/part/cpu.max"] = b"max"
    assert wait.spinning_pays()


def test_an_unknown_module_is_left_alone() -> None:
    async def obeys(nursery: object, least: int, most: int) -> None:
        await module._wait_fuse_readable()

    async def stuck(nursery: object, least: int, most: int) -> None:
        await trio.sleep_forever()

    async def stock() -> bool:
        raise AssertionError("must not be called")

    module: Any = SimpleNamespace(__version__="3.5.0", _wait_fuse_readable=stock, _session_loop=obeys)
    assert trio.run(wait.can_install, module)
    assert module._wait_fuse_readable is stock
    module.__version__ = "4.0"
    assert not trio.run(wait.can_install, module)
    module.__version__, module._session_loop = "3.5.0", stuck
    wait_seconds, wait.SELF_TEST_SECONDS = wait.SELF_TEST_SECONDS, 0.05
    assert not trio.run(wait.can_install, module)
    wait.SELF_TEST_SECONDS = wait_seconds
    del module._session_loop
    assert not trio.run(wait.can_install, module)


def test_requests_that_are_near_do_not_wake_the_event_loop(pipe: tuple[int, int]) -> None:
    busy = False

    async def main() -> None:
        nonlocal busy
        waiter = Waiter(pipe[0], spin=False, alone=lambda: not busy)
        os.write(pipe[1], b"a")
        assert await waiter.wait()
        os.read(pipe[0], 1)
        writer = threading.Timer(wait.NAP_MS / 4000, os.write, (pipe[1], b"b"))
        writer.start()
        assert await waiter.wait()
        writer.join()
        os.read(pipe[0], 1)
        assert waiter.naps + waiter.sleeps == 1  # a nap, unless the timer was late
        busy = True
        naps = waiter.naps
        writer = threading.Timer(0.01, os.write, (pipe[1], b"c"))
        writer.start()
        assert await waiter.wait()
        writer.join()
        assert waiter.naps == naps, "whoever waits for a thread is not kept waiting"

    trio.run(main)
