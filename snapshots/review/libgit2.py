"""libgit2's comparison of two contents, without all that else its binding loads.

Owns how the binding is loaded.  ``import pygit2`` takes four times as long as its extension module alone (of a diff of
a few files that was a third): it makes hundreds of enumerations, loads a second binding, and looks for the certificates
of servers.  Of what the module hands out before the package is loaded, what would be an enumeration raises a TypeError;
lines, numbers, ids and data are there.  Any thread.
"""

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygit2 import Patch

CONTEXT = 3


def compared(
    old: bytes, new: bytes, *, context: int = CONTEXT, as_text: bool = False, whole_binary: bool = False
) -> "Patch":
    """The difference of two contents.

    ``as_text``: also where they look binary; ``whole_binary``: binary ones are in it, not only told to differ.
    """
    library = _library()
    flag = library.GIT_DIFF_FORCE_TEXT * as_text | library.GIT_DIFF_SHOW_BINARY * whole_binary
    made: Patch = library.Patch.create_from(old, new, "f", "f", flag=flag, context_lines=context)
    return made


@cache
def _library() -> Any:
    if "pygit2" not in sys.modules:
        from importlib.machinery import PathFinder
        from importlib.util import find_spec, module_from_spec

        package = find_spec("pygit2")
        inside = package.submodule_search_locations if package is not None else None
        spec = PathFinder.find_spec("pygit2._pygit2", inside) if inside else None
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            if hasattr(module, "Patch"):
                return module
    from pygit2 import _pygit2

    return _pygit2
