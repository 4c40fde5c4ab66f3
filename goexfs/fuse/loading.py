"""Loading pyfuse3 and trio without what a server never uses of them.

Importing these two is most of what a short command waits for, and a part of that serves what no local filesystem does:
trio loads OpenSSL for encrypted connections, and runs ``ldconfig`` to learn the name of the C library by which it names
threads; pyfuse3 loads a parser of mails to learn its own version.  Owns leaving that out.  Main thread, before there is
another; what is left out here is loaded as ever by whoever imports it later.
"""

import ctypes.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_METADATA = "importlib.metadata"
_LOADERS: dict[str, Callable[[], ModuleType]] = {
    "ssl": lambda: import_module("ssl"),
    "hmac": lambda: import_module("hmac"),
    _METADATA: lambda: import_module("importlib.metadata"),
}
"""modules that are imported meanwhile, and of which little or nothing is used"""


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for those
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(_LOADERS[self.__name__](), name)


class _Metadata(_Later):
    """Knows the version of a package by the name of the directory in which it was installed."""

    PackageNotFoundError = ModuleNotFoundError

    def version(self, package: str) -> str:
        for place in sys.path:
            try:
                names = os.listdir(place or os.curdir)
            except OSError:
                continue
            for name in names:
                found, _, rest = name.partition("-")
                if found == package and rest.endswith(".dist-info"):
                    return rest.removesuffix(".dist-info")
        found = self.__getattr__("version")(package)
        assert isinstance(found, str)
        return found


@contextmanager
def without_what_is_unused() -> Iterator[None]:
    """Import pyfuse3 or trio inside of this."""
    put_off = {
        name: _Metadata(name) if name == _METADATA else _Later(name) for name in _LOADERS if name not in sys.modules
    }
    find_library = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None  # trio goes without the names of threads then
    sys.modules.update(put_off)
    try:
        yield
    finally:
        ctypes.util.find_library = find_library
        for name, module in put_off.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
