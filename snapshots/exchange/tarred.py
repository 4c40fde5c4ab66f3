"""Layers as tar archives: goexfs's own (with a list of deletions) and OCI layers (with whiteout files).

Owns how an item becomes a member and a member an arrival.  The archives are in pax format: times to the nanosecond,
extended attributes as ``SCHILY.xattr.…``, names of any bytes.  Knows no run.

Own archives begin with a member ``.goexfs-deleted`` whose content are the deleted paths, each with a NUL at its end (so
``xargs -0 rm -rf`` and ``tar -x`` apply one by hand); a pax header tells it from a file of that name.
"""

import io
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Literal

from snapshots.errors import ImportRefused
from snapshots.exchange.arrivals import Arrival, What, carried, path_of
from snapshots.exchange.layers import Item
from snapshots.layers.content import Readable
from snapshots.names import is_valid_name, readable

Style = Literal["own", "oci"]
DELETED = ".goexfs-deleted"
_ROLE = "GOEXFS.role"
_XATTR = "SCHILY.xattr."
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}
_KINDS = {number: kind for kind, number in _TYPES.items()}


def write(items: Sequence[Item], out: IO[bytes], style: Style) -> list[str]:
    """Write the archive; what it cannot carry, one line each."""
    left_out: list[str] = []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        if style == "own":
            _write_deleted(archive, [item.path for item in items if item.side is None])
        for item in items:
            if item.side is None:
                if style == "oci":
                    above, _, name = item.path.rpartition(b"/")
                    archive.addfile(_member(os.path.join(above, _WHITEOUT + name), tarfile.REGTYPE))
                continue
            if style == "oci" and any(part.startswith(_WHITEOUT) for part in item.path.split(b"/")):
                left_out.append(f"{readable(item.path)}: to a layer, a name that begins with .wh. means a deletion")
                continue
            if item.side.kind not in _TYPES:
                left_out.append(f"{readable(item.path)}: a socket")
                continue
            if item.on_the_way and not item.path:
                continue
            _write_node(archive, item)
    return left_out


def _write_deleted(archive: tarfile.TarFile, deleted: Sequence[bytes]) -> None:
    data = b"".join(path + b"\0" for path in deleted)
    member = _member(DELETED.encode(), tarfile.REGTYPE)
    member.size = len(data)
    member.pax_headers = {_ROLE: "deleted"}
    archive.addfile(member, io.BytesIO(data))


def _write_node(archive: tarfile.TarFile, item: Item) -> None:
    side = item.side
    assert side is not None
    member = _member(item.path or b".", _TYPES[side.kind])
    member.mode, member.uid, member.gid = stat.S_IMODE(side.mode), side.uid, side.gid
    seconds, nanoseconds = divmod(side.mtime_ns, 1_000_000_000)
    member.mtime = seconds
    member.pax_headers = {f"{_XATTR}{os.fsdecode(name)}": os.fsdecode(value) for name, value in side.xattrs.items()}
    if nanoseconds or seconds < 0:
        member.pax_headers["mtime"] = f"{seconds}.{nanoseconds:09}"
    if item.link_to is not None:
        member.type, member.linkname = tarfile.LNKTYPE, os.fsdecode(item.link_to)
    elif side.target is not None:
        member.linkname = os.fsdecode(side.target)
    elif stat.S_ISCHR(side.mode) or stat.S_ISBLK(side.mode):
        member.devmajor, member.devminor = os.major(side.rdev), os.minor(side.rdev)
    elif stat.S_ISREG(side.mode):
        with side.open() as content:
            member.size = content.size
            archive.addfile(member, Stream(content))
        return
    archive.addfile(member)


def _member(path: bytes, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(os.fsdecode(path))
    member.type = kind
    member.mode = 0o644
    return member


class Stream(io.RawIOBase):
    """A ``Readable`` as a file that is read from its beginning to its end."""

    def __init__(self, content: Readable) -> None:
        self._content = content
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """See ``io.RawIOBase``."""
        size = self._content.size - self._at if size is None or size < 0 else size
        data = self._content.read(self._at, size)
        self._at += len(data)
        return data


def is_archive(path: str) -> bool:
    """Whether a file is a tar archive (perhaps a compressed one)."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError):
        return False


def read(path: str) -> Iterator[Arrival]:
    """What is in an archive of either style, or in any other: what is taken away first.  ImportRefused."""
    source = readable(os.fsencode(path))
    try:
        with tarfile.open(path, errors="surrogateescape") as archive:
            members = [(_name(member, source), member) for member in archive if member.type in _KINDS or member.islnk()
                       or member.isreg()]  # fmt: skip
            own = any(_ROLE in member.pax_headers for _, member in members)  # then .wh. in a name means nothing
            for name, member in members:
                yield from _taken_away(archive, name, member, source, own)
            for name, member in members:
                if _ROLE not in member.pax_headers and (own or not name.rpartition(b"/")[2].startswith(_WHITEOUT)):
                    yield _arrival(archive, name, member, source)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ImportRefused(
            f"{source} cannot be read as an archive: {readable(str(error).encode('utf-8', 'replace'))}; nothing was"
            " imported"
        ) from None


def _name(member: tarfile.TarInfo, source: str) -> bytes:
    return path_of(os.fsencode(member.name), source=source)


def _taken_away(
    archive: tarfile.TarFile, name: bytes, member: tarfile.TarInfo, source: str, own: bool
) -> Iterator[Arrival]:
    if member.pax_headers.get(_ROLE) == "deleted":
        file = archive.extractfile(member)
        assert file is not None
        for path in file.read(1 << 30).split(b"\0")[:-1]:
            yield Arrival(What.GONE, path_of(path, source=source))
        return
    above, _, last = name.rpartition(b"/")
    if own:
        return
    if last == _OPAQUE:
        yield Arrival(What.EMPTY, above)
    elif last.startswith(_WHITEOUT):
        hidden = last.removeprefix(_WHITEOUT)
        if not is_valid_name(hidden):  # ".wh..." would be the directory above
            raise ImportRefused(f"{source} takes away what is no name: {readable(name)}; nothing was imported")
        yield Arrival(What.GONE, path_of(os.path.join(above, hidden), source=source))


def _arrival(archive: tarfile.TarFile, name: bytes, member: tarfile.TarInfo, source: str) -> Arrival:
    if member.islnk():
        return Arrival(What.LINK, name, target=path_of(os.fsencode(member.linkname), source=source))
    kind = _KINDS.get(member.type, stat.S_IFREG)
    xattrs = {
        os.fsencode(key.removeprefix(_XATTR)): os.fsencode(value)
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    }
    return Arrival(
        What.NODE, name, mode=kind | stat.S_IMODE(member.mode), uid=member.uid, gid=member.gid,
        mtime_ns=_mtime_ns(member), rdev=os.makedev(member.devmajor, member.devminor) if member.isdev() else 0,
        target=os.fsencode(member.linkname) if kind == stat.S_IFLNK else b"", xattrs=carried(xattrs),
        open=(lambda: archive.extractfile(member)) if kind == stat.S_IFREG else None,  # type: ignore[arg-type, return-value]
    )  # fmt: skip


def _mtime_ns(member: tarfile.TarInfo) -> int:
    text = member.pax_headers.get("mtime", "")
    whole, _, fraction = text.partition(".")
    try:
        nanoseconds = int(whole) * 1_000_000_000 + int((fraction + "0" * 9)[:9]) if whole else 0
    except ValueError:
        nanoseconds = 0
    found = nanoseconds or int(member.mtime) * 1_000_000_000
    return max(-(1 << 62), min(found, 1 << 62))
