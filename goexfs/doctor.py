"""What this machine has and lacks for goexfs, and the command that mends each lack.

Owns the checks, as functions from nothing to a ``Check``; prints nothing.  Must work where everything is missing:
it imports only the standard library, and asks for the rest by name.  Each check tries the real thing (opens the
device, mounts, creates the namespaces, clones a file) and leaves nothing behind.  Any thread.
"""

import ctypes
import errno
import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FICLONE = 0x40049409
WATCHES_SPARE = 1024
SPACE_WANTED = 1 << 30
SCAN_SECONDS = 1.0
PROBE_SECONDS = 15

_PACKAGES = {
    # what is lacking -> its package, by the system's package manager
    "fuse3": {"apt": "fuse3", "dnf": "fuse3", "zypper": "fuse3", "pacman": "fuse3", "apk": "fuse3"},
    "libfuse3": {
        "apt": "libfuse3-dev pkg-config gcc",
        "dnf": "fuse3-devel gcc",
        "zypper": "fuse3-devel gcc",
        "pacman": "fuse3 gcc",
        "apk": "fuse3-dev gcc",
    },
    "bubblewrap": {
        "apt": "bubblewrap",
        "dnf": "bubblewrap",
        "zypper": "bubblewrap",
        "pacman": "bubblewrap",
        "apk": "bubblewrap",
    },
}
_INSTALL = {
    "apt": "apt install",
    "dnf": "dnf install",
    "zypper": "zypper install",
    "pacman": "pacman -S",
    "apk": "apk add",
}


@dataclass(frozen=True)
class Check:
    """One finding about this machine."""

    name: str
    """what was looked at, in a word or two"""
    ok: bool
    found: str
    """what is there, or what is wrong, on one line"""
    needed: bool = True
    """False: goexfs works without it, slower or with less"""
    mend: str | None = None
    """the command (or the one thing to do) that mends it; None when ``ok``"""


def goexfs_version() -> str:
    """The version of the installed distribution; of a bare checkout, the one its ``setup.cfg`` states."""
    try:
        return importlib.metadata.version("goexfs")
    except importlib.metadata.PackageNotFoundError:
        import configparser

        described = configparser.ConfigParser()
        described.read(Path(__file__).resolve().parent.parent / "setup.cfg")
        return described.get("metadata", "version", fallback="unknown")


def checks(base: Path, store: Path) -> Iterator[Check]:
    """Every check, one by one as it is made; ``base`` is the directory one means to run over."""
    yield python()
    yield kernel()
    yield from libraries()
    yield fuse_device()
    yield fusermount()
    yield fuse_mount()
    yield user_namespaces()
    yield bubblewrap()
    yield wait_loop()
    yield from inotify(base)
    yield from store_place(store)
    yield from reflink(base, store)


def python() -> Check:
    """The interpreter."""
    found = f"Python {platform.python_version()} ({sys.executable})"
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, found, mend=None if ok else "install Python 3.11 or later")


def kernel() -> Check:
    """The kernel: RWF_NOWAIT reads came with 4.14, FUSE mounts in user namespaces with 4.18."""
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    ok = sys.platform == "linux" and numbers >= (4, 18)
    return Check("kernel", ok, f"{platform.system()} {release}", mend=None if ok else "use Linux 4.18 or later")


def libraries() -> Iterator[Check]:
    """The Python libraries and libfuse, by version; none is imported here."""
    versions, lacking = [], []
    for name in ("pyfuse3", "trio", "watchdog", "xxhash", "msgspec", "pygit2", "click", "rich", "platformdirs"):
        if importlib.util.find_spec(name) is None:
            lacking.append(name)
        else:
            try:
                versions.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                versions.append(name)
    if lacking:
        mend = f"{sys.executable} -m pip install {' '.join(lacking)}"
        if "pyfuse3" in lacking:
            mend = f"{install_command('libfuse3')} && {mend}"
        yield Check("libraries", False, f"not installed: {', '.join(lacking)}", mend=mend)
    else:
        yield Check("libraries", True, ", ".join(versions))
    try:
        library = ctypes.CDLL("libfuse3.so.3")
        library.fuse_pkgversion.restype = ctypes.c_char_p
        yield Check("libfuse", True, f"libfuse {library.fuse_pkgversion().decode()}")
    except (OSError, AttributeError):
        yield Check("libfuse", False, "libfuse3.so.3 is not installed", mend=install_command("fuse3"))


