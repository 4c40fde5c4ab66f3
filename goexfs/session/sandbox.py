"""The sandbox of a run: which mounts bubblewrap makes, and the command line that makes them.

Owns the layout (DESIGN section 9) and the explanation when bubblewrap does not work here.  Starts no command of the
user's (see ``process``) and knows no store: it is told what to hide.  Any thread.

The overlay is bound over the base's own path; the rest of the host is there read-only, except for a private ``/tmp``
and ``/var/tmp``, fresh ``/dev`` and ``/proc``, the store (an empty directory in its place) and what the user opened
with ``rw``.  Where the base holds one of these places, the overlay is what the command sees there.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from goexfs.session.errors import SandboxError
from goexfs.session.view import Region, View, is_inside
from snapshots.names import readable

PRIVATE = (b"/tmp", b"/var/tmp")
FRESH = (b"/dev", b"/proc")

ROOT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
    "CAP_SETFCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_IPC_LOCK", "CAP_AUDIT_WRITE", "CAP_LEASE", "CAP_MKNOD",
)  # fmt: skip
"""What root keeps inside.  Without CAP_SYS_ADMIN it cannot unmount the overlay and write to the base below it, and
without CAP_DAC_READ_SEARCH it cannot reach the store by file handle."""


@dataclass(frozen=True)
class Sandbox:
    """What the command is to see.  Every path is absolute, normal and free of symlinks."""

    base: bytes
    mountpoint: bytes
    """where the overlay is mounted on the host"""
    hidden: tuple[bytes, ...] = ()
    """directories outside the base that are empty inside: the store"""
    rw: tuple[bytes, ...] = ()
    """host paths that may be written to; checked by ``writable_paths``"""
    network: bool = True

    def view(self) -> View:
        """The same layout as a mapping of paths."""
        regions = [Region(b"/", b"/")]
        regions += [Region(path, path) for path in FRESH]
        regions += [Region(path, None) for path in self._private()]
        regions += [Region(path, path) for path in self.rw]
        regions.append(Region(self.base, self.mountpoint))
        if self.base == b"/":
            regions += [Region(path, path) for path in (*FRESH, b"/sys")]
        regions += [Region(path, None) for path in self._covered()]
        return View(tuple(regions))

    def arguments(self, *, cwd: bytes, status_fd: int) -> list[bytes]:
        """The ``bwrap`` command line up to and including ``--``; ``status_fd`` gets its JSON lines."""
        whole = self.base == b"/"
        argv = [b"bwrap", b"--die-with-parent", b"--unshare-pid", b"--json-status-fd", b"%d" % status_fd]
        if not self.network:
            argv.append(b"--unshare-net")
        if os.geteuid() == 0:
            argv += [b"--cap-drop", b"ALL"]
            for capability in ROOT_CAPABILITIES:
                argv += [b"--cap-add", capability.encode()]
        if whole:
            argv += [b"--bind", self.mountpoint, b"/", b"--ro-bind", b"/sys", b"/sys"]
        else:
            argv += [b"--ro-bind", b"/", b"/"]
        argv += [b"--dev", b"/dev", b"--proc", b"/proc"]
        for path in self._private():
            argv += [b"--perms", b"1777", b"--tmpfs", path]
        for path in self.rw:
            argv += [b"--bind", path, path]
        if not whole:
            argv += [b"--bind", self.mountpoint, self.base]
        for path in self._covered():
            argv += [b"--perms", b"0700", b"--tmpfs", path, b"--remount-ro", path]
        return [*argv, b"--chdir", cwd, b"--"]

    def _private(self) -> list[bytes]:
        return [path for path in PRIVATE if not is_inside(path, self.base) and os.path.isdir(path)]

    def _covered(self) -> list[bytes]:
        """Hidden directories that would otherwise show: not those that a private directory hides anyway, nor those
        inside the base, which the overlay itself hides."""
        private = [Region(path, None) for path in self._private()]
        shown = View((Region(b"/", b"/"), *private, *(Region(path, path) for path in self.rw)))
        return [path for path in self.hidden if not is_inside(path, self.base) and shown.source(path) is not None]


def writable_paths(
    paths: Iterable[str | bytes | os.PathLike[str]], *, base: bytes, hidden: tuple[bytes, ...]
) -> tuple[bytes, ...]:
    """The ``--rw`` paths made canonical; raises ``SandboxError`` for one that would open the base or the store."""
    found = []
    for given in paths:
        path = os.path.realpath(os.fsencode(given))
        if not os.path.exists(path):
            raise SandboxError(f"the writable path {readable(os.fsencode(given))} does not exist; create it first")
        if is_inside(path, base):
            raise SandboxError(f"the writable path {readable(path)} is inside the base, which only a merge writes to")
        if path == b"/":
            raise SandboxError("/ cannot be writable: nothing would be confined; name the directories that are needed")
        if any(is_inside(path, place) for place in hidden):
            raise SandboxError(f"the writable path {readable(path)} is inside the store")
        found.append(path)
    return tuple(sorted(found))  # a directory before what is below it


def environment(env: Mapping[bytes, bytes], *, run_id: str, base: bytes, sandbox: Sandbox | None) -> dict[bytes, bytes]:
    """The command's environment: the caller's, ``GOEXFS_RUN``, ``GOEXFS_BASE``, and a ``TMPDIR`` that can be used."""
    child = {**env, b"GOEXFS_RUN": run_id.encode(), b"GOEXFS_BASE": base}
    child.pop(b"GOEXFS_HOME", None)  # the store is not there
    for name in (b"TMPDIR", b"TMP", b"TEMP"):
        if sandbox is not None and name in child:
            places = (base, *sandbox.rw)
            if child[name] not in PRIVATE and not any(is_inside(os.path.normpath(child[name]), p) for p in places):
                child[name] = b"/tmp"
    return child


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
            [bwrap, b"--unshare-pid", b"--ro-bind", b"/", b"/", b"--dev", b"/dev", b"--proc", b"/proc", b"--", b"true"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "bubblewrap does not come back from starting an empty sandbox; --no-sandbox runs without confinement"
    if done.returncode == 0:
        return None
    said = " ".join(readable(done.stderr.strip()).split()) or f"it ended with status {done.returncode}"
    return f"bubblewrap cannot make a sandbox ({said}); {_mend()}; --no-sandbox runs without confinement"


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
