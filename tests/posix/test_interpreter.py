"""The interpreter's own tests with their files in the mount: what passes natively passes there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.mounts import mounted

QUICK = ("test_tempfile", "test_glob", "test_fileio", "test_mmap", "test_fcntl", "test_dbm_dumb")
ALL = (
    "test_os", "test_posix", "test_shutil", "test_tempfile", "test_pathlib", "test_glob", "test_mmap", "test_fileio",
    "test_io", "test_fcntl", "test_mailbox", "test_dbm", "test_dbm_dumb", "test_dbm_gnu", "test_dbm_ndbm",
    "test_sqlite3", "test_zipfile", "test_tarfile",
)  # fmt: skip


def with_tests() -> str | None:
    """An interpreter that has its own tests: this one, or another on PATH (Debian's comes without)."""
    for name in (sys.executable, "python3", *(f"python3.{minor}" for minor in range(11, 20))):
        program = shutil.which(name)
        if program is not None:
            done = subprocess.run([program, "-c", "import test.test_os"], capture_output=True, check=False)
            if done.returncode == 0:
                return program
    return None


INTERPRETER = with_tests()

pytestmark = pytest.mark.skipif(INTERPRETER is None, reason="no interpreter on PATH has its own tests")


def results(module: str, place: Path, report: Path) -> dict[str, str]:
    """Every test of *module* run with its files in *place*: passed, failed or skipped."""
    work = place / module
    work.mkdir()
    done = subprocess.run(
        [str(INTERPRETER), "-m", "test", "-u", "largefile,cpu", "--junit-xml", report, "--tempdir", work, module],
        cwd=work,
        env={**os.environ, "TMPDIR": str(work), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if not report.exists():
        assert "skipped" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
        return {}
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        found[case.get("name", "")] = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
    return found


def compare(module: str, area: Path) -> None:
    (area / "native").mkdir()
    native = results(module, area / "native", area / "native.xml")
    (area / "base").mkdir()
    with mounted(area / "base", area) as mount:
        mount.wait_watched()
        mine = results(module, mount.path, area / "mount.xml")
    worse = {
        name: f"{was}, then {mine.get(name, 'missing')}"
        for name, was in native.items()
        if was == "passed" and mine.get(name) != "passed"
    }
    assert not worse
    passed = sum(was == "passed" for was in native.values())
    print(f"{module}: {passed} of {len(native)} pass natively and in the mount")


@pytest.mark.parametrize("module", QUICK)
def test_a_selection(module: str, area: Path) -> None:
    compare(module, area)


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("module", ALL)
def test_all(module: str, area: Path) -> None:
    compare(module, area)
