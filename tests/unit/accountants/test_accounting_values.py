"""Checked values: budgets, events, their normal form and their JSON."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import (
    Budget,
    InvalidValueError,
    Neighbouring,
    PoissonGaussian,
    Unit,
    UnsupportedAnalysisError,
    canonical,
    checks,
    event_from_json,
)
from accountants.events import is_within

events = st.builds(
    PoissonGaussian,
    noise_multiplier=st.sampled_from([0.5, 1.0, 4.2, 1e-300]) | st.floats(0, 1e6),
    sample_rate=st.sampled_from([0.1, 0.5, 1.0]) | st.floats(1e-9, 1),
    steps=st.integers(1, 10**9),
)

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
    assert [type(v) for v in built.to_json().values()] == [str, float, float, int]
    assert str(event(noise_multiplier=-0.0).noise_multiplier) == "0.0"


def test_canonical_merges_equal_parameters_and_sorts():
    a, b = event(noise_multiplier=2.0), event(noise_multiplier=1.0)
    assert canonical([a, b, a]) == (b, event(noise_multiplier=2.0, steps=16))
    assert canonical([]) == ()


@given(history=st.lists(events, max_size=6), seed=st.randoms())
def test_canonical_does_not_depend_on_order_or_repetition(history, seed):
    shuffled = list(history)
    seed.shuffle(shuffled)
    once = canonical(history)
    assert canonical(shuffled) == once == canonical(once)
    assert sum(e.steps for e in once) == sum(e.steps for e in history)


@given(event=events)
def test_json_keeps_every_digit(event):
    assert event_from_json(json.loads(json.dumps(event.to_json()))) == event


def test_an_unknown_type_of_event_is_refused_by_name():
    with pytest.raises(UnsupportedAnalysisError, match="'laplace'"):
        event_from_json({"type": "laplace", "scale": 1.0})


@pytest.mark.parametrize(
    "change",
    [{"steps": "8"}, {"steps": 8.0}, {"more": 1}, {"noise_multiplier": None}, {"sample_rate": 2}],
)
def test_a_changed_field_of_an_event_is_refused(change):
    with pytest.raises(InvalidValueError):
        event_from_json(event().to_json() | change)


@pytest.mark.parametrize("value", [None, 3, [], {}, {"steps": 1}, {"type": "poisson_gaussian"}])
def test_what_is_no_event_is_refused(value):
    with pytest.raises(InvalidValueError):
        event_from_json(value)


def test_is_within_compares_steps_at_each_noise_and_rate():
    planned = [event(steps=4), event(steps=4), event(sample_rate=0.1, steps=1)]
    assert is_within([], planned)
    assert is_within([event(steps=8)], planned)
    assert is_within([event(sample_rate=0.1, steps=1), event(steps=3)], planned)
    assert not is_within([event(steps=9)], planned)
    assert not is_within([event(steps=8), event(steps=1)], planned)
    assert not is_within([event(noise_multiplier=2.0, steps=1)], planned)


def test_enumerations_have_stable_values():
    assert [u.value for u in Unit] == ["record", "client"]
    assert [n.value for n in Neighbouring] == ["add_remove", "replace_one"]
