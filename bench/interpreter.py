"""A Python interpreter that was installed with its own test suite, which many distributions leave out.

Owns finding it, once.
"""

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CANDIDATES = (sys.executable, "python3", "python3.14", "python3.13", "python3.12", "python3.11", "/usr/bin/python3")
ASK = """
import json, sys, sysconfig
import test.libregrtest, test.test_glob, test.test_shutil
print(json.dumps([sys.executable, sysconfig.get_path("stdlib")]))
"""
ABSENT = "no interpreter has its test suite: apt-get install libpython3-testsuite"


@dataclass(frozen=True)
class Interpreter:
    """How it is started, and where its library is."""

    command: str
    library: Path


@functools.cache
def with_tests() -> Interpreter | None:
    """The first of the candidates that has its tests; None when there is none."""
    for candidate in CANDIDATES:
        try:
            done = subprocess.run([candidate, "-Ic", ASK], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            command, library = json.loads(done.stdout)
            return Interpreter(command, Path(library))
    return None
