"""The policy of a run, from its beginning on.

Owns where a run remembers its policy: it cannot be changed afterwards, neither by the run nor by a file that changes.
Rules and patterns are ``goexfs.policy``'s, what they mean for a merge is ``screening``'s.  Any thread.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from goexfs.policy.canaries import Finders
from goexfs.policy.effective import PolicyWishes, assemble
from goexfs.policy.rules import Canary, Policy
from goexfs.session.home import default_policy_path
from snapshots.runs import Run

if TYPE_CHECKING:
    from goexfs.overlay.guard import Guard

OPTION = "policy"
"""in a run's options"""


def begin(base: bytes, wishes: PolicyWishes | Policy | None) -> Policy:
    """The policy of a run that begins now.  Raises ``PolicyError``."""
    if isinstance(wishes, Policy):
        return wishes
    return assemble(base, wishes or PolicyWishes(), user_file=default_policy_path())


def policy_of(run: Run) -> Policy:
    """The policy that a run began with.  Raises ``PolicyError``."""
    return Policy.unpack(run.options.get(OPTION))


def guard_of(packed: bytes, base: bytes, *, hidden: Iterable[bytes] = ()) -> "Guard | None":
    """What enforces a policy, as a run remembers it, over *base*; None when it says nothing about paths."""
    policy = Policy.unpack(packed)
    if not policy.sources and not policy.canaries:
        return None
    from goexfs.overlay.guard import Guard

    return Guard(policy, base, untouchable=frozenset(hidden))


def find_canary(run: Run, *pieces: bytes) -> Canary | None:
    """The first canary of a run that one of the pieces of bytes carries, plain or in a simple disguise."""
    return Finders(policy_of(run).canaries).in_pieces(pieces)
