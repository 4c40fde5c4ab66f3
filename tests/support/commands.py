"""The ``goexfs`` command as a user runs it: a process of its own, with output captured."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

CHECKOUT = Path(__file__).resolve().parents[2]
Done: TypeAlias = "subprocess.CompletedProcess[bytes]"


def command_directory(place: Path) -> Path:
    """Make ``place`` hold a ``goexfs`` command that runs this checkout, for a PATH."""
    place.mkdir(exist_ok=True)
    script = place / "goexfs"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{CHECKOUT}" exec "{sys.executable}" -m goexfs "$@"\n')
    script.chmod(0o755)
    return place


class Goexfs:
    """Runs ``goexfs`` with one store; every call is checked for its exit status."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            **os.environ,
            "GOEXFS_HOME": str(home),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
        }

    def argv(self, *words: str | Path) -> list[str]:
        """The command line of ``goexfs WORDS``; a run reaches the interpreter and this checkout, wherever they are."""
        if words[0] == "run":
            words = ("run", *_reaching(Path(sys.prefix)), *_reaching(CHECKOUT), *words[1:])
        return [sys.executable, "-m", "goexfs", *map(str, words)]

    def __call__(self, *words: str | Path, status: int | None = 0, **options: Any) -> Done:
        """Run to the end, output captured; ``status`` is the exit status that is expected (None: any)."""
        options.setdefault("timeout", 150)
        options.setdefault("env", self.environ)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self.argv(*words), capture_output=True, check=False, **options)
        said = (words, done.returncode, done.stdout[-4000:], done.stderr[-4000:])
        assert status is None or done.returncode == status, said
        return done

    def start(self, *words: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        """Start, output piped."""
        options.setdefault("stdin", subprocess.DEVNULL)
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv(*words), stdout=pipe, stderr=pipe, env=self.environ, **options)

    def json(self, *words: str | Path) -> Any:
        """The document that ``goexfs WORDS --json`` prints."""
        return json.loads(self(*words, "--json").stdout)

    def changes(self, run: str) -> dict[bytes, str]:
        """What ``diff --name-status -z`` says: path to status; of a rename or a copy ``R old``."""
        fields = iter(self("diff", run, "--name-status", "-z").stdout.split(b"\0")[:-1])
        found = {}
        for status in fields:
            path = next(fields)
            if status in (b"R", b"C"):
                found[next(fields)] = f"{status.decode()} {os.fsdecode(path)}"
            else:
                found[path] = status.decode()
        return found

    @contextmanager
    def mounted(self, mountpoint: Path, *words: str | Path) -> Iterator[Path]:
        """``goexfs mount WORDS mountpoint`` around a block."""
        mountpoint.mkdir(exist_ok=True)
        self("mount", *words, mountpoint)
        try:
            yield mountpoint
        finally:
            self("umount", mountpoint)

    def bytes_held(self) -> int:
        """Bytes on disk in the store, after ``goexfs gc``."""
        self("gc")
        return sum(path.lstat().st_blocks * 512 for path in self.home.rglob("*"))


def _reaching(place: Path) -> tuple[str | Path, ...]:
    """The options with which a run sees ``place``: the sandbox hides what is in the host's temporary directories."""
    hidden = any(place.is_relative_to(directory) for directory in ("/tmp", "/var/tmp"))
    return ("--rw", place) if hidden else ()


def eventually(condition: Any, *, within: float, every: float = 0.01) -> bool:
    """Whether ``condition()`` becomes true ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
