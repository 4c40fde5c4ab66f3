"""Content store and history of runs: objects, entries, diff, merge, gc, fsck.  Never imports goexfs.

The public names; each is imported from its module when it is first asked for, so that a program pays only for what it
uses.  Functions that have the name of their module are asked for there: ``from snapshots.upkeep.gc import gc``,
``from snapshots.upkeep.fsck import fsck``, ``from snapshots.review.diff import diff``, ``from snapshots.merging.merge
import merge``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snapshots.entries import (
        FIRST_NEW_INO,
        INLINE_LIMIT,
        ROOT_INO,
        WHITEOUT,
        Changed,
        Checkpoint,
        Content,
        Entry,
        Extent,
        Identity,
        Link,
        Origin,
        UpperState,
    )
    from snapshots.storage.objects import Objects
    from snapshots.storage.runs import Run, RunLock, Runs
    from snapshots.storage.store import Store
    from snapshots.storage.upper import Upper, Usage
    from snapshots.upkeep.findings import Finding, FsckReport, Kind
    from snapshots.upkeep.gc import GcReport

_HOMES = {
    "snapshots.entries": (
        "FIRST_NEW_INO INLINE_LIMIT ROOT_INO WHITEOUT"
        " Changed Checkpoint Content Entry Extent Identity Link Origin UpperState"
    ),
    "snapshots.upkeep.findings": "Finding FsckReport Kind",
    "snapshots.upkeep.gc": "GcReport",
    "snapshots.storage.objects": "Objects",
    "snapshots.storage.runs": "Run RunLock Runs",
    "snapshots.storage.store": "Store",
    "snapshots.storage.upper": "Upper Usage",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "FIRST_NEW_INO",
    "INLINE_LIMIT",
    "ROOT_INO",
    "WHITEOUT",
    "Changed",
    "Checkpoint",
    "Content",
    "Entry",
    "Extent",
    "Finding",
    "FsckReport",
    "GcReport",
    "Identity",
    "Kind",
    "Link",
    "Objects",
    "Origin",
    "Run",
    "RunLock",
    "Runs",
    "Store",
    "Upper",
    "UpperState",
    "Usage",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
