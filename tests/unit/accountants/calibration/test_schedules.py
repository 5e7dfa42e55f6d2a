"""The most steps and the largest batch that a budget allows."""

import pytest

from accountants import (
    Budget,
    BudgetExceededError,
    InvalidValueError,
    batch_size_within,
    epsilon,
    noise_multiplier,
    sample_rate_within,
    steps_within,
)
from tests.unit.accountants.calibration.plans import ADD, BUDGET, event


def test_steps_within_is_the_largest_number_that_fits():
    steps = steps_within(BUDGET, 1.0, 0.01, neighbouring=ADD)
    assert epsilon([event(1.0, 0.01, steps)], BUDGET.delta, ADD).upper <= BUDGET.epsilon
    assert epsilon([event(1.0, 0.01, steps + 1)], BUDGET.delta, ADD).upper > BUDGET.epsilon * (
        1 - 1e-6
    )
    assert steps_within(BUDGET, 1.0, 0.01, [event(4.0, 0.5, 8)], neighbouring=ADD) < steps
    assert steps_within(BUDGET, 0.1, 1.0, neighbouring=ADD) == 0


def test_sample_rate_within_is_the_largest_that_fits():
    q = sample_rate_within(BUDGET, 1.0, 100, neighbouring=ADD)
    assert epsilon([event(1.0, q, 100)], BUDGET.delta, ADD).upper <= BUDGET.epsilon
    assert epsilon([event(1.0, q * 1.001, 100)], BUDGET.delta, ADD).upper > BUDGET.epsilon
    assert sample_rate_within(BUDGET, 100.0, 10, neighbouring=ADD) == 1.0
    with pytest.raises(BudgetExceededError, match="no sampling rate"):
        sample_rate_within(Budget(epsilon=2.0, delta=1e-40), 1e-4, 10**6, neighbouring=ADD)


def test_batch_size_within_rounds_down():
    q = sample_rate_within(BUDGET, 1.0, 100, neighbouring=ADD)
    assert batch_size_within(BUDGET, 1.0, 100, public_size=1000, neighbouring=ADD) == int(1000 * q)
    with pytest.raises(InvalidValueError, match="^public_size must be"):
        batch_size_within(BUDGET, 1.0, 100, public_size=0, neighbouring=ADD)


def test_a_person_with_several_records_asks_for_more_noise():
    alone, person = (
        noise_multiplier(BUDGET, 0.1, 50, group_size=size, neighbouring=ADD) for size in (1, 3)
    )
    assert person > 2 * alone
    plan = event(person, 0.1, 50)
    assert epsilon([plan], BUDGET.delta, ADD, group_size=3).upper <= BUDGET.epsilon
    assert steps_within(BUDGET, person, 0.1, group_size=3, neighbouring=ADD) >= 50 > 0
    assert sample_rate_within(BUDGET, person, 50, group_size=3, neighbouring=ADD) >= 0.1 * (
        1 - 1e-3
    )
