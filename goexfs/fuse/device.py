"""Mounting and unmounting: from a mountpoint to an open FUSE device, and back.

Owns the system calls and the setuid program that do it.  libfuse could mount as well, but it reports failures as text
on standard error; here each becomes an exception of its own.  What is opened here is handed to libfuse as
``/dev/fd/N``.  Knows no overlay, no trio and no pyfuse3.

Threading: every function may run in any thread.  `detach` runs a program instead of calling umount(2): a thread of
the serving process that waits in the kernel for its own filesystem could keep a killed server from ever going away.
"""

import array
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from typing import NamedTuple

from goexfs.fuse.errors import (
    FuseMissing,
    FusermountMissing,
    MountError,
    MountNotPermitted,
    MountpointBusy,
    MountpointUnusable,
    UnmountFailed,
)

DEVICE = b"/dev/fuse"
SOURCE = b"goexfs"
"""what ``df`` shows in its first column"""
TYPE = b"fuse.goexfs"

_MS_NOSUID = 2
_MS_NODEV = 4
_FUSERMOUNT_SECONDS = 30
_FUSERMOUNT_PATH = "/usr/bin:/bin:/usr/local/bin"  # where it is when PATH does not say
_UMOUNT_SECONDS = 20


class Mounted(NamedTuple):
    """One line of a mountinfo."""

    device: str
    """``major:minor``, which also names the connection and the readahead setting"""
    point: bytes
    type: bytes
    receives: bool = False
    """whether what is mounted below it elsewhere appears here, too"""


def attach(mountpoint: bytes, *, allow_other: bool, default_permissions: bool) -> int:
    """Mount and return the descriptor of the FUSE device: blocking is off, and it is closed on exec.

    The filesystem answers nothing until somebody serves that descriptor.  Raises a `MountError`.
    """
    _check_mountpoint(mountpoint)
    if os.geteuid() == 0:
        fd = _mount(mountpoint, allow_other=allow_other, default_permissions=default_permissions)
    else:
        fd = _fusermount(mountpoint, allow_other=allow_other, default_permissions=default_permissions)
    # Not blocking: between poll(2) and read(2) a killed client can take its request back, and a read would then hold
    # up the whole process until the next request comes.
    os.set_blocking(fd, False)
    return fd


def detach(mountpoint: bytes, *, lazy: bool = False) -> None:
    """Unmount.  Without *lazy*, MountpointBusy when something still has a file open; nothing mounted there is no error.

    The filesystem must be served meanwhile: the kernel writes back what it holds before it lets go.
    """
    if mounted_at(mountpoint) is None:
        return
    if os.geteuid() == 0 and (umount := shutil.which("umount")):
        command = [umount, "--no-canonicalize", *(["--lazy"] if lazy else []), "--", os.fsdecode(mountpoint)]
    else:
        command = [_find_fusermount(), "-u", *(["-z"] if lazy else []), "--", os.fsdecode(mountpoint)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_UMOUNT_SECONDS,
            env=_environment(),
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnmountFailed(f"{os.fsdecode(mountpoint)} was not unmounted within {_UMOUNT_SECONDS} s") from None
    if done.returncode == 0 or mounted_at(mountpoint) is None:
        return
    reason = _last_line(done.stderr)
    if "busy" in reason:
        raise MountpointBusy(f"{os.fsdecode(mountpoint)} is in use; end the programs that work in it, then try again")
    raise UnmountFailed(f"{os.fsdecode(mountpoint)} could not be unmounted: {reason}")


def mounted_at(mountpoint: bytes) -> Mounted | None:
    """What is mounted on top at *mountpoint*, without touching it (a dead or busy mount must not be asked)."""
    wanted = os.path.abspath(mountpoint)
    above, name = os.path.split(wanted)
    try:
        wanted = os.path.join(os.path.realpath(above), name)
    except OSError:
        pass
    return next((each for each in reversed(mounts()) if each.point == wanted), None)


def mounts(pid: int | None = None) -> list[Mounted]:
    """What a process (default: this one) has mounted, in the order of mounting; nothing when it is gone."""
    found = []
    try:
        with open(f"/proc/{pid or 'self'}/mountinfo", "rb") as lines:
            for line in lines:
                fields = line.split(b" ")
                end = fields.index(b"-", 6)
                receives = any(word.startswith((b"shared:", b"master:")) for word in fields[6:end])
                found.append(Mounted(fields[2].decode(), _unescape(fields[4]), fields[end + 1], receives))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def _check_mountpoint(mountpoint: bytes) -> None:
    shown = os.fsdecode(mountpoint)
    try:
        st = os.stat(mountpoint)
        empty = not os.listdir(mountpoint) if stat.S_ISDIR(st.st_mode) else True
    except FileNotFoundError:
        raise MountpointUnusable(f"the mountpoint {shown} does not exist; create the directory first") from None
    except NotADirectoryError:
        raise MountpointUnusable(f"the mountpoint {shown} is not a directory") from None
    except PermissionError:
        raise MountNotPermitted(f"the mountpoint {shown} may not be read by this user") from None
    except OSError as e:
        if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise MountpointBusy(f"a dead mount is left at {shown}; remove it with: umount -l {shown}") from None
        raise MountpointUnusable(f"the mountpoint {shown} cannot be used: {e.strerror}") from e
    if not stat.S_ISDIR(st.st_mode):
        raise MountpointUnusable(f"the mountpoint {shown} is not a directory")
    if mounted_at(mountpoint) is not None:
        raise MountpointBusy(f"something is mounted at {shown} already; unmount it or choose another directory")
    if not empty:
        raise MountpointUnusable(f"the mountpoint {shown} is not empty; choose an empty directory")


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FuseMissing(
            "there is no /dev/fuse here; load it with: modprobe fuse, or give it to the container: --device /dev/fuse"
        ) from None
    except PermissionError:
        raise FuseMissing("/dev/fuse may not be opened by this user; as root: chmod 666 /dev/fuse") from None
    except OSError as e:
        raise FuseMissing(f"/dev/fuse cannot be opened ({e.strerror}); load the module with: modprobe fuse") from e


def _mount(mountpoint: bytes, *, allow_other: bool, default_permissions: bool) -> int:
    fd = _open_device()
    options = [b"fd=%d" % fd, b"rootmode=40000", b"user_id=0", b"group_id=0"]
    if allow_other:
        options.append(b"allow_other")
    if default_permissions:
        options.append(b"default_permissions")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(SOURCE, mountpoint, TYPE, ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), b",".join(options)) == 0:
        return fd
    number = ctypes.get_errno()
    os.close(fd)
    shown = os.fsdecode(mountpoint)
    if number == errno.ENODEV:
        raise FuseMissing("the kernel does not know FUSE; load it with: modprobe fuse")
    if number in (errno.EPERM, errno.EACCES):
        raise MountNotPermitted(
            f"mounting at {shown} is not permitted: root here has no CAP_SYS_ADMIN over its mounts; "
            "give the container --cap-add SYS_ADMIN, or the namespace mounts of its own (unshare --mount)"
        )
    if number == errno.EBUSY:
        raise MountpointBusy(f"the mountpoint {shown} is in use")
    raise MountError(f"mounting at {shown} failed: {os.strerror(number)}")


