"""What was written that deserves a second look: secrets, text that reads otherwise than it looks, blobs for text.

Owns the reading of contents within a budget, and the patterns.  Only what a change brought in counts: what the old
content has too is not marked.  Belongs to the thread of the sides.
"""

import re
import stat
from collections.abc import Iterator
from typing import NamedTuple

from snapshots.errors import BaseChanged
from snapshots.review.changes import Change, Side, Status

MOST_PER_FILE = 1 << 20
"""Bytes of a file that are looked at."""
MOST_FILES = 2000
MOST_BYTES = 32 << 20
"""Files and bytes that are looked at in all."""
_TEXT_LOOKED_AT = 8000
"""Bytes in which a NUL makes a file binary: git's rule."""


class Secret(NamedTuple):
    """The form of a credential, as its issuer describes it."""

    what: str
    marks: tuple[bytes, ...]
    """one of them is in every match: looked for first, because that is fast"""
    form: bytes
    source: str
    """where the form is described"""


SECRETS = (
    Secret("private key", (b"PRIVATE KEY",), rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
           "RFC 7468, RFC 4880"),
    Secret("PuTTY private key", (b"PuTTY-User-Key-File",), rb"PuTTY-User-Key-File-[23]: ", "PuTTY manual, appendix C"),
    Secret("AWS access key", (b"AKIA", b"ASIA"), rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b",
           "AWS IAM user guide, unique identifiers"),
    Secret("GitHub token", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"\bgh[pousr]_[A-Za-z0-9]{36,251}\b",
           "GitHub docs, token formats"),
    Secret("GitHub token", (b"github_pat_",), rb"\bgithub_pat_[A-Za-z0-9_]{36,251}\b", "GitHub docs, token formats"),
    Secret("GitLab token", (b"glpat-", b"gldt-", b"glrt-", b"glptt-", b"glcbt-"),
           rb"\bgl(?:pat|dt|rt|ptt|cbt)-[\w-]{20,}", "GitLab docs, token prefixes"),
    Secret("Google API key", (b"AIza",), rb"\bAIza[\w-]{35}\b", "Google Cloud docs, API keys"),
    Secret("Google OAuth secret", (b"GOCSPX-",), rb"\bGOCSPX-[\w-]{28}\b", "Google Cloud docs, OAuth client"),
    Secret("Slack token", (b"xoxb-", b"xoxp-", b"xoxa-", b"xoxr-", b"xoxe", b"xapp-"),
           rb"\b(?:xox[bpare](?:\.xox[bp])?|xapp)-[\w-]{20,}", "Slack docs, token types"),
    Secret("Slack webhook", (b"hooks.slack.com",), rb"hooks\.slack\.com/services/T\w+/B\w+/\w{16,}",
           "Slack docs, incoming webhooks"),
    Secret("Stripe key", (b"sk_live_", b"rk_live_"), rb"\b[sr]k_live_[A-Za-z0-9]{16,}", "Stripe docs, API keys"),
    Secret("Anthropic key", (b"sk-ant-",), rb"\bsk-ant-[\w-]{24,}", "Anthropic docs, API keys"),
    Secret("OpenAI key", (b"T3BlbkFJ", b"sk-proj-", b"sk-svcacct-"),
           rb"\bsk-(?:(?:proj|svcacct)-[\w-]{40,}|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20})", "OpenAI docs, API keys"),
    Secret("Hugging Face token", (b"hf_",), rb"\bhf_[A-Za-z0-9]{34,}\b", "Hugging Face docs, user access tokens"),
    Secret("npm token", (b"npm_",), rb"\bnpm_[A-Za-z0-9]{36}\b", "npm docs, access tokens"),
    Secret("npm token", (b"_authToken",), rb"_authToken\s*=\s*[\w./+=-]{16,}", "npm docs, npmrc"),
    Secret("PyPI token", (b"pypi-AgEI",), rb"\bpypi-AgEI[\w-]{50,}", "PyPI help, API tokens"),
    Secret("SendGrid key", (b"SG.",), rb"\bSG\.[\w-]{22}\.[\w-]{43}\b", "SendGrid docs, API keys"),
    Secret("DigitalOcean token", (b"dop_v1_", b"doo_v1_", b"dor_v1_"), rb"\bdo[por]_v1_[0-9a-f]{64}\b",
           "DigitalOcean docs, API tokens"),
    Secret("Docker Hub token", (b"dckr_pat_",), rb"\bdckr_pat_[\w-]{27}", "Docker docs, access tokens"),
    Secret("Azure storage key", (b"AccountKey=",), rb"AccountKey=[A-Za-z0-9+/]{86}==",
           "Azure docs, connection strings"),
    Secret("Shopify token", (b"shpat_", b"shpss_", b"shpca_"), rb"\bshp(?:at|ss|ca)_[0-9a-fA-F]{32}\b",
           "Shopify docs, token formats"),
    Secret("age key", (b"AGE-SECRET-KEY-1",), rb"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b", "age specification"),
    Secret("password in a URL", (b"://",),
           rb"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>${}]{1,64}:[^\s/:@\"'<>${}]{6,128}@[\w.-]+",
           "RFC 3986, section 3.2.1"),
)  # fmt: skip
"""Forms that cannot well be anything else; passwords without a form of their own are not found."""

