"""Patches and mails with patches: written for git, and read with git's own library.

Owns the mail that ``git am`` takes and what of a patch happens to which file.  Parsing and applying patches is
libgit2's, in a repository of its own that holds nothing but the files that the patch names.  Knows no run.

Changes below a ``.git`` are left out of what is written: git refuses a whole patch that names one.
"""

import contextlib
import stat
from collections.abc import Iterator, Sequence
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate
from typing import IO, TYPE_CHECKING, NamedTuple

from snapshots.errors import ImportRefused
from snapshots.exchange.arrivals import Arrival, What, path_of
from snapshots.layers.basepaths import BasePaths, split
from snapshots.layers.content import open_base
from snapshots.names import readable
from snapshots.review.changes import Change
from snapshots.review.patch import patch
from snapshots.review.remarks import remarks

if TYPE_CHECKING:
    import pygit2

MOST_PATCH = 256 << 20
"""Bytes of a patch that are read."""
_MOST_FILE = 64 << 20


class Letter(NamedTuple):
    """What a mail says besides its patch."""

    name: str
    address: str
    subject: str
    text: str
    when: float
    """seconds since 1970"""


def write(changes: Sequence[Change], out: IO[bytes]) -> list[str]:
    """Write the patch; what it cannot carry, one line each."""
    kept, left_out = _for_git(changes)
    for piece in patch(kept):
        out.write(piece)
    return left_out


def write_mail(changes: Sequence[Change], out: IO[bytes], letter: Letter) -> list[str]:
    """Write a mailbox of one mail; what it cannot carry, one line each."""
    kept, left_out = _for_git(changes)
    body = f"{letter.text}\n---\n\n".encode() + b"".join(patch(kept)) + b"-- \ngoexfs\n"
    mail = EmailMessage(policy=policy.SMTP.clone(linesep="\n", max_line_length=998))
    mail["From"] = Address(letter.name, addr_spec=letter.address)
    mail["Date"] = formatdate(letter.when, localtime=True)
    mail["Subject"] = f"[PATCH] {' '.join(letter.subject.split())}"
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    # What might be altered on the way goes as base64: carriage returns, and lines that look like the next mail.
    plain = text is not None and b"\r" not in body and b"\0" not in body and b"\nFrom " not in body
    mail.set_content(body, maintype="text", subtype="plain", cte="8bit" if plain else "base64")
    mail.set_param("charset", "UTF-8")
    del mail["Content-Disposition"]
    # The name that git format-patch gives, by which git am knows the format.
    out.write(b"From %s Mon Sep 17 00:00:00 2001\n" % (b"0" * 40))
    out.write(mail.as_bytes().rstrip(b"\n") + b"\n\n")
    return left_out


def _for_git(changes: Sequence[Change]) -> tuple[list[Change], list[str]]:
    kept: list[Change] = []
    left_out: list[str] = []
    inner: list[bytes] = []
    full = {split(change.path)[0] for change in changes if change.after is not None}
    for change in changes:
        if any(part.lower() == b".git" for path in (change.path, change.old_path or b"") for part in path.split(b"/")):
            inner.append(change.path)
            continue
        kept.append(change)
        # A change of kind is a deletion and an addition, which git can say; of the other kinds there is a line more.
        left_out += (line for line in remarks(change) if not line.startswith("kind of "))
        if change.before is None and change.after is not None and change.after.is_dir and change.path not in full:
            left_out.append(f"{readable(change.path)}: an empty directory")
    if inner:  # a run that commits changes hundreds of them: one line, before all others
        more = f" and {len(inner) - 1} more" if len(inner) > 1 else ""
        left_out.insert(0, f"{readable(inner[0])}{more}: git takes no patch of what is in a .git")
    return kept, left_out


def read(data: bytes, base: BasePaths, *, source: str) -> Iterator[Arrival]:
    """What a patch, or a mailbox of patches, does to the files of a base.  ImportRefused when it does not apply."""
    import tempfile

    import pygit2

    texts = _mails(data) if data.startswith(b"From ") else [data]
    with tempfile.TemporaryDirectory(prefix="goexfs-import-") as place:
        repository = pygit2.init_repository(place, bare=True)
        applied = _Applied(repository, base)
        for text in texts:
            try:
                difference = pygit2.Diff.parse_diff(text)
                applied.apply(difference)
            except (pygit2.GitError, ValueError, KeyError, OSError) as error:
                raise ImportRefused(
                    f"{source} does not apply to the base: {readable(str(error).encode('utf-8', 'replace'))}; nothing"
                    " was imported"
                ) from None
        if not applied.named:
            raise ImportRefused(f"{source} holds no patch in git's format; nothing was imported")
        yield from applied.arrivals()


