"""The merged view: which node a name leads to.

Owns how base inodes become nodes and are forgotten again; the table they are in is `table`.  Knows no open
files and changes nothing that a run would keep.  Event-loop thread only.
"""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from weakref import WeakValueDictionary

from goexfs.overlay.changes import Changes
from goexfs.overlay.content import BaseFile, FrozenSpool, Inline, ObjectReader, Spool
from goexfs.overlay.descriptors import DescriptorPool
from goexfs.overlay.guard import Guard
from goexfs.overlay.localbase import LocalBaseTree
from goexfs.overlay.meter import Meter, held
from goexfs.overlay.nodes import WHITEOUT, Dir, File, Node, Symlink, Whiteout, new_node
from goexfs.overlay.table import NodeTable
from goexfs.overlay.working import WorkingFiles
from snapshots.entries import ROOT_INO
from snapshots.layers.base import BaseDir, BaseTree

NAME_MAX = 255


def error(number: int) -> OSError:
    """An OSError that says nothing more than its errno."""
    return OSError(number, os.strerror(number))


class View(NodeTable):
    """All nodes of one run.

    *hidden* are paths below the base that the run must not see and the view must not touch (the store, the
    mountpoint: a stat of the own mountpoint would wait for ourselves).
    """

    def __init__(
        self, base: BaseTree, objects: ObjectReader, spool: Path, *, hidden: frozenset[bytes], next_ino: int,
        guard: Guard | None = None,
    ) -> None:  # fmt: skip
        super().__init__(base.dev, next_ino)
        self.base = base
        self.objects = objects
        self.working = WorkingFiles(spool)
        self.pool = DescriptorPool()
        self.guard = guard
        """what the policy says; None when there is none"""
        self.meter: Meter | None = None
        """counts what there is a limit for; None when nothing is limited"""
        self.changes = Changes(self._complete)
        self.follow_content: Callable[[File, os.stat_result], object] = lambda node, st: None
        """to be set: what becomes of a kept file without content of its own, when the base has another one"""
        self.base_watched = False
        """whether changes of the base are reported; if not, every lookup of an unchanged node asks the base again"""
        self.partial: set[File] = set()
        """partly copied files, which still need their base files"""
        self.elsewhere = False
        """whether a base file may be loaded under another name than the base's: a hard link, or moved"""
        self.away: WeakValueDictionary[bytes, File] = WeakValueDictionary()
        """kept files by their places in the base, of which they may not be found by name: they were moved"""
        self.orphans: set[File] = set()
        """files that lost their last name and are still open, or known to the kernel"""
        self._dirs: dict[bytes, Dir] = {}
        """loaded directories by the path of their base"""
        self._hidden: dict[bytes, set[bytes]] = {}
        for path in hidden:
            above, _, name = path.rpartition(b"/")
            self._hidden.setdefault(above, set()).add(name)
        self.root = self._make_root()

    def _make_root(self) -> Dir:
        st = self.base.stat_dir(self.base.root)
        root = Dir(ROOT_INO, st.st_mode)
        root.take(st)
        root.dev, root.base_ino = st.st_dev, st.st_ino
        root.lookups = 1  # the kernel never forgets it
        root.kept = True
        root.base_dir, root.base_name = self.base.root, b"."
        self.nodes[ROOT_INO] = root
        self._aliases[(st.st_dev, st.st_ino)] = root
        self.attach_base(root, self.base.root)
        return root

    def attach_base(self, directory: Dir, base: BaseDir | None) -> None:
        """Let *base* show through *directory*."""
        directory.base = base
        if base is not None:
            path = base.path
            self._dirs[path] = directory
            hidden = self._hidden.get(path)
            directory.hidden = frozenset(hidden) if hidden else frozenset()

    def detach_base(self, directory: Dir) -> None:
        """Nothing of the base shows through *directory* any more."""
        if directory.base is not None and self._dirs.get(directory.base.path) is directory:
            del self._dirs[directory.base.path]
        directory.base = None

    def is_hidden(self, path: bytes) -> bool:
        """Whether *path* in the base is hidden, or lies below something that is."""
        while path and self._hidden:
            path, _, name = path.rpartition(b"/")
            if name in self._hidden.get(path, ()):
                return True
        return False

    def dir_over(self, path: bytes) -> Dir | None:
        """The loaded directory that the base directory at *path* shows through."""
        return self._dirs.get(path)

    def loaded_dirs(self) -> list[tuple[bytes, Dir]]:
        """Every loaded directory that shows one of the base, with that one's path."""
        return list(self._dirs.items())

    def directly(self) -> AbstractContextManager[None]:
        """Meanwhile the base is asked at once, whether the answer is in memory or not.

        For what happens outside of requests.  (A base that may be slow is not asked then either.)
        """
        return self.base.directly() if isinstance(self.base, LocalBaseTree) else nullcontext()

    def unregister(self, node: Node) -> None:
        """Take a node out of the tables; its files are closed, its spool is removed."""
        if self.nodes.get(node.ino) is node:
            del self.nodes[node.ino]
        if self._aliases.get((node.dev, node.base_ino)) is node:
            del self._aliases[(node.dev, node.base_ino)]
        if isinstance(node, Dir):
            if node.base is not None:
                self.base.rest(node.base)
            self.detach_base(node)
        elif isinstance(node, File):
            self.orphans.discard(node)
            self.partial.discard(node)
            if node.base_file is not None:
                node.base_file.close()
            content = node.content
            if content is not None and self.meter is not None:
                self.meter.changed(-held(content))
            if isinstance(content, Spool) or (isinstance(content, FrozenSpool) and content.given_back):
                content.discard()  # another frozen one belongs to the batch that is being stored
            elif isinstance(content, Inline):
                self.changes.inline_bytes -= content.size
            node.content = None

    # -- names

    def lookup(self, parent: Node, name: bytes) -> Node:
        """The node of a name; ENOENT, ENOTDIR, ENAMETOOLONG.  Does not count as a lookup of the kernel."""
        if not isinstance(parent, Dir):
            raise error(errno.ENOTDIR)
        child = parent.children.get(name)
        if child is None:
            return self._load(parent, name)
        if isinstance(child, Whiteout):
            raise error(errno.ENOENT)
        if not self.base_watched and (parent.shows(child, name) or _shows_base(child)):
            if not child.kept or parent.is_alias(name):
                return self._again(parent, name, child)
            self.refresh(child)
            return _child_of(parent, name)  # another one when its content is
        return child

    def find(self, parent: Node, name: bytes) -> Node | None:
        """Like `lookup`, but None for a name that is not there."""
        try:
            return self.lookup(parent, name)
        except FileNotFoundError:
            return None

    def base_has(self, parent: Dir, name: bytes) -> bool:
        """Whether the base has *name* below what shows through *parent*: removing it then takes a whiteout."""
        if parent.base is None or name in parent.hidden:
            return False
        try:
            self.base.stat(parent.base, name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as e:
            if e.errno in (errno.ESTALE, errno.ENAMETOOLONG):
                return False
            raise
        return True

    def _load(self, parent: Dir, name: bytes) -> Node:
        if parent.base is None or name in parent.hidden:
            if len(name) > NAME_MAX:
                raise error(errno.ENAMETOOLONG)
            raise error(errno.ENOENT)
        guard = self.guard
        try:
            st = self.base.stat(parent.base, name)
        except OSError as e:
            canary = None if guard is None else guard.hatch(parent, name, self.new_number)
            if canary is not None:
                return self._enter_canary(parent, name, canary)
            raise error(errno.ENOENT if e.errno in (errno.ESTALE, errno.ENOTDIR) else e.errno or errno.EIO) from None
        if guard is None:
            return self.adopt(parent, name, st)
        return self._adopt_guarded(guard, parent, name, st)

    def _adopt_guarded(self, guard: Guard, parent: Dir, name: bytes, st: os.stat_result) -> Node:
        """As `adopt`, for what the run may see; masked if it is to be."""
        masked = guard.admit(parent, name, st)
        node = self.adopt(parent, name, st)
        if masked and isinstance(node, File) and node.content is None:
            guard.mask(node, parent, name, st)
        return node

    def _enter_canary(self, parent: Dir, name: bytes, node: File) -> Node:
        known = self.nodes.get(node.ino)
        if isinstance(known, File):  # the kernel, or an open file, still knows it
            node = known
        parent.children[name] = node
        node.add_name(parent, name)
        self.register(node)
        return node

    def _again(self, parent: Dir, name: bytes, child: Node) -> Node:
        """An unwatched base: is *name* still what it was?"""
        assert parent.base is not None
        if not child.dev:
            return child  # a canary
        try:
            st = self.base.stat(parent.base, name)
        except OSError:
            self.drop_child(parent, name, child)
            raise error(errno.ENOENT) from None
        if child.same_as(st):
            return child
        return self.replace(parent, name, child, st)

    def replace(self, parent: Dir, name: bytes, child: Node, st: os.stat_result) -> Node:
        """The base shows something else than the unchanged *child* at *name*."""
        if (
            isinstance(child, Dir)
            and stat.S_ISDIR(st.st_mode)
            and child.base_ino == st.st_ino
            and child.dev == st.st_dev
        ):
            child.default_acl = None
            child.take(st)  # the same directory with other names or attributes: a directory has no content to mix up
            return child
        self.drop_child(parent, name, child)
        return self.adopt(parent, name, st) if self.guard is None else self._adopt_guarded(self.guard, parent, name, st)

    def drop_child(self, parent: Dir, name: bytes, child: Node) -> None:
        """The base no longer has the unchanged *child* at *name*.  What is open stays readable through its
        descriptor.
        """
        if parent.children.get(name) is child:
            del parent.children[name]
        if parent.aliases is not None:
            parent.aliases.discard(name)
        child.drop_name(parent, name)
        if isinstance(child, Dir):
            self._leave(child)
        if child.parent is None and not child.kept:
            # Its number may come back for another file while the kernel still knows this one: the table must not
            # confuse them.
            if self._aliases.get((child.dev, child.base_ino)) is child:
                del self._aliases[(child.dev, child.base_ino)]
            child.base_ino = 0
            if not child.lookups and not child.opens:
                self.unregister(child)
        elif not child.kept and (child.base_dir, child.base_name) == (parent.base, name):
            # A hard link: what is left of it is found under another name from now on.
            assert child.parent is not None
            child.base_dir, child.base_name = child.parent.base, child.name
            if isinstance(child, File) and child.base_file is not None:
                child.base_file.close()
                child.base_file = None

    def _leave(self, top: Dir) -> None:
        """The base no longer has the unchanged directory *top*, nor anything below it."""
        directories = [top]
        for directory in directories:  # which grows on the way
            if directory.base is not None:
                self.base.release(directory.base)
                self.detach_base(directory)
            directories += [child for child in directory.children.values() if isinstance(child, Dir)]
        for directory in reversed(directories):
            for name, child in list(directory.children.items()):
                if isinstance(child, Node):
                    self.drop_child(directory, name, child)

    def follow(self, directory: Dir, st: os.stat_result | None) -> None:
        """The base has another directory, or none, where the one was that shows through a kept *directory*."""
        if directory.base is not None:
            self.base.release(directory.base)
        if st is not None and stat.S_ISDIR(st.st_mode) and not directory.changed:
            if self._aliases.get((directory.dev, directory.base_ino)) is directory:
                del self._aliases[(directory.dev, directory.base_ino)]
            directory.take(st)
            directory.dev, directory.base_ino = st.st_dev, st.st_ino
            self.register(directory)

    def adopt(self, parent: Dir, name: bytes, st: os.stat_result) -> Node:
        """The node of the base inode *st* found at *name*: the one that is loaded already (a hard link), or a new
        one.
        """
        if st.st_nlink > 1:
            self.elsewhere = True
        node = self.of_base(st.st_dev, st.st_ino)
        if node is not None:
            same_kind = stat.S_IFMT(node.mode) == stat.S_IFMT(st.st_mode)
            linked = st.st_nlink > 1 and not node.is_dir
            if same_kind and linked and (node.changed or node.same_as(st)):
                parent.children[name] = node
                node.add_name(parent, name)
                if node.kept:
                    parent.aliases = {*(parent.aliases or ()), name}
                return node
            if not node.kept and not node.lookups and not node.opens and isinstance(node, File | Symlink):
                for directory, known in node.names():
                    self.drop_child(directory, known, node)
        node = new_node(self._number_for(st), st.st_mode)
        node.take(st)
        node.dev = self.base.dev if st.st_dev == self.base.dev else st.st_dev  # one object
        node.base_ino = st.st_ino
        assert parent.base is not None
        node.base_dir, node.base_name = parent.base, name
        node.add_name(parent, name)
        parent.children[name] = node
        self.register(node)
        if isinstance(node, Dir):
            self.attach_base(node, self.base.child(parent.base, name))
        return node

    def remember(self, node: Node, count: int = 1) -> None:
        """The kernel was told of *node*."""
        node.lookups += count

    def forget(self, ino: int, count: int) -> None:
        """The kernel forgot *count* lookups of an inode; an unchanged node that nothing needs is dropped."""
        node = self.nodes.get(ino)
        if node is None:
            return
        node.lookups -= count
        if node.lookups <= 0:
            node.lookups = 0
            self.release_if_unused(node)

    def release_if_unused(self, node: Node) -> None:
        """Drop a node from memory unless something still needs it; then perhaps the directories above it."""
        unused = [node]
        while unused:
            node = unused.pop()
            if node.lookups or node.opens or node is self.root or self.nodes.get(node.ino) is not node:
                continue
            if node.nlink and node.kept:
                continue  # also without a name: a hard link of the base whose other names were never asked for
            if node.parent is not None and isinstance(node, Dir) and _leads_on(node):
                continue
            for directory, name in node.names():
                if directory.children.get(name) is node:
                    del directory.children[name]
                unused.append(directory)
            node.parent, node.links = None, None
            self.unregister(node)

    # -- the base below a node

    def base_file(self, node: File) -> BaseFile:
        """How to read the base file of *node*."""
        if node.base_file is None:
            if node.base_dir is None:
                raise error(errno.ESTALE)
            node.base_file = BaseFile(self.base, node.base_dir, node.base_name, node.dev, _ino_of(node), self.pool)
        return node.base_file

    def trust(self, node: File) -> BaseFile:
        """The base file of a *node* that is about to be copied in part only; it has to stay as it is."""
        base_file = self.base_file(node)
        base_file.trusted = node.identity
        self.partial.add(node)
        return base_file

    def trust_no_longer(self, node: File) -> None:
        """Nothing of the content is in the base any more; the base file is closed with the last handle."""
        self.partial.discard(node)
        if node.base_file is not None and node.base_file.trusted is not None:
            node.base_file.trusted = None
            if not node.opens:
                node.base_file.close()

    def _complete(self, node: Node) -> None:
        """A symlink that the run keeps must not lose its target with the base."""
        if isinstance(node, Symlink) and node.target is None and node.base_dir is not None:
            try:
                node.target = self.base.readlink(node.base_dir, node.base_name)
            except OSError:
                pass

    def refresh(self, node: Node) -> None:
        """Ask an unwatched base again for what the run did not change of a node."""
        if node.base_dir is None or not node.base_ino:
            return
        try:
            if node is self.root:
                st = self.base.stat_dir(self.base.root)
            else:
                st = self.base.stat(node.base_dir, node.base_name)
        except OSError:
            st = None  # it is gone; the next lookup will say so, and an open handle keeps what it has
        if isinstance(node, File) and node.changed:
            if st is not None:
                self.follow_content(node, st)
        elif st is None or (st.st_dev, st.st_ino) != (node.dev, node.base_ino):
            if isinstance(node, Dir):
                self.follow(node, st)
        elif not node.changed and not node.same_as(st):
            node.take(st)


def _ino_of(node: Node) -> int:
    return node.identity.ino if node.identity is not None else node.base_ino


def _shows_base(node: Node) -> bool:
    """Whether the content of a kept node is the base's; perhaps it was moved."""
    return node.kept and isinstance(node, File) and node.content is None and node.base_dir is not None


def _child_of(parent: Dir, name: bytes) -> Node:
    child = parent.children[name]
    assert isinstance(child, Node)
    return child


def _leads_on(directory: Dir) -> bool:
    return any(child is not WHITEOUT for child in directory.children.values())
