"""Archives by member: zip (wheels, jars and office documents are zip files too) and tar, compressed or not.

Owns what is compared of a member: size and CRC of a zip file, which its directory tells without unpacking anything; of
a tar file size, mode, owner, link target and a digest of the content.  Pure but for what it reads; belongs to the
thread of the sources.
"""

import bz2
import gzip
import hashlib
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from goexfs.views.sources import Counted, Source, TooMuch

MOST_UNPACKED = 256 << 20
"""Bytes that a compressed tar file may unpack to."""
MOST_MEMBERS = 20_000
LARGEST = 512 << 20
"""Bytes above which an archive is not looked into."""

Members = dict[str, dict[str, Any]]
"""Name -> facts that are compared; ``size`` is among them."""


def lines(old: Source | None, new: Source | None) -> Iterator[str] | None:
    """Which members came, went and changed; None when they are no archives."""
    before = {} if old is None else _members(old)
    after = {} if new is None else _members(new)
    return None if before is None or after is None else _compared(before, after)


def _compared(before: Members, after: Members) -> Iterator[str]:
    gone, come = before.keys() - after.keys(), after.keys() - before.keys()
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    same = len(before) - len(gone) - len(changed)
    yield f"@@ archive: {len(come)} added, {len(gone)} removed, {len(changed)} changed, {same} the same @@"
    for name in sorted(gone | come | changed):
        if name in before:
            yield f"-{_described(name, before[name])}"
        if name in after:
            other = "" if name not in changed or before[name]["size"] != after[name]["size"] else ", other content"
            yield f"+{_described(name, after[name])}{other}"
    if not gone and not come and not changed:
        yield " no member differs: only how they are packed, or their times"


def _described(name: str, facts: dict[str, Any]) -> str:
    more = "".join(f", {key} {value}" for key, value in facts.items() if key not in ("size", "digest", "crc"))
    return f"{name}  {facts['size']:,} bytes{more}"


def _members(source: Source) -> Members | None:
    if source.size > LARGEST:
        raise TooMuch(f"{source.size:,} bytes, and archives above {LARGEST:,} are not looked into")
    if source.head.startswith(b"PK"):
        with zipfile.ZipFile(source.open()) as archive:
            return _zip_members(archive)
    stream = Counted(_unpacked(source), MOST_UNPACKED)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
            return _tar_members(archive)
    except tarfile.ReadError:
        return None  # compressed, but no archive


def _unpacked(source: Source) -> BinaryIO:
    stream = source.open()
    if source.head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if source.head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(stream))
    return cast(BinaryIO, lzma.LZMAFile(stream)) if source.head.startswith(b"\xfd7zXZ\0") else stream


def _zip_members(archive: zipfile.ZipFile) -> Members:
    if len(archive.filelist) > MOST_MEMBERS:
        raise TooMuch(f"{len(archive.filelist):,} members, and no more than {MOST_MEMBERS:,} are looked at")
    members: Members = {}
    for info in archive.infolist():
        facts: dict[str, Any] = {"size": info.file_size, "crc": info.CRC}
        mode = info.external_attr >> 16
        if mode & 0o111 and stat.S_ISREG(mode):
            facts["mode"] = f"{stat.S_IMODE(mode):04o}"
        if stat.S_ISLNK(mode):
            facts["kind"] = "symlink"
        _add(members, info.filename, facts)
    return members


def _tar_members(archive: tarfile.TarFile) -> Members:
    members: Members = {}
    for number, info in enumerate(archive):
        if number >= MOST_MEMBERS:
            raise TooMuch(f"more than {MOST_MEMBERS:,} members, and no more are looked at")
        facts: dict[str, Any] = {"size": info.size if info.isreg() else 0, "mode": f"{stat.S_IMODE(info.mode):04o}"}
        if info.uid or info.gid:
            facts["owner"] = f"{info.uid}:{info.gid}"
        if info.issym() or info.islnk():
            facts["target"] = info.linkname
        elif not info.isreg():
            facts["kind"] = "directory" if info.isdir() else "special file"
        content = archive.extractfile(info) if info.isreg() else None
        if content is not None:
            facts["digest"] = hashlib.file_digest(content, "blake2b").digest()  # type: ignore[arg-type]
        _add(members, info.name, facts)
    return members


def _add(members: Members, name: str, facts: dict[str, Any]) -> None:
    """A name that comes twice must not hide its first occurrence."""
    members[name if name not in members else f"{name} (again, as member {len(members) + 1})"] = facts
