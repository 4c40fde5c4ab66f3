"""The sandbox of a run: which mounts bubblewrap makes, and the command line that makes them.

Owns the layout (DESIGN section 9) and the explanation when bubblewrap does not work here.  Starts no command of the
user's (see ``process``) and knows no store: it is told what to hide.  Any thread.

The overlay is bound over the base's own path; the rest of the host is there read-only, except for a private ``/tmp``,
``/var/tmp`` and ``/run``, fresh ``/dev`` and ``/proc``, what is hidden (empty, read-only directories and files in its
place), and what the user opened with ``rw``.  Where the base holds one of these places, the overlay is what the
command sees there; not so with ``/`` as the base.

A read-only mount does not keep anybody from connecting to a socket in it.  So the sockets of the host that a process
listens at when the sandbox is made have a null device in their place, wherever they would be seen.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from goexfs.session import processes
from goexfs.session.channel import INSIDE
from goexfs.session.errors import SandboxError
from goexfs.session.view import Region, View
from snapshots.names import is_inside, readable

OLDEST = (0, 5)
"""The version of bubblewrap that has ``--perms``."""

PRIVATE = (b"/tmp", b"/var/tmp")
FRESH = (b"/dev", b"/proc")
RUN = b"/run"
BIN = b"/dev/goexfs-bin"
"""Where a launcher of goexfs is, if there has to be one: ``/dev`` is fresh whatever the base is."""

_MACHINE = tuple(
    b"/proc/" + name
    for name in (
        b"sys", b"sysrq-trigger", b"irq", b"bus", b"fs", b"acpi", b"scsi", b"pressure", b"mtrr", b"asound", b"driver",
        b"dynamic_debug", b"latency_stats", b"timer_stats",
    )
)  # fmt: skip
"""Settings of the machine, which root may write to whatever its capabilities."""

_SHOWN_IN_RUN = (b"/run/current-system", b"/run/booted-system", b"/run/wrappers", b"/run/opengl-driver")
"""Programs and libraries, where a distribution keeps them there; no sockets."""

ROOT_CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_FSETID": 4, "CAP_KILL": 5, "CAP_SETGID": 6,
    "CAP_SETUID": 7, "CAP_SETPCAP": 8, "CAP_NET_BIND_SERVICE": 10, "CAP_NET_RAW": 13, "CAP_IPC_LOCK": 14,
    "CAP_SYS_CHROOT": 18, "CAP_SYS_PTRACE": 19, "CAP_MKNOD": 27, "CAP_LEASE": 28, "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}  # fmt: skip
"""What root keeps inside, of what it has, with the kernel's numbers.  Without CAP_SYS_ADMIN it cannot unmount the
overlay and write to the base below it, without CAP_DAC_READ_SEARCH it cannot reach the store by file handle, and
without CAP_SYS_NICE and CAP_SYS_RESOURCE it cannot have itself preferred to everybody else on the machine."""

_OWN_NETWORK_ONLY = ("CAP_NET_RAW",)
"""With the host's network it would listen to everybody's traffic."""


class Part(NamedTuple):
    """A further base of the same run."""

    base: bytes
    mountpoint: bytes


class _Mount(NamedTuple):
    """One mount of the sandbox, in the order of mounting."""

    path: bytes
    source: bytes | None
    """on the host; None: a fresh, empty directory"""
    options: tuple[bytes, ...]
    """of bubblewrap"""


@dataclass(frozen=True)
class Sandbox:
    """What the command is to see.  Every path is absolute, normal and free of symlinks."""

    base: bytes
    mountpoint: bytes
    """where the overlay is mounted on the host"""
    hidden: tuple[bytes, ...] = ()
    """directories outside the base that are empty inside, whatever else is wished: the store"""
    rw: tuple[bytes, ...] = ()
    """host paths that may be written to; checked by ``writable_paths``"""
    network: bool = True
    """whether it is the host's; otherwise there is a loopback device and nothing else"""
    ro: tuple[bytes, ...] = ()
    """paths that may only be read, also inside those of ``rw`` and inside a base; they are seen where they are"""
    empty: tuple[bytes, ...] = ()
    """files and directories of the host that are empty inside, but for what ``rw`` and ``ro`` name"""
    parts: tuple[Part, ...] = ()
    """further bases of the same run"""
    channel: bytes | None = None
    """the socket of the agent's channel on the host; None: there is none"""
    user_namespaces: bool = False
    """whether the command may make some: see ``syscalls``"""
    shown: tuple[bytes, ...] = ()
    """directories of the host that can be read at their place also where that is hidden"""
    launcher: bytes | None = None
    """a program of the host that is in ``BIN`` inside, under its own name"""

    def view(self) -> View:
        """The same layout as a mapping of paths."""
        return View(tuple(Region(mount.path, mount.source) for mount in self._mounts()))

    def arguments(
        self, *, cwd: bytes, status_fd: int, filter_fd: int | None = None, block_fd: int | None = None,
        sockets: Iterable[bytes] = (),
    ) -> list[bytes]:  # fmt: skip
        """The ``bwrap`` command line up to and including ``--``; ``status_fd`` gets its JSON lines.

        ``filter_fd`` holds a filter of system calls; until something can be read from ``block_fd`` nothing is started.
        ``sockets`` are those of ``listening``: bubblewrap fails when one of them is not there any more.
        """
        argv = [b"bwrap", b"--die-with-parent", b"--unshare-pid", b"--unshare-ipc"]
        argv += [b"--json-status-fd", b"%d" % status_fd]
        if filter_fd is not None:
            argv += [b"--seccomp", b"%d" % filter_fd]
        if block_fd is not None:
            argv += [b"--block-fd", b"%d" % block_fd]
        if not self.network:
            argv.append(b"--unshare-net")
        if os.geteuid() == 0:
            argv += [b"--cap-drop", b"ALL"]
            held = _held_capabilities()
            for name, number in ROOT_CAPABILITIES.items():
                # Told to keep one that is not there (in a container), bubblewrap 0.8 keeps all, and says nothing.
                if held >> number & 1 and not (self.network and name in _OWN_NETWORK_ONLY):
                    argv += [b"--cap-add", name.encode()]
        for mount in self._mounts():
            argv += mount.options
        if self.channel is not None:
            argv += [b"--bind", self.channel, INSIDE]
        for path in self._emptied():
            if not os.path.isdir(path):
                continue
            argv += [b"--remount-ro", path]
        for path in sockets:
            argv += [b"--ro-bind", b"/dev/null", path]
        return [*argv, b"--chdir", cwd, b"--"]

    def _mounts(self) -> list[_Mount]:
        """All but the sockets, in the order in which they are made."""
        mounts = [_bound(b"/", b"/", b"--ro-bind") if self.base != b"/" else _bound(b"/", self.mountpoint, b"--bind")]
        if self.base == b"/":
            mounts.append(_bound(b"/sys", b"/sys", b"--ro-bind"))
        mounts += [_Mount(b"/dev", b"/dev", (b"--dev", b"/dev")), _Mount(b"/proc", b"/proc", (b"--proc", b"/proc"))]
        # bubblewrap does this itself where the directories are writable; that of /proc/sys never is, its files are.
        mounts += [_bound(path, path, b"--ro-bind") for path in _MACHINE if os.path.exists(path)]
        mounts += [_fresh(path, b"1777") for path in PRIVATE if self._is_private(path)]
        if self._is_private(RUN):
            mounts += self._run()
        wishes = [(path, _fresh(path, b"0700") if os.path.isdir(path) else _null(path)) for path in self._emptied()]
        wishes += [(path, _bound(path, path, b"--bind")) for path in self.rw]
        wishes += [(path, _bound(path, path, b"--ro-bind")) for path in self.ro if self._in_base(path) is None]
        mounts += [mount for _path, mount in sorted(wishes)]  # a directory before what is below it
        seen = View(tuple(Region(mount.path, mount.source) for mount in mounts))
        mounts += [_bound(path, path, b"--ro-bind") for path in self.shown
                   if self._in_base(path) is None and seen.source(path) is None]  # fmt: skip
        if self.launcher is not None:
            mounts.append(_bound(os.path.join(BIN, os.path.basename(self.launcher)), self.launcher, b"--ro-bind"))
        overlays = sorted((Part(self.base, self.mountpoint), *self.parts))
        mounts += [_bound(part.base, part.mountpoint, b"--bind") for part in overlays if part.base != b"/"]
        for path in self.ro:
            part = self._in_base(path)
            if part is not None:
                mounts.append(_bound(path, os.path.join(part.mountpoint, path[len(part.base) + 1 :]), b"--ro-bind"))
        shown = View(tuple(Region(mount.path, mount.source) for mount in mounts))
        for path in self.hidden:
            if self._in_base(path) is None and shown.source(path) is not None and self._is_there(path):
                mounts.append(_Mount(path, None, (*_fresh(path, b"0700").options, b"--remount-ro", path)))
        return mounts

    def _run(self) -> Iterator[_Mount]:
        """A private ``/run``, and what has to be there."""
        yield _fresh(RUN, b"0755")
        names = os.path.realpath(b"/etc/resolv.conf")
        for path in (*_SHOWN_IN_RUN, *([names] if self.network else [])):
            if is_inside(path, RUN) and os.path.exists(path):
                yield _bound(path, path, b"--ro-bind")
        own = b"/run/user/%d" % os.getuid()
        if os.path.isdir(own):
            yield _fresh(own, b"0700")

    def _is_private(self, path: bytes) -> bool:
        """Whether this place of the host is replaced: not where the base holds it, nor where there is none."""
        return self._in_base(path) is None and os.path.isdir(path) and not os.path.islink(path)

    def _in_base(self, path: bytes) -> Part | None:
        """The base that the overlay shows ``path`` in; with ``/`` as the base, everything else comes first."""
        for part in (Part(self.base, self.mountpoint), *self.parts):
            if part.base != b"/" and is_inside(path, part.base):
                return part
        return None

    def _emptied(self) -> list[bytes]:
        given = {*self.rw, *self.ro}
        return [
            path for path in self.empty if path not in given and self._in_base(path) is None and self._is_there(path)
        ]

    def _is_there(self, path: bytes) -> bool:
        """Whether something can be mounted at a path of the host: with ``/`` as the base, what the run does not see is
        missing already, and cannot be made."""
        return self.base != b"/" or os.path.lexists(os.path.join(self.mountpoint, path[1:]))

    def shown_of(self, paths: Iterable[bytes]) -> list[bytes]:
        """Those of the paths at which what the host has there is seen, without having been opened by name."""
        view = self.view()
        opened = (*self.rw, *self.ro)
        return [
            path for path in paths
            if view.source(path) == path and not any(is_inside(place, path) for place in opened)
        ]  # fmt: skip

    def listening(self) -> list[bytes]:
        """Sockets of the host that the command would see now, but for those that the user opened."""
        view = self.view()
        opened = (*self.rw, *self.ro)
        return [
            path
            for path in listening_sockets()
            if view.source(path) == path and not any(is_inside(path, place) for place in opened)
        ]


