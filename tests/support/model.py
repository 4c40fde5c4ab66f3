"""The same operations on a plain directory and on an overlay, and the comparison of everything that can be seen.

Owns a plain directory, an equal base, an overlay over it with a real store, and open files of both.  Every operation is
a method of `Pair` (see ``strategies``); it fails with an AssertionError when the two sides answer differently.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goexfs.overlay import Batch, Node, Overlay, store_batch
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.slowbase import SlowBaseTree
from snapshots.errors import StoreFull
from snapshots.history.journal import JournalWriter, drop_before
from snapshots.history.recovery import recover
from snapshots.layers.base import BaseTree
from snapshots.layers.tree import UpperTree
from snapshots.merging.merge import merge
from snapshots.review.diff import diff
from snapshots.storage.store import Store
from snapshots.storage.upper import Upper
from tests.support import native, vfs
from tests.support.bases import fill, pattern, traces
from tests.support.outcome import check_diff, check_merged
from tests.support.soundness import check_nothing_unneeded, check_sound

SET_BY_HAND = 10**12
"""Times below were set with utime, here or when the base was made, and must agree to the nanosecond; later ones come
from two clocks."""


class _FullStore(Store):
    """A store whose disk is full by the time the checkpoint is to be written."""

    def __init__(self, store: Store) -> None:
        self.objects = store.objects

    def upper(self, run_id: str) -> Upper:
        raise StoreFull(f"no room for {run_id}")


class _Listing:
    """An open directory on both sides, and what a complete listing must and may hold."""

    def __init__(self, plain: native.OpenFile, over: vfs.OpenFile) -> None:
        self.plain = plain
        self.over = over
        self.rewind()

    def rewind(self) -> None:
        self.position = 0
        self.seen: list[bytes] = []
        self.must: set[bytes] | None = None
        self.may: set[bytes] = set()


class Pair:
    """A plain directory and an overlay that must not be told apart.

    *area* is an empty directory of the caller's.  *slow* makes every question to the base a `WouldBlock`.
    Unless *exact*, the plain directory is on a filesystem that leaves the ctime alone when nothing really changes.
    """

    def __init__(
        self,
        area: Path,
        store: Store,
        *,
        shape: int = 0,
        watched: bool = True,
        slow: bool = False,
        exact: bool = True,
    ) -> None:
        self._area = area
        self.base = area / "base"
        self.plain = area / "plain"
        for top in (self.base, self.plain):
            top.mkdir()
            fill(top, shape)
        self._base_traces = traces(self.base)
        self._native = native.Native(self.plain)
        self.store = store
        self.run_id = store.runs.create(base=os.fsencode(self.base), name=None, command=(), options={}).id
        self._directory = store.runs.directory(self.run_id)
        self.spool = self._directory / "spool"
        self._watched, self._slow, self._seed, self._exact = watched, slow, shape, exact
        self._clock = SET_BY_HAND
        self._files: dict[int, tuple[native.OpenFile, vfs.OpenFile]] = {}
        self._listings: dict[int, _Listing] = {}
        self._batch: Batch | None = None
        self._inodes: dict[int, int] = {}
        self._ctimes: dict[int, tuple[int, int]] = {}
        self._mount()
        if shape % 4 == 0:  # in the others what is in the base is first met by an operation
            self.compare()

    def _now(self) -> int:
        self._clock += 1000
        return self._clock

    def _mount(self) -> None:
        kind = SlowBaseTree if self._slow else LocalBaseTree
        self._tree = kind(os.fsencode(self.base), max_open=8)
        state = self.store.upper(self.run_id).load()
        self.overlay = Overlay(self._tree, state, self.store.objects, self.spool, now_ns=self._now)
        self._journal = JournalWriter(self._directory / "journal", state.journal, self._clock)
        self.overlay.record_in(self._journal.append)
        self._mounted = True
        self.mount = vfs.Mount(self.overlay, watched=self._watched, seed=self._seed)

    def _unmount(self) -> None:
        if not self._mounted:
            return
        self._mounted = False
        self.overlay.close()
        self._tree.close()
        self._journal.close()

    def finish(self) -> None:
        """Compare for the last time, perhaps before and in any case after everything is stored, and close."""
        if self._seed % 6 == 0:
            self.compare()
        self.remount()
        self.compare()
        assert traces(self.base) == self._base_traces, "the base was changed"
        state = self.store.upper(self.run_id).load()
        with BaseTree(os.fsencode(self.base)) as tree:
            check_diff(self.base, self.plain, diff(UpperTree(state), tree, self.store.objects))

    def merge(self) -> None:
        """After `finish`: the base becomes what the plain directory is."""
        self._unmount()
        merge(self.store, self.store.runs.get(self.run_id))
        check_merged(self.base, self.plain, set_by_hand=SET_BY_HAND)

    def abandon(self) -> None:
        """Close every descriptor, also after a failure."""
        for plain, _ in self._files.values():
            os.close(plain.fd)
        for listing in self._listings.values():
            os.close(listing.plain.fd)
        self._files, self._listings = {}, {}
        self._unmount()
        self._native.finish()

    def apply(self, operation: tuple[Any, ...]) -> None:
        """One operation of ``strategies``."""
        getattr(self, operation[0])(*operation[1:])
        for listing in self._listings.values():
            self._note_names(listing)

    # -- comparing

    def _both(self, plain: Callable[[], Any], over: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Both answers, or None when both failed in the same way."""
        try:
            expected, failed = plain(), 0
        except OSError as e:
            expected, failed = None, e.errno or -1
        try:
            got, over_failed = over(), 0
        except OSError as e:
            got, over_failed = None, e.errno or -1
        told = f"{_name(failed)} on the plain directory, {_name(over_failed)} on the overlay ({got})"
        assert failed == over_failed, told
        return None if failed else (expected, got)

    def _same(self, plain: Callable[[], Any], over: Callable[[], Any]) -> Any:
        answers = self._both(plain, over)
        if answers is None:
            return None
        assert answers[0] == answers[1], f"{answers[0]!r} on the plain directory, {answers[1]!r} on the overlay"
        return answers[0]

    def _agree(self, st: os.stat_result, node: Node, what: object) -> None:
        expected = _facts(
            st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_mtime_ns
        )
        got = _facts(node.mode, node.nlink, node.uid, node.gid, node.rdev, node.size, node.mtime_ns)
        assert expected == got, f"{what}: {expected} on the plain directory, {got} on the overlay"
        known = self._inodes.setdefault(st.st_ino, node.ino)
        assert known == node.ino, f"{what}: inode {known} has become {node.ino}"
        before = self._ctimes.get(st.st_ino)
        self._ctimes[st.st_ino] = st.st_ctime_ns, node.ctime_ns
        if before is not None:
            changed, seen = st.st_ctime_ns != before[0], node.ctime_ns != before[1]
            # (tmpfs gives a directory the new ctime of the file that lost its name there, which may be the old one.)
            agree = changed <= seen if node.is_dir or not self._exact else changed == seen
            assert agree, f"{what}: ctime changed: {changed} on the plain directory, {seen} on the overlay"
            assert node.ctime_ns >= before[1] or node.ctime_ns >= SET_BY_HAND, f"{what}: ctime went back"

    def compare(self) -> None:
        """Everything that can be seen of the two trees, and that the overlay is sound in itself."""
        assert len(set(self._inodes.values())) == len(self._inodes), "one inode number for two files"
        self._compare_below(b"")
        self.check()

    def _compare_below(self, path: bytes) -> None:
        self.stat(path, False)
        self.listxattr(path, False)
        mode = self._native.stat(path, follow=False).st_mode
        if stat.S_ISDIR(mode):
            for name in self.list(path):
                self._compare_below(path + b"/" + name if path else name)
        elif stat.S_ISLNK(mode):
            self.readlink(path)
        elif stat.S_ISREG(mode):
            self._compare_content(path)

    def _compare_content(self, path: bytes) -> None:
        size = self._native.stat(path, follow=False).st_size
        plain, over = self._native.open(path, os.O_RDONLY, 0), self.mount.open(path, os.O_RDONLY, 0)
        expected = self._native.read(plain, 0, size)
        at = 0
        for piece in (20, 45, size + 1):
            got = self.mount.read(over, at, piece)
            assert got == expected[at : at + piece], f"{path!r} at {at}: {expected[at : at + piece]!r}, but {got!r}"
            at += len(got)
        self._native.close(plain)
        self.mount.close(over)

    def check(self) -> None:
        """What must hold between the overlay's own tables."""
        files = [file for _, file in self._files.values()] + [each.over for each in self._listings.values()]
        check_sound(self.overlay, self.base, files)

    # -- open files

    def open(self, slot: int, path: bytes, flags: int, mode: int) -> None:
        if self._is_special(path):
            return
        self.close(slot)
        self._opened(
            slot, lambda: self._native.open(path, flags, mode), lambda: self.mount.open(path, flags, mode)
        )

    def open_at(self, slot: int, dir_slot: int, name: bytes, flags: int) -> None:
        listing = self._listings.get(dir_slot)
        if listing is None or self._is_special(name, at=listing.plain):
            return
        self.close(slot)
        self._opened(
            slot,
            lambda: self._native.open(name, flags, 0o600, at=listing.plain),
            lambda: self.mount.open(name, flags, 0o600, at=listing.over),
        )

    def _opened(self, slot: int, plain: Callable[[], native.OpenFile], over: Callable[[], vfs.OpenFile]) -> None:
        files = self._both(plain, over)
        if files is not None:
            self._files[slot] = files
            self._native.hold_open(files[0])
            self.fstat(slot)

    def _is_special(self, path: bytes, *, at: native.OpenFile | None = None) -> bool:
        """Whether the kernel alone handles opening this: FIFOs and sockets."""
        try:
            mode = self._native.stat(path, follow=True, at=at).st_mode
        except OSError:
            return False
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))

    def close(self, slot: int) -> None:
        files = self._files.pop(slot, None)
        if files is not None:
            self._native.close(files[0])
            self.mount.close(files[1])

    def read(self, slot: int, offset: int, size: int) -> None:
        if slot in self._files:
            plain, over = self._files[slot]
            self._same(lambda: self._native.read(plain, offset, size), lambda: self.mount.read(over, offset, size))

    def write(self, slot: int, offset: int, size: int, seed: int) -> None:
        if slot in self._files:
            plain, over = self._files[slot]
            data = pattern(seed, size)
            self._same(lambda: self._native.write(plain, offset, data), lambda: self.mount.write(over, offset, data))

    def ftruncate(self, slot: int, size: int) -> None:
        if slot in self._files:
            plain, over = self._files[slot]
            self._same(lambda: self._native.ftruncate(plain, size), lambda: self.mount.ftruncate(over, size))

    def resize(self, slot: int, first: int, then: int) -> None:
        """What is cut off must not come back."""
        self.ftruncate(slot, first)
        self.ftruncate(slot, then)
        self.read(slot, 0, 1000)

    def fstat(self, slot: int) -> None:
        if slot in self._files:
            plain, over = self._files[slot]
            answers = self._both(lambda: self._native.fstat(plain), lambda: self.mount.fstat(over))
            assert answers is not None
            self._agree(*answers, f"open file {slot}")

    # -- open directories

    def opendir(self, slot: int, path: bytes) -> None:
        self.closedir(slot)
        flags = os.O_RDONLY | os.O_DIRECTORY
        files = self._both(lambda: self._native.open(path, flags, 0), lambda: self.mount.open(path, flags, 0))
        if files is not None:
            self._listings[slot] = _Listing(*files)

    def closedir(self, slot: int) -> None:
        listing = self._listings.pop(slot, None)
        if listing is not None:
            self._native.close(listing.plain)
            self.mount.close(listing.over)

    def rewinddir(self, slot: int) -> None:
        if slot in self._listings:
            self._listings[slot].rewind()

    def listdir(self, slot: int, count: int) -> None:
        listing = self._listings.get(slot)
        if listing is None:
            return
        if listing.must is None:
            listing.must = set()
            self._note_names(listing)
            listing.must = set(listing.may)
        answers = self._both(
            lambda: self._native.names(listing.plain),
            lambda: self.mount.readdir(listing.over, listing.position, count),
        )
        if answers is None:
            return
        names, listing.position = answers[1]
        listing.seen += names
        assert len(set(listing.seen)) == len(listing.seen), f"a name was listed twice: {listing.seen}"
        if len(names) < count:
            seen = set(listing.seen)
            assert listing.must <= seen, f"{listing.must - seen} were never listed"
            assert seen <= listing.may, f"{seen - listing.may} were listed and never there"

    def _note_names(self, listing: _Listing) -> None:
        if listing.must is not None:
            try:
                names = set(self._native.names(listing.plain))
            except FileNotFoundError:  # the directory was removed
                names = set()
            listing.must &= names
            listing.may |= names

    def mkdir_at(self, slot: int, name: bytes) -> None:
        listing = self._listings.get(slot)
        if listing is not None:
            self._same(
                lambda: self._native.mkdir(name, 0o755, at=listing.plain),
                lambda: self.mount.mkdir(name, 0o755, at=listing.over),
            )

    def unlink_at(self, slot: int, name: bytes) -> None:
        listing = self._listings.get(slot)
        if listing is not None:
            self._same(
                lambda: self._native.unlink(name, at=listing.plain),
                lambda: self.mount.unlink(name, at=listing.over),
            )

    # -- paths

    def stat(self, path: bytes, follow: bool) -> None:
        answers = self._both(
            lambda: self._native.stat(path, follow=follow), lambda: self.mount.stat(path, follow=follow)
        )
        if answers is not None:
            if not follow:
                self._native.hold(path)
            elif answers[0].st_ino not in self._inodes:
                return  # reached through a link only: nothing keeps its number
            self._agree(*answers, path)

    def readlink(self, path: bytes) -> None:
        self._same(lambda: self._native.readlink(path), lambda: self.mount.readlink(path))

    def list(self, path: bytes) -> list[bytes]:
        """The names of a directory, compared; empty when it cannot be opened."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        files = self._both(lambda: self._native.open(path, flags, 0), lambda: self.mount.open(path, flags, 0))
        if files is None:
            return []
        names: list[bytes] = self._same(
            lambda: sorted(self._native.names(files[0])), lambda: sorted(self.mount.readdir(files[1], 0, 1 << 30)[0])
        )
        self._native.close(files[0])
        self.mount.close(files[1])
        return names

    def mkdir(self, path: bytes, mode: int) -> None:
        if path:
            self._same(lambda: self._native.mkdir(path, mode), lambda: self.mount.mkdir(path, mode))

    def mknod(self, path: bytes, mode: int) -> None:
        if path:
            self._same(lambda: self._native.mknod(path, mode), lambda: self.mount.mknod(path, mode))

    def symlink(self, path: bytes, target: bytes) -> None:
        if path:
            self._same(lambda: self._native.symlink(path, target), lambda: self.mount.symlink(path, target))

    def link(self, old: bytes, new: bytes) -> None:
        if old and new:
            self._same(lambda: self._native.link(old, new), lambda: self.mount.link(old, new))

    def unlink(self, path: bytes) -> None:
        if path:
            self._same(lambda: self._native.unlink(path), lambda: self.mount.unlink(path))

    def rmdir(self, path: bytes) -> None:
        if path:
            self._same(lambda: self._native.rmdir(path), lambda: self.mount.rmdir(path))

    def rmtree(self, path: bytes) -> None:
        try:
            if not path or not stat.S_ISDIR(self._native.stat(path, follow=False).st_mode):
                return
        except OSError:
            return
        for name in self.list(path):
            below = path + b"/" + name
            if stat.S_ISDIR(self._native.stat(below, follow=False).st_mode):
                self.rmtree(below)
            else:
                self.unlink(below)
        self.rmdir(path)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if old and new:
            self._same(lambda: self._native.rename(old, new, flags), lambda: self.mount.rename(old, new, flags))

    rename_dir = rename

    def truncate(self, path: bytes, size: int) -> None:
        if not self._is_special(path):
            self._same(lambda: self._native.truncate(path, size), lambda: self.mount.truncate(path, size))

    def chmod(self, path: bytes, mode: int) -> None:
        self._same(lambda: self._native.chmod(path, mode), lambda: self.mount.chmod(path, mode))

    def chmod_dir(self, path: bytes, mode: int) -> None:
        try:
            if stat.S_ISDIR(self._native.stat(path, follow=True).st_mode):
                self.chmod(path, mode)
        except OSError:
            return

    def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> None:
        if uid != -1 or gid != -1:
            self._same(
                lambda: self._native.chown(path, uid, gid, follow=follow),
                lambda: self.mount.chown(path, uid, gid, follow=follow),
            )

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int, follow: bool) -> None:
        done = self._both(
            lambda: self._native.utime(path, atime_ns, mtime_ns, follow=follow),
            lambda: self.mount.utime(path, atime_ns, mtime_ns, follow=follow),
        )
        if done is not None:
            node = self.mount.stat(path, follow=follow)
            assert (node.atime_ns, node.mtime_ns) == (atime_ns, mtime_ns)

    def setxattr(self, path: bytes, name: bytes, value: bytes, follow: bool) -> None:
        self._same(
            lambda: self._native.setxattr(path, name, value, follow=follow),
            lambda: self.mount.setxattr(path, name, value, follow=follow),
        )

    setacl = setxattr

    def removeacl(self, path: bytes, name: bytes, follow: bool) -> None:
        self.removexattr(path, name, follow)

    def getxattr(self, path: bytes, name: bytes, follow: bool) -> None:
        self._same(
            lambda: self._native.getxattr(path, name, follow=follow),
            lambda: self.mount.getxattr(path, name, follow=follow),
        )

    def listxattr(self, path: bytes, follow: bool) -> None:
        names = self._same(
            lambda: sorted(self._native.listxattr(path, follow=follow)),
            lambda: sorted(self.mount.listxattr(path, follow=follow)),
        )
        for name in names or ():
            self.getxattr(path, name, follow)

    def removexattr(self, path: bytes, name: bytes, follow: bool) -> None:
        self._same(
            lambda: self._native.removexattr(path, name, follow=follow),
            lambda: self.mount.removexattr(path, name, follow=follow),
        )

    # -- of the overlay only

    def collect(self) -> None:
        """Begin to seal what is dirty."""
        if self._batch is None:
            self._batch = self.overlay.collect(self._journal.rotate(self._clock))

    def store_batch(self, succeeds: bool) -> None:
        """What was collected is stored, or cannot be."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        try:
            stored = store_batch(batch, self.store if succeeds else _FullStore(self.store), self.run_id)
        except StoreFull:
            self.overlay.give_back(batch)
        else:
            drop_before(self._directory / "journal", batch.journal)
            self.overlay.finish(batch, stored)

    def forget(self, chance: float) -> None:
        """The kernel forgets inodes."""
        self.mount.forget(chance)

    def seal(self) -> None:
        """Store everything."""
        self.store_batch(True)
        for _ in range(3):
            self.collect()
            self.store_batch(True)
        assert not self.overlay.dirty, "never clean"

    def remount(self) -> None:
        """Close everything, store everything, and mount what is in the store."""
        for slot in list(self._files):
            self.close(slot)
        for slot in list(self._listings):
            self.closedir(slot)
        self.seal()
        self.mount.forget_everything()
        check_nothing_unneeded(self.overlay)
        self._unmount()
        assert not os.listdir(self.spool), "working files were left behind"
        self._mount()

    def crash(self, stored: bool) -> None:
        """The filesystem process is killed, perhaps when a batch was *stored* and the overlay did not know yet.

        The journal has what is missing.
        """
        for plain, _ in self._files.values():
            self._native.close(plain)
        for listing in self._listings.values():
            self._native.close(listing.plain)
        self._files, self._listings = {}, {}
        if self._batch is not None and stored:
            store_batch(self._batch, self.store, self.run_id)
        self._batch = None
        self._unmount()
        found = recover(self.store, self.run_id)
        assert found is None or (found.damage is None and not found.lost), found
        assert not os.listdir(self.spool), "working files were left behind"
        self._mount()


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "no error"


def _facts(mode: int, nlink: int, uid: int, gid: int, rdev: int, size: int, mtime_ns: int) -> dict[str, object]:
    return {
        "mode": oct(mode),
        "nlink": nlink,
        "uid": uid,
        "gid": gid,
        "rdev": rdev,
        "size": -1 if stat.S_ISDIR(mode) else size,
        "mtime_ns": mtime_ns if mtime_ns < SET_BY_HAND else "now",
    }
