"""Large files while they are written: sealed in the middle they become several objects, so that waits for a while."""

import os

from goexfs.fuse import seal
from goexfs.fuse.seal import Sealer
from tests.overlay.scene import Scene

LARGE = bytes(1 << 20)


def test_a_large_file_that_is_being_written_is_left_alone_for_a_while(area, store):
    scene = Scene(area, store)
    try:
        sealer = Sealer(scene.overlay, scene.run, lambda: store)
        scene.write(b"small", 0, b"x")
        assert sealer.is_time(seal.AT_MOST_SECONDS, 1)
        file = scene.mount.open(b"large", os.O_RDWR | os.O_CREAT, 0o644)
        scene.mount.write(file, 0, LARGE)
        assert not sealer.is_time(seal.AT_MOST_SECONDS, 2)
        assert sealer.is_time(seal.LARGE_AT_MOST_SECONDS, 2), "not for ever"
        assert sealer.is_time(seal.AT_MOST_SECONDS, seal.LARGE_AT_MOST_CHANGES), "nor whatever else is changed"
        scene.mount.write(file, len(LARGE), LARGE)
        scene.mount.close(file)
        assert sealer.is_time(seal.AT_MOST_SECONDS, 3)
        scene.seal()
        content = store.upper(scene.run).load().entries[scene.node(b"large").ino].content
        assert content is not None
        assert [extent.length for extent in content.extents] == [2 * len(LARGE)]
    finally:
        scene.close()
