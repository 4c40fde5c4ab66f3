"""Content store and history of runs: objects, entries, diff, merge, gc, fsck.  Never imports goexfs.

The public names; each is imported from its module when it is first asked for, so that a program pays only for what it
uses.  Functions that have the name of their module are asked for there: ``from snapshots.gc import gc``,
``from snapshots.fsck import fsck``, ``from snapshots.diff import diff``, ``from snapshots.merge import merge``.
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
    from snapshots.findings import Finding, FsckReport, Kind
    from snapshots.gc import GcReport
    from snapshots.objects import Objects
    from snapshots.runs import Run, RunLock, Runs
    from snapshots.store import Store
    from snapshots.upper import Upper, Usage

_HOMES = {
    "snapshots.entries": (
        "FIRST_NEW_INO INLINE_LIMIT ROOT_INO WHITEOUT"
        " Changed Checkpoint Content Entry Extent Identity Link Origin UpperState"
    ),
    "snapshots.findings": "Finding FsckReport Kind",
    "snapshots.gc": "GcReport",
    "snapshots.objects": "Objects",
    "snapshots.runs": "Run RunLock Runs",
    "snapshots.store": "Store",
    "snapshots.upper": "Upper Usage",
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
