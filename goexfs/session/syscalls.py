"""The system calls that a sandboxed command is refused, as a filter for bubblewrap.

Owns the list, with the reason for each, and its compilation by libseccomp (through ctypes: the Python bindings on PyPI
have not been kept since 2021, and importing them starts a program).  Knows no run.  Any thread.

Most of what a hostile command might try is forbidden by what it has not got (capabilities, mounts, other processes).
The filter is for what needs no privilege: typing into the caller's terminal, the caller's keys, new user namespaces,
and corners of the kernel in which many holes have been found and which a build or an agent does not need.
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass
from typing import NamedTuple

from goexfs.session.errors import SandboxError

LIBRARY = "libseccomp.so.2"

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQ = 7

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_CLONE_NEWUSER = 0x10000000
_ARCHITECTURES = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}
"""Machine -> what else its processors execute: a filter for one would be passed by through the other."""


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64)]


class Refusal(NamedTuple):
    """A system call that fails with ``error``; with ``arg`` only if ``args[arg] & mask == value``."""

    call: str
    error: int = errno.EPERM
    arg: int | None = None
    mask: int = 0xFFFFFFFF
    value: int = 0


ALWAYS = (
    # Characters pushed into the input of the terminal are read by the shell after goexfs has ended.
    Refusal("ioctl", arg=1, value=_TIOCSTI),
    Refusal("ioctl", arg=1, value=_TIOCLINUX),
    # The keyrings of the caller's session are inherited and belong to no namespace that could be left.
    Refusal("keyctl"),
    Refusal("add_key"),
    Refusal("request_key"),
    # A file by its handle passes by every directory, mount and hidden name.
    Refusal("open_by_handle_at"),
    Refusal("bpf"),
    Refusal("perf_event_open"),
    Refusal("userfaultfd"),
    # Programs fall back to threads; the calls it makes are seen by no filter.
    Refusal("io_uring_setup", errno.ENOSYS),
)

USER_NAMESPACES = (
    Refusal("unshare", arg=0, mask=_CLONE_NEWUSER, value=_CLONE_NEWUSER),
    Refusal("clone", arg=0, mask=_CLONE_NEWUSER, value=_CLONE_NEWUSER),
    # Its flags are in memory, where a filter cannot look; the C library goes on with clone.
    Refusal("clone3", errno.ENOSYS),
)
"""Inside a user namespace of its own a command has every capability over new mounts, devices and firewalls: the part
of the kernel that was never meant for everybody."""


NETWORKS = tuple(Refusal("socket", arg=0, value=family) for family in (21, 32, 40, 42))
"""RDS, IUCV, VSOCK and QIPCRTR: their addresses are the machine's, whatever the network namespace; VSOCK leads to the
one that this is a guest of."""


@dataclass(frozen=True)
class Filter:
    """A compiled filter, in a file that lives in memory."""

    fd: int

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)


def compile_filter(*, user_namespaces: bool, network: bool) -> Filter:
    """The filter for a command that may make ``user_namespaces``, or not, and that has the host's ``network``, or not.

    Raises ``SandboxError``.
    """
    library = _library()
    context = library.seccomp_init(ctypes.c_uint32(_ALLOW))
    if not context:
        raise SandboxError("libseccomp could not begin a filter of system calls; --no-sandbox runs without confinement")
    fd = -1
    try:
        for name in _ARCHITECTURES.get(platform.machine(), ()):
            token = library.seccomp_arch_resolve_name(name.encode())
            _check(library.seccomp_arch_add(context, token), name, (0, -errno.EEXIST))
        wanted = (*ALWAYS, *(() if user_namespaces else USER_NAMESPACES), *(() if network else NETWORKS))
        for refusal in wanted:
            _refuse(library, context, refusal)
        fd = os.memfd_create("syscalls", os.MFD_CLOEXEC)
        _check(library.seccomp_export_bpf(context, fd), "export", (0,))
        os.lseek(fd, 0, os.SEEK_SET)
        return Filter(fd)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise SandboxError(
            f"{LIBRARY} is not installed; install the package libseccomp2, or run without confinement: --no-sandbox"
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)
    )  # fmt: skip
    return library


def _refuse(library: ctypes.CDLL, context: int, refusal: Refusal) -> None:
    number = library.seccomp_syscall_resolve_name(refusal.call.encode())
    if number == -1:  # a call that this version of the library has not heard of
        return
    action = _ERRNO | refusal.error
    if refusal.arg is None:
        code = library.seccomp_rule_add_array(context, action, number, 0, None)
    else:
        comparison = _Comparison(refusal.arg, _MASKED_EQ, refusal.mask, refusal.value)
        code = library.seccomp_rule_add_array(context, action, number, 1, ctypes.byref(comparison))
    _check(code, refusal.call, (0, -errno.EDOM))  # EDOM: not on this architecture


def _check(code: int, what: str, good: tuple[int, ...]) -> None:
    if code not in good:
        raise SandboxError(f"libseccomp could not make the filter of system calls ({what}: {os.strerror(-code)})")
