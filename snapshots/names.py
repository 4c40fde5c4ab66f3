"""Names, paths and sizes as people and JSON see them.

Owns the one place where bytes become text on the way out of the library: messages, JSON, table cells; and what can be
a name, and lies inside what.  Knows no file and no store.  Pure functions, safe in any thread.
"""

import base64


def readable(path: bytes) -> str:
    """A path as one harmless line of text: undecodable bytes and control characters come out as escapes."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def text_fields(field: str, value: bytes | None) -> dict[str, str | None]:
    """The JSON fields for a byte string: ``field`` itself, and ``field_base64`` only when text cannot hold it."""
    if value is None:
        return {field: None}
    try:
        return {field: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {
            field: value.decode("utf-8", "replace"),
            f"{field}_base64": base64.b64encode(value).decode("ascii"),
        }


def is_valid_name(name: bytes) -> bool:
    """Whether this can be one name in one directory (not empty, ``.``, ``..``; no slash, no NUL)."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def size(count: int) -> str:
    """Bytes for people: ``0 B``, ``312 B``, ``4.0 KiB``, ``1.2 GiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def is_inside(path: bytes, directory: bytes) -> bool:
    """Whether ``path`` is ``directory`` or below it; both absolute and normal."""
    return path == directory or directory == b"/" or path.startswith(directory + b"/")
