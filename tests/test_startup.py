"""What a command loads: heavy libraries only where they are used, so that starting is quick."""

import importlib.metadata
import subprocess
import sys

import pytest

from tests.support.commands import CHECKOUT

HEAVY = ("trio", "pyfuse3", "pygit2", "rich", "watchdog", "hypothesis", "asyncio", "sqlite3")


def loaded_by(words: list[str]) -> set[str]:
    """Top-level modules in memory after ``goexfs WORDS``."""
    program = (
        "import sys\nfrom goexfs.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print('\\n'.join({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["diff", "--help"]], ids=" ".join)
def test_help_and_version_load_nothing_heavy(words: list[str]) -> None:
    assert not loaded_by(words) & set(HEAVY)


@pytest.mark.usefixtures("goexfs_home")
def test_listing_runs_loads_neither_the_filesystem_nor_the_diff() -> None:
    assert not loaded_by(["ls", "--json"]) & {"trio", "pyfuse3", "pygit2", "watchdog", "asyncio"}


def test_a_diff_loads_the_part_of_pygit2_that_it_needs() -> None:
    program = (
        "import sys\nfrom snapshots.review.libgit2 import compared\n"
        "def facts(old, new, **more):\n"
        "    made = compared(old, new, **more)\n"
        "    return made.data, made.delta.is_binary, [line.raw_content for hunk in made.hunks for line in hunk.lines]\n"
        "cases = [(b'a\\nb\\n', b'a\\nc\\n', {}), (b'a\\0', b'b', {}), (b'a\\0', b'b', {'as_text': True}),\n"
        "    (b'a\\0', b'b', {'whole_binary': True}), (b'1\\n' * 9, b'1\\n' * 8, {'context': 0})]\n"
        "alone = [facts(*case[:2], **case[2]) for case in cases]\n"
        "assert not {'pygit2', 'pygit2.enums', 'ssl', 'cffi'} & sys.modules.keys()\n"
        "import pygit2\nassert pygit2.init_repository and pygit2.Patch is type(compared(b'', b'x'))\n"
        "from pygit2.enums import DeltaStatus\nassert compared(b'a', b'b').delta.status is DeltaStatus.MODIFIED\n"
        "assert [facts(*case[:2], **case[2]) for case in cases] == alone\nprint(len(alone))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "5\n", done.stderr


def test_a_server_loads_only_what_it_serves_with() -> None:
    program = (
        "import sys\nfrom goexfs.fuse.loading import without_what_is_unused\n"
        "with without_what_is_unused(): import pyfuse3\n"
        "import goexfs.session.server\nprint(*sys.modules)\nprint(pyfuse3.__version__)\n"
        "import ssl, hmac, importlib.metadata as m, trio._ssl\n"
        "print(ssl.SSLContext is trio._ssl._stdlib_ssl.SSLContext, hmac.new is not None, m.version('pyfuse3'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    modules, version, later = done.stdout.splitlines()
    unwanted = {
        "click", "rich", "pygit2", "watchdog", "asyncio", "ssl", "hmac", "hashlib", "email", "zipfile", "json",
        "goexfs.session.agent", "goexfs.fuse.rewinding", "snapshots.review.diff", "snapshots.history.logbook",
    }  # fmt: skip
    assert not set(modules.split()) & unwanted
    assert version == importlib.metadata.version("pyfuse3")
    assert later == f"True True {version}", "what was left out is there for who asks for it"
