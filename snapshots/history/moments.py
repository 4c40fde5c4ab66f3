"""Times as people write them: ``2026-11-22 14:03:10``, ``14:03``, ``5m ago``.

Owns the notation; pure, but for the local time zone.  Any thread.
"""

import re
from datetime import date, datetime, time

from snapshots.errors import SnapshotUnknown

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}
_AGO = re.compile(r"(\d{1,9})\s*([a-z]+?)s?\s+ago")
_FINEST = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?")


def parse_time(text: str, now_ns: int) -> int:
    """The moment that ``text`` means, in nanoseconds since 1970.  Errors: SnapshotUnknown.

    ISO 8601 with ``T`` or a space (local time unless it names a zone), a time of today, a date (its beginning), ``N
    seconds|minutes|hours|days ago`` (or ``s m h d``), or ``@`` and seconds since 1970.  The end of the second (or
    minute) that is written counts: what happened in it has happened.
    """
    words = text.strip()
    ago = _AGO.fullmatch(words.lower().replace("minute", "min").replace("second", "sec"))
    if ago is not None and ago[2] in _SECONDS:
        return now_ns - int(ago[1]) * _SECONDS[ago[2]] * 10**9
    exact = _FINEST.fullmatch(words[1:]) if words.startswith("@") else None
    if exact is not None:
        return int(exact[1]) * 10**9 + int((exact[2] or "999999999").ljust(9, "0"))
    try:
        moment, written = _read(words)
    except ValueError:
        raise SnapshotUnknown(f"{text!r} is no time; write 2026-11-22 14:03:10, 14:03, or 5 minutes ago") from None
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000 + written


def _read(words: str) -> tuple[datetime, int]:
    """A moment, and how long what is written of it lasts, in nanoseconds."""
    clock = words.replace("T", " ").rpartition(" ")[2]
    if ":" not in words:
        return datetime.combine(date.fromisoformat(words), time()), 0
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?", words):
        moment = datetime.combine(
            datetime.now().astimezone().date(), time.fromisoformat(words.zfill(len(words) + (words.index(":") == 1)))
        )
    else:
        moment = datetime.fromisoformat(words)
    lasts = 999 if "." in clock else 999_999_999 if clock.count(":") >= 2 else 59_999_999_999
    return moment, lasts
