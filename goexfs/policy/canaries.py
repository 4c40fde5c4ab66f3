"""Canaries: fake secrets, and how one is found again.

Owns what a canary looks like and in which disguises it is recognised: as it is, backwards, in hexadecimal,
percent-encoded, and in base64 (of either alphabet, at any of the three offsets).  A program that wants to hide it can:
this catches carelessness and simple exfiltration.  Pure, but for the randomness of a token; any thread.
"""

import base64
import binascii
import secrets
from collections.abc import Callable, Iterable, Iterator

from goexfs.policy.rules import Canary

CHUNK = 1 << 20
"""bytes looked at together"""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 32  # 190 bits


def new_canary(path: bytes) -> Canary:
    """A canary for *path* (relative to the base), with believable content for a well-known name."""
    token = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    name = path.rpartition(b"/")[2].lower()
    if name in (b"credentials", b"config") and b".aws" in path.lower():
        text = f"[default]\naws_access_key_id = AKIA{token[:16].upper()}\naws_secret_access_key = {token}\n"
    elif name.startswith(b"id_") or name.endswith((b".pem", b".key")):
        body = base64.b64encode(b"openssh-key-v1\0" + secrets.token_bytes(64)).decode()
        text = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n{token}\n-----END OPENSSH PRIVATE KEY-----\n"
    elif name in (b".netrc", b"_netrc"):
        text = f"machine api.example.com login deploy password {token}\n"
    elif name.endswith(b".json"):
        text = f'{{"api_key": "{token}"}}\n'
    elif name in (b".pypirc",):
        text = f"[pypi]\nusername = __token__\npassword = pypi-{token}\n"
    elif name in (b".npmrc",):
        text = f"//registry.npmjs.org/:_authToken=npm_{token}\n"
    else:
        text = f"API_KEY={token}\n"
    return Canary(path, token, text.encode())


class Finder:
    """Looks for one canary."""

    def __init__(self, canary: Canary) -> None:
        self.canary = canary
        token = canary.token.encode()
        percent = "".join(f"%{byte:02X}" for byte in token).encode()
        self._needles = tuple({token, token[::-1], *_base64(token), percent})
        self._hex = binascii.hexlify(token)
        self.longest = max(len(self._hex), *(len(needle) for needle in self._needles))

    def __call__(self, data: bytes) -> bool:
        """Whether the bytes carry it."""
        if self._is_in(data):
            return True
        joined = data.translate(None, b"\r\n")  # base64 and hexadecimal are broken into lines
        return len(joined) < len(data) and self._is_in(joined)

    def _is_in(self, data: bytes) -> bool:
        return any(needle in data for needle in self._needles) or self._hex in data.lower()


class Finders:
    """Looks for several canaries, in short pieces and in long contents."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self._finders = [Finder(canary) for canary in canaries]

    def __iter__(self) -> Iterator[Finder]:
        return iter(self._finders)

    def in_pieces(self, pieces: Iterable[bytes]) -> Canary | None:
        """The first canary that one of the pieces carries."""
        for piece in pieces:
            for finder in self._finders:
                if finder(piece):
                    return finder.canary
        return None

    def __bool__(self) -> bool:
        return bool(self._finders)

    def in_content(self, size: int, read: Callable[[int, int], bytes]) -> Canary | None:
        """The first canary in a content that is read piece by piece; pieces overlap, so that none is cut in two."""
        overlap = 2 * max((finder.longest for finder in self._finders), default=1)
        offset = 0
        while offset < size:
            data = bytes(read(max(offset - overlap, 0), CHUNK + min(offset, overlap)))
            for finder in self._finders:
                if finder(data):
                    return finder.canary
            offset += CHUNK
        return None


def _base64(token: bytes) -> Iterator[bytes]:
    """What every base64 text of something that holds the token has in it, for each offset that it may be at."""
    for alphabet in (b"+/", b"-_"):
        for before in range(3):
            encoded = base64.b64encode(b"\0" * before + token, alphabet)
            start = (before * 8 + 5) // 6
            yield encoded[start : (before + len(token)) * 8 // 6]
