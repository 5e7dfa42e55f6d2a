"""Checks of single values: names in messages, open and closed ends, plain numbers."""

import math

import numpy as np
import pytest

from accountants import Budget, InvalidValueError, Neighbouring, PoissonGaussian, Unit, checks

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
        (lambda v: Budget(epsilon=v, delta=1e-5), "epsilon"),
        (lambda v: Budget(epsilon=1.0, delta=v), "delta"),
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
        lambda: Budget(epsilon=0, delta=1e-5),
        lambda: Budget(epsilon=1, delta=0),
        lambda: Budget(epsilon=1, delta=1),
        lambda: checks.text(client="  "),
        lambda: checks.text(client=b"a"),
        lambda: checks.text(client="\ud800"),
    ],
)
def test_the_ends_of_each_range_are_refused_where_open(build):
    with pytest.raises(InvalidValueError):
        build()


def test_errors_are_value_errors_too():
    with pytest.raises(ValueError, match="sample_rate"):
        event(sample_rate=8)


def test_numpy_numbers_become_plain_ones():
    built = event(noise_multiplier=np.float32(0.5), sample_rate=1, steps=np.int64(3))
    assert built == event(noise_multiplier=0.5, sample_rate=1.0, steps=3)
    values = [built.noise_multiplier, built.sample_rate, built.steps]
    assert [type(value) for value in values] == [float, float, int]
    assert str(event(noise_multiplier=-0.0).noise_multiplier) == "0.0"


def test_enumerations_have_stable_values():
    assert [u.value for u in Unit] == ["record", "client"]
    assert [n.value for n in Neighbouring] == ["add_remove", "replace_one", "zero_out"]


def test_a_delta_may_be_zero_where_it_says_so():
    assert checks.probability_or_zero(delta=0) == 0.0
    for value in (1, -1e-9, math.nan):
        with pytest.raises(InvalidValueError, match="^delta must be in"):
            checks.probability_or_zero(delta=value)


def test_a_relation_is_read_by_name_and_an_unknown_one_refused():
    assert checks.neighbouring("zero_out") is Neighbouring.ZERO_OUT
    with pytest.raises(InvalidValueError, match="^neighbouring must be one of"):
        checks.neighbouring("swap")
