"""``--system``: a package is installed in a run over ``/``, looked at, given up and merged.

The root of the machine is not touched: the test has a root of its own, the kernel's overlay over the real one in a
mount namespace, and that is what a merge changes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import OrdinaryUser

SCRATCH = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "xino=on,lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" || exit 77
cd "$1/root"
for place in dev proc sys; do mount --rbind "/$place" "$place"; done
shift
pivot_root . mnt
cd /
umount -l mnt
exec "$@"
"""
POSTINST = "#!/bin/sh\nset -e\nchmod 4711 /usr/share/goexfs-tiny/hello\necho 'tiny:x:4711:' >> /etc/group\n"
CONTROL = """\
Package: goexfs-tiny
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.com>
Description: a package of three files
"""
INSTALL = """
set -e
export HOME=/var/lib/goexfs-test
installed() { dpkg-query -W -f '${db:Status-Status}\\n' goexfs-tiny 2>/dev/null || echo not-installed; }
installed
"$@" run --system --keep --name try -- sh -c 'dpkg -i "$HOME/tiny.deb" >&2; touch /tmp/private'
installed
"$@" diff --name-status try
"$@" fork try other >/dev/null
"$@" discard try
installed; test ! -e /usr/share/goexfs-tiny; test ! -e /tmp/private
"$@" merge other >/dev/null
installed
stat -c '%a %U %s' /usr/share/goexfs-tiny/hello; tail -n 1 /etc/group
"$@" undo >/dev/null
installed; ls "$HOME/.local/state/goexfs/runs"; test ! -e /usr/share/goexfs-tiny
"""


def tiny_package(area: Path) -> Path:
    """A package that brings a file, changes its mode, and adds a line to another file when it is installed."""
    tree = area / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/goexfs-tiny").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "DEBIAN/postinst").write_text(POSTINST)
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "usr/share/goexfs-tiny/hello").write_text("hello\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, area / "tiny.deb"], check=True, capture_output=True)
    return area / "tiny.deb"


@pytest.mark.skipif(os.geteuid() != 0, reason="installing a package takes root")
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="the package is one of Debian's")
def test_a_package_is_installed_discarded_merged_and_taken_back(area: Path) -> None:
    package = tiny_package(area)
    (area / "scratch").mkdir()
    place = "mkdir -p /var/lib/goexfs-test && mv \"$0\" /var/lib/goexfs-test/ && " + 'exec sh -c "$1" sh "$2" -m goexfs'
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for name in ("GOEXFS_HOME", "XDG_STATE_HOME"):
        environ.pop(name, None)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRATCH, "sh", area / "scratch",
         "sh", "-c", place, package, INSTALL, sys.executable],
        env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no overlay over the root of this machine: {done.stderr}")
    assert done.returncode == 0, done.stderr
    before, kept, *changes, discarded, merged, attributes, group, undone, run = done.stdout.splitlines()
    assert (before, kept, discarded, merged, undone) == (*(["not-installed"] * 3), "installed", "not-installed")
    assert run, "it has the changes again"
    assert (attributes, group) == ("4711 root 6", "tiny:x:4711:")
    assert {"M\tetc/group", "M\tvar/lib/dpkg/status", "A\tusr/share/goexfs-tiny/hello"} <= set(changes)
    assert all(change.split("\t")[1].startswith(("etc/", "var/l", "usr/share/")) for change in changes), changes


def test_as_an_ordinary_user(user: OrdinaryUser) -> None:
    """It may do what it may do anyway, see what it may see, and change nothing of others."""
    script = "touch /etc/new 2>/dev/null || echo refused; head -c 4 /etc/passwd; touch /tmp/new && echo private"
    argv = [sys.executable, "-m", "goexfs", "run", "--system", "--keep", "--name", "try", "--", "sh", "-c", script]
    done = user.run(argv, cwd="/")
    assert (done.returncode, done.stdout) == (0, "refused\nrootprivate\n"), done.stderr
    done = user.run([sys.executable, "-m", "goexfs", "diff", "try"])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = user.run([sys.executable, "-m", "goexfs", "run", "--system", "--base", "/srv", "--", "true"])
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2, "goexfs: --system and --base exclude each other (`goexfs run --help` shows how it is written)"
    )
