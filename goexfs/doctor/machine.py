"""Checks of the machine: interpreter, kernel, libraries, FUSE, bubblewrap.

Owns one function per thing goexfs needs.  What must be tried is tried in a process of its own with a time limit.
Any thread.
"""

import ctypes
import errno
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
from pathlib import Path

from goexfs.doctor.check import Check, as_root, failure_of, install_command, number_in, output_of, pip_command


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
    for name in ("pyfuse3", "trio", "watchdog", "xxhash", "msgspec", "pygit2", "click", "rich"):
        if importlib.util.find_spec(name) is None:
            lacking.append(name)
        else:
            try:
                versions.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                versions.append(name)
    if lacking:
        mend = pip_command(" ".join(lacking))
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
                as_root("modprobe fuse") + "   (in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)"
            )
            return Check("/dev/fuse", False, "does not exist", mend=mend)
        if error.errno == errno.EACCES:
            mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
            return Check(
                "/dev/fuse",
                False,
                f"may not be opened by this user (mode {mode:04o})",
                mend=as_root("chmod 0666 /dev/fuse"),
            )
        return Check(
            "/dev/fuse",
            False,
            f"cannot be opened: {error.strerror}",
            mend="start the container with --device /dev/fuse --cap-add SYS_ADMIN (or: "
            + as_root("modprobe fuse")
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
            as_root(f"chown root {path}") + " && " + as_root(f"chmod u+s {path}"),
        )
    answer = output_of([path, "--version"])
    return Check("fusermount3", True, f"{path}, {answer or 'version unknown'}", needed)


_MOUNT_PROBE = """
import os, sys
sys.path.insert(0, sys.argv[2])
import pyfuse3
from goexfs.fuse import device
point = os.fsencode(sys.argv[1])
os.close(device.attach(point, allow_other=False, default_permissions=False))
device.detach(point)
"""
"""Closing the device ends the connection, so that unmounting waits for no answer."""


def fuse_mount() -> Check:
    """A real mount, in a process of its own, unmounted at once."""
    directory = tempfile.mkdtemp(prefix="goexfs-doctor-")
    argv = [sys.executable, "-c", _MOUNT_PROBE, directory, str(Path(__file__).resolve().parents[2])]
    started = time.monotonic()
    failure = failure_of(argv)
    milliseconds = (time.monotonic() - started) * 1000
    _remove_mountpoint(directory)
    if failure:
        mend = "mend what is lacking above; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
        return Check("FUSE mount", False, f"a mount failed: {failure}", mend=mend)
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
        if number_in(f"/proc/sys/{switch}") == bad:
            # Root needs none of them, a setuid bubblewrap neither: the real test below decides.
            return Check("user namespaces", False, f"{switch.replace('/', '.')} is {bad}", False, as_root(mend))
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
        "--perms",
        "1777",
        "--tmpfs",
        "/tmp",
        "--",
        "/bin/sh",
        "-c",
        ":",
    ]
    failure = failure_of(argv)
    version = output_of([path, "--version"]) or "version unknown"
    if failure:
        mend = user_namespaces().mend or "allow user namespaces (in a container: --security-opt seccomp=unconfined)"
        if "--perms" in failure:  # 0.4 and before
            mend = "install bubblewrap 0.5 or later"
        return Check("bubblewrap", False, f"{version}, but it cannot make a sandbox: {failure}", mend=mend)
    return Check("bubblewrap", True, f"{version} ({path}), and it can make a sandbox")


def libseccomp() -> Check:
    """The library that makes the sandbox's filter of system calls."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return Check("libseccomp", False, "libseccomp.so.2 is not installed", mend=install_command("libseccomp2"))
    return Check("libseccomp", True, "libseccomp.so.2")


def wait_loop() -> Check:
    """Whether the adaptive wait loop can replace pyfuse3's: without it everything works, each request slower."""
    try:
        import pyfuse3

        from goexfs.fuse import wait
    except ImportError as error:
        return Check("wait loop", False, f"pyfuse3 cannot be imported: {error}", False, pip_command("pyfuse3"))
    if not pyfuse3.__version__.startswith(wait.KNOWN_VERSIONS) or not hasattr(pyfuse3, "_wait_fuse_readable"):
        found = f"the stock loop is used: pyfuse3 {pyfuse3.__version__} is not one it was tried with"
        return Check("wait loop", False, found, False, pip_command("'pyfuse3>=3.4,<3.6'"))
    if not wait.spinning_pays():
        return Check("wait loop", True, "adaptive, but never spinning: one processor, or a limit on its time", False)
    return Check("wait loop", True, "adaptive", False)
