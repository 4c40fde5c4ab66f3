"""What whole workloads cost in requests of the kernel and in bytes stored: figures without noise, held as upper bounds.

``docs/performance.md`` shows them.  Requests that nobody waits for (release, forget) are not counted.
"""

import os
import subprocess
from collections import Counter
from pathlib import Path

from tests.support.mounts import ASYNCHRONOUS, Mounted, mounted


def waited_for(counted: Counter[str]) -> int:
    return sum(number for name, number in counted.items() if name not in ASYNCHRONOUS)




def run(mount: Mounted, *argv: str | Path) -> Counter[str]:
    """The requests of one command in the mount."""
    with mount.counting() as counted:
        subprocess.run(argv, cwd=mount.path, check=False, stdout=subprocess.DEVNULL, timeout=120)
    print(Path(argv[0]).name, argv[1:], waited_for(counted), dict(counted))
    return counted


def test_reading_a_tree(standard_library: Path, area: Path) -> None:
    files = sum(len(names) for _, _, names in os.walk(standard_library))
    directories = sum(1 for _ in os.walk(standard_library))
    with mounted(standard_library, area) as mount:
        mount.wait_watched()
        first = run(mount, "find", ".", "-size", "+1k")
        assert waited_for(first) <= 5 * directories + 20, "listing a directory makes all in it known"
        assert waited_for(run(mount, "find", ".", "-size", "+1k")) <= 2.2 * directories + 20, "listings are kept"
        assert waited_for(run(mount, "find", ".", "-size", "+1k")) <= 1.2 * directories + 20, "and so are attributes"
        cold = run(mount, "grep", "-r", "no such words")
        assert cold["read"] <= files / 4, "small contents are pushed into the page cache when a file is opened"
        warm = run(mount, "grep", "-r", "no such words")
        assert warm["read"] == 0
        assert waited_for(warm) <= files + 5 * directories + 20


def test_writing_a_tree(standard_library: Path, area: Path) -> None:
    (area / "base").mkdir()
    archive = area / "library.tar"
    subprocess.run(["tar", "-C", standard_library, "-cf", archive, "."], check=True, timeout=120)
    files = sum(len(names) for _, _, names in os.walk(standard_library))
    directories = sum(1 for _ in os.walk(standard_library))
    with mounted(area / "base", area) as mount:
        mount.wait_watched()
        extracted = run(mount, "tar", "xf", archive)
        assert waited_for(extracted) <= 10 * files + 12 * directories
        removed = run(mount, "sh", "-c", "rm -rf *")
        assert waited_for(removed) <= 2.2 * files + 8 * directories
        mount.ask("seal")


def test_git_status_of_an_untouched_tree(standard_library_base: Path, area: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], cwd=standard_library_base, check=True, timeout=120)
    files = sum(len(names) for _, _, names in os.walk(standard_library_base))
    with mounted(standard_library_base, area) as mount:
        mount.wait_watched()
        with mount.counting() as counted:
            status = subprocess.run(
                ["git", "--no-optional-locks", "-c", "core.checkStat=minimal", "status", "--porcelain"],
                cwd=mount.path, env={**os.environ, "GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"},
                capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
        print("git status", waited_for(counted), dict(counted))
        assert status.stdout == ""
        assert counted["open"] < files / 10, "files are not opened to be hashed again"
        run(mount, "git", "--no-optional-locks", "status")
        assert waited_for(run(mount, "git", "--no-optional-locks", "status")) < files / 4


def test_renaming_a_directory_of_the_base(area: Path) -> None:
    base = area / "base"
    (base / "large").mkdir(parents=True)
    for number in range(10_000):
        (base / "large" / f"{number}").touch()
    with mounted(base, area) as mount:
        mount.wait_watched()
        with mount.counting() as counted:
            os.rename(mount.path / "large", mount.path / "renamed")
        assert waited_for(counted) <= 3, counted
        mount.ask("seal")
        assert len(os.listdir(mount.path / "renamed")) == 10_000
        assert not (mount.path / "large").exists()


def test_the_first_small_write_to_a_huge_file(area: Path) -> None:
    base = area / "base"
    base.mkdir()
    with (base / "huge").open("wb") as file:
        file.truncate(4 << 30)
    with mounted(base, area) as mount:
        mount.wait_watched()
        with mount.counting() as counted:
            fd = os.open(mount.path / "huge", os.O_RDWR)
            os.pwrite(fd, b"x" * 4096, 3 << 30)
            os.fsync(fd)
        assert waited_for(counted) <= 6, counted
        mount.ask("seal")
        assert os.pread(fd, 8192, (3 << 30) - 4096) == b"\0" * 4096 + b"x" * 4096
        os.close(fd)
        stored = sum(path.lstat().st_blocks * 512 for path in (area / "store").rglob("*") if path.name != "reserve")
        assert stored < 1 << 20, f"{stored} bytes on disk for 4 KiB written"
