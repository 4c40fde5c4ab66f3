"""A run to break out of, as root and as an ordinary user, with something worth reaching outside of it."""

import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.users import OrdinaryUser, ordinary_user

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = os.path.realpath(sys.executable)  # a virtual environment may be in /tmp, which is private inside
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["root", "user"])
def who(request: pytest.FixtureRequest) -> str:
    """Who runs goexfs."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("root is tried where the tests run as root")
    return str(request.param)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a sandbox does not replace and that others may enter, wherever the checkout is."""
    for parent in (CHECKOUT, Path("/var/lib"), Path("/srv"), Path("/opt"), Path.home()):
        private = any(parent.is_relative_to(directory) for directory in ("/tmp", "/var/tmp", "/run"))
        entered = all(above.stat().st_mode & 0o001 for above in (parent, *parent.parents))
        if not private and os.access(parent, os.W_OK) and (entered or os.geteuid() != 0):
            place = Path(tempfile.mkdtemp(prefix=".escape-", dir=parent))
            break
    else:
        pytest.fail("every place that this user may write to is private inside of a run")
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def run(who: str, area: Path, user: OrdinaryUser) -> Run:
    """``goexfs run --discard OPTIONS -- ARGV`` over a fresh base, as that user."""
    me = user if who == "user" else None
    base = area / "base"
    base.mkdir()
    (base / "file").write_text("in the base\n")
    environ = {**ordinary_user(area / "user").environ, "HOME": str(area / "user")}
    if me is not None:
        os.chown(base, me.uid, me.gid)

    def go(*words: str, options: tuple[str, ...] = (), **env: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-m", "goexfs", "run", "--discard", *options, "--", *words]
        if me is not None:
            return me.run(argv, cwd=base, env=env)
        return subprocess.run(
            argv, cwd=base, env={**environ, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    return go


@pytest.fixture
def world(place: Path, area: Path, who: str, user: OrdinaryUser) -> Iterator[dict[str, Any]]:
    """What is outside: files, sockets, a port, shared memory; what ``probe`` is told of it."""
    home = place / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("private")
    (place / "file").write_text("of the host\n")
    for path in (place, place / "file", home, home / ".ssh", home / ".ssh/id_ed25519"):
        if who == "user" and os.geteuid() == 0:
            os.chown(path, user.uid, user.gid)
    abstract = f"goexfs-escape-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as unnamed, socket.socket() as tcp:
        named.bind(str(place / "socket"))
        named.listen()
        (place / "socket").chmod(0o777)
        unnamed.bind("\0" + abstract)
        unnamed.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        key = 0x60EF5
        libc = ctypes.CDLL(None, use_errno=True)
        segment = libc.shmget(key, 4096, 0o1666)
        yield {
            "base": str(area / "base"), "store": str(area / "user/store"), "file": str(place / "file"),
            "socket": str(place / "socket"), "home": str(home), "abstract": abstract, "port": tcp.getsockname()[1],
            "shm": key, "device": os.stat(place).st_dev, "channel": "agent", "network": "host",
        }  # fmt: skip
        libc.shmctl(segment, 0, None)


def handle_of(path: Path) -> tuple[int, str]:
    """What ``name_to_handle_at`` says of a file: type and bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(mount), 0) != 0:
        return 0, ""
    size, kind = struct.unpack_from("Ii", buffer.raw)
    return kind, buffer.raw[8 : 8 + size].hex()


def goexfs_json(user: OrdinaryUser, who: str, *words: str) -> Any:
    """What ``goexfs WORDS --json`` says, as that user."""
    argv = [sys.executable, "-m", "goexfs", *words, "--json"]
    if who == "user":
        return json.loads(user.run(argv).stdout)
    return json.loads(subprocess.run(argv, env=user.environ, capture_output=True, text=True, check=True).stdout)
