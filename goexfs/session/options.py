"""What a run can be mounted with, and remembers for the next time.

Owns the names and kinds of the options.  Values only; any thread.
"""

from typing import Any

from snapshots.history.occasions import parse_occasions

FLAGS = frozenset({"allow_other", "allow_nested"})
REMEMBERED = FLAGS | {"auto_snapshot"}
"""``auto_snapshot``: words, see ``snapshots.history.occasions``"""
HISTORY_LIMIT = "history_limit"
"""in bytes; the store remembers it by itself"""
STORE_LIMIT = "store_limit"
"""bytes that the whole store may take up, 0 for no limit: for as long as this mount lasts"""


def remembered(options: dict[str, Any]) -> dict[str, Any]:
    """The options as they are recorded.  Raises ``TypeError`` for an unknown one, ``RunError`` for a bad value."""
    unknown = options.keys() - REMEMBERED - {HISTORY_LIMIT, STORE_LIMIT}
    if unknown:
        raise TypeError(f"a mount has no option {sorted(unknown)[0]!r}")
    known: dict[str, Any] = {key: bool(value) for key, value in options.items() if key in FLAGS}
    if "auto_snapshot" in options:
        known["auto_snapshot"] = list(options["auto_snapshot"])
        parse_occasions(known["auto_snapshot"])
    return known
