"""POSIX access control lists, as the kernel hands them over in extended attributes.

Owns the format (version 2 of `<linux/posix_acl_xattr.h>`: a little-endian word, then eight bytes for each entry) and
the arithmetic between lists and mode bits, which is that of fs/posix_acl.c and of acl(5).  Pure; knows no node.
"""

import errno
import os
import stat
import struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = (ACCESS, DEFAULT)

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ORDER = (_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER)
_ONCE = (_OWNER, _OWNING_GROUP, _OTHER)


class Entry(NamedTuple):
    """One line of a list."""

    tag: int
    permissions: int
    number: int
    """of the user or group; without meaning for other tags"""


Acl = tuple[Entry, ...]


def parse(value: bytes) -> Acl:
    """The list in an extended attribute; empty when it has no entries.  OSError: EINVAL, EOPNOTSUPP."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    acl = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :]))
    if acl and not _is_valid(acl):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return acl


def _is_valid(acl: Acl) -> bool:
    tags = [entry.tag for entry in acl]
    if any(tag not in _ORDER for tag in tags) or any(entry.permissions & ~7 for entry in acl):
        return False
    places = [_ORDER.index(tag) for tag in tags]
    if places != sorted(places) or any(tags.count(tag) != 1 for tag in _ONCE):
        return False
    masks = tags.count(_MASK)
    return masks == 1 or (masks == 0 and _USER not in tags and _GROUP not in tags)


def pack(acl: Acl) -> bytes:
    """The extended attribute of a list."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def bits_of(acl: Acl) -> int:
    """The nine mode bits that an access list implies: the group's are the mask, if there is one."""
    by_tag = {entry.tag: entry.permissions for entry in acl if entry.tag not in (_USER, _GROUP)}
    return by_tag[_OWNER] << 6 | by_tag.get(_MASK, by_tag[_OWNING_GROUP]) << 3 | by_tag[_OTHER]


def says_more(acl: Acl) -> bool:
    """Whether a list says more than mode bits can; one that does not is not kept."""
    return any(entry.tag in (_USER, _GROUP, _MASK) for entry in acl)


def with_mode(acl: Acl, mode: int) -> Acl:
    """An access list after a chmod."""
    group = _MASK if any(entry.tag == _MASK for entry in acl) else _OWNING_GROUP
    changed = {_OWNER: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return tuple(entry._replace(permissions=changed.get(entry.tag, entry.permissions)) for entry in acl)


def inherited(default: Acl, mode: int) -> tuple[Acl | None, int]:
    """What becomes of the *mode* that was asked for (without a umask) below a directory with a *default* list.

    Answers the access list of what is created, None if the mode says it all, and its mode.
    """
    limited = with_mode(default, bits_of(default) & mode)
    mode = mode & ~0o777 | bits_of(limited)
    return (limited if says_more(limited) else None), mode


def check_place(name: bytes, mode: int) -> None:
    """Whether an inode of that kind may have such a list.  OSError: EOPNOTSUPP (links), EACCES."""
    if stat.S_ISLNK(mode):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if name == DEFAULT and not stat.S_ISDIR(mode):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
