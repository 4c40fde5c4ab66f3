"""How often something outside is tried, and how long it is waited in between.

Owns the numbers and the loop.  What an attempt is, and its recording, is the caller's.  Any thread.
"""

import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 3
PAUSE_SECONDS = 0.5
"""before the second try; before the third twice that"""

Recorded = TypeVar("Recorded")


def attempts(once: Callable[[int], tuple[Recorded, bool]]) -> Recorded:
    """Call ``once``, with the number of the attempt from 0 on, for as long as it says that it should be tried again."""
    for number in range(TRIES):
        recorded, again = once(number)
        if not again:
            break
        if number + 1 < TRIES:
            time.sleep(PAUSE_SECONDS * 2**number)
    return recorded
