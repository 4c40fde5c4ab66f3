"""The real command in a process of its own: without a terminal, and with one (a pty)."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
GOEXFS = [sys.executable, "-m", "goexfs"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, the checkout importable from anywhere, and no pager of the developer's."""
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT), "GOEXFS_PAGER": "cat", "TERM": "xterm"}
    environ.pop("NO_COLOR", None)
    return {**environ, **more}


class Command:
    """``goexfs`` with a store of the test's own."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def __call__(
        self, *args: str | bytes | Path, cwd: Path | None = None, timeout: float = 60, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run to the end without a terminal, output captured as text."""
        options.setdefault("env", environment())
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("text", True)
        return subprocess.run(
            [*GOEXFS, *args], cwd=cwd or self.cwd, capture_output=True, timeout=timeout, check=False, **options
        )

    def json(self, *args: str | bytes | Path, **options: Any) -> Any:
        """The JSON document on stdout of a command that succeeds."""
        done = self(*args, "--json", **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def kept(self, script: str, *, cwd: Path | None = None, name: str | None = None) -> str:
        """The id of a kept run in which ``script`` was run by sh."""
        done = self("run", "--json", "--keep", *(("--name", name) if name else ()), "--", "sh", "-c", script, cwd=cwd)
        assert done.returncode == 0, done.stderr
        found: str = json.loads(done.stdout)["run"]
        return found

    def terminal(self, *args: str, **more: str) -> "Terminal":
        """Start it on a terminal of its own."""
        return Terminal([*GOEXFS, *args], self.cwd, environment(**more))


class Terminal:
    """A process on a pty: ``expect`` what it shows, ``type`` to it, ``wait`` for its end."""

    def __init__(self, argv: list[str], cwd: Path, environ: dict[str, str]) -> None:
        self.shown = ""
        self._seen = 0
        self.pid, self._pty = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], argv, environ)
        self.status: int | None = None

    def expect(self, pattern: str, *, within: float = 20) -> str:
        """Wait until ``pattern`` is shown after what was expected before; the text that matched."""
        deadline = time.monotonic() + within
        while not (found := re.compile(pattern).search(self.shown, self._seen)):
            assert self._read(deadline - time.monotonic()), f"{pattern!r} not shown: {self.shown[self._seen :]!r}"
        self._seen = found.end()
        return found.group()

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._pty], [], [], max(0, seconds))
        if not ready:
            return False
        try:
            data = os.read(self._pty, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str) -> None:
        """Type keys; ``\\x03`` is Ctrl-C, ``\\x04`` the end of input."""
        os.write(self._pty, text.encode())

    def hang_up(self) -> None:
        """Close the terminal, as a lost connection does."""
        os.close(self._pty)
        self._pty = -1

    @property
    def echo(self) -> bool:
        """Whether the terminal still echoes what is typed (a sane state)."""
        return bool(termios.tcgetattr(self._pty)[3] & termios.ECHO)

    def wait(self, *, within: float = 20) -> int:
        """The exit status (128 + signal if one ended it), once everything it showed was read."""
        deadline = time.monotonic() + within
        while self.status is None:
            if self._pty >= 0:
                self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code
                while self._pty >= 0 and self._read(0.05):
                    pass
            else:
                assert time.monotonic() < deadline, f"still running: {self.shown!r}"
        return self.status

    def close(self) -> None:
        """End it if it still runs."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._pty >= 0:
            os.close(self._pty)


@pytest.fixture
def goexfs(goexfs_home: Path, fresh_base: Path) -> Command:
    """The command, in a small project, with a store of its own."""
    return Command(fresh_base)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """A list to put terminals in: those still open are ended after the test."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()
