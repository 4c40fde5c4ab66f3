"""Somebody who changes the base behind an overlay's back, and what the overlay must show then.

Owns an overlay over a base that both the run and the outsider change.  What the mounted overlay shows after a report
must be what a new overlay shows, made from the same upper over the base as it is by then.
"""

import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

from goexfs.overlay import Dir, Invalidation, Overlay, store_batch
from snapshots.layers.base import BaseTree
from snapshots.storage.store import Store
from tests.support import vfs
from tests.support.bases import fill, pattern
from tests.support.strategies import DIRECTORIES, FLAGS, MODES, OFFSETS, PATHS, SIZES, TARGETS, TIMES

Facts = tuple[Any, ...]


class Outsider:
    """An overlay below *area*, the run's operations and the outsider's; *watched* when changes are reported."""

    def __init__(self, area: Path, store: Store, *, seed: int, watched: bool, hard_links: bool = False) -> None:
        self.random = random.Random(seed)
        self.base = area / "base"
        self.base.mkdir()
        fill(self.base, seed, hard_links=hard_links)
        self._store = store
        self._run = store.runs.create(base=os.fsencode(self.base), name=None, command=(), options={}).id
        self._spool = store.runs.directory(self._run) / "spool"
        self._tree = BaseTree(os.fsencode(self.base), max_open=8)
        self._watched, self._hard_links = watched, hard_links
        self._clock = 10**12
        self.overlay = Overlay(
            self._tree, store.upper(self._run).load(), store.objects, self._spool, now_ns=self._now
        )
        self.mount = vfs.Mount(self.overlay, watched=watched, seed=seed)
        self._files: list[vfs.OpenFile] = []
        self.log: list[str] = []

    def _now(self) -> int:
        self._clock += 1000
        return self._clock

    def close(self) -> None:
        """Close everything."""
        self.overlay.close()
        self._tree.close()

    # -- the run

    def step(self) -> None:
        """One operation of the run, which may fail."""
        choose, mount = self.random.choice, self.mount
        path, other, directory = choose(PATHS[:-1]), choose(PATHS[:-1]), choose(DIRECTORIES[1:])
        operation = choose(
            ("read", "read", "write", "write", "open", "close", "truncate", "unlink", "rename", "rename", "mkdir")
            + ("rmdir", "link", "symlink", "chmod", "utime", "xattr", "list", "list", "seal", "forget", "rename_dir")
        )
        self.log.append(f"run: {operation} {path!r} {other!r} {directory!r}")
        try:
            if operation == "read":
                self._read(mount, path)
            elif operation in ("write", "open"):
                if not stat.S_ISFIFO(mount.stat(path, follow=True).mode):
                    file = mount.open(path, choose(FLAGS), 0o644)
                    self._files.append(file)
                    if operation == "write":
                        mount.write(file, choose(OFFSETS), pattern(3, choose(SIZES)))
            elif operation == "close" and self._files:
                mount.close(self._files.pop(self.random.randrange(len(self._files))))
            elif operation == "truncate":
                mount.truncate(path, choose(SIZES))
            elif operation == "unlink":
                mount.unlink(path)
            elif operation == "rename":
                mount.rename(path, other, choose((0, 0, 2)))
            elif operation == "rename_dir":
                mount.rename(directory, choose(DIRECTORIES[1:]), choose((0, 0, 2)))
            elif operation == "mkdir":
                mount.mkdir(directory, 0o755)
            elif operation == "rmdir":
                mount.rmdir(directory)
            elif operation == "link":
                mount.link(path, other)
            elif operation == "symlink":
                mount.symlink(path, choose(TARGETS))
            elif operation == "chmod":
                mount.chmod(path, choose(MODES))
            elif operation == "utime":
                mount.utime(path, choose(TIMES), choose(TIMES), follow=True)
            elif operation == "xattr":
                mount.setxattr(path, b"user.a", b"run", follow=False)
            elif operation == "list":
                self._list(mount, directory)
            elif operation == "seal":
                self.seal()
            elif operation == "forget":
                mount.forget(0.5)
        except OSError as e:
            self.log[-1] += f": {e.strerror}"

    def seal(self) -> None:
        """Store everything."""
        while (batch := self.overlay.collect()) is not None:
            self.overlay.finish(batch, store_batch(batch, self._store, self._run))

    # -- the outsider

    def disturb(self) -> None:
        """One change of the base, and the report of it."""
        choose = self.random.choice
        path, other, directory = choose(PATHS[:-1]), choose(PATHS[:-1]), choose(DIRECTORIES[1:])
        operation = choose(
            ("write", "write", "replace", "replace", "unlink", "create", "mkdir", "rmtree", "rename", "rename", "chmod")
            + ("symlink", "touch", "rename_dir", "append", "link" if self._hard_links else "touch")
        )
        root = os.fsencode(self.base)
        full, full_other, full_dir = (os.path.join(root, each) for each in (path, other, directory))
        above = [os.path.dirname(each) for each in (full, full_other, full_dir)]
        if any(os.path.realpath(each) != each for each in above):
            return  # through a symlink: what is reported is another path
        known = {ino: self._attributes(ino) for ino in self.mount.known()}
        reports = [path]
        self.log.append(f"outside: {operation} {path!r} {other!r} {directory!r}")
        try:
            if operation in ("write", "append", "create"):
                flags = {"write": os.O_WRONLY, "append": os.O_WRONLY | os.O_APPEND, "create": os.O_WRONLY | os.O_CREAT}
                fd = os.open(full, flags[operation] | os.O_NONBLOCK | os.O_NOFOLLOW, 0o640)
                os.pwrite(fd, pattern(7, choose(SIZES)), choose(OFFSETS))
                os.close(fd)
            elif operation == "replace":
                with open(full + b".new", "xb") as file:
                    file.write(pattern(9, choose(SIZES)))
                reports.append(path + b".new")
                try:
                    os.rename(full + b".new", full)
                except OSError:
                    os.unlink(full + b".new")
                    raise
            elif operation == "unlink":
                os.unlink(full)
            elif operation == "mkdir":
                os.mkdir(full_dir)
                reports = [directory]
            elif operation == "rmtree":
                reports = [
                    os.path.relpath(os.path.join(above, name), root)
                    for above, dirs, files in os.walk(full_dir, topdown=False)
                    for name in dirs + files
                ] + [directory]
                shutil.rmtree(full_dir)
            elif operation in ("rename", "rename_dir"):
                if operation == "rename_dir":
                    path, other = directory, choose((b"p", b"q"))
                os.rename(os.path.join(root, path), os.path.join(root, other))
                reports = [path, other]
            elif operation == "chmod":
                if not os.path.islink(full):
                    os.chmod(full, choose(MODES))
            elif operation == "symlink":
                os.symlink(choose(TARGETS), full)
            elif operation == "link":
                os.link(full, full_other, follow_symlinks=False)
                reports = [path, other]
            elif operation == "touch":
                os.utime(full, ns=(choose(TIMES), choose(TIMES)), follow_symlinks=False)
        except OSError as e:
            self.log[-1] += f": {e.strerror}"
            if operation != "replace":
                return
        if self._watched:
            stale = [one for report in reports for one in self.overlay.base_changed(report)]
            self._invalidate(stale, known)
            self.mount.rescue()

    def _invalidate(self, stale: list[Invalidation], known: dict[int, Facts]) -> None:
        inodes = {one.ino for one in stale if one.name is None}
        names = {(one.ino, one.name) for one in stale if one.name is not None}
        for ino, before in known.items():
            if ino in self.overlay.nodes and ino not in inodes and not self.mount.names_of(ino) <= names:
                now = self._attributes(ino)
                assert now == before, f"the kernel believes {before} of {self.overlay.nodes[ino]}, which is {now}"
        for parent, name in names:
            self.mount.invalidate(parent, name)

    def _attributes(self, ino: int) -> Facts:
        node = self.overlay.nodes[ino]
        return node.mode, node.uid, node.gid, node.nlink, node.size, node.mtime_ns, node.ctime_ns

    # -- comparing

    def compare(self) -> None:
        """What is shown is what a new mount would show."""
        self.seal()
        with BaseTree(os.fsencode(self.base)) as tree:
            new = Overlay(tree, self._store.upper(self._run).load(), self._store.objects, self._spool)
            try:
                expected = self._picture(vfs.Mount(new, watched=True))
                got = self._picture(self.mount)
            finally:
                new.close()
        for path in sorted(expected.keys() | got.keys()):
            old, seen = expected.get(path), got.get(path)
            if old and seen and any(isinstance(fact, str) for fact in old[1:]):
                continue  # the content is gone with the base file: only a descriptor that is still open has it
            assert old == seen, f"{path!r}: {seen} is shown, {old} after a remount"

    def _picture(self, mount: vfs.Mount) -> dict[bytes, Facts]:
        found: dict[bytes, Facts] = {}
        todo = [b""]
        while todo:
            path = todo.pop()
            node = mount.stat(path, follow=False)
            facts: list[Any] = [oct(node.mode), node.uid, node.gid]
            if isinstance(node, Dir):
                if not node.changed and not self._is_in_base(node):
                    facts = ["kept for what is in it"]
                todo += [path + b"/" + name if path else name for name in self._list(mount, path)]
            else:
                facts.append(node.size)
                if not node.changed:
                    facts.append(node.mtime_ns)
            if stat.S_ISREG(node.mode):
                facts.append(self._read(mount, path))
            elif stat.S_ISLNK(node.mode):
                facts.append(mount.readlink(path))
            names = mount.listxattr(path, follow=False)
            facts.append({name: mount.getxattr(path, name, follow=False) for name in names})
            found[path] = tuple(facts)
        return found

    def _is_in_base(self, node: Dir) -> bool:
        return node.base_dir is not None and os.path.isdir(
            os.path.join(os.fsencode(self.base), node.base_dir.path, node.base_name)
        )

    def _list(self, mount: vfs.Mount, path: bytes) -> list[bytes]:
        file = mount.open(path, os.O_RDONLY | os.O_DIRECTORY, 0)
        names, _ = mount.readdir(file, 0, 1 << 30)
        mount.close(file)
        return names

    def _read(self, mount: vfs.Mount, path: bytes) -> bytes | str:
        if not stat.S_ISREG(mount.stat(path, follow=True).mode):
            return b""
        try:
            file = mount.open(path, os.O_RDONLY, 0)
        except OSError as e:
            return os.strerror(e.errno or 0)
        try:
            return mount.read(file, 0, 1000)
        except OSError as e:
            return os.strerror(e.errno or 0)
        finally:
            mount.close(file)
