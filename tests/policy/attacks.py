"""A program that tries to read, from inside a run, what its policy hides or masks: by every name and every handle.

Usage: attacks.py ROOT INODE...   (the inode numbers that the hidden files have in the base)

Prints one JSON document: what was tried, what came of it, and where the secret turned up.  Imports nothing of goexfs.
"""

import ctypes
import errno
import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

SECRET = b"s3cret-of-the-base"
HIDDEN = (".env", "config/key.pem", ".ssh/id_rsa", "config/innocent", "script.key", "renamed/deep/key.pem")
MASKED = ("masked.json", "config/alias")
libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD, RENAME_EXCHANGE, HANDLE_SIZE = -100, 2, 128


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def slurp(path: str, flags: int = 0, dir_fd: int | None = None) -> bytes:
    fd = os.open(path, os.O_RDONLY | flags, dir_fd=dir_fd)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def by_spelling(path: str) -> Iterator[Callable[[], bytes]]:
    above, _, name = path.rpartition("/")
    for other in (
        path, "./" + path, path + "/", path + "/.", "config/../" + path, "//" + os.path.abspath(path), path.upper(),
        os.path.join(above, name.title()), "/proc/self/cwd/" + path, f"/proc/{os.getpid()}/root{os.path.abspath(path)}",
    ):  # fmt: skip
        yield lambda other=other: slurp(other)  # type: ignore[misc]


def by_descriptor(path: str) -> Iterator[Callable[[], bytes]]:
    above, _, name = path.rpartition("/")

    def at(*, proc: bool) -> bytes:
        fd = os.open(above or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            return slurp(f"/proc/self/fd/{fd}/{name}") if proc else slurp(name, dir_fd=fd)
        finally:
            os.close(fd)

    def path_only() -> bytes:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return slurp(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def mapped() -> bytes:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            return view[:]

    def copied(how: str) -> bytes:
        with open(path, "rb") as file, tempfile.TemporaryFile(dir=".") as target:
            if how == "range":
                os.copy_file_range(file.fileno(), target.fileno(), 1 << 16, 0, 0)
            else:
                os.sendfile(target.fileno(), file.fileno(), 0, 1 << 16)
            return os.pread(target.fileno(), 1 << 16, 0)

    yield lambda: at(proc=True)
    yield lambda: at(proc=False)
    yield path_only
    yield mapped
    yield lambda: copied("range")
    yield lambda: copied("sendfile")
    yield lambda: slurp(path, os.O_DIRECT)
    yield lambda: os.listxattr(path) and b"".join(os.getxattr(path, name) for name in os.listxattr(path))
    yield lambda: subprocess.run([os.path.abspath(path)], capture_output=True, check=False).stdout


def by_new_name(path: str) -> Iterator[Callable[[], bytes]]:
    def linked() -> bytes:
        os.link(path, "linked")
        return slurp("linked")

    def link_of_descriptor() -> bytes:
        fd = os.open(path, os.O_PATH)
        checked(libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, b"linked-fd", 0x400))
        return slurp("linked-fd")

    def renamed(flags: int) -> bytes:
        with open("swap", "w") as file:
            file.write("mine")
        name = b"swap" if flags else b"moved-away"
        checked(libc.renameat2(AT_FDCWD, path.encode(), AT_FDCWD, name, flags))
        return slurp(name.decode())

    def parent_renamed() -> bytes:
        above, _, name = path.rpartition("/")
        if not above:
            return b""
        os.rename(above, "other-parent")
        try:
            return slurp("other-parent/" + name)
        finally:
            os.rename("other-parent", above)

    def symlinked(target: str) -> bytes:
        os.symlink(target, "pointer")
        try:
            return slurp("pointer")
        finally:
            os.unlink("pointer")

    def mounted(*how: str) -> bytes:
        with tempfile.TemporaryDirectory(dir="/tmp") as place:
            open(place + "/file", "w").close()
            os.mkdir(place + "/dir")
            script = "; ".join(how).format(path=path, place=place)
            return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, check=False).stdout

    yield linked
    yield link_of_descriptor
    yield lambda: renamed(0)
    yield lambda: renamed(RENAME_EXCHANGE)
    yield parent_renamed
    yield lambda: symlinked(path)
    yield lambda: symlinked(os.path.abspath(path))
    yield lambda: mounted("mount --bind {path} {place}/file", "cat {place}/file")
    yield lambda: mounted("mount --bind . {place}/dir", "cat {place}/dir/{path}")
    yield lambda: mounted("mount -t overlay -o lowerdir=.:{place}/dir none {place}/dir", "cat {place}/dir/{path}")


