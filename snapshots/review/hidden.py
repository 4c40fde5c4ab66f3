"""What a run hides of the base: has it changed since the run hid it?

Owns the digest of an emptied directory, which stands for all that the run had deleted in it, one by one, before it
deleted the directory itself.  Reads the base, writes nothing.  Belongs to the thread of the ``BasePaths``.
"""

import stat
from collections.abc import Mapping

import msgspec
import xxhash

from snapshots.entries import Hidden, Identity
from snapshots.layers.basepaths import BasePaths, join

_encode = msgspec.msgpack.Encoder().encode


def digest(names: Mapping[bytes, Hidden]) -> bytes:
    """One value for what was hidden in a directory; empty when that is not known of all that is below."""
    parts = []
    for name, hidden in sorted(names.items()):
        if stat.S_ISDIR(hidden.identity.mode):
            if not hidden.below:
                return b""
            hidden = Hidden(node_of(hidden.identity), hidden.below)
        parts.append((name, hidden))
    return xxhash.xxh3_128_digest(_encode(parts))


def digest_of_base(base: BasePaths, path: bytes) -> bytes:
    """The same of a directory of the base as it is now."""
    names: dict[bytes, Hidden] = {}
    for name in base.list(path):
        st = base.stat(join(path, name))
        if st is not None:
            is_dir = stat.S_ISDIR(st.st_mode)
            names[name] = Hidden(Identity.of(st), digest_of_base(base, join(path, name)) if is_dir else b"")
    return digest(names)


def node_of(identity: Identity) -> Identity:
    """An identity without what changes when names in a directory do."""
    return Identity(identity.dev, identity.ino, stat.S_IFMT(identity.mode), 0, 0, 0)
