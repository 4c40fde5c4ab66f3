"""The merged view of a base and the upper of one run: pure Python, no mount needed."""

from goexfs.overlay.blocking import WouldBlock
from goexfs.overlay.files import Handle
from goexfs.overlay.listing import DirHandle
from goexfs.overlay.nodes import Dir, File, Node, Symlink
from goexfs.overlay.outside import Invalidation
from goexfs.overlay.overlay import Overlay
from goexfs.overlay.sealing import Batch, store_batch

__all__ = [
    "Batch",
    "Dir",
    "DirHandle",
    "File",
    "Handle",
    "Invalidation",
    "Node",
    "Overlay",
    "Symlink",
    "WouldBlock",
    "store_batch",
]
