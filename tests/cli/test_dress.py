"""A patch dressed for a terminal."""

import re

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


def test_words_that_differ_stand_out_within_their_lines() -> None:
    changed = b"@@ -1 +1 @@\n-total = price * 3  # note\n+total = price * 4  # note\n"
    lines = b"".join(dress.dressed([changed], color=True)).decode().splitlines()
    assert lines[1].count("\x1b[7m") == lines[2].count("\x1b[7m") == 1
    assert "\x1b[31m\x1b[7m3\x1b[0m" in lines[1]
    assert "\x1b[32m\x1b[7m4\x1b[0m" in lines[2]


def test_lines_that_have_little_in_common_are_not_emphasized() -> None:
    changed = b"@@ -1 +1 @@\n-alpha beta gamma\n+one two three\n"
    assert b"\x1b[7m" not in b"".join(dress.dressed([changed], color=True))


@pytest.mark.parametrize("count", [1, 3])
def test_emphasis_keeps_every_line(count: int) -> None:
    removed = b"".join(b"-value number %d is here\n" % n for n in range(count))
    added = b"".join(b"+value number %d was here\n" % n for n in range(count + 2))
    text = b"".join(dress.dressed([b"@@ -1 +1 @@\n" + removed + added + b"\\ No newline at end of file\n"], color=True))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).encode()
    assert plain == b"@@ -1 +1 @@\n" + removed + added + b"\\ No newline at end of file\n"


def test_word_diff_is_as_gits() -> None:
    changed = b"@@ -1,2 +1,2 @@\n same\n-a quick fox\n+a slow fox\n"
    assert b"".join(dress.dressed([changed], color=False, words="plain")) == (
        b"@@ -1,2 +1,2 @@\n same\na [-quick-]{+slow+} fox\n"
    )
    added = b"@@ -0,0 +1,2 @@\n+one\n+two\n"
    assert b"".join(dress.dressed([added], color=False, words="plain")) == b"@@ -0,0 +1,2 @@\n{+one+}\n{+two+}\n"


def test_text_that_reorders_itself_is_marked() -> None:
    (header, line) = b"".join(dress.dressed(["@@ -0,0 +1 @@\n+a \u202e b\n".encode()], color=False)).splitlines()
    assert b"<U+202E>" in line
    assert line.endswith(b"otherwise than it looks")
    assert not header.endswith(b"looks")
