"""A base whose disk answers when the test says so.

A filesystem on FUSE, read-only, that shows a directory of the native one.  What the kernel has once been told it
remembers; everything else is *held*: the question is shown to the test, and answered when the test has done what it
wants to do meanwhile.  So a thread that waits for a disk can be looked at for as long as one likes, and nothing depends
on how quick the machine is.

Served by a process of its own; the questions come to a thread of the test's.
"""

import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goexfs.fuse import device

FOR_EVER = 3600
Question = tuple[str, str, str]
"""what is asked, about which path, and the detail: a name of it, an offset"""


class Gate:
    """What the test sees of the disk."""

    def __init__(self, path: Path, pid: int, stream: socket.socket) -> None:
        self.path = path
        self.pid = pid
        """of the process that serves"""
        self.held: list[Question] = []
        """all questions that were held so far"""
        self.failed: BaseException | None = None
        """what a look at a question raised"""
        self._look: Callable[[Question], object] | None = None
        self._stream = stream
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    @contextmanager
    def looking(self, look: Callable[[Question], object]) -> Iterator[None]:
        """Meanwhile *look* is called with every question while it is held.  Raises afterwards what *look* raised."""
        self._look = look
        try:
            yield
        finally:
            self._look = None
        if self.failed is not None:
            raise self.failed

    def _answer(self) -> None:
        with self._stream.makefile("rwb") as stream:
            for line in stream:
                number, *question = json.loads(line)
                look = self._look
                if look is not None:
                    self.held.append(tuple(question))
                    try:
                        look(tuple(question))
                    except BaseException as e:
                        self.failed, self._look = self.failed or e, None
                stream.write(b"%d\n" % number)
                stream.flush()

    def end(self) -> None:
        """The process is gone."""
        self._thread.join()
        self._stream.close()


@contextmanager
def gated(source: Path, mountpoint: Path) -> Iterator[Gate]:
    """Show *source* at *mountpoint*."""
    mountpoint.mkdir()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _serve(os.fsencode(source), mountpoint, theirs)
        finally:
            os._exit(1)
    theirs.close()
    ours.recv(1)
    gate = Gate(mountpoint, pid, ours)
    try:
        yield gate
    finally:
        device.detach(os.fsencode(mountpoint), lazy=True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        gate.end()


def _serve(source: bytes, mountpoint: Path, stream: socket.socket) -> None:
    import pyfuse3
    import trio

    async def serve() -> None:
        disk = _disk(source, trio.SocketStream(trio.socket.from_stdlib_socket(stream)))
        pyfuse3.init(disk, os.fspath(mountpoint), {"fsname=gated", "ro", "allow_other", "default_permissions"})
        await disk.stream.send_all(b"!")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.release_when_told)
            await pyfuse3.main(1, 64)

    trio.run(serve)


def _disk(source: bytes, to_test: Any) -> Any:
    # Inside, so that a test process that only forks need not import what serves.
    import pyfuse3
    import trio
    from pyfuse3 import EntryAttributes, FUSEError

    class Disk(pyfuse3.Operations):  # type: ignore[misc, unused-ignore]
        stream = to_test

        def __init__(self) -> None:
            super().__init__()
            self._paths = {pyfuse3.ROOT_INODE: source}
            self._numbers = {source: pyfuse3.ROOT_INODE}
            self._answered: set[Question] = set()
            self._waiting: dict[int, trio.Event] = {}
            self._count = 0

        async def release_when_told(self) -> None:
            pending = b""
            async for data in self.stream:
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._waiting.pop(int(line)).set()

        async def _held(self, what: str, ino: int, detail: object = "") -> bytes:
            path = self._paths[ino]
            shown = os.fsdecode(os.path.relpath(path, source))
            question = (what, shown, os.fsdecode(detail) if isinstance(detail, bytes) else str(detail))
            if question not in self._answered:
                self._count += 1
                number, event = self._count, trio.Event()
                self._waiting[number] = event
                await self.stream.send_all(json.dumps([number, *question]).encode() + b"\n")
                await event.wait()
                self._answered.add(question)
            return path

        def _attributes(self, path: bytes) -> EntryAttributes:
            try:
                st = os.lstat(path)
            except OSError as e:
                raise FUSEError(e.errno or errno.EIO) from None
            entry = EntryAttributes()
            entry.st_ino = self._numbers.setdefault(path, len(self._numbers) + 1)
            self._paths[entry.st_ino] = path
            entry.entry_timeout = entry.attr_timeout = FOR_EVER
            for each in ("mode", "nlink", "uid", "gid", "size", "blocks", "atime_ns", "mtime_ns", "ctime_ns"):
                setattr(entry, f"st_{each}", getattr(st, f"st_{each}"))
            return entry

        async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> EntryAttributes:
            above = self._paths[parent_inode]
            listed = ("list", os.fsdecode(os.path.relpath(above, source)), "") in self._answered
            if not listed or os.path.lexists(os.path.join(above, name)):  # a listing says what is not there
                await self._held("lookup", parent_inode, name)
            return self._attributes(os.path.join(above, name))

        async def getattr(self, inode: int, ctx: object = None) -> EntryAttributes:
            return self._attributes(self._paths[inode])  # of an inode that is known, and so in memory

        async def readlink(self, inode: int, ctx: object = None) -> bytes:
            return os.readlink(await self._held("readlink", inode))

        async def opendir(self, inode: int, ctx: object = None) -> int:
            return inode

        async def readdir(self, fh: int, start_id: int, token: Any) -> None:
            path = await self._held("list", fh)
            names = sorted(os.listdir(path))
            for at, name in enumerate(names[start_id:], start_id + 1):
                entry = self._attributes(os.path.join(path, name))
                entry.entry_timeout = entry.attr_timeout = 0  # a directory of a disk does not hold the inodes
                if not pyfuse3.readdir_reply(token, name, entry, at):
                    return

        async def open(self, inode: int, flags: int, ctx: object = None) -> Any:
            return pyfuse3.FileInfo(fh=inode, keep_cache=True)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            with open(await self._held("read", fh, off), "rb") as file:
                file.seek(off)
                return file.read(size)

        async def listxattr(self, inode: int, ctx: object = None) -> Sequence[bytes]:
            path = await self._held("listxattr", inode)
            return [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]

        async def getxattr(self, inode: int, name: bytes, ctx: object = None) -> bytes:
            path = self._paths[inode]
            listed = ("listxattr", os.fsdecode(os.path.relpath(path, source)), "") in self._answered
            names = os.listxattr(path, follow_symlinks=False)
            if not listed or os.fsdecode(name) in names:  # a list says what is not there
                await self._held("getxattr", inode, name)
            if os.fsdecode(name) not in names:
                raise FUSEError(errno.ENODATA)
            return os.getxattr(path, name, follow_symlinks=False)

        async def statfs(self, ctx: object = None) -> Any:
            data = pyfuse3.StatvfsData()
            data.f_bsize = data.f_frsize = 4096
            data.f_namemax = 255
            return data

    return Disk()
