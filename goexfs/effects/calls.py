"""Python functions as requests: how one is named so that another process can call it, and the calling.

Owns the reference (``module:qualified.name``, JSON arguments) and the program that calls it.  Any thread.
"""

import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from goexfs.effects import commands
from goexfs.effects.outcome import Outcome
from snapshots.errors import EffectError
from snapshots.storage.effects import Call

MOST_ARGUMENTS = 1 << 20
"""bytes of JSON"""


def reference(function: Callable[..., Any]) -> str:
    """How another process finds this function; EffectError when it cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    label = name or repr(function)
    if module is None or "<" in name:
        raise EffectError(f"{label} cannot be found by another process: name a function at the top of a module")
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None or not spec.name:
            raise EffectError(f"{label} is in the program itself; put it into a module that can be imported")
        module = spec.name
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if inspect.unwrap(found) is not inspect.unwrap(function) if found is not None else True:
        raise EffectError(f"{module}:{name} is not {label}; name a function at the top of a module")
    return f"{module}:{name}"


def call_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A request to call it so; EffectError when the arguments are not JSON."""
    name = reference(function)
    try:
        arguments = json.dumps([list(args), kwargs], allow_nan=False)
        faithful = json.loads(arguments) == [list(args), kwargs]
    except (TypeError, ValueError) as error:
        raise EffectError(f"the arguments of {name} cannot be recorded as JSON: {error}") from None
    if not faithful:
        raise EffectError(f"the arguments of {name} would not be the same after a way through JSON")
    if len(arguments) > MOST_ARGUMENTS:
        raise EffectError(f"the arguments of {name} are too long to be recorded")
    path = tuple(os.path.abspath(entry or ".") for entry in sys.path if "\0" not in entry)
    return Call(name, arguments, path)


def argv(call: Call) -> tuple[bytes, ...]:
    """The program that calls it; the request itself is its input."""
    return (os.fsencode(sys.executable), b"-c", _PROGRAM.encode())


def given(call: Call) -> bytes:
    """The input of that program."""
    return json.dumps([call.function, json.loads(call.arguments), list(call.path)]).encode()


def run(call: Call, key: str, *, cwd: bytes) -> Outcome:
    """Call it in a process of its own, with the user's own rights."""
    return commands.run(argv(call), cwd=cwd, env=commands.environment(key), given=given(call))


_PROGRAM = """\
import json, sys
function, (args, kwargs), path = json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.load(sys.stdin)
sys.path[:] = path + [entry for entry in sys.path if entry not in path]
from goexfs.effects.calls import invoke
invoke(function, args, kwargs)
"""


def invoke(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call the function of this name; of an asynchronous one the coroutine is run to its end."""
    result = pkgutil.resolve_name(name)(*args, **kwargs)
    if inspect.isawaitable(result):
        import asyncio

        async def wait() -> Any:
            return await result

        return asyncio.run(wait())
    return result
