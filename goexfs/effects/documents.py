"""Effects as JSON documents: what ``--file`` takes, ``--json`` prints and ``goexfs effect edit`` shows.

Owns the form (``docs/effects.md``).  Bytes that are text are text; others are base64 in a field of another name, so
that a document says exactly what will be done.  Values only; any thread.
"""

import base64
import os
from typing import Any

import msgspec

from snapshots.errors import EffectError
from snapshots.storage.effects import Call, Command, Effect, Http, Request, Sql


class _Http(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    method: str
    url: str
    headers: dict[str, str | list[str]] = {}
    body: str = ""
    body_base64: str = ""


class _Sql(msgspec.Struct, forbid_unknown_fields=True):
    database: str
    statements: list[str]


class _Call(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    function: str
    arguments: str
    path: list[str] = []


class Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One effect as it is written in a file: exactly one of ``command``, ``http`` and ``sql``."""

    command: list[str] | None = None
    command_base64: list[str] | None = None
    directory: str = ""
    """for ``command``: relative to the base"""
    http: _Http | None = None
    sql: _Sql | None = None
    call: _Call | None = None
    """only of the user's own programs"""
    undo: str | list[str] | None = None
    """a shell command, or a command"""
    key: str = ""
    irreversible: bool = False
    note: str = ""

    def request(self) -> Request:
        """What it asks for.  Raises ``EffectError``."""
        given = [x for x in (self.command or self.command_base64, self.http, self.sql, self.call) if x is not None]
        if len(given) != 1:
            raise EffectError("a document of an effect has exactly one of command, http and sql")
        if self.http is not None:
            return _from_http(self.http)
        if self.sql is not None:
            return Sql(self.sql.database, tuple(self.sql.statements))
        if self.call is not None:
            return Call(self.call.function, self.call.arguments, tuple(self.call.path))
        words = [_unbase64(word) for word in self.command_base64 or ()] or [
            os.fsencode(word) for word in self.command or ()
        ]
        return Command(tuple(words), os.fsencode(self.directory))


def read(data: bytes) -> list[Document]:
    """The effects of a file: one document, or a list of them.  Raises ``EffectError``."""
    try:
        found = msgspec.json.decode(data, type=Document | list[Document])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise EffectError(f"this is no document of effects: {error}") from None
    return found if isinstance(found, list) else [found]


def shell(command: str) -> Command:
    """A shell command as a request."""
    return Command((b"sh", b"-c", os.fsencode(command)))


def undo_of(document: Document) -> Command | None:
    """The compensation that a document names."""
    if document.undo is None:
        return None
    if isinstance(document.undo, str):
        return shell(document.undo)
    return Command(tuple(os.fsencode(word) for word in document.undo))


def request_fields(request: Request) -> dict[str, Any]:
    """A request as it is in a document."""
    if isinstance(request, Command):
        try:
            fields: dict[str, Any] = {"command": [word.decode() for word in request.argv]}
        except UnicodeDecodeError:
            fields = {"command_base64": [base64.b64encode(word).decode() for word in request.argv]}
        return fields | ({"directory": request.cwd.decode("utf-8", "replace")} if request.cwd else {})
    if isinstance(request, Sql):
        return {"sql": {"database": request.database, "statements": list(request.statements)}}
    if isinstance(request, Call):
        return {"call": {"function": request.function, "arguments": request.arguments, "path": list(request.path)}}
    http: dict[str, Any] = {"method": request.method, "url": request.url}
    headers: dict[str, str | list[str]] = {}
    for name, value in request.headers:
        before = headers.get(name)
        headers[name] = value if before is None else [*([before] if isinstance(before, str) else before), value]
    if headers:
        http["headers"] = headers
    if request.body:
        try:
            http["body"] = request.body.decode()
        except UnicodeDecodeError:
            http["body_base64"] = base64.b64encode(request.body).decode()
    return {"http": http}


def effect_fields(effect: Effect) -> dict[str, Any]:
    """An effect with all that became of it, as JSON."""
    return {
        "run": effect.run_id, "effect": effect.number, "deferred": effect.deferred, "state": str(effect.state),
        "undo_state": str(effect.undo_state), **request_fields(effect.request),
        "undo": None if effect.undo is None else request_fields(effect.undo),
        "key": effect.key, "keyed": effect.keyed, "idempotent": effect.is_idempotent,
        "irreversible": effect.irreversible, "note": effect.note, "by": "user" if effect.trusted else "run",
        "created_ns": effect.created_ns, "attempts": msgspec.to_builtins(effect.attempts),
    }  # fmt: skip


def _from_http(http: _Http) -> Http:
    headers = [
        (name, value)
        for name, values in http.headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    body = _unbase64(http.body_base64) if http.body_base64 else http.body.encode()
    return Http(http.method.upper(), http.url, tuple(headers), body)


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise EffectError("a field of base64 is not base64") from None
