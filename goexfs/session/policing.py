"""The policy of a run, from its beginning on.

Owns where a run remembers its policy: it cannot be changed afterwards, neither by the run nor by a file that changes.
Rules and patterns are ``goexfs.policy``'s, what they mean for a merge is ``screening``'s.  Any thread.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from goexfs.policy.rules import LIMITS, Canary, Kind, Limit, Policy, Refused, Waiting
from goexfs.session.home import default_policy_path
from snapshots.entries import UpperState
from snapshots.layers.base import BaseTree
from snapshots.storage.runs import Run
from snapshots.storage.store import Store

if TYPE_CHECKING:
    from goexfs.overlay.guard import Guard
    from goexfs.overlay.meter import Meter
    from goexfs.policy.effective import PolicyWishes
    from goexfs.policy.survey import Survey

OPTION = "policy"
"""in a run's options"""
WAITING = "waiting"
"""in a run's directory, while operations wait for the user"""
REFUSED = "refused"
"""in a run's directory, when operations failed for the limit of its store"""


def begin(base: bytes, wishes: "PolicyWishes | Policy | None") -> Policy:
    """The policy of a run that begins now.  Raises ``PolicyError``."""
    if isinstance(wishes, Policy):
        return wishes
    from goexfs.policy.effective import PolicyWishes, assemble

    return assemble(base, wishes or PolicyWishes(), user_file=default_policy_path())


def of_further(wishes: "PolicyWishes | Policy | None") -> "PolicyWishes | Policy | None":
    """What is wished for the further bases of a run: the same, but canaries have a place in the first one."""
    if wishes is None:
        return None
    if isinstance(wishes, Policy):
        return msgspec.structs.replace(wishes, canaries=())
    return wishes._replace(canaries=())


def policy_of(run: Run) -> Policy:
    """The policy that a run began with.  Raises ``PolicyError``."""
    return Policy.unpack(run.options.get(OPTION))


def survey_of(run: Run) -> "Survey":
    """What the policy of a run hides or masks of its base, as far as a short look finds it.  Raises ``PolicyError``."""
    from goexfs.policy.matching import Matcher
    from goexfs.policy.survey import Survey, survey

    matcher = Matcher(policy_of(run))
    if not matcher.kinds & {Kind.HIDE, Kind.MASK}:
        return Survey((), (), complete=True)
    return survey(matcher, run.base, untouchable=frozenset())


def guard_of(packed: bytes, base: bytes, *, hidden: Iterable[bytes] = ()) -> "Guard | None":
    """What enforces a policy, as a run remembers it, over *base*; None when it says nothing about paths."""
    policy = Policy.unpack(packed)
    if not policy.sources and not policy.canaries:
        return None
    from goexfs.overlay.guard import Guard

    return Guard(policy, base, untouchable=frozenset(hidden))


def meter_of(
    packed: bytes, run: Run, store: Store, state: UpperState, *, store_limit: int = 0
) -> "Meter | None":
    """What counts, for a mount of a run that has come to *state* so far; None when nothing limits it."""
    policy = Policy.unpack(packed)
    if not store_limit and not any(policy.limit(name) for name in LIMITS):
        return None
    from goexfs.overlay.meter import Meter

    deleted: list[bytes] = []
    if policy.limit("deletions") is not None and state.links:
        from snapshots.layers.tree import UpperTree
        from snapshots.review.diff import Status, diff

        with BaseTree(run.base) as base:
            changes = diff(UpperTree(state), base, store.objects)
            deleted = [change.path for change in changes if change.status is Status.DELETED]
    return Meter(policy, deleted)


def remember_limit(store: Store, run_id: str, name: str, limit: Limit) -> None:
    """The user has decided on another limit for a run."""
    run = store.runs.get(run_id)
    policy = policy_of(run).with_limit(name, limit, "goexfs policy")
    store.runs.update(run_id, options={**run.options, OPTION: policy.pack()})


def say_waiting(directory: Path, waiting: "tuple[Waiting, ...]") -> None:
    """Note beside the run what waits for a decision of the user's; nothing of it remains when nothing does."""
    path = directory / WAITING
    if not waiting:
        path.unlink(missing_ok=True)
        return
    whole = path.with_suffix(".new")
    whole.write_bytes(msgspec.json.encode(waiting))
    whole.replace(path)


def waiting_in(directory: Path) -> "tuple[Waiting, ...]":
    """What was noted there."""
    try:
        return msgspec.json.decode((directory / WAITING).read_bytes(), type=tuple[Waiting, ...])
    except (OSError, msgspec.MsgspecError):
        return ()


def say_refused(directory: Path, refused: Refused | None) -> None:
    """Note beside the run what failed because the store was full."""
    path = directory / REFUSED
    if refused is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(msgspec.json.encode(refused))


def refused_in(directory: Path) -> Refused | None:
    """What was noted there."""
    try:
        return msgspec.json.decode((directory / REFUSED).read_bytes(), type=Refused)
    except (OSError, msgspec.MsgspecError):
        return None


def decide(
    directory: Path, limit: str, *, allow: bool, most: int | None = None
) -> tuple[tuple[str, Limit], ...]:
    """Tell the server of the run in ``directory`` what the user has decided about a limit (empty: all that matter)."""
    from goexfs.session import control

    question = control.Question("limit", limit=limit, allow=allow, most=most)
    answer = control.put(directory, question, timeout=control.CONNECT_SECONDS)
    return tuple((name, msgspec.convert({"most": number, "then": then}, Limit)) for name, number, then in answer.limits)


def find_canary(run: Run, *pieces: bytes) -> Canary | None:
    """The first canary of a run that one of the pieces of bytes carries, plain or in a simple disguise."""
    from goexfs.policy.canaries import Finders

    return Finders(policy_of(run).canaries).in_pieces(pieces)
