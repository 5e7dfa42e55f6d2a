"""The search ends just below the last value that a test rejects, and never above it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants.auditing.bisection import first_accepted, last_rejected


@pytest.mark.parametrize(
    ("boundary", "expected"), [(0.0, 1.0), (0.99, 1.0), (1.0, 1.0), (1.01, 2.0), (70.0, 128.0)]
)
def test_powers_of_two_are_tried_until_one_is_accepted(boundary, expected):
    assert first_accepted(lambda value: value < boundary) == expected


@given(boundary=st.floats(1e-6, 1e9))
def test_what_is_found_is_rejected_and_next_to_a_value_that_is_not(boundary):
    def rejected(value):
        return value < boundary

    found = last_rejected(rejected, first_accepted(rejected))
    assert rejected(found)
    assert not rejected(found + 1.01e-9 * max(1.0, boundary))


def test_a_value_that_was_not_tried_is_not_returned():
    """Where the test is not monotone too, the answer is a value at which it did reject."""
    tried = {}

    def rejected(value):
        return tried.setdefault(value, math.sin(40 * value) > -0.2 and value < 0.9)

    found = last_rejected(rejected, 1.0)
    assert tried[found] is True
    assert found > 0


def test_nothing_is_found_where_even_zero_is_accepted():
    tried = []
    assert last_rejected(lambda value: bool(tried.append(value)), 3.0) == 0.0
    assert tried == [0.0]


@pytest.mark.parametrize(("boundary", "accepted", "turns"), [(1.5, 2.0, 32), (1e-3, 1.0, 31)])
def test_the_search_is_short(boundary, accepted, turns):
    """The bracket is halved until it is 1e-9 wide, for small values too; 0 is looked at first."""
    tried = []

    def rejected(value):
        tried.append(value)
        return value < boundary

    assert last_rejected(rejected, accepted) == pytest.approx(boundary, abs=2e-9)
    assert len(tried) == turns
