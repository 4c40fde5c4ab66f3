"""Running a program as an effect.

Owns the start of a program with the user's own rights and environment, its time limit, and what its end means.  Knows
no ledger and no sandbox.  Any thread.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping

from goexfs.effects.outcome import Outcome, tail
from snapshots.names import readable
from snapshots.storage.effects import State

SECONDS = 3600.0
"""How long a program may take."""

_GRACE_SECONDS = 5.0


def environment(key: str) -> dict[bytes, bytes]:
    """The user's environment, with what the program may pass on so that an attempt is known again."""
    return {**os.environb, b"GOEXFS_EFFECT_KEY": key.encode()}


def run(
    argv: tuple[bytes, ...], *, cwd: bytes, env: Mapping[bytes, bytes], given: bytes | None = None,
    seconds: float = SECONDS,
) -> Outcome:  # fmt: skip
    """Run a program to its end, without input (or with ``given``), its output collected."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as source:
        source.write(given or b"")
        source.seek(0)
        try:
            popen = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=source if given is not None else subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            what = readable(argv[0]) if os.path.isdir(cwd) else f"{readable(argv[0])} in {readable(cwd)}"
            return Outcome(State.FAILED, f"{what} could not be started: {reason}")
        how = _wait(popen, seconds)
        output.seek(0)
        said = tail(output.read())
    return _outcome(popen.returncode, how, said)


def _wait(popen: "subprocess.Popen[bytes]", seconds: float) -> str:
    """Wait for the end; empty, or why it was brought about."""
    try:
        popen.wait(seconds)
        return ""
    except subprocess.TimeoutExpired:
        why = f"it was ended after {seconds:.0f} s"
    except KeyboardInterrupt:  # the terminal has told the program, too
        why = "it was interrupted"
    try:
        if why.endswith("s"):
            popen.terminate()
        popen.wait(_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        popen.kill()
        popen.wait()
    return why


def _outcome(status: int, why: str, said: str) -> Outcome:
    interrupted = why == "it was interrupted"
    if status == 0:
        return Outcome(State.DONE, said or "exit status 0", interrupted=interrupted)
    if status < 0 or why:  # killed at an unknown place
        end = why or f"it was killed by {signal.Signals(-status).name}"
        return Outcome(State.UNKNOWN, f"{end}\n{said}".strip(), interrupted=interrupted)
    return Outcome(State.FAILED, f"exit status {status}\n{said}".strip())
