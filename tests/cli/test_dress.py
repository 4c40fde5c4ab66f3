"""A patch dressed for a terminal."""

import pytest

from goexfs.cli import dress

PATCH = b"""diff --git a/x b/x
index 1..2 100644
--- a/x
+++ b/x
@@ -1,2 +1,2 @@ def f():
-old \x1b[2Jline
+new\xff line\r
 same
--- not a header
"""


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_content_cannot_act_on_the_terminal(size: int) -> None:
    chunks = [PATCH[start : start + size] for start in range(0, len(PATCH), size)]
    lines = b"".join(dress.dressed(chunks, color=False)).decode().splitlines()
    assert lines[5] == "-old ^[[2Jline"
    assert lines[6] == "+new<FF> line^M"
    assert len(lines) == 9


def test_colors_follow_the_place_in_the_patch() -> None:
    lines = b"".join(dress.dressed([PATCH], color=True)).decode().splitlines()
    assert lines[0].startswith("\x1b[1m")
    assert lines[4].startswith("\x1b[36m@@ -1,2 +1,2 @@\x1b[0m")
    assert lines[5].startswith("\x1b[31m-old ^[[2J")
    assert lines[6].startswith("\x1b[32m+")
    assert lines[8].startswith("\x1b[31m---"), "a removed line that looks like a header"
