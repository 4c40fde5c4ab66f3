"""Real mounts for tests: each served by a process of its own, which is asked questions over a socket.

The test process is the client; it must not serve what it looks at, and a server that dies takes nothing of the test
with it.
"""

import functools
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goexfs.fuse import device
from tests.support.users import OrdinaryUser

SECONDS = 20.0
HANDLERS = (
    "access", "create", "fsync", "fsyncdir", "getattr", "getxattr", "link", "listxattr", "lookup", "mkdir",
    "mknod", "open", "opendir", "read", "readdir", "readlink", "release", "releasedir", "removexattr", "rename",
    "rmdir", "setattr", "setxattr", "statfs", "symlink", "unlink", "write",
)  # fmt: skip
ASYNCHRONOUS = ("release", "releasedir", "forget")
"""requests that no program waits for"""

Prepare = Callable[[Any], None]


class ServerDied(AssertionError):
    """The serving process ended when it should not have, or logged what it should not have."""


class Mounted:
    """A mount as its test sees it: ``path`` is the mountpoint, the rest asks the server."""

    def __init__(self, path: Path, base: Path, store: Path, run_id: str, pid: int, control: socket.socket) -> None:
        self.path = path
        self.base = base
        self.store = store
        self.run_id = run_id
        self.pid = pid
        self._control = control.makefile("rwb")

    def ask(self, what: str, *arguments: Any) -> Any:
        """Have the server do something (see `_Server`) and return what it answers."""
        self._control.write(json.dumps([what, *arguments]).encode() + b"\n")
        self._control.flush()
        line = self._control.readline()
        if not line:
            raise ServerDied(f"the server hung up when asked for {what}")
        answer = json.loads(line)
        if "error" in answer:
            raise ServerDied(answer["error"])
        return answer["ok"]

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Fills a counter with the requests that reached the server within the block."""
        before = Counter(self.ask("counts"))
        counted: Counter[str] = Counter()
        yield counted
        counted.update(Counter(self.ask("counts")) - before)

    def wait_watched(self) -> None:
        """Return when the base is watched."""
        deadline = time.monotonic() + SECONDS
        while not self.ask("watched"):
            assert time.monotonic() < deadline, "the base was not watched in time"
            time.sleep(0.01)


def eventually(true: Callable[[], bool], seconds: float = 1.0) -> float:
    """Wait until *true* answers so, and return how long that took; fail after *seconds*."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"still not so after {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - began


@contextmanager
def mounted(
    base: Path,
    place: Path,
    *,
    user: OrdinaryUser | None = None,
    run_id: str | None = None,
    allow_other: bool = False,
    watch: bool = True,
    prepare: Prepare | None = None,
    open_base: Callable[[bytes], Any] | None = None,
    logs: str | None = None,
) -> Iterator[Mounted]:
    """Serve *base* from a forked process, with the store and the mountpoint in *place*, until the block ends.

    *run_id* goes on with an earlier run of the same place.  *prepare* is called in the server, with the `Service`,
    before it mounts; *open_base* opens the base there, in another way than by its filesystem.  Fails when the server
    died, or logged a warning that does not contain *logs*.
    """
    mountpoint = place / "mnt"
    mountpoint.mkdir(exist_ok=True)
    if user is not None:
        os.chown(mountpoint, user.uid, user.gid)
        os.chown(place, user.uid, user.gid)
    ours, theirs = socket.socketpair()
    log = place / "server.log"
    log.write_bytes(b"")
    log.chmod(0o666)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            _become(user)
            _serve(base, place / "store", mountpoint, log, theirs, run_id, allow_other, watch, prepare, open_base)
            status = 0
        except BaseException:
            with log.open("a") as out:
                out.write("DIED: " + traceback.format_exc())
        finally:
            os._exit(status)
    theirs.close()
    ours.settimeout(SECONDS)
    reaped = False
    try:
        with ours:
            first = ours.makefile("rb").readline()
            if not first:
                raise ServerDied(f"the server did not mount: {log.read_text()}")
            mount = Mounted(mountpoint, base, place / "store", json.loads(first)["run"], pid, ours)
            yield mount
            reaped = True
            status = _end(pid)
            said = log.read_text()
            unexpected = [line for line in said.splitlines() if line and not (logs and logs in said)]
            if status != 0 or unexpected:
                raise ServerDied(f"the server ended with status {status}: {said}")
    finally:
        if not reaped:
            print(log.read_text(), file=sys.stderr)  # why it died may be why the test failed
            with_force(pid)
        device.detach(os.fsencode(mountpoint), lazy=True)


def _end(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
    except ChildProcessError:
        raise ServerDied("the server was killed") from None
    with_force(pid)
    raise ServerDied("the server did not end when told to")


def with_force(pid: int) -> None:
    """Kill a server that is not needed any more."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _become(user: OrdinaryUser | None) -> None:
    # While the interpreter's files can still be read: they may be below a directory that is root's alone.
    for module in (
        "encodings.ascii", "encodings.idna", "email.parser", "secrets", "goexfs.fuse.service", "goexfs.watch",
    ):  # fmt: skip
        importlib.import_module(module)
    if user is not None and os.geteuid() == 0:  # else it is that user already
        os.setgroups([])
        os.setgid(user.gid)
        os.setuid(user.uid)


def _serve(
    base: Path,
    store_path: Path,
    mountpoint: Path,
    log: Path,
    control: socket.socket,
    run_id: str | None,
    allow_other: bool,
    watch: bool,
    prepare: Prepare | None,
    open_base: Callable[[bytes], Any] | None,
) -> None:
    import trio

    from goexfs.overlay import Overlay, slowbase
    from goexfs.overlay.objectcache import ObjectCache
    from goexfs.watch import BaseWatch
    from snapshots.storage.store import Store

    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    handler = logging.FileHandler(log)
    handler.setLevel(logging.WARNING)
    root.addHandler(handler)
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    with Store.open(store_path) as store:
        if run_id is None:
            run_id = store.runs.create(base=os.fsencode(base), name=None, command=(), options={}).id
        with store.runs.lock(run_id):
            spool = store.runs.directory(run_id) / "spool"
            spool.mkdir(exist_ok=True)
            objects = ObjectCache(lambda: Store.open(store_path, create=False))
            tree = (open_base or slowbase.open_base)(os.fsencode(base))
            overlay = Overlay(tree, store.upper(run_id).load(), objects, spool)
            server = _Server(overlay, control, BaseWatch(os.fsencode(base)) if watch else None, run_id, prepare)
            trio.run(server.run, mountpoint, lambda: Store.open(store_path, create=False), allow_other)
            overlay.close()
            objects.close()


class _Server:
    """Serves one mount and answers questions about itself."""

    def __init__(self, overlay: Any, control: socket.socket, watch: Any, run_id: str, prepare: Prepare | None) -> None:
        self.overlay = overlay
        self.control = control
        self.watch = watch
        self.run_id = run_id
        self.prepare = prepare
        self.counts: Counter[str] = Counter()
        self.messages: list[str] = []
        self.service: Any = None
        self.nursery: Any = None
        self.worst = -1.0

    async def run(self, mountpoint: Path, open_store: Callable[[], Any], allow_other: bool) -> None:
        import trio

        from goexfs.fuse.service import Service

        self.service = service = Service(
            self.overlay, os.fsencode(mountpoint), run_id=self.run_id, open_store=open_store, allow_other=allow_other
        )
        if self.prepare is not None:
            self.prepare(service)
        async with trio.open_nursery() as nursery:
            self.nursery = nursery

            async def terminated() -> None:
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    async for _ in signals:
                        service.stop()

            def mounted() -> None:
                self._count(service.adapter)
                self.control.sendall(json.dumps({"run": self.run_id}).encode() + b"\n")
                nursery.start_soon(self._answer)
                if self.watch is not None:
                    nursery.start_soon(
                        self.watch.run, service.base_watched, service.base_changed, self.messages.append
                    )

            nursery.start_soon(terminated)
            await service.serve(mounted)
            nursery.cancel_scope.cancel()

    def _count(self, adapter: Any) -> None:
        """pyfuse3 looks a handler up on the instance at every request, so it can be wrapped there."""
        for name in HANDLERS:
            handler = getattr(adapter, name)

            def counted(*arguments: Any, _name: str = name, _handler: Any = handler) -> Any:
                self.counts[_name] += 1
                return _handler(*arguments)

            setattr(adapter, name, functools.wraps(handler)(counted))

    async def _answer(self) -> None:
        import trio

        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.control))
        pending = b""
        async for data in stream:
            pending += data
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                what, *arguments = json.loads(line)
                try:
                    answer = {"ok": await getattr(self, f"do_{what}")(*arguments)}
                except Exception:
                    answer = {"error": traceback.format_exc()}
                await stream.send_all(json.dumps(answer).encode() + b"\n")

    async def do_counts(self) -> dict[str, int]:
        """Requests so far, by handler."""
        return dict(self.counts)

    async def do_watched(self) -> bool:
        """Whether changes of the base are reported."""
        return bool(self.overlay.base_watched)

    async def do_base_changed(self, *paths: str) -> None:
        """Report these paths of the base as changed."""
        self.service.base_changed([os.fsencode(path) for path in paths])

    async def do_seal(self) -> None:
        """Bring everything into the store."""
        await self.service.seal_now()

    async def do_heartbeat(self) -> float:
        """The longest time for which the event loop was not there, in seconds, since this was last asked."""
        import trio

        async def beat() -> None:
            last = trio.current_time()
            while True:
                await trio.sleep(0.005)
                now = trio.current_time()
                self.worst, last = max(self.worst, now - last - 0.005), now

        if self.worst < 0:
            self.nursery.start_soon(beat)
        worst, self.worst = self.worst, 0.0
        return worst

    async def do_messages(self) -> list[str]:
        """What a person was told."""
        return self.messages

    async def do_waits(self) -> list[int] | None:
        """Requests, spins that paid, and sleeps of the wait loop; None with pyfuse3's own."""
        waiter = self.service.waiter
        return waiter and [waiter.requests, waiter.spins_paid, waiter.sleeps]

    async def do_receive_nothing(self) -> None:
        """Let the session loop receive once although there is no request, as after a client took its own back."""
        waiter = self.service.waiter
        real = waiter._poll

        class Lying:
            def poll(self, timeout: int) -> list[tuple[int, int]]:
                waiter._poll = real
                return [(0, 1)]

        waiter._poll = Lying()

    async def do_nodes(self) -> int:
        """Nodes in memory."""
        return len(self.overlay.nodes)

    async def do_rss(self) -> int:
        """Resident memory of the server, in bytes."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
