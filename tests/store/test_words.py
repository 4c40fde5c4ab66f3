"""Words that differ: nothing is lost, and what is common is found."""

from hypothesis import given
from hypothesis import strategies as st

from snapshots.review.words import MOST_BYTES, words

pieces = st.sampled_from([b"a", b"bc", b" ", b"\n", b"\t", b"+", b"\\n", b"\0", b"\xff", b"\r\n"])
texts = st.lists(pieces, max_size=20).map(b"".join)


@given(texts, texts)
def test_both_texts_are_in_the_pieces(old: bytes, new: bytes) -> None:
    pieces = list(words(old, new))
    assert b"".join(piece for sign, piece in pieces if sign != "+") == old
    assert b"".join(piece for sign, piece in pieces if sign != "-") == new
    assert all(piece for _, piece in pieces)


def test_only_what_differs_is_told_apart() -> None:
    assert list(words(b"x = f(a, b)\n", b"x = f(a, c)\n")) == [
        (" ", b"x = f(a, "), ("-", b"b"), ("+", b"c"), (" ", b")\n"),
    ]  # fmt: skip


def test_long_texts_are_not_compared() -> None:
    long = b"word " * MOST_BYTES
    assert [sign for sign, _ in words(long, long + b"x")] == ["-", "+"]