def _mails(data: bytes) -> list[bytes]:
    import mailbox
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="goexfs-mbox-") as file:
        file.write(data)
        file.flush()
        texts = []
        with contextlib.closing(mailbox.mbox(file.name, create=False)) as box:
            for mail in box:
                parts = [part.get_payload(decode=True) for part in mail.walk() if part.get_content_maintype() == "text"]
                texts.append(b"".join(part for part in parts if isinstance(part, bytes)))
        return texts


class _Applied:
    """Patches applied to those files of a base that they name."""

    def __init__(self, repository: "pygit2.Repository", base: BasePaths) -> None:
        self._repository = repository
        self._base = base
        self.named: set[bytes] = set()
        self._before: dict[bytes, tuple[str, int]] = {}
        self._renamed: list[tuple[bytes, bytes]] = []

    def apply(self, difference: "pygit2.Diff") -> None:
        """One patch on top of those before."""
        from pygit2.enums import ApplyLocation, DeltaStatus

        for change in difference.deltas:
            old, new = change.old_file.raw_path, change.new_file.raw_path
            for path in {old, new} - {b"/dev/null"}:
                path_of(path, source="the patch")
                self._name(path)
            if change.status == DeltaStatus.RENAMED and old != new:
                self._renamed.append((old, new))
        self._repository.apply(difference, ApplyLocation.INDEX)

    def _name(self, path: bytes) -> None:
        if path in self.named:
            return
        self.named.add(path)
        st = self._base.stat(path)
        if st is None:
            return
        if stat.S_ISLNK(st.st_mode):
            data, mode = self._base.readlink(path) or b"", 0o120000
        elif stat.S_ISREG(st.st_mode):
            if st.st_size > _MOST_FILE:
                raise ImportRefused(f"{readable(path)} in the base is too large for a patch; nothing was imported")
            with open_base(self._base, path) as content:
                data, mode = content.read(0, content.size), 0o100755 if st.st_mode & 0o100 else 0o100644
        else:
            return
        from pygit2 import IndexEntry
        from pygit2.enums import FileMode

        blob = self._repository.create_blob(data)
        # pygit2 takes names as text and encodes them as the filesystem's.
        self._repository.index.add(IndexEntry(path.decode("utf-8", "surrogateescape"), blob, FileMode(mode)))
        self._before[path] = (str(blob), mode)

    def arrivals(self) -> Iterator[Arrival]:
        """What has become of the files."""
        after = {
            entry.path.encode("utf-8", "surrogateescape"): (str(entry.id), int(entry.mode))
            for entry in self._repository.index
        }
        moved = dict(self._moved(after))
        for new, old in moved.items():
            yield Arrival(What.MOVED, new, target=old)
        left = set(moved.values())
        gone = self._before.keys() - after.keys() - left
        for path in sorted(gone):
            yield Arrival(What.GONE, path)
        for directory in sorted({split(path)[0] for path in gone | left}):
            yield Arrival(What.EMPTIED, directory)
        for path, (blob, mode) in sorted(after.items()):
            was = self._before.get(moved.get(path, path))
            if was != (blob, mode):
                yield self._node(path, moved.get(path, path), blob, mode, was)

    def _moved(self, after: dict[bytes, tuple[str, int]]) -> Iterator[tuple[bytes, bytes]]:
        for old, new in self._renamed:
            if old not in after and new in after and old in self._before and new not in self._before:
                yield new, old

    def _node(self, path: bytes, old: bytes, blob: str, mode: int, was: tuple[str, int] | None) -> Arrival:
        data = bytes(self._repository[blob].data)  # type: ignore[attr-defined]
        if mode == 0o120000:
            return Arrival(What.NODE, path, mode=stat.S_IFLNK | 0o777, target=data)
        st = self._base.stat(old) if was is not None else None
        permissions = 0o755 if mode & 0o100 else 0o644
        if st is not None and was is not None and stat.S_ISREG(st.st_mode):
            # Git knows one bit: the others stay what they are.
            had = stat.S_IMODE(st.st_mode)
            permissions = had if was[1] == mode else had | (had & 0o444) >> 2 if mode & 0o100 else had & ~0o111
        return Arrival(What.NODE, path, mode=stat.S_IFREG | permissions, open=lambda: _memory(data))


def _memory(data: bytes) -> IO[bytes]:
    import io

    return io.BytesIO(data)
