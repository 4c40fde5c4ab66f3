"""Being an ordinary user: who it is, and how a command is run as that user when the tests run as root.

The interpreter may live below a directory that only root may enter (``/root``).  Then the command runs in a mount
namespace of its own in which a copy of that directory, holding nothing but the way to the interpreter, can be entered.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOBODY = 65534


@dataclass(frozen=True)
class OrdinaryUser:
    """A user without privileges, with a home of its own; ``run`` runs a command as that user."""

    uid: int
    gid: int
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def wrap(self, argv: list[str]) -> list[str]:
        """The command line that runs ``argv`` as this user."""
        if os.geteuid() != 0:
            return argv
        dropped = [
            "setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--inh-caps=-all", *argv
        ]  # fmt: skip
        barred = _barred_ancestor(Path(sys.executable)) or _barred_ancestor(Path(sys.executable).resolve())
        if barred is None:
            return dropped
        inside = Path(sys.base_prefix).resolve().relative_to(barred).parts[0]
        script = (
            'set -e; d=$(mktemp -d); chmod 755 "$d"; mkdir "$d/{0}"; mount --rbind {1}/{0} "$d/{0}"; '
            'mount --rbind "$d" {1}; exec "$@"'
        ).format(shlex.quote(inside), shlex.quote(str(barred)))
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *dropped]

    def run(self, argv: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run ``argv`` to its end, output captured as text; options as for ``subprocess.run``."""
        options.setdefault("timeout", 120)
        options.setdefault("cwd", self.home)
        options.setdefault("stdin", subprocess.DEVNULL)
        environ = {**self.environ, **options.pop("env", {})}
        return subprocess.run(self.wrap(argv), env=environ, capture_output=True, text=True, check=False, **options)


def _barred_ancestor(path: Path) -> Path | None:
    """The topmost directory on the way to ``path`` that others may not enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def ordinary_user(home: Path) -> OrdinaryUser:
    """The user to be: ``nobody`` when this is root, otherwise whoever runs the tests.  ``home`` is created."""
    home.mkdir(parents=True, exist_ok=True)
    root = os.geteuid() == 0
    uid, gid = (NOBODY, NOBODY) if root else (os.getuid(), os.getgid())
    if root:
        os.chown(home, uid, gid)
    checkout = Path(__file__).resolve().parents[2]
    environ = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TMPDIR": str(home),
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GOEXFS_HOME": str(home / "store"),
    }
    return OrdinaryUser(uid, gid, home, environ)
