"""Run an agent over a directory, see afterwards what it did, and merge it or discard it.

The Python API, which the command line itself uses::

    import goexfs

    with goexfs.open_store() as store, store.start("my-project") as run:
        run.exec(["make", "test"])
        for change in run.diff():
            print(change.status, change.path)
        run.merge()             # leaving the block without merge() or keep() discards the run

Importing this package imports nothing else; each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from goexfs.session import Completed as Completed
    from goexfs.session import Confinement as Confinement
    from goexfs.session import Http as Http
    from goexfs.session import Policy as Policy
    from goexfs.session import PolicyWishes as PolicyWishes
    from goexfs.session import RunHandle as RunHandle
    from goexfs.session import RunStore as RunStore
    from goexfs.session import Session as Session
    from goexfs.session import Sql as Sql
    from goexfs.session import call as call
    from goexfs.session import compensate_with as compensate_with
    from goexfs.session import open_store as open_store

    __version__: str

__all__ = [
    "open_store", "RunStore", "RunHandle", "Session", "Completed", "Confinement", "Policy", "PolicyWishes",
    "compensate_with", "call", "Http", "Sql", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib import metadata

        try:
            value = metadata.version("goexfs")
        except metadata.PackageNotFoundError:  # a bare checkout
            value = "unknown"
    elif name in __all__:
        from goexfs import session

        value = getattr(session, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
