"""The nodes of the merged view, one per inode the kernel knows or the run has changed.

Owns what a node remembers; knows neither how nodes are found nor how they change (``view``, ``names``, ``files``).
The fields are the truth for a changed node and the cache for an unchanged one: a request about metadata reads them
and makes no system call. What few nodes have (`Rare`) all others share: there are many of them. Event-loop thread only.
"""

import os
import stat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from goexfs.overlay.content import BaseFile, Content
from goexfs.overlay.given import Given
from snapshots.entries import Ancestor, Hidden, Identity
from snapshots.layers.base import BaseDir

_MODES: dict[int, int] = {}
"""every mode that was ever seen"""
_TIMES: dict[int, int] = {}
"""times seen of late: what was made together was made at the same tick of the clock"""
_TIMES_LIMIT = 1024

T = TypeVar("T")


class Rare:
    """Fields of a node that most have nothing to say in."""

    __slots__ = ("ancestor", "content", "identity", "links", "rdev", "stored", "timed", "writers", "xattrs")

    def __init__(self) -> None:
        self.ancestor = self.content = self.identity = self.links = self.xattrs = None
        self.rdev = self.writers = 0
        self.stored = self.timed = False


_NOTHING = Rare()
"""of all nodes in which nothing of that was ever set; never changed"""


class _Rarely(property, Generic[T]):
    """A field that is in `Rare`; the node gets one of its own when another value than the default is set."""

    def __init__(self, name: str, default: T) -> None:
        def change(node: "Node", value: T) -> None:
            if node.rare is _NOTHING:
                if value == default:
                    return
                node.rare = Rare()
            setattr(node.rare, name, value)

        super().__init__(attrgetter(f"rare.{name}"), change)

    if TYPE_CHECKING:

        def __get__(self, node: Any, owner: type | None = None) -> T: ...  # type: ignore[override]

        def __set__(self, node: Any, value: T) -> None: ...


def _same_time(ns: int) -> int:
    """The one object for this time."""
    if len(_TIMES) >= _TIMES_LIMIT:
        _TIMES.clear()
    return _TIMES.setdefault(ns, ns)


class Node:
    """One inode.  Subclasses: `Dir`, `File`, `Symlink`; a `Node` itself is a FIFO, socket or device."""

    __slots__ = (
        "atime_ns",
        "base_dir",
        "base_name",
        "blocks",
        "changed",
        "ctime_ns",
        "dev",
        "base_ino",
        "gid",
        "ino",
        "kept",
        "lookups",
        "mode",
        "mtime_ns",
        "name",
        "nlink",
        "opens",
        "parent",
        "rare",
        "ruling",
        "size",
        "uid",
        "__weakref__",
    )

    rdev = _Rarely[int]("rdev", 0)
    links = _Rarely["set[tuple[Dir, bytes]] | None"]("links", None)
    """all known names when there is more than one, else None"""
    identity = _Rarely[Identity | None]("identity", None)
    """of the base inode when the run first changed the node"""
    stored = _Rarely[bool]("stored", False)
    """whether the last checkpoint has an entry of it"""
    xattrs = _Rarely[dict[bytes, bytes] | None]("xattrs", None)
    """the complete set once the run changed one, else None: as in the base"""

    def __init__(self, ino: int, mode: int) -> None:
        self.rare = _NOTHING
        self.ino = ino
        self.mode = mode
        self.uid = 0
        self.gid = 0
        self.nlink = 1
        self.size = 0
        self.blocks = 0
        """in units of 512 bytes"""
        self.atime_ns = 0
        self.mtime_ns = 0
        self.ctime_ns = 0
        self.parent: Dir | None = None
        """the directory of the node's first known name; None for the root and for a node without a name"""
        self.name = b""
        self.base_dir: BaseDir | None = None
        """the base directory the node came from; None when the run created it"""
        self.base_name = b""
        self.dev = 0
        """of the base inode; 0 when the run created the node"""
        self.base_ino = 0
        self.changed = 0
        """a set of `snapshots.entries.Changed` bits"""
        self.kept = False
        """whether the node belongs to the upper: changed, moved, or a directory on the way to such a node"""
        self.lookups = 0
        """how often the kernel was told of the node and has not yet forgotten it"""
        self.opens = 0
        """open handles"""
        self.ruling = -1
        """for the guard: what the policy says of the node; -1 when it was not asked"""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ino} {self.name!r}>"

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return False

    def take(self, st: os.stat_result) -> None:
        """Take over every attribute of a base inode; equal numbers become one object, since there are many nodes."""
        self.mode = _MODES.setdefault(st.st_mode, st.st_mode)
        self.uid = st.st_uid
        self.gid = st.st_gid
        self.rdev = st.st_rdev
        self.nlink = st.st_nlink
        self.size = st.st_size
        self.blocks = st.st_blocks
        self.mtime_ns = _same_time(st.st_mtime_ns)
        self.atime_ns = _same_time(st.st_atime_ns)
        self.ctime_ns = _same_time(st.st_ctime_ns)

    def same_as(self, st: os.stat_result) -> bool:
        """Whether an unchanged node still is what the base shows (access time apart, and the size of what is
        masked)."""
        return (
            self.base_ino == st.st_ino
            and self.mtime_ns == st.st_mtime_ns
            and self.ctime_ns == st.st_ctime_ns
            and self._base_size() == st.st_size
            and self.nlink == st.st_nlink
            and self.mode == st.st_mode
            and self.dev == st.st_dev
        )

    def _base_size(self) -> int:
        return self.size

    def came_from(self, base: BaseDir, name: bytes) -> bool:
        """Whether *name* in *base* is the place in the base that is remembered of the node."""
        mine = self.base_dir
        if mine is None or self.base_name != name:
            return False
        return mine is base or (mine.name == base.name and mine.path == base.path)

    def base_identity(self) -> Identity:
        """The identity of the base inode, from the attributes of a node that is still unchanged."""
        return Identity(self.dev, self.base_ino, self.mode, self.size, self.mtime_ns, self.ctime_ns)

    def names(self) -> list[tuple["Dir", bytes]]:
        """Every known (directory, name) of this node."""
        if self.links is not None:
            return sorted(self.links, key=lambda link: (link[0].ino, link[1]))
        return [] if self.parent is None else [(self.parent, self.name)]

    def add_name(self, parent: "Dir", name: bytes) -> None:
        """Remember one more name."""
        if self.parent is None:
            self.parent, self.name = parent, name
        elif (self.parent, self.name) != (parent, name):
            if self.links is None:
                self.links = {(self.parent, self.name)}
            self.links.add((parent, name))

    def drop_name(self, parent: "Dir", name: bytes) -> None:
        """Forget a name; another known one takes its place as the first."""
        if self.links is not None:
            self.links.discard((parent, name))
            if (self.parent, self.name) == (parent, name):
                self.parent, self.name = next(iter(self.links))
            if len(self.links) == 1:
                self.links = None
        elif (self.parent, self.name) == (parent, name):
            self.parent, self.name = None, b""


