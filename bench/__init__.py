"""Measures goexfs against the native filesystem and its peers: the same workloads, tree and disk, interleaved.

``subjects`` are the filesystems, ``trees`` what they show, ``workloads`` what is done in them, ``measure`` the order
and the clock, ``requests`` what goexfs was asked, ``lifecycle`` what only goexfs can do, ``report`` the table, the JSON
and the picture.  Run by ``scripts/bench``; needs root for kernel overlayfs and for dropping caches.
"""
