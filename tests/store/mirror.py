"""Uppers to test with, derived from real directories.

A ``Mirror`` is a copy of a base on which a test works with ordinary system calls.  ``state`` then describes the
difference as entries and links, the way an overlay would have recorded it.  So the mirror is at the same time the
input and the expected result: after a merge the base has to look like it.
"""

import os
import stat
import subprocess
from pathlib import Path

from snapshots.entries import (
    FIRST_NEW_INO,
    ROOT_INO,
    WHITEOUT,
    Ancestor,
    Changed,
    Content,
    Entry,
    Extent,
    Hidden,
    Identity,
    Origin,
    UpperState,
)
from tests.support.trees import picture

BLOCK = 4


class DictObjects:
    """Objects in memory."""

    def __init__(self):
        self.data = {}

    def put(self, data):
        name = b"object-%d" % len(self.data)
        self.data[name] = bytes(data)
        return name

    def read(self, name, offset=0, length=None):
        data = self.data[name]
        return data[offset:] if length is None else data[offset : offset + length]

    def size(self, name):
        return len(self.data[name])

    def descriptor(self, name):
        return None


def xattrs(path):
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }


class Mirror:
    def __init__(self, base: Path, mirror: Path):
        """Copy the base; the mirror must not exist."""
        self.base, self.path = os.fsencode(base), os.fsencode(mirror)
        subprocess.run(["cp", "-a", "--", self.base, self.path], check=True)
        self.origins = {}
        self.pins = []
        self._record(b"")

    def _record(self, path):
        st = os.lstat(self._mirror(path))
        # An inode number must not be used again for another file while the test runs.
        self.pins.append(os.open(self._mirror(path), os.O_PATH | os.O_NOFOLLOW))
        self.origins.setdefault(st.st_ino, path)
        if stat.S_ISDIR(st.st_mode):
            for name in os.listdir(self._mirror(path)):
                self._record(os.path.join(path, name))

    def close(self):
        for fd in self.pins:
            os.close(fd)
        self.pins = []

    def _mirror(self, path):
        return os.path.join(self.path, path) if path else self.path

    def _base(self, path):
        return os.path.join(self.base, path) if path else self.base

    def picture(self, **kwargs):
        return picture(self.path, **kwargs)

    def state(self, objects, *, style="whole", omit_aliases=False, eager=False):
        """The upper.  ``style``: "whole" contents, or "ranges" that leave to the base what is equal.  ``omit_aliases``
        leaves out the links that an overlay would not have seen; ``eager`` adds entries of unchanged files."""
        self.base_stat = {}
        builder = _Builder(self, objects, style, omit_aliases, eager)
        builder.directory(b"", ROOT_INO, b"")
        return UpperState(builder.entries, builder.links, builder.next_ino, hides=builder.hides)


