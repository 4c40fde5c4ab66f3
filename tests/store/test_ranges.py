"""A `RangeSet` against a set of integers."""

from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from snapshots import ranges as ranges_module
from snapshots.ranges import RangeSet

BLOCK = 4
"""small, so that what is drawn has several"""

POSITIONS = st.integers(0, 40)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), POSITIONS, POSITIONS),
        st.tuples(st.just("clip"), POSITIONS, POSITIONS),
    ),
    max_size=30,
)


@patch.object(ranges_module, "BLOCK", BLOCK)
@given(changes=CHANGES, start=POSITIONS, end=POSITIONS)
def test_against_a_set_of_integers(changes, start, end):
    ranges, model = RangeSet(), set()
    for change, first, last in changes:
        if change == "add":
            ranges.add(first, last)
            model |= set(range(first, last))
        else:
            ranges.clip(first)
            model = {each for each in model if each < first}
        found = list(ranges)
        assert {each for low, high in found for each in range(low, high)} == model
        assert all(low < high for low, high in found)
        assert all(before[1] < after[0] for before, after in pairwise(found)), "joined where they touch"
        assert ranges.total == len(model)
        assert ranges.blocks == sum(-(-(high - low) // BLOCK) for low, high in found)
        assert len(ranges) == len(found)
    assert ranges.covers(start, end) == (set(range(start, end)) <= model)
    pieces = list(ranges.pieces(start, end))
    assert [each for low, high, _ in pieces for each in range(low, high)] == list(range(start, end))
    assert all(low < high for low, high, _ in pieces)
    assert all(before[2] != after[2] for before, after in pairwise(pieces))
    inside = {each for low, high, is_inside in pieces if is_inside for each in range(low, high)}
    assert inside == model & set(range(start, end))
