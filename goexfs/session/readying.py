"""What a session does while its server mounts: it gets ready for the command and for the end of the run.

The server takes longer to load than everything that a session does before it has one, so what is done here costs no
time where there are two processors.  Owns what is done early.  Raises nothing: what goes wrong here goes
wrong once more, and is said, where it is needed.
"""

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from goexfs.session import policing
from snapshots.errors import GoexfsError
from snapshots.storage.runs import Run

if TYPE_CHECKING:
    from goexfs.policy.survey import Survey


def get_ready(record: Run) -> "Survey | None":
    """Load what is needed, find out how a command is started, and look for what the run will not see of its base."""
    import goexfs.effects.configuration  # for a command in the sandbox
    import goexfs.fuse.device  # to see what is mounted there
    import goexfs.session.effects  # for the end of a run, and what follows
    import goexfs.session.process  # noqa: F401
    import snapshots.history.forks
    import snapshots.history.logbook  # noqa: F401
    from goexfs.session import children, confinement, variables

    with suppress(GoexfsError, OSError):
        children.probe()
        variables.divide(os.environb, confinement.Confinement())
        return policing.survey_of(record)
    return None
