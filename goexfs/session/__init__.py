"""One run from mount to verdict: the store of runs, the server process, the sandbox, the control socket.

The names below are the Python API, also found in ``goexfs`` itself.  They are imported when one of them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goexfs.policy.effective import PolicyWishes as PolicyWishes
    from goexfs.policy.rules import Policy as Policy
    from goexfs.session.confinement import Confinement as Confinement
    from goexfs.session.handle import RunHandle as RunHandle
    from goexfs.session.run import Completed as Completed
    from goexfs.session.run import Session as Session
    from goexfs.session.store import RunStore as RunStore
    from goexfs.session.store import open_store as open_store
    from goexfs.session.tools import Http as Http
    from goexfs.session.tools import Sql as Sql
    from goexfs.session.tools import call as call
    from goexfs.session.tools import compensate_with as compensate_with

__all__ = ["open_store", "RunStore", "RunHandle", "Session", "Completed", "Confinement", "Policy", "PolicyWishes"]
"""and what ``_EFFECTS`` names"""

_EFFECTS = ("call", "compensate_with", "Http", "Sql")


_MODULES = {
    "open_store": "goexfs.session.store", "RunStore": "goexfs.session.store", "RunHandle": "goexfs.session.handle",
    "Session": "goexfs.session.run", "Completed": "goexfs.session.run", "Confinement": "goexfs.session.confinement",
    "Policy": "goexfs.policy.rules", "PolicyWishes": "goexfs.policy.effective",
    **dict.fromkeys(_EFFECTS, "goexfs.session.tools"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found