def _bound(path: bytes, source: bytes, option: bytes) -> _Mount:
    return _Mount(path, source, (option, source, path))


def _fresh(path: bytes, mode: bytes) -> _Mount:
    return _Mount(path, None, (b"--perms", mode, b"--tmpfs", path))


def _null(path: bytes) -> _Mount:
    return _Mount(path, b"/dev/null", (b"--ro-bind", b"/dev/null", path))


def _held_capabilities() -> int:
    return int(processes.status_field(os.getpid(), "CapPrm") or "0", 16)


def listening_sockets() -> list[bytes]:
    """Where in the filesystem somebody listens now, as far as this user can see; canonical paths."""
    found = set()
    try:
        with open("/proc/net/unix", "rb") as file:
            for line in file:
                path = line.rstrip(b"\n")[line.find(b" /") + 1 :] if b" /" in line else b""
                if path and _is_socket(path):
                    found.add(os.path.realpath(path))
    except OSError:
        return []
    return sorted(found)


def _is_socket(path: bytes) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def program() -> bytes:
    """The path of ``bwrap``; raises ``SandboxError`` when it is not installed."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(
            "bubblewrap is not installed; install the package bubblewrap, or run without confinement: --no-sandbox"
        )
    return os.fsencode(found)


def diagnose() -> str | None:
    """Try an empty sandbox; None when it works, else why not and what mends it, in one line."""
    try:
        bwrap = program()
    except SandboxError as error:
        return str(error)
    try:
        done = subprocess.run(
            [bwrap, b"--unshare-pid", b"--unshare-ipc", b"--ro-bind", b"/", b"/", b"--dev", b"/dev",
             b"--proc", b"/proc", b"--perms", b"0700", b"--tmpfs", b"/tmp", b"--", b"true"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "bubblewrap does not come back from starting an empty sandbox; --no-sandbox runs without confinement"
    if done.returncode == 0:
        return None
    if (version := _version(bwrap)) < OLDEST:
        return (
            f"bubblewrap {'.'.join(map(str, version))} is too old: goexfs needs {'.'.join(map(str, OLDEST))} or later; "
            "--no-sandbox runs without confinement"
        )
    said = " ".join(readable(done.stderr.strip()).split()) or f"it ended with status {done.returncode}"
    return f"bubblewrap cannot make a sandbox ({said}); {_mend()}; --no-sandbox runs without confinement"


def _version(bwrap: bytes) -> tuple[int, ...]:
    """As it says itself; that of the future where it says nothing of the kind."""
    said = subprocess.run([bwrap, b"--version"], capture_output=True, timeout=20, check=False).stdout
    found = re.match(rb"bubblewrap (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else OLDEST


def _mend() -> str:
    """What would let an ordinary user make namespaces here."""
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _sysctl("user/max_user_namespaces") == "0":
        return "allow user namespaces: sudo sysctl -w user.max_user_namespaces=15000"
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "let AppArmor allow it: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return "in a container it needs --security-opt seccomp=unconfined, or --privileged"
    return "ask whoever runs this machine to allow user namespaces"


def _sysctl(name: str) -> str:
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except OSError:
        return ""
