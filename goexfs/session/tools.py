"""Tool functions of an agent framework that can be undone.

Owns the decorator ``compensate_with``.  What it records goes to the run that a ``with run.effects:`` is about, else to
the run that this process is inside of.  Any thread or task.

The compensation is recorded by import path with the arguments of the call as JSON, so that another process can run it
after this one is dead.  Its limits follow from that: both functions are at the top of modules that can be imported (not
closures, lambdas or methods of objects), and the arguments are what JSON can carry unchanged (no tuples, bytes or
objects; of keys only texts).  A call that cannot be recorded is refused before anything is done.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from goexfs.effects import calls
from goexfs.session import channel
from goexfs.session.effects import current
from snapshots.errors import EffectError
from snapshots.storage.effects import Call, Http, Request, Sql

__all__ = ["Http", "Sql", "call", "compensate_with"]

P = ParamSpec("P")
R = TypeVar("R")


class Recorder(Protocol):
    """Where effects are recorded."""

    def begin(self, request: Request, undo: Request | None, *, note: str = "") -> int:
        """Record what is about to be done; its number."""

    def end(self, number: int, succeeded: bool, detail: str) -> None:
        """Record how it went."""


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    """A function and its arguments as a request, for ``run.effects.defer`` and ``do``.  Raises ``EffectError``."""
    return calls.call_of(function, args, kwargs)


def compensate_with(undo: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a tool function, plain or asynchronous: ``undo`` gets the same arguments, should the run be given up.

    Outside of any run the function is called as it is, and nothing is recorded.  ``undo`` may be called more than once,
    and for a call that came to nothing or only half-way.  Raises ``EffectError`` when a call cannot be recorded.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def recorded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with _Recorded(function, undo, args, kwargs):
                    return await function(*args, **kwargs)

            return recorded_async  # type: ignore[return-value]

        @functools.wraps(function)
        def recorded(*args: P.args, **kwargs: P.kwargs) -> R:
            with _Recorded(function, undo, args, kwargs):
                return function(*args, **kwargs)

        return recorded

    return decorate


class _Recorded:
    """The record around one call."""

    def __init__(
        self, function: Callable[..., Any], undo: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._recorder = _recorder()
        if self._recorder is not None:
            self._note = getattr(function, "__qualname__", "a function")
            self._undo = calls.call_of(undo, args, kwargs)
            self._request = Call(
                f"{function.__module__}:{self._note}", self._undo.arguments, self._undo.path
            )  # only told, never called again
        self._number = 0

    def __enter__(self) -> None:
        if self._recorder is not None:
            self._number = self._recorder.begin(self._request, self._undo, note=self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if self._recorder is None:
            return
        try:
            detail = "returned" if error is None else f"raised {kind!r}: {error}"
            self._recorder.end(self._number, error is None, detail)
        except EffectError:
            if error is None:
                raise


def _recorder() -> Recorder | None:
    inside = current()
    if inside is not None:
        return inside
    return channel.Channel() if channel.path() is not None else None
