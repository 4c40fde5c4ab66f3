"""What the user configured for effects: databases by name, and headers for servers.  The run sees none of it.

Owns the reading of ``config.toml`` for these two tables.  Reads the environment for where that file is and for what it
refers to.  Any thread.

::

    [effects.databases]
    orders = "postgresql://me@db.example.com/orders"          # the password from ~/.pgpass, or ${ORDERS_PASSWORD}
    notes  = "sqlite:/home/me/notes.db"

    [effects.http."https://api.example.com"]
    Authorization = "Bearer ${EXAMPLE_TOKEN}"
"""

import os
import string
import tomllib
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from goexfs.effects.configuration import configuration_path
from snapshots.errors import EffectError

_PORTS = {"http": 80, "https": 443}


class Database(NamedTuple):
    """A database that the user named."""

    name: str
    kind: str
    """``sqlite`` or ``postgresql``"""
    address: str
    """a path, or what libpq takes; may hold a password: never shown"""


def _effects(table: str) -> dict[str, Any]:
    path = configuration_path()
    try:
        whole = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise EffectError(f"the configuration {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EffectError(f"the configuration {path} is not TOML: {error}") from None
    effects = whole.get("effects", {})
    found = effects.get(table, {}) if isinstance(effects, dict) else {}
    if not isinstance(found, dict):
        raise EffectError(f"[effects.{table}] in {path} is not a table")
    return found


def _filled(text: object, what: str) -> str:
    """With ``${NAME}`` replaced from the environment."""
    if not isinstance(text, str):
        raise EffectError(f"{what} in {configuration_path()} is not a text")
    try:
        return string.Template(text).substitute(os.environ)
    except KeyError as error:
        raise EffectError(f"{what} needs the environment variable {error.args[0]}, which is not set") from None
    except ValueError:
        raise EffectError(f"{what} has a '$' that is no ${{NAME}}; write $$ for one") from None


def database(name: str) -> Database:
    """The database called so, or an SQLite file of that absolute path; EffectError when there is none."""
    if os.path.isabs(name):
        return Database(name, "sqlite", name)
    listed = _effects("databases")
    if name not in listed:
        known = ", ".join(sorted(listed)) or "none yet"
        raise EffectError(
            f"no database is called {name!r} in [effects.databases] of {configuration_path()} (there: {known})"
        )
    address = _filled(listed[name], f"the database {name!r}")
    if address.startswith("sqlite:"):
        path = address.removeprefix("sqlite:").removeprefix("//")
        if not os.path.isabs(path):
            raise EffectError(f"the database {name!r} needs an absolute path: sqlite:/path/to/file")
        return Database(name, "sqlite", path)
    if address.startswith(("postgresql://", "postgres://")) or "=" in address:
        return Database(name, "postgresql", address)
    raise EffectError(f"the database {name!r} is neither sqlite:/path nor postgresql://…")


def headers_for(url: str) -> dict[str, str]:
    """The user's own headers for the server of ``url``: scheme, host and port must be the same."""
    wanted = origin(url)
    found: dict[str, str] = {}
    for server, headers in _effects("http").items():
        if origin(server) == wanted and isinstance(headers, dict):
            found |= {name: _filled(value, f"the header {name} for {server}") for name, value in headers.items()}
    return found


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL; EffectError when it is none for HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in _PORTS or not host:
        raise EffectError(f"{url!r} is no http:// or https:// address")
    return parts.scheme, host.lower(), port or _PORTS[parts.scheme]