class _Builder:
    def __init__(self, mirror, objects, style, omit_aliases, eager):
        self.m, self.objects, self.style, self.omit_aliases, self.eager = mirror, objects, style, omit_aliases, eager
        self.entries, self.links, self.hides = {}, {}, {}
        self.next_ino = FIRST_NEW_INO
        self.numbers = {}

    def origin_of(self, st):
        return self.m.origins.get(st.st_ino)

    def number(self, st):
        if st.st_ino not in self.numbers:
            origin = self.origin_of(st)
            if origin is None:
                self.numbers[st.st_ino] = self.next_ino
                self.next_ino += 1
            else:
                self.numbers[st.st_ino] = os.lstat(self.m._base(origin)).st_ino
        return self.numbers[st.st_ino]

    def directory(self, path, ino, origin):
        """Adds the directory and what is below if anything changed; returns whether it did."""
        links = {}
        names = os.listdir(self.m._mirror(path))
        if origin is not None:
            for name in os.listdir(self.m._base(origin)):
                if name not in names:
                    links[name] = WHITEOUT
        moved_names = bool(links)
        for name in names:
            child = os.path.join(path, name)
            st = os.lstat(self.m._mirror(child))
            came_from = self.origin_of(st)
            natural = False
            if origin is not None and came_from is not None:
                place = self.m._base(os.path.join(origin, name))
                if os.path.lexists(place):
                    natural = os.lstat(place).st_ino == os.lstat(self.m._base(came_from)).st_ino
            number = self.number(st)
            if stat.S_ISDIR(st.st_mode):
                changed = self.directory(child, number, came_from)
                if changed or not natural or self.eager:
                    links[name] = number
                    if number not in self.entries:
                        self.entries[number] = self.entry(child, number, st, came_from, 0 if natural else Changed.ATTRS)
            else:
                changed = self.entry(child, number, st, came_from, 0 if natural else Changed.ATTRS)
                if changed.changed or self.eager:
                    self.entries.setdefault(number, changed)
                    first = came_from == (os.path.join(origin, name) if origin is not None else None)
                    if not natural or first or not self.omit_aliases:
                        links[name] = number
            moved_names |= not natural
        st = os.lstat(self.m._mirror(path))
        entry = self.entry(path, ino, st, origin, Changed.NAMES if moved_names else 0)
        if entry.changed or links:
            self.entries[ino] = entry
            self.links[ino] = links
            if origin is not None:
                self.hides[ino] = self.hidden(origin, links)
            return True
        return False

    def hidden(self, origin, links):
        """What of the base is not seen any more."""
        found = {}
        for name, ino in links.items():
            place = self.m._base(os.path.join(origin, name))
            if os.path.lexists(place) and os.lstat(place).st_ino != ino:
                found[name] = Hidden(Identity.of(os.lstat(place)), b"")
        return found

    def entry(self, path, ino, st, origin, changed):
        full = self.m._mirror(path)
        old = os.lstat(self.m._base(origin)) if origin is not None else None
        attributes = xattrs(full)
        content = ancestor = None
        if old is None:
            changed |= Changed.ATTRS | Changed.XATTRS
        else:
            same = [
                (s.st_mode, s.st_uid, s.st_gid, 0 if changed & Changed.NAMES else s.st_mtime_ns,
                 s.st_size * stat.S_ISREG(s.st_mode))
                for s in (st, old)
            ]
            if same[0] != same[1]:
                changed |= Changed.ATTRS
            if not stat.S_ISDIR(st.st_mode) and st.st_nlink != old.st_nlink:
                changed |= Changed.ATTRS
            if attributes != xattrs(self.m._base(origin)):
                changed |= Changed.XATTRS
        if stat.S_ISREG(st.st_mode):
            data = Path(os.fsdecode(full)).read_bytes()
            before = Path(os.fsdecode(self.m._base(origin))).read_bytes() if origin is not None else None
            # An mtime of its own stands for "was written to", if only with the same bytes.
            if before is None or data != before or st.st_mtime_ns != old.st_mtime_ns:
                changed |= Changed.DATA
                content = self.content(data, before)
                if before is not None and b"\0" not in before:
                    ancestor = Ancestor(Identity.of(old), self.objects.put(before) if before else b"")
        return Entry(
            ino=ino, mode=st.st_mode, uid=st.st_uid, gid=st.st_gid, rdev=st.st_rdev, nlink=st.st_nlink,
            size=st.st_size, atime_ns=st.st_atime_ns, mtime_ns=st.st_mtime_ns, ctime_ns=st.st_ctime_ns,
            changed=int(changed), origin=Origin(origin, Identity.of(old)) if origin is not None else None,
            content=content, target=os.readlink(full) if stat.S_ISLNK(st.st_mode) else None,
            xattrs=attributes if changed & Changed.XATTRS else None, opaque=False, ancestor=ancestor,
        )

    def content(self, data, before):
        if self.style == "whole" or before is None:
            limit, before = 0, b""
        else:
            limit = min(len(data), len(before))
        if not limit and len(data) > 1 << 20:
            return Content(len(data), 0, (Extent(0, len(data), self.objects.put(data), 0),))
        extents = []
        under = before[:limit] + bytes(len(data) - limit)
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if block == under[start : start + BLOCK]:
                continue
            last = extents[-1] if extents else None
            if last and last[0] + len(last[1]) == start:
                last[1].extend(block)
            else:
                extents.append((start, bytearray(block)))
        return Content(
            len(data), limit,
            tuple(Extent(o, len(b), self.objects.put(b"pad" + bytes(b)), 3) for o, b in extents),
        )