def fuse_device() -> Check:
    """/dev/fuse: there, and openable by this user."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENOENT:
            mend = (
                _as_root("modprobe fuse") + "   (in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)"
            )
            return Check("/dev/fuse", False, "does not exist", mend=mend)
        if error.errno == errno.EACCES:
            mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
            return Check(
                "/dev/fuse",
                False,
                f"may not be opened by this user (mode {mode:04o})",
                mend=_as_root("chmod 0666 /dev/fuse"),
            )
        return Check(
            "/dev/fuse",
            False,
            f"cannot be opened: {error.strerror}",
            mend="start the container with --device /dev/fuse --cap-add SYS_ADMIN (or: "
            + _as_root("modprobe fuse")
            + ")",
        )
    return Check("/dev/fuse", True, "exists and can be opened")


def fusermount() -> Check:
    """fusermount3: there, and setuid root; root itself mounts without it."""
    needed = os.geteuid() != 0
    path = shutil.which("fusermount3")
    if path is None:
        return Check("fusermount3", False, "is not installed", needed, install_command("fuse3"))
    st = os.stat(path)
    if not (st.st_mode & stat.S_ISUID and st.st_uid == 0) and needed:
        return Check(
            "fusermount3",
            False,
            f"{path} is not setuid root",
            needed,
            _as_root(f"chown root {path}") + " && " + _as_root(f"chmod u+s {path}"),
        )
    answer = _output([path, "--version"])
    return Check("fusermount3", True, f"{path}, {answer or 'version unknown'}", needed)


def fuse_mount() -> Check:
    """A real mount by pyfuse3, in a process of its own, unmounted at once."""
    if importlib.util.find_spec("pyfuse3") is None:
        return Check(
            "FUSE mount",
            False,
            "not tried: pyfuse3 is not installed",
            mend=f"{install_command('libfuse3')} && {sys.executable} -m pip install pyfuse3",
        )
    program = (
        "import sys, pyfuse3\n"
        "pyfuse3.init(pyfuse3.Operations(), sys.argv[1], {'fsname=goexfs-doctor'})\n"
        "pyfuse3.close(unmount=True)\n"
    )
    directory = tempfile.mkdtemp(prefix="goexfs-doctor-")
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, directory],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
        failure = "" if done.returncode == 0 else _last_line(done.stderr) or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        failure = f"no answer within {PROBE_SECONDS} s"
    milliseconds = (time.monotonic() - started) * 1000
    _remove_mountpoint(directory)
    if failure:
        return Check(
            "FUSE mount",
            False,
            f"a mount failed: {failure}",
            mend="mend what is lacking above; in a container: --device /dev/fuse --cap-add SYS_ADMIN "
            "--security-opt apparmor=unconfined",
        )
    return Check("FUSE mount", True, f"a file system was mounted and unmounted ({milliseconds:.0f} ms)")


def _remove_mountpoint(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:  # the probe died between mount and unmount
        subprocess.run(
            ["umount", "-l", directory] if os.geteuid() == 0 else ["fusermount3", "-uz", directory],
            capture_output=True,
            check=False,
        )
        try:
            os.rmdir(directory)
        except OSError:
            pass


def user_namespaces() -> Check:
    """The switches by which systems forbid user namespaces to ordinary users."""
    for switch, bad, mend in (
        ("kernel/unprivileged_userns_clone", 0, "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", 0, "sysctl -w user.max_user_namespaces=15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", 1, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ):
        if _number(f"/proc/sys/{switch}") == bad:
            # Root needs none of them, a setuid bubblewrap neither: the real test below decides.
            return Check("user namespaces", False, f"{switch.replace('/', '.')} is {bad}", False, _as_root(mend))
    if not os.path.exists("/proc/self/ns/user"):
        return Check("user namespaces", False, "this kernel has none", False, "use a kernel with CONFIG_USER_NS")
    return Check("user namespaces", True, "allowed", False)


def bubblewrap() -> Check:
    """bwrap: there, and really able to make a sandbox for this user."""
    path = shutil.which("bwrap")
    if path is None:
        return Check("bubblewrap", False, "is not installed", mend=install_command("bubblewrap"))
    argv = [
        path,
        "--die-with-parent",
        "--unshare-pid",
        "--unshare-ipc",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--tmpfs",
        "/tmp",
        "--",
        "/bin/sh",
        "-c",
        ":",
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        failure = "" if done.returncode == 0 else _last_line(done.stderr) or f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    version = _output([path, "--version"]) or "version unknown"
    if failure:
        mend = user_namespaces().mend or "allow user namespaces (in a container: --security-opt seccomp=unconfined)"
        return Check("bubblewrap", False, f"{version}, but it cannot make a sandbox: {failure}", mend=mend)
    return Check("bubblewrap", True, f"{version} ({path}), and it can make a sandbox")


def wait_loop() -> Check:
    """Whether the adaptive wait loop can replace pyfuse3's: without it everything works, each request slower."""
    reason = _wait_loop_lack()
    if reason:
        return Check(
            "wait loop",
            False,
            f"the stock loop is used: {reason}",
            False,
            f"{sys.executable} -m pip install 'pyfuse3>=3.4,<4'",
        )
    return Check("wait loop", True, f"adaptive ({count_processors()} processors)", False)


def _wait_loop_lack() -> str | None:
    try:
        import pyfuse3._pyfuse3 as inner
    except ImportError as error:
        return f"pyfuse3 cannot be imported ({error})"
    if not callable(getattr(inner, "_wait_fuse_readable", None)):
        return "this pyfuse3 has no _wait_fuse_readable"
    return "there is one processor only" if count_processors() < 2 else None


