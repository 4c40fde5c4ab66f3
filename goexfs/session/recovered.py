"""What the recovery of a crashed run could not bring back, in words.

Owns the words, and the logger that they go to when a verb finds a crashed run (a program without logging of its own has
them on stderr).  Knows nothing of how a run is recovered.  Any thread.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapshots.history.recovery import Recovery


def losses(recovery: "Recovery | None") -> Iterator[str]:
    """One line for each thing that is lost; none when all of the journal was whole."""
    if recovery is None:
        return
    if recovery.damage is not None:
        end, path = f"{recovery.damage.lost} bytes", recovery.damage.path
        yield f"the journal was damaged at its end: {end} of {path} after the last whole record are cut off"
    for ino, reason in recovery.lost:
        yield f"the content of inode {ino} could not be recovered: {reason}"


def tell(label: str, recovery: "Recovery | None") -> None:
    """Say what is lost of a run."""
    for line in losses(recovery):
        import logging

        logging.getLogger("goexfs.recovery").warning("goexfs: run %s: %s", label, line)