def _find_fusermount() -> str:
    found = shutil.which("fusermount3") or shutil.which("fusermount3", path=_FUSERMOUNT_PATH)
    if found is None:
        raise FusermountMissing("fusermount3 is not installed; install it with: apt-get install fuse3")
    return found


def _fusermount(mountpoint: bytes, *, allow_other: bool, default_permissions: bool) -> int:
    os.close(_open_device())  # the clearer message when it is this that is missing
    program = _find_fusermount()
    options = ["fsname=goexfs", "subtype=goexfs"]
    if allow_other:
        options.append("allow_other")
    if default_permissions:
        options.append("default_permissions")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.settimeout(_FUSERMOUNT_SECONDS)
        helper = subprocess.Popen(
            [program, "-o", ",".join(options), "--", os.fsdecode(mountpoint)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env=_environment() | {"_FUSE_COMMFD": str(theirs.fileno())},
        )
        theirs.close()
        fd = _receive_descriptor(ours)
        try:
            _, said = helper.communicate(timeout=_FUSERMOUNT_SECONDS)
        except subprocess.TimeoutExpired:
            helper.kill()
            _, said = helper.communicate()
    if helper.returncode == 0 and fd >= 0:
        return fd
    if fd >= 0:
        os.close(fd)
    raise _refusal(os.fsdecode(mountpoint), _last_line(said), program)


def _receive_descriptor(ours: socket.socket) -> int:
    """The descriptor that fusermount3 sends along with one byte; -1 when it hangs up instead."""
    one = array.array("i")
    try:
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(one.itemsize), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return -1
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            one.frombytes(data[: one.itemsize])
            return one[0]
    return -1


def _refusal(shown: str, said: str, program: str) -> MountError:
    if "user_allow_other" in said:
        return MountNotPermitted("allow_other needs a line user_allow_other in /etc/fuse.conf; ask the administrator")
    if "Operation not permitted" in said and not os.stat(program).st_mode & stat.S_ISUID:
        return FusermountMissing(f"{program} is not setuid root, so it cannot mount; as root: chmod u+s {program}")
    if "mount_max" in said or "too many" in said:
        return MountNotPermitted(f"this user has too many FUSE mounts (mount_max in /etc/fuse.conf): {said}")
    if "no write access" in said or "not owned" in said or "Permission denied" in said or "not permitted" in said:
        if _may_gain_no_privileges():
            said = "this process may gain no privileges (no_new_privs, set by a container or by another sandbox)"
        return MountNotPermitted(f"fusermount3 may not mount at {shown}: {said}")
    return MountError(f"fusermount3 could not mount at {shown}: {said or 'it gave no reason'}")


def _may_gain_no_privileges() -> bool:
    with open("/proc/self/status", "rb") as file:
        return b"NoNewPrivs:\t1" in file.read()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}  # messages are matched, so not translated


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("fusermount3: ").removeprefix("umount: ") if lines else ""


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes of mountinfo."""
    if b"\\" not in field:
        return field
    first, *rest = field.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)
