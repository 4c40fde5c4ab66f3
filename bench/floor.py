"""The floor: a filesystem on pyfuse3 that has nothing to do, so that what is measured on it is pyfuse3.

Shows a tree read-only, from replies that were prepared before the mount.  It waits for requests, and has the kernel
keep what it was told, in the way goexfs does; there is no overlay, no journal, no policy and no thread.  What it
takes, no filesystem on pyfuse3 can save.

Run as ``python -m bench.floor BASE MOUNTPOINT`` it serves until it is unmounted.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext

from goexfs.fuse import device, listings, wait
from goexfs.fuse.faces import FOR_EVER
from goexfs.fuse.handshake import Handshake
from goexfs.overlay import Dir

TASKS = 16


class Floor(pyfuse3.Operations):
    """Everything that may be asked about *base*, read into memory."""

    enable_writeback_cache = True
    supports_dot_lookup = False

    def __init__(self, base: bytes) -> None:
        super().__init__()
        self._paths: dict[int, bytes] = {}
        """by inode number, which is the base's, as git knows it"""
        self._faces: dict[int, EntryAttributes] = {}
        self._below: dict[int, dict[bytes, EntryAttributes]] = {}
        self._listed: dict[int, list[tuple[bytes, EntryAttributes]]] = {}
        self._absent = EntryAttributes()
        self._absent.st_ino = 0
        self._absent.entry_timeout = FOR_EVER
        self._kept = listings.Listings()
        self._dirs: dict[int, Dir] = {}
        self._read(base, pyfuse3.ROOT_INODE)

    def _read(self, path: bytes, number: int = 0) -> EntryAttributes:
        st, face = os.lstat(path), EntryAttributes()
        face.st_ino = ino = number or st.st_ino
        face.entry_timeout = face.attr_timeout = FOR_EVER
        for field in ("mode", "nlink", "uid", "gid", "rdev", "size", "blocks", "atime_ns", "mtime_ns", "ctime_ns"):
            setattr(face, f"st_{field}", getattr(st, f"st_{field}"))
        self._paths[ino], self._faces[ino] = path, face
        if stat.S_ISDIR(st.st_mode):
            self._dirs[ino] = Dir(ino, st.st_mode)
            self._below[ino] = {name: self._read(path + b"/" + name) for name in os.listdir(path)}
            self._listed[ino] = [(b".", face), (b"..", face), *self._below[ino].items()]
        return face

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """See pyfuse3, as for all that follow."""
        return self._below[parent].get(name, self._absent)

    async def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        """From memory."""
        return self._faces[ino]

    async def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        """From the base."""
        return os.readlink(self._paths[ino])

    async def opendir(self, ino: int, ctx: RequestContext) -> int:
        """The handle is the number of the directory."""
        self._kept.keep(self._dirs[ino])
        return ino

    async def readdir(self, fh: int, start: int, token: ReaddirToken) -> None:
        """From memory."""
        for at, (name, face) in enumerate(self._listed[fh][start:], start + 1):
            if not pyfuse3.readdir_reply(token, name, face, at):
                break

    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        """The handle is a descriptor of the base file."""
        return FileInfo(fh=os.open(self._paths[ino], os.O_RDONLY | os.O_CLOEXEC), keep_cache=True)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        """From the base, whether it is in memory or not."""
        return os.pread(fh, size, offset)

    async def release(self, fh: int) -> None:
        """Nobody waits for it."""
        os.close(fh)

    async def flush(self, fh: int) -> None:
        """The kernel asks once."""
        raise FUSEError(errno.ENOSYS)

    async def access(self, ino: int, mode: int, ctx: RequestContext) -> bool:
        """The kernel asks once."""
        raise FUSEError(errno.ENOSYS)

    async def getxattr(self, ino: int, name: bytes, ctx: RequestContext) -> bytes:
        """The kernel asks once."""
        raise FUSEError(errno.ENOSYS)

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override]
        """Nothing is forgotten."""


async def serve(base: bytes, mountpoint: bytes) -> None:
    """Mount and serve until it is unmounted."""
    floor = Floor(base)
    fd = device.attach(mountpoint, allow_other=False, default_permissions=False)
    handshake = Handshake(fd)
    pyfuse3.init(floor, f"/dev/fd/{handshake.fd}", set())
    try:
        if not await wait.can_install(pyfuse3):
            raise SystemExit("the wait of this pyfuse3 cannot be replaced, so it would be slower than it need be")
        waiter = wait.Waiter(
            handshake.fd, spin=wait.spinning_pays(), before_first=handshake.step, alone=lambda: True
        )
        wait.install(pyfuse3, waiter)
        if listings.can_install(pyfuse3):
            listings.install(pyfuse3)
        await pyfuse3.main(1, TASKS)
    finally:
        pyfuse3.close(unmount=False)


def main() -> None:
    """In the background, as the other filesystems: the caller goes on as soon as it is mounted."""
    base, mountpoint = (os.fsencode(word) for word in sys.argv[1:3])
    if os.fork():
        while device.mounted_at(mountpoint) is None:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(-1, os.WNOHANG)[0]:
                    raise SystemExit("the filesystem that does nothing could not be mounted")
        return
    os.setsid()
    trio.run(serve, base, mountpoint)


if __name__ == "__main__":
    main()