def by_handle(inodes: list[int]) -> Iterator[Callable[[], bytes]]:
    """Handles of visible files, with the numbers of hidden ones in them."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", HANDLE_SIZE, 0) + bytes(HANDLE_SIZE))
    mount_id = ctypes.c_int()

    def of(path: str) -> tuple[int, bytes]:
        checked(libc.name_to_handle_at(AT_FDCWD, path.encode(), buffer, ctypes.byref(mount_id), 0))
        size, kind = struct.unpack_from("Ii", buffer)
        return kind, buffer.raw[8 : 8 + size]

    def forged(ino: int, generation: int) -> bytes:
        kind, handle = of("readme")
        handle = struct.pack("II", ino >> 32, ino & 0xFFFFFFFF) + struct.pack("I", generation) + handle[12:]
        whole = ctypes.create_string_buffer(struct.pack("Ii", len(handle), kind) + handle)
        root = os.open(".", os.O_RDONLY)
        try:
            fd = checked(libc.open_by_handle_at(root, whole, os.O_RDONLY))
            return os.read(fd, 1 << 16)
        finally:
            os.close(root)

    for path in HIDDEN:
        yield lambda path=path: of(path)[1]  # type: ignore[misc]
    for ino in inodes:
        for generation in (0, 1):
            yield lambda ino=ino, generation=generation: forged(ino, generation)  # type: ignore[misc]


def by_program() -> Iterator[Callable[[], bytes]]:
    for command in (
        "tar cf - .", "grep -rsh s3cret .", "find . -type f -exec cat {} +",
        "cp -a . /tmp/copy-$$ && cat $(find /tmp/copy-$$ -type f); rm -rf /tmp/copy-$$",
        "find . -samefile .env", "cat .e* config/k* .ssh/*", "ls -laiR",
    ):  # fmt: skip
        yield lambda command=command: subprocess.run(  # type: ignore[misc]
            ["sh", "-c", command], capture_output=True, check=False
        ).stdout


def race() -> bytes:
    """Read while the directory moves to and fro."""
    over = threading.Event()

    def move() -> None:
        while not over.is_set():
            os.rename("config", "moving")
            os.rename("moving", "config")

    mover = threading.Thread(target=move)
    mover.start()
    got = b""
    until = time.monotonic() + 0.4
    try:
        while time.monotonic() < until:
            for above in ("config", "moving"):
                for name in ("key.pem", "innocent", "alias"):
                    try:
                        got += slurp(f"{above}/{name}")[:64]
                    except OSError:
                        pass
    finally:
        over.set()
        mover.join()
    return got


def made_in_place(path: str) -> Iterator[Callable[[], bytes]]:
    """Nothing may be put where something hidden is."""

    def made(make: Callable[[str], object]) -> bytes:
        try:
            make(path)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOENT):
                return b""
            raise
        return SECRET

    yield lambda: made(lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)))
    yield lambda: made(os.mkdir)
    yield lambda: made(os.mkfifo)
    yield lambda: made(lambda path: os.symlink("readme", path))
    yield lambda: made(lambda path: os.link("readme", path))


def main(root: str, *inodes: str) -> None:
    os.chdir(root)
    tried, leaks, unexpected = 0, [], []

    def attempt(what: str, attacks: Iterator[Callable[[], bytes]]) -> None:
        nonlocal tried
        for number, attack in enumerate(attacks):
            tried += 1
            try:
                got = attack()
            except OSError as error:
                if error.errno in (errno.EIO, errno.ENOSYS):
                    unexpected.append(f"{what} {number}: {error}")
                continue
            except ValueError:  # an empty file cannot be mapped
                continue
            if SECRET in (got or b""):
                leaks.append(f"{what} {number}")

    attempt("race", iter([race]))
    for path in (*HIDDEN, *MASKED):
        attempt(f"{path} by spelling", by_spelling(path))
        attempt(f"{path} by descriptor", by_descriptor(path))
        attempt(f"{path} by a new name", by_new_name(path))
    for path in HIDDEN[:-1]:
        attempt(f"in place of {path}", made_in_place(path))
    attempt("by handle", by_handle([int(ino) for ino in inodes]))
    attempt("by a program", by_program())
    listed = {(entry.name, entry.inode()) for at, _, _ in os.walk(".") for entry in os.scandir(at)}
    print(json.dumps({
        "tried": tried, "leaks": leaks, "unexpected": unexpected,
        "names": sorted(name for name, _ in listed),
        "inodes": sorted(ino for _, ino in listed if str(ino) in inodes),
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
