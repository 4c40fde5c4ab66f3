"""Each check of ``goexfs doctor`` on this machine, and with things taken away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from goexfs import doctor
from goexfs.doctor import places
from tests.cli.conftest import GOEXFS, Command, environment
from tests.support.users import OrdinaryUser

DOCTOR = [*GOEXFS, "doctor"]


def test_this_machine_can(area: Path) -> None:
    found = {check.name: check for check in doctor.checks(area, area / "store")}
    lacking = [check for check in found.values() if check.needed and not check.ok]
    assert not lacking
    assert all(check.ok or check.mend for check in found.values()), "every lack names its mend"
    assert all("\n" not in check.found for check in found.values())
    assert not (area / "store").exists(), "looking creates nothing"


def test_json_and_status(goexfs: Command) -> None:
    report = goexfs.json("doctor")
    assert report["ok"] is True
    assert {"name", "ok", "found", "needed", "mend"} == set(report["checks"][0])


def test_what_is_not_installed_is_named_with_its_mend(goexfs: Command, area: Path) -> None:
    done = goexfs("doctor", env=environment(PATH=str(area)))
    assert done.returncode == 1
    assert "bubblewrap         is not installed" in done.stdout
    assert "LACKING  bubblewrap" in done.stdout
    assert "goexfs cannot work here yet" in done.stdout


def test_an_ordinary_user_can(user: OrdinaryUser) -> None:
    done = user.run(DOCTOR)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       fusermount3" in done.stdout


def test_a_device_that_may_not_be_opened(user: OrdinaryUser) -> None:
    device = Path("/dev/fuse")
    if os.geteuid() != 0:
        pytest.skip("only root can take the device away")
    device.chmod(0o600)
    done = user.run(DOCTOR)
    device.chmod(0o666)
    assert done.returncode == 1
    assert "may not be opened by this user" in done.stdout
    assert "mend: sudo chmod 0666 /dev/fuse" in done.stdout


def test_works_without_the_libraries(goexfs_home: Path, area: Path) -> None:
    program = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in ('pyfuse3', 'trio') else real(name, *a)\n"
        "sys.modules['pyfuse3'] = sys.modules['trio'] = None\n"
        "from goexfs.cli.main import main\n"
        "main(['doctor'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=area,
        check=False,
        env=environment(),
    )
    assert done.returncode == 1, done.stderr
    assert "not installed: pyfuse3, trio" in done.stdout


def test_directories_are_counted(area: Path) -> None:
    for name in ("a/b/c", "d", ".hidden/e"):
        (area / name).mkdir(parents=True)
    (area / "link").symlink_to("a")
    assert places.count_directories(area) == (7, True)
    assert places.count_directories(area / "missing") == (0, True)
    assert places.count_directories(Path("/"), seconds=0)[1] is False


def test_reflink_probe_leaves_nothing(area: Path) -> None:
    assert places.can_reflink(area) in (True, False)
    assert list(area.iterdir()) == []
