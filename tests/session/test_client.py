"""An agent finds ``goexfs`` in its run wherever that is installed, and cannot change it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.users import OrdinaryUser

CHECKOUT = Path(__file__).resolve().parents[2]
INSIDE = """
goexfs snapshot one && goexfs snapshots && command -v goexfs
for place in "$1"/*/new /dev/goexfs-bin/goexfs; do (echo >> "$place") 2>/dev/null && echo "$place was written to"; done
ls "$1"
echo 'raise SystemExit("of the base")' > click.py; export PYTHONPATH=.
goexfs diff --name-status
"""


@pytest.mark.parametrize("who", ["root", "user"])
def test_an_installation_in_a_place_that_is_private_inside(area: Path, user: OrdinaryUser, who: str) -> None:
    if who == "root" and os.geteuid() != 0:
        pytest.skip("root is tried where the tests run as root")
    place, base = area / "installation", area / "base"
    for package in ("goexfs", "snapshots"):
        shutil.copytree(CHECKOUT / package, place / package)  # with what is compiled, and its times
    base.mkdir()
    (place / "secret").write_text("not of the installation")
    environ = {**user.environ, "PYTHONPATH": str(place), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-m", "goexfs", "run", "--discard", "--", "sh", "-c", INSIDE, "sh", str(place)]
    if who == "user":
        os.chown(base, user.uid, user.gid)
        done = user.run(argv, cwd=base, env=environ)
    else:
        done = subprocess.run(argv, cwd=base, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, _, listed, found, *places, changed = done.stdout.splitlines()
    assert (made, listed.split()[0], found) == ("@one", "one", "/dev/goexfs-bin/goexfs")
    assert places == ["goexfs", "snapshots"]
    assert changed.split() == ["A", "click.py"]


def test_one_that_is_on_the_path_is_taken(area: Path, user: OrdinaryUser) -> None:
    (area / "base/bin").mkdir(parents=True)
    own = area / "base/bin/goexfs"
    own.write_text("#!/bin/sh\necho of the path\n")
    own.chmod(0o755)
    os.chown(area / "base", user.uid, user.gid)
    argv = [sys.executable, "-m", "goexfs", "run", "--discard", "--", "goexfs"]
    done = user.run(argv, cwd=area / "base", env={"PATH": f"{own.parent}:/usr/bin:/bin"})
    assert (done.returncode, done.stdout) == (0, "of the path\n"), done.stderr
