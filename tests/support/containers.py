"""A user namespace to be in, as in a container of an ordinary user: made without any program of a distribution.

Needs root: only root may map more than itself.  What is done to the settings of such a namespace is done to it alone.
"""

import subprocess
from typing import Any

ALL = "0 0 65536\n"
WAIT = 'read -r _; exec 0</dev/null; exec "$@"'


def in_user_namespace(
    argv: list[str], *, uid_map: str = ALL, gid_map: str = ALL, mounts: bool = True, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run ``argv`` as root of a new user namespace, with ``mounts`` of its own or those of the machine."""
    flags = ["--user", *(["--mount"] if mounts else [])]
    process = subprocess.Popen(
        ["unshare", *flags, "sh", "-c", WAIT, "sh", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    try:
        _await_namespace(process)
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            with open(f"/proc/{process.pid}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        out, err = process.communicate("go\n", timeout=120)
    finally:
        process.kill()
        process.wait()
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _await_namespace(process: "subprocess.Popen[str]") -> None:
    import os
    import time

    deadline = time.monotonic() + 20
    own = os.readlink("/proc/self/ns/user")
    while os.readlink(f"/proc/{process.pid}/ns/user") == own:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
