"""A store opened through the Python API, and programs that use it in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import goexfs
from goexfs.session import RunStore
from tests.support.commands import CHECKOUT


@pytest.fixture
def store(goexfs_home: Path) -> Iterator[RunStore]:
    with goexfs.open_store() as opened:
        yield opened
        for run in opened.runs():
            if run.state == "active":
                run.unmount(force=True)
        report = opened.fsck()
    assert not report.findings, str(report)


@pytest.fixture
def program(goexfs_home: Path, fresh_base: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start a Python program in which ``store`` and ``base`` are at hand; it says what it has to on stdout."""
    started: list[subprocess.Popen[str]] = []

    def start(text: str, **options) -> "subprocess.Popen[str]":
        head = (
            "import os, sys, time, signal, goexfs\n"
            f"store = goexfs.open_store({os.fspath(goexfs_home)!r}); base = {os.fspath(fresh_base)!r}\n"
            "def say(*words): print(*words, flush=True)\n"
        )
        popen = subprocess.Popen(
            [sys.executable, "-c", head + text], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, text=True,
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip
        started.append(popen)
        return popen

    yield start
    for popen in started:
        if popen.poll() is None:
            popen.kill()
        popen.communicate()
