"""Checks of single values: names in messages, open and closed ends, plain numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from accountants import (
    InvalidValueError,
    PoissonGaussian,
    canonical,
    checks,
)
from accountants.guarantees import neighbouring_of

not_finite = [math.nan, math.inf, -math.inf]
not_numbers = [None, "1", True, 1j, [1.0]]


def event(**changes):
    return PoissonGaussian(**{"noise_multiplier": 1.0, "sample_rate": 0.5, "steps": 8} | changes)


@pytest.mark.parametrize("value", [*not_finite, *not_numbers, -1e-9, -(10**400)])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda v: event(noise_multiplier=v), "noise_multiplier"),
        (lambda v: event(sample_rate=v), "sample_rate"),
        (lambda v: event(steps=v), "steps"),
        (lambda v: checks.index(round=v), "round"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(build, name, value):
    with pytest.raises(InvalidValueError, match=f"^{name} must be"):
        build(value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: event(sample_rate=0),
        lambda: event(sample_rate=np.nextafter(1, 2)),
        lambda: event(noise_multiplier=10**400),
        lambda: event(steps=0),
        lambda: event(steps=2.0),
        lambda: checks.text(client="  "),
        lambda: checks.text(client=b"a"),
        lambda: checks.text(client="\ud800"),
    ],
)
def test_the_ends_of_each_range_are_refused_where_open(build):
    with pytest.raises(InvalidValueError):
        build()


LARGEST = 2**53


@pytest.mark.parametrize(("check", "least"), [(checks.count, 1), (checks.index, 0)])
def test_counts_end_where_floats_skip_whole_numbers(check, least):
    assert float(LARGEST) + 1 == LARGEST
    assert (check(steps=least), check(steps=LARGEST)) == (least, LARGEST)
    rule = rf"^steps must be a whole number from {least} to 2\*\*53, got "
    for value in (least - 1, LARGEST + 1, np.uint64(LARGEST + 1), 10**400):
        with pytest.raises(InvalidValueError, match=rule):
            check(steps=value)


def test_steps_that_add_up_to_more_than_floats_count_are_refused():
    with pytest.raises(InvalidValueError, match="^steps must be a whole number from 1 to"):
        canonical([event(steps=LARGEST), event(steps=1)])


TOO_LONG = 10**5000  # Python refuses to write it out


@pytest.mark.parametrize(
    "value",
    [TOO_LONG, -TOO_LONG, Fraction(TOO_LONG, 3), [TOO_LONG]],
    ids=["above", "below", "fraction", "list"],
)
@pytest.mark.parametrize(
    "check",
    [
        checks.positive,
        checks.non_negative,
        checks.probability,
        checks.probability_or_zero,
        checks.rate,
        checks.count,
        checks.index,
        checks.text,
        lambda **named: checks.index_up_to("limit", 3, **named),
        lambda **named: neighbouring_of(*named.values()),
    ],
)
def test_a_number_too_long_to_write_out_is_refused_without_it(check, value):
    with pytest.raises(
        InvalidValueError, match=r" must be .*, got a value of type \w+ that is"
    ) as e:
        check(neighbouring=value)
    assert len(str(e.value)) < 200


def test_a_count_up_to_another_is_refused_by_both_names():
    assert checks.index_up_to("trials", 3, errors=np.int8(3)) == 3
    with pytest.raises(InvalidValueError, match="^errors must be at most trials, which is 3"):
        checks.index_up_to("trials", 3, errors=4)
    with pytest.raises(InvalidValueError, match="^errors must be a whole number from 0 to"):
        checks.index_up_to("trials", 3, errors=-1)


def test_errors_are_value_errors_too():
    with pytest.raises(ValueError, match="sample_rate"):
        event(sample_rate=8)


def test_numpy_numbers_become_plain_ones():
    built = event(noise_multiplier=np.float32(0.5), sample_rate=1, steps=np.int64(3))
    assert built == event(noise_multiplier=0.5, sample_rate=1.0, steps=3)
    values = [built.noise_multiplier, built.sample_rate, built.steps]
    assert [type(value) for value in values] == [float, float, int]
    assert str(event(noise_multiplier=-0.0).noise_multiplier) == "0.0"


def test_a_delta_may_be_zero_where_it_says_so():
    assert checks.probability_or_zero(delta=0) == 0.0
    for value in (1, -1e-9, math.nan):
        with pytest.raises(InvalidValueError, match="^delta must be in"):
            checks.probability_or_zero(delta=value)
