"""Reading a policy from TOML.

Owns the format (``docs/policy.md``) and the one-line errors, which name file and key.  Knows no environment: the
caller says which file.  Any thread.
"""

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from goexfs.policy.matching import check_pattern
from goexfs.policy.rules import LIMITS, Answer, Limit, PolicyError, Source
from snapshots.names import readable

BASE_NAME = ".goexfs.toml"
BUILT_IN = "built-in"
LARGEST = 1 << 20
"""bytes of a policy file"""

_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


class _Limit(msgspec.Struct, forbid_unknown_fields=True):
    most: int | str
    then: Answer = "deny"


class _Limits(msgspec.Struct, forbid_unknown_fields=True):
    bytes: int | str | _Limit | None = None
    files: int | str | _Limit | None = None
    deletions: int | str | _Limit | None = None
    open_files: int | str | _Limit | None = None
    then: Answer | None = None
    """for those that say nothing themselves"""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    hide: list[str] = []
    read_only: list[str] = []
    no_delete: list[str] = []
    mask: list[str] | dict[str, str] = []
    limits: _Limits = msgspec.field(default_factory=_Limits)


def built_in() -> Source:
    """The rules that goexfs comes with."""
    text = resources.files("goexfs.policy").joinpath("builtin.toml").read_text(encoding="utf-8")
    return parse(text, BUILT_IN, trusted=True)


def read(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], *, only_stricter: bool = False) -> Source | None:
    """The rules of one file; None when there is no such file.  Raises `PolicyError`."""
    given = os.fsencode(path)
    name = readable(given)
    try:
        # What is no plain file must neither be waited for nor read without end.
        fd = os.open(given, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if only_stricter else 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PolicyError(f"{name}: {error.strerror}; the policy in it cannot be read") from None
    with open(fd, "rb") as file:
        if not Path(f"/proc/self/fd/{fd}").is_file():
            raise PolicyError(f"{name} is not a regular file; a policy is a file in TOML")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise PolicyError(f"{name} is larger than 1 MiB, which no policy is")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{name}: not UTF-8 (byte {error.start})") from None
    return parse(text, name, only_stricter=only_stricter)


def parse(text: str, name: str, *, only_stricter: bool = False, trusted: bool = False) -> Source:
    """The rules of a text, which comes from *name*.  Raises `PolicyError`."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: {error}") from None
    try:
        file = msgspec.convert(document, _File)
    except msgspec.ValidationError as error:
        raise PolicyError(f"{name}: {_about(error)}") from None
    mask = file.mask if isinstance(file.mask, dict) else dict.fromkeys(file.mask, "")
    if not trusted:
        for key, patterns in (
            ("hide", file.hide), ("read_only", file.read_only), ("no_delete", file.no_delete), ("mask", mask),
        ):  # fmt: skip
            for pattern in patterns:
                check_pattern(pattern, f"{name}: {key}")
    limits = {limit: _limit(file.limits, limit, name) for limit in LIMITS if getattr(file.limits, limit) is not None}
    return Source(
        name, only_stricter, tuple(file.hide), tuple(file.read_only), tuple(file.no_delete), mask, limits
    )


def parse_size(value: Any) -> int | None:
    """The number that ``500``, ``"64K"`` or ``"2G"`` means (binary units); None for what is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    found = _SIZE.fullmatch(str(value).strip())
    return None if found is None else int(found[1]) << (10 * " kmgt".index(found[2].lower() or " "))


def _limit(limits: _Limits, key: str, name: str) -> Limit:
    given = getattr(limits, key)
    most, then = (given.most, given.then) if isinstance(given, _Limit) else (given, limits.then or "deny")
    number = parse_size(most)
    if number is None:
        raise PolicyError(f"{name}: limits.{key}: {most!r} is no size or number; write 1000 or \"2G\"")
    return Limit(number, then)


def _about(error: msgspec.ValidationError) -> str:
    """msgspec's message with the key first: ``limits.files: expected …``."""
    said, _, where = str(error).partition(" - at `$")
    key = where.rstrip("`").lstrip(".")
    said = said[:1].lower() + said[1:]
    return f"{key}: {said}" if key else said
