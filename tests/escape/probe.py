# ruff: noqa: RET503 - an attempt that gets nothing returns nothing
"""What a hostile command tries, inside the sandbox: a program of its own, given to the interpreter as text.

Each attempt returns what it got hold of, and nothing (or an OSError) when it was stopped.  Printed is JSON: name of the
attempt to what it got, null for nothing.  ``WORLD`` says where things are outside.
"""

import ctypes
import fcntl
import json
import os
import platform
import shutil
import socket
import stat
import struct
import sys

WORLD = json.loads(sys.argv[1])
BEGINNING = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 3]
"""descriptors at the beginning; 3 is that of the listing"""
ATTEMPTS = {}
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def read(path):
    with open(path, "rb") as file:
        return repr(file.read(16))


def write(path):
    with open(path, "ab") as file:
        file.write(b"escaped")
    return path


@attempt
def store_by_path():
    return os.listdir(WORLD["store"])


@attempt
def store_by_the_roots_of_processes():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for way in ("root", "cwd"):
            try:
                return read(f"/proc/{pid}/{way}{WORLD['store']}/store.db")
            except OSError:
                continue


@attempt
def store_by_handle():
    kind, handle = WORLD["handle"]
    raw = bytes.fromhex(handle)
    buffer = ctypes.create_string_buffer(struct.pack("Ii", len(raw), kind) + raw)
    for place in ("/", os.getcwd(), "/usr"):
        mount = os.open(place, os.O_RDONLY)
        fd = LIBC.open_by_handle_at(mount, buffer, os.O_RDONLY)
        if fd >= 0:
            return read(f"/proc/self/fd/{fd}")


@attempt
def store_by_chroot():
    if os.fork() == 0:
        try:
            os.mkdir("jail")
            os.chroot("jail")
            for _ in range(64):
                os.chdir("..")
            os.chroot(".")
            os._exit(0 if os.path.exists(WORLD["store"] + "/store.db") else 1)
        except OSError:
            os._exit(1)
    return os.wait()[1] == 0


@attempt
def control_socket():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(WORLD["control"])
        return "connected"


@attempt
def other_run():
    return os.listdir(WORLD["other"])


@attempt
def inherited_descriptors():
    return BEGINNING


@attempt
def server_signalled():
    os.kill(WORLD["server"], 0)
    return "it is there"


@attempt
def server_traced():
    return checked(LIBC.ptrace(16, WORLD["server"], 0, 0)) == 0


@attempt
def server_memory():
    return read(f"/proc/{WORLD['server']}/mem")


@attempt
def processes_outside():
    return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if int(pid) > 200]


@attempt
def overlay_unmounted():
    return checked(LIBC.umount2(os.fsencode(WORLD["base"]), 2)) == 0


@attempt
def host_remounted_writable():
    return checked(LIBC.mount(b"none", b"/", None, 0x20 | 0x1000, None)) == 0


@attempt
def base_bound_elsewhere():
    return checked(LIBC.mount(b"/", b"/tmp", None, 0x1000 | 0x4000, None)) == 0


@attempt
def mount_namespace():
    return checked(LIBC.unshare(0x20000)) == 0


@attempt
def user_namespace():
    return checked(LIBC.unshare(0x10000000)) == 0


@attempt
def disk_by_its_number():
    for place in ("/tmp/disk", "disk"):
        try:
            os.mknod(place, stat.S_IFBLK | 0o600, WORLD["device"])
            return read(place)
        except OSError:
            continue


@attempt
def host_file_written():
    return write(WORLD["file"])


@attempt
def host_file_made():
    return write(WORLD["file"] + ".new")


@attempt
def host_file_removed():
    os.unlink(WORLD["file"])
    return True


@attempt
def host_file_by_symlink():
    os.symlink(WORLD["file"], "symlink")
    return write("symlink")


@attempt
def host_file_by_hard_link():
    os.link(WORLD["file"], "hard link")
    return write("hard link")


@attempt
def host_file_by_mode():
    os.chmod(WORLD["file"], 0o777)
    return True


@attempt
def socket_in_a_readable_place():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(WORLD["socket"])
        return "connected"


@attempt
def sockets_of_services():
    return [
        os.path.join(directory, name)
        for directory, _, names in os.walk("/run")
        for name in names
        if stat.S_ISSOCK(os.lstat(os.path.join(directory, name)).st_mode) and name != WORLD["channel"]
    ]


@attempt
def key_file():
    return read(WORLD["home"] + "/.ssh/id_ed25519")


@attempt
def secrets_of_the_environment():
    return [name for name in ("X_TOKEN", "SSH_AUTH_SOCK", "GOEXFS_HOME") if name in os.environ]


@attempt
def typing_into_the_terminal():
    _, terminal = os.openpty()
    fcntl.ioctl(terminal, 0x5412, b"x")
    return "typed"


@attempt
def shared_memory():
    return checked(LIBC.shmget(WORLD["shm"], 0, 0o600)) + 1


@attempt
def keyring():
    return checked(LIBC.syscall(250, 0, -3, 1)) if X86 else None


@attempt
def kernel_bpf():
    return checked(LIBC.syscall(321, 0, 0, 0)) + 1 if X86 and ctypes.get_errno() != 14 else None


@attempt
def kernel_perf():
    return checked(LIBC.syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)) if X86 else None


@attempt
def kernel_userfaultfd():
    return checked(LIBC.syscall(323, 1)) if X86 else None


@attempt
def kernel_settings():
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)


@attempt
def kernel_sysrq():
    return os.open("/proc/sysrq-trigger", os.O_WRONLY)


@attempt
def control_groups():
    for directory, _, names in os.walk("/sys/fs/cgroup"):
        if "cgroup.procs" in names:
            return os.open(os.path.join(directory, "cgroup.procs"), os.O_WRONLY)


@attempt
def privileges_by_setuid():
    with open("/proc/self/status") as file:
        return "NoNewPrivs:\t1" not in file.read()


@attempt
def abstract_socket():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + WORLD["abstract"])
        return WORLD["network"] != "host"  # there it is the host's, and said to be


@attempt
def network():
    with socket.create_connection(("127.0.0.1", WORLD["port"]), timeout=5):
        return WORLD["network"] != "host"


if __name__ == "__main__":
    assert "only" in WORLD or os.getpid() < 100, "this is no sandbox: here these attempts would succeed"
    found = {}
    for name, function in ATTEMPTS.items():
        if name not in WORLD.get("only", ATTEMPTS):
            continue
        try:
            found[name] = function() or None
        except (OSError, shutil.Error):
            found[name] = None
    print(json.dumps(found))