class Whiteout:
    """The type of `WHITEOUT`, which stands in ``Dir.children`` for a name that the base has and the run does not."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "WHITEOUT"


WHITEOUT = Whiteout()


class Dir(Node):
    """A directory: its known names, and the base directory that shows through."""

    __slots__ = ("aliases", "base", "children", "default_acl", "hidden", "hides", "numbered")

    def __init__(self, ino: int, mode: int) -> None:
        super().__init__(ino, mode)
        self.children: dict[bytes, Node | Whiteout] = {}
        """names that are loaded, created or whited out; a name that is absent here may still be in ``base``"""
        self.base: BaseDir | None = None
        """where unlisted names are looked up; None when nothing shows through"""
        self.hidden: frozenset[bytes] = frozenset()
        """base names that this run must not see (the store, the mountpoint)"""
        self.hides: dict[bytes, Hidden] | None = None
        """what the base had at names that the run deleted, moved away or replaced, where that is known"""
        self.default_acl: bytes | None = None
        """the base's default ACL, for as long as the run has set no attribute;

        empty when there is none, None until the base was asked.
        """
        self.aliases: set[bytes] | None = None
        """names that are in the base only and lead to kept nodes: the other hard links of what the run changed"""
        self.numbered: list[bytes] | None = None
        """names by the position that they have in listings; never changed, only replaced"""

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return True

    def shows(self, node: Node, name: bytes) -> bool:
        """Whether *name* in this directory is a place in the base that *node* came from.

        Of a node that is not kept every name is; of another the one it was first found at, and its aliases.
        """
        if self.base is None:
            return False
        return not node.kept or node.came_from(self.base, name) or self.is_alias(name)

    def hidden_at(self, name: bytes) -> Hidden | None:
        """What of the base a name hides, if that is known."""
        return self.hides.get(name) if self.hides is not None else None

    def hide(self, name: bytes, hidden: Hidden | None) -> None:
        """Remember what of the base a name hides; None: nothing."""
        if hidden is not None:
            self.hides = self.hides or {}
            self.hides[name] = hidden
        elif self.hides is not None:
            self.hides.pop(name, None)

    def is_alias(self, name: bytes) -> bool:
        """Whether *name* is in ``aliases``."""
        return self.aliases is not None and name in self.aliases


class File(Node):
    """A regular file."""

    __slots__ = ("base_file", "pushed")

    content = _Rarely[Content | Given | None]("content", None)
    """None while the content is the base file's"""
    ancestor = _Rarely[Ancestor | None]("ancestor", None)
    """what the base had in this place, once it is kept"""
    writers = _Rarely[int]("writers", 0)
    """open handles that may write"""
    timed = _Rarely[bool]("timed", False)
    """for the adapter: whoever has the file open keeps its times and said what they are; writes leave them alone"""

    def __init__(self, ino: int, mode: int) -> None:
        super().__init__(ino, mode)
        self.base_file: BaseFile | None = None
        """how the base file is read while a handle or the content needs it"""
        self.pushed = False
        """for the adapter: the content was pushed into the page cache"""

    def give(self, given: Given) -> None:
        """Show this instead of the base file's content."""
        self.content, self.size, self.blocks = given, given.size, given.blocks()

    def take(self, st: os.stat_result) -> None:
        """Take over every attribute of a base inode, but not the size of what another content stands for."""
        super().take(st)
        if isinstance(self.content, Given):
            self.content.base_size = st.st_size
            self.give(self.content)

    def _base_size(self) -> int:
        return self.content.base_size if isinstance(self.content, Given) else self.size


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, ino: int, mode: int) -> None:
        super().__init__(ino, mode)
        self.target: bytes | None = None
        """None until the base was asked"""


def new_node(ino: int, mode: int) -> Node:
    """A fresh node of the kind that *mode* says."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFREG:
        return File(ino, mode)
    if kind == stat.S_IFDIR:
        return Dir(ino, mode)
    if kind == stat.S_IFLNK:
        return Symlink(ino, mode)
    return Node(ino, mode)
