"""How far a long merge has come, on a terminal.

Owns the bar: nothing is drawn without a terminal, and nothing for what is over at once.  Main thread only.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_PATIENCE_S = 1.0
_EVERY_S = 0.1


@contextmanager
def progress(what: str) -> "Iterator[Callable[[int, int], None] | None]":
    """What is to be called with how much is done of how much; None without a terminal on stderr."""
    if not sys.stderr.isatty():
        yield None
        return
    began = last = time.monotonic()
    bars: list[tuple[Bar, object]] = []

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - began < _PATIENCE_S or now - last < _EVERY_S:
            return
        last = now
        if not bars:
            bars.append(_bar(what, total))
        bar, task = bars[0]
        bar.update(task, completed=done, total=total)  # type: ignore[arg-type]
        bar.refresh()

    try:
        yield tell
    finally:
        for bar, _ in bars:
            bar.stop()


def _bar(what: str, total: int) -> "tuple[Bar, object]":
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True, auto_refresh=False)
    task = bar.add_task(what, total=total)
    bar.start()
    return bar, task
