"""Where the slots of a merge come from, and what becomes of them.

Owns the interface, and the slots of a merge of which nothing is kept.  Belongs to the thread of the ``BaseTree``.
"""

from typing import Protocol

from snapshots.merging.plan import Plan
from snapshots.merging.staging import Staging


class Slots(Protocol):
    """Where the slots come from, and what becomes of them.  Each is done again from its start after a crash."""

    def fill(self, staging: Staging) -> None:
        """Make the staging directory, with all that is needed in it."""

    def give_back(self, staging: Staging) -> None:
        """Nothing was done with them in the end."""

    def settle(self, staging: Staging) -> None:
        """They hold what went away."""


class Fresh:
    """Slots that are made for the purpose, and removed at the end."""

    def __init__(self, plan: Plan | None) -> None:
        self._plan = plan

    def fill(self, staging: Staging) -> None:
        """Make what is new."""
        assert self._plan is not None
        staging.create()
        staging.make(self._plan.makes)

    def give_back(self, staging: Staging) -> None:
        """Remove them."""
        staging.take_back_given()
        staging.remove()

    def settle(self, staging: Staging) -> None:
        """Remove them: nothing is kept of what went away."""
        staging.remove()