_FORMS = [(secret, re.compile(secret.form)) for secret in SECRETS]
_ALL_MARKS = [(mark, number) for number, secret in enumerate(SECRETS) for mark in secret.marks]
_MARKS = [
    (part, [(mark, number) for mark, number in _ALL_MARKS if next(p for p in (b"_", b"-", b"") if p in mark) == part])
    for part in (b"_", b"-", b"")
]
"""Marks and numbers of their secrets, by what is in all of them: where that is not, none of them is looked for."""
_ANY_MARK = re.compile(b"|".join(sorted({re.escape(mark) for secret in SECRETS for mark in secret.marks})))
_SHORT = 512
"""Bytes up to which one search for all marks at once is faster than one for each."""
_REORDERS = re.compile(b"\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
_FIRST_OF_REORDERS = b"\xe2"
_INVISIBLE = re.compile(b"\xe2\x80[\x8b-\x8f]|\xe2\x81[\xa0-\xa4]|\xf3\xa0[\x80-\x87][\x80-\xbf]|\xef\xbb\xbf")


class Reader:
    """Reads the beginnings of files until the budget is spent."""

    def __init__(self) -> None:
        self._cut: set[int] = set()
        self._files = MOST_FILES
        self._bytes = MOST_BYTES
        self._kept: dict[int, bytes] = {}
        """the last few, by the identity of their sides"""

    @property
    def unread(self) -> int:
        """Files that were not read, or not to their end."""
        return len(self._cut)

    def text(self, side: Side | None) -> bytes:
        """The beginning of a regular file; nothing for others, and when the budget is spent."""
        if side is None or side.kind != stat.S_IFREG or not side.size:
            return b""
        if id(side) in self._kept:
            return self._kept[id(side)]
        if self._files <= 0 or self._bytes <= 0:
            self._cut.add(id(side))
            return b""
        data = b""
        try:
            with side.open() as content:
                data = content.read(0, MOST_PER_FILE)
        except BaseChanged:
            pass
        self._files -= 1
        self._bytes -= len(data)
        if len(data) < side.size:
            self._cut.add(id(side))
        while len(self._kept) > 1:
            del self._kept[next(iter(self._kept))]
        self._kept[id(side)] = data
        return data


def reasons(change: Change, reader: Reader) -> Iterator[tuple[str, str]]:
    """(kind, reason) of what a change wrote, and of its name."""
    if _hides(change.path):
        yield "hidden-text", "the name has characters that are invisible or reorder text"
    before, after = change.before, change.after
    if after is None or not change.content_changed or after.kind != stat.S_IFREG or change.status is Status.COPIED:
        return
    new = reader.text(after)
    if not new:
        return
    if b"\0" in new[:_TEXT_LOOKED_AT]:
        if before is not None and before.size and b"\0" not in (old := reader.text(before)[:_TEXT_LOOKED_AT]) and old:
            yield "binary-over-text", "binary content in place of text"
        return
    found = _secrets_in(new)
    reorders = _FIRST_OF_REORDERS in new and _REORDERS.search(new) is not None
    if not found and not reorders:
        return
    old = reader.text(before)
    if found:
        known = {match for _, form in _FORMS for match in form.findall(old)} if old else set()
        for secret, form in _FORMS:
            if secret.what in found and any(match not in known for match in form.findall(new)):
                yield "secret", f"looks like a secret: {secret.what}"
                break
    if reorders and set(_REORDERS.findall(new)) - set(_REORDERS.findall(old)):
        yield "hidden-text", "has characters that reorder text: programs read it otherwise than it looks"


def _secrets_in(new: bytes) -> list[str]:
    if len(new) <= _SHORT and _ANY_MARK.search(new) is None:
        return []
    there = {number for part, marks in _MARKS if part in new for mark, number in marks if mark in new}
    return [_FORMS[number][0].what for number in sorted(there) if _FORMS[number][1].search(new)]


def _hides(path: bytes) -> bool:
    return not path.isascii() and (_REORDERS.search(path) or _INVISIBLE.search(path)) is not None
