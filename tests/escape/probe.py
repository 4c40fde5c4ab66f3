# ruff: noqa: RET503 - an attempt that gets nothing returns nothing
"""What a hostile command tries, inside the sandbox: a program of its own, given to the interpreter as text.

Each attempt returns what it got hold of, and nothing (or an OSError) when it was stopped.  Printed is JSON: name of the
attempt to what it got, null for nothing.  ``WORLD`` says where things are outside.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
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
def base_by_the_new_mount_calls():
    """open_tree and move_mount, fsopen, pivot_root, mount_setattr: what a filter of old names would miss."""
    for number, *arguments in ((428, -100, b"/", 1), (430, b"tmpfs", 0), (442, -100, b"/", 0, None, 0)):
        if LIBC.syscall(number, *arguments) >= 0:
            return number
    return LIBC.syscall(155, b"/tmp", b"/tmp") == 0 if X86 else None


@attempt
def namespaces_of_others():
    for pid in (1, WORLD["server"]):
        for kind in ("mnt", "user", "net", "pid"):
            try:
                fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
            except OSError:
                continue
            if kind in ("mnt", "user") and LIBC.setns(fd, 0) == 0:
                return kind
    pidfd = LIBC.syscall(434, 1, 0)
    return pidfd >= 0 and LIBC.setns(pidfd, 0x20000) == 0


@attempt
def descriptors_of_process_1():
    """bubblewrap holds some while it sets up: none may lead out."""
    for name in os.listdir("/proc/1/fd"):
        place = f"/proc/1/fd/{name}"
        if os.path.isdir(place) and (found := [p for p in ("store.db", "upper") if os.path.exists(f"{place}/{p}")]):
            return found
        if os.path.exists(f"{place}{WORLD['store']}/store.db"):
            return place
    pidfd = LIBC.syscall(434, WORLD["server"], 0)
    return checked(LIBC.syscall(438, pidfd, 0, 0)) + 1


@attempt
def server_memory_by_call():
    here = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(here), 8)
    return checked(LIBC.process_vm_readv(WORLD["server"], vector, 1, vector, 1, 0))


@attempt
def mount_namespace():
    return checked(LIBC.unshare(0x20000)) == 0


@attempt
def user_namespace():
    return checked(LIBC.unshare(0x10000000)) == 0


@attempt
def user_namespace_by_clone():
    """With and without the structure that no filter can look into."""
    if not X86:
        return None
    flags = ctypes.create_string_buffer(struct.pack("Q", 0x10000000) + bytes(24) + struct.pack("Q", 17) + bytes(48), 88)
    for arguments in ((56, 0x10000000 | 17, 0, 0, 0, 0), (435, flags, 88)):
        pid = LIBC.syscall(*arguments)
        if pid == 0:
            LIBC._exit(0)
        if pid > 0:
            os.waitpid(pid, 0)
            return arguments[0]


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
def host_file_by_renaming():
    os.rename(WORLD["file"], "renamed")
    return True


@attempt
def host_file_by_its_descriptor():
    """Opened for reading, then again for writing; and given to a mapping."""
    with open(WORLD["file"], "rb") as file:
        return write(f"/proc/self/fd/{file.fileno()}")


@attempt
def host_file_by_attributes():
    os.setxattr(WORLD["file"], "user.escaped", b"1")
    return True


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
def typing_by_the_console():
    _, terminal = os.openpty()
    fcntl.ioctl(terminal, 0x541C, b"\x03")
    return "pasted"


@attempt
def message_queues():
    queue = LIBC.msgget(WORLD["shm"], 0)
    return checked(queue) + 1


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
def kernel_io_uring():
    return checked(LIBC.syscall(425, 1, ctypes.create_string_buffer(120))) + 1


@attempt
def kernel_fanotify():
    """With permission events, whoever opens a file of the host would wait for an answer from here."""
    return checked(LIBC.syscall(300, 4 | 1, 0)) + 1 if X86 else None


@attempt
def kernel_modules():
    """Nothing is loaded: without the right it is EPERM (ENOSYS in a kernel without modules), with it EBADF."""
    if X86 and LIBC.syscall(313, -1, b"", 0) < 0 and ctypes.get_errno() not in (1, 38):
        return os.strerror(ctypes.get_errno())


@attempt
def name_of_the_machine():
    name = os.uname().nodename.encode()
    return checked(LIBC.sethostname(name, len(name))) == 0


@attempt
def capabilities_over_the_machine():
    """Over modules, clock, devices, accounting, firewalls, audit, traffic of the kernel: not tried, but not there."""
    with open("/proc/self/status") as file:
        held = int(next(line for line in file if line.startswith("CapEff:")).split()[1], 16)
    return [n for n in (2, 9, 12, 16, 17, 20, 21, 22, 25, 26, 30, 32, 33, 34, 35, 36, 37, 38, 39, 40) if held >> n & 1]


@attempt
def preferred_to_everybody():
    """In real time, before others, spared when memory is short, beyond the limits of the caller."""
    found = []
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        found.append("real time")
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)
        found.append("priority")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
        file.flush()
        found.append("memory")
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
        found.append("limits")
    return found


@attempt
def process_1_has_more():
    """It lives in the same namespaces, and can be traced: what it may, the command may."""
    wanted = ("CapEff", "CapPrm", "CapAmb", "Seccomp", "NoNewPrivs")

    def said(pid):
        with open(f"/proc/{pid}/status") as file:
            return {line.split(":")[0]: int(line.split()[1], 16) for line in file if line.startswith(wanted)}

    mine, its = said("self"), said(1)
    return [name for name in its if its[name] & ~mine[name] or (name in wanted[3:] and its[name] < mine[name])]


@attempt
def environment_of_process_1():
    with open("/proc/1/environ", "rb") as file:
        names = [each.split(b"=")[0].decode() for each in file.read().split(b"\0")]
    return [name for name in names if name in ("X_TOKEN", "SSH_AUTH_SOCK", "GOEXFS_HOME")]


@attempt
def files_of_the_machine():
    """Whatever of /proc and /sys belongs to no process; each is opened for writing, and nothing is written."""
    found = []
    for top in ("/proc", "/sys"):
        for directory, below, names in os.walk(top):
            if directory == "/proc":
                below[:] = [name for name in below if not name.isdigit() and name not in ("self", "thread-self")]
            for path in (os.path.join(directory, name) for name in names):
                with contextlib.suppress(OSError):
                    mode = os.lstat(path).st_mode
                    if stat.S_ISREG(mode) and mode & 0o222:  # others root may open, too, and they take nothing
                        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                        found.append(path)
    return found


@attempt
def kernel_settings():
    for name in ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "fs/protected_hardlinks"):
        try:
            return os.open(f"/proc/sys/{name}", os.O_WRONLY)
        except OSError:
            continue
    return os.open("/sys/kernel/uevent_helper", os.O_WRONLY)


@attempt
def control_groups_by_their_release_agent():
    os.makedirs("groups", exist_ok=True)
    for options in (b"rdma", b"pids", b"memory"):
        if LIBC.mount(b"cgroup", b"groups", b"cgroup", 0, options) == 0:
            return options.decode()
    for directory, _, names in os.walk("/sys/fs/cgroup"):
        if "release_agent" in names:
            return os.open(os.path.join(directory, "release_agent"), os.O_WRONLY)


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
def traffic_of_the_machine():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)):
        return WORLD["network"] == "host"  # elsewhere there is none but the run's own


@attempt
def networks_that_are_in_no_namespace():
    """RDS, IUCV, VSOCK (which leads to the machine below a virtual one) and QIPCRTR: refused, not only missing."""
    if WORLD["network"] == "host":
        return None
    found = []
    for family in (21, 32, 40, 42):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except PermissionError:
            continue
        except OSError as error:
            found.append([family, str(error)])
        else:
            found.append(family)
    return found


@attempt
def network():
    with socket.create_connection(("127.0.0.1", WORLD["port"]), timeout=5):
        return WORLD["network"] != "host"


if __name__ == "__main__":
    # A number of the process says little: what has to be another's is the root, as a host has it only once.
    inside = os.path.exists("/dev/goexfs") and os.getpid() < 100 and not os.path.exists(WORLD["store"] + "/store.db")
    harmless = set(WORLD.get("only", ())) and os.environ.get("GOEXFS_PROBE_ROOT") == os.readlink("/proc/self/ns/mnt")
    assert inside or harmless, "this is no sandbox: here these attempts would succeed"
    found = {}
    for name, function in ATTEMPTS.items():
        if name not in WORLD.get("only", ATTEMPTS):
            continue
        try:
            found[name] = function() or None
        except (OSError, shutil.Error):
            found[name] = None
    print(json.dumps(found))