def count_processors() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0))


def inotify(base: Path) -> Iterator[Check]:
    """The limits on watches against what watching ``base`` takes: one watch per directory, one instance per run."""
    limit = _number("/proc/sys/fs/inotify/max_user_watches")
    instances = _number("/proc/sys/fs/inotify/max_user_instances")
    if limit is None or instances is None:
        yield Check(
            "inotify",
            False,
            "this kernel has none: changes of the base are seen after a second",
            False,
            "use a kernel with CONFIG_INOTIFY_USER",
        )
        return
    needed, all_seen = count_directories(base)
    used_watches, used_instances = watches_in_use()
    shown = f"{needed}{'' if all_seen else ' or more'} needed for {base}, {used_watches} in use, {limit} allowed"
    enough = used_watches + needed + WATCHES_SPARE <= limit
    target = max(524288, 2 * (used_watches + needed + WATCHES_SPARE))
    yield Check(
        "inotify watches",
        enough,
        shown,
        False,
        None if enough else _as_root(f"sysctl -w fs.inotify.max_user_watches={target}"),
    )
    enough = used_instances + 8 <= instances
    yield Check(
        "inotify instances",
        enough,
        f"{used_instances} in use, {instances} allowed, one per mounted run",
        False,
        None if enough else _as_root(f"sysctl -w fs.inotify.max_user_instances={max(1024, 2 * instances)}"),
    )


def count_directories(top: Path, *, seconds: float = SCAN_SECONDS) -> tuple[int, bool]:
    """Directories at and below ``top`` on its own file system; False when the time was up before the end."""
    deadline = time.monotonic() + seconds
    number, stack = 0, [os.fsencode(top)]
    try:
        device = os.stat(top).st_dev
    except OSError:
        return 0, True
    while stack:
        if time.monotonic() > deadline:
            return number + len(stack), False
        number += 1
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                        stack.append(entry.path)
        except OSError:
            continue  # unreadable, or gone meanwhile
    return number, True


def watches_in_use() -> tuple[int, int]:
    """inotify watches and instances of this user's processes, as far as /proc shows them."""
    watches = instances = 0
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or process.stat().st_uid != os.geteuid():
                continue
            for descriptor in os.listdir(process / "fd"):
                if os.readlink(process / "fd" / descriptor) == "anon_inode:inotify":
                    instances += 1
                    watches += (process / "fdinfo" / descriptor).read_text().count("inotify wd:")
        except OSError:
            continue  # ended meanwhile
    return watches, instances


def store_place(store: Path) -> Iterator[Check]:
    """Where the store is (or will be): writable, and with room."""
    there = _nearest(store)
    state = "exists" if store.is_dir() else "will be created"
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check(
            "store",
            False,
            f"{store} {state}, but {there} may not be written",
            mend=f"export GOEXFS_HOME=DIR  (or: {_as_root(f'chown -R {os.getuid()} {there}')})",
        )
        return
    yield Check("store", True, f"{store} ({state})")
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    ok = free >= SPACE_WANTED
    yield Check(
        "free space",
        ok,
        f"{free / 2**30:.1f} GiB below {there}",
        False,
        None if ok else "goexfs gc, or export GOEXFS_HOME=DIR on a larger disk",
    )


def reflink(base: Path, store: Path) -> Iterator[Check]:
    """Whether file systems can share blocks between files: large files are then staged without copying."""
    for name, place in (("store", _nearest(store)), ("base", base)):
        try:
            can = can_reflink(place)
        except OSError as error:
            yield Check(
                f"reflink ({name})",
                False,
                f"{place}: not tried: {error.strerror}",
                False,
                f"make {place} writable for this user, and run goexfs doctor again",
            )
            continue
        yield Check(
            f"reflink ({name})",
            can,
            f"{place}: {'yes' if can else 'no: large files are copied'}",
            False,
            None if can else "optional: put it on btrfs or XFS (mkfs.xfs -m reflink=1)",
        )


def can_reflink(directory: Path) -> bool:
    """Clone one block between two unnamed files; OSError where none can be made there."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    source = os.open(directory, flags, 0o600)
    try:
        target = os.open(directory, flags, 0o600)
        try:
            os.write(source, bytes(4096))
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            return False
        finally:
            os.close(target)
    finally:
        os.close(source)
    return True


def package_manager() -> str | None:
    """The system's package manager, by its command."""
    commands = {"apt": "apt-get", "dnf": "dnf", "zypper": "zypper", "pacman": "pacman", "apk": "apk"}
    return next((name for name, command in commands.items() if shutil.which(command)), None)


def install_command(what: str) -> str:
    """The command that installs ``fuse3``, ``libfuse3`` (to build against) or ``bubblewrap`` here."""
    manager = package_manager()
    if manager is None:
        return f"install {what} with the system's package manager"
    return _as_root(f"{_INSTALL[manager]} {_PACKAGES[what][manager]}")


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _nearest(path: Path) -> Path:
    """The path itself, or its nearest ancestor that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def _output(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
