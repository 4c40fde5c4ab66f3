"""What one look at the machine finds, and the commands that mend a lack on this system.

Owns the ``Check`` value, the names of packages and the running of probes.  Only the standard library; any thread.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 15
"""How long a probe may take before it counts as failed."""

_INSTALL = {
    # package manager -> how it installs, and what building pyfuse3 against libfuse takes
    "apt-get": ("apt install", "libfuse3-dev pkg-config gcc"),
    "dnf": ("dnf install", "fuse3-devel gcc"),
    "zypper": ("zypper install", "fuse3-devel gcc"),
    "pacman": ("pacman -S", "fuse3 gcc"),
    "apk": ("apk add", "fuse3-dev gcc musl-dev"),
}
LIBFUSE = "libfuse3 and a C compiler"
"""What ``install_command`` translates; other packages are called the same everywhere."""


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


def install_command(package: str) -> str:
    """The command that installs ``fuse3``, ``bubblewrap`` or ``LIBFUSE`` on this system."""
    manager = next((name for name in _INSTALL if shutil.which(name)), None)
    if manager is None:
        return f"install {package} with the system's package manager"
    command, libfuse = _INSTALL[manager]
    return as_root(f"{command} {libfuse if package == LIBFUSE else package}")


def pip_command(what: str) -> str:
    """Installs into the environment goexfs runs in."""
    return f"{sys.executable} -m pip install {what}"


def as_root(command: str) -> str:
    """The command as this user has to type it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def failure_of(argv: list[str]) -> str:
    """Run a probe to its end; why it failed in one line, empty when it did not."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    return last_line(done.stderr) or f"exit status {done.returncode}"


def output_of(argv: list[str]) -> str:
    """What a program prints, stripped; empty when it cannot be run."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def last_line(text: str) -> str:
    """The last line of an error output: the reason."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def number_in(path: str) -> int | None:
    """The number a file of /proc holds; None when there is no such file."""
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None
