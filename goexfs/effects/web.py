"""Sending an HTTP request as an effect.

Owns what is added to a request (the user's headers for that server, the idempotency key) and what an answer, or none,
means.  Redirects are not followed: what was approved is one request to one server.  Any thread.
"""

import functools
from typing import Any

from goexfs.effects.connections import headers_for, origin
from goexfs.effects.outcome import Outcome, tail
from snapshots.errors import EffectError
from snapshots.storage.effects import Http, State

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
_MOST_ANSWER = 1 << 16
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which a server may do it when asked again."""


def check(request: Http) -> None:
    """Raise EffectError for what can never be sent."""
    origin(request.url)
    if not request.method.isascii() or not request.method.isalpha():
        raise EffectError(f"{request.method!r} is no HTTP method")
    for name, value in request.headers:
        if not name.isprintable() or not value.isprintable() or not name.isascii() or " " in name or ":" in name:
            raise EffectError(f"the header {name!r} has characters that no header can have")


def send(request: Http, key: str) -> Outcome:
    """Send it once."""
    import urllib3
    from urllib3 import exceptions as failures

    check(request)
    headers = urllib3.HTTPHeaderDict({"User-Agent": "goexfs"})
    for name, value in request.headers:
        headers[name] = value
    headers["Idempotency-Key"] = key
    for name, value in headers_for(request.url).items():
        headers[name] = value
    try:
        answer = _pool(request.url).request(
            request.method.upper(), request.url, body=request.body or None, headers=headers, retries=False,
            redirect=False, preload_content=False,
        )  # fmt: skip
    except (failures.NewConnectionError, failures.ConnectTimeoutError, failures.ProxyError, failures.SSLError) as error:
        return Outcome(State.FAILED, f"it was not sent: {_reason(error)}", transient=True)
    except (failures.LocationValueError, ValueError) as error:
        return Outcome(State.FAILED, f"it cannot be sent: {_reason(error)}")
    except failures.HTTPError as error:
        return Outcome(State.UNKNOWN, f"it was sent, and no answer came: {_reason(error)}", transient=True)
    except KeyboardInterrupt:
        return Outcome(State.UNKNOWN, "it was interrupted before an answer came", interrupted=True)
    try:
        said = tail(answer.read(_MOST_ANSWER, decode_content=True))
    except (failures.HTTPError, OSError):
        said = ""  # the status has come, and it decides
    finally:
        answer.release_conn()
        answer.close()
    detail = f"{answer.status} {answer.reason or ''}\n{said}".strip()
    if 200 <= answer.status < 300:
        return Outcome(State.DONE, detail)
    if 300 <= answer.status < 400:
        detail = f"{detail}\nredirects are not followed; edit the address"
    return Outcome(State.FAILED, detail, transient=answer.status in _TRANSIENT)


def _pool(url: str) -> Any:
    """Through the proxy of the user's environment, if there is one for this server."""
    from urllib.request import getproxies, proxy_bypass

    scheme, host, _ = origin(url)
    proxy = getproxies().get(scheme)
    return _pools(None if proxy is None or proxy_bypass(host) else proxy)


@functools.cache
def _pools(proxy: str | None) -> Any:
    import urllib3

    limit = urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS)
    if proxy is None:
        return urllib3.PoolManager(timeout=limit)
    return urllib3.ProxyManager(proxy, timeout=limit)


def _reason(error: BaseException) -> str:
    """Without the address, which may carry what is not to be shown."""
    text = str(getattr(error, "original_error", None) or error)
    return text.rpartition(">: ")[2].replace("\n", " ")[:300]
