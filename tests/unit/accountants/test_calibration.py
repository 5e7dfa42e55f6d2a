"""Calibration never spends more than the budget, and a calibrated run is admitted to its end."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Budget,
    BudgetExceededError,
    InvalidValueError,
    Neighbouring,
    PoissonGaussian,
    ScheduleFilter,
    UnsupportedAnalysisError,
    epsilon,
    noise_multiplier,
    pld,
)

BUDGET = Budget(epsilon=2.0, delta=1e-4)


def event(noise_multiplier, sample_rate, steps):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


def assert_smallest(sigma, budget, q, steps, history=(), neighbouring=Neighbouring.ADD_REMOVE):
    def spent(noise):
        return epsilon([*history, event(noise, q, steps)], budget.delta, neighbouring)

    assert spent(sigma) <= budget.epsilon < spent(sigma * (1 - 1e-3))


@pytest.mark.parametrize("q", [0.4, 0.9, 1.0])
def test_it_finds_the_smallest_noise_quickly(q):
    pld._epsilon.cache_clear()
    began = time.perf_counter()
    sigma = noise_multiplier(BUDGET, q, 8)
    assert time.perf_counter() - began < 3
    assert_smallest(sigma, BUDGET, q, 8)
    assert float(f"{sigma:.5g}") == sigma


def test_a_known_schedule():
    """Between the two sides of sigma 4.2, q 0.9, T 8: epsilon 2.1495 at delta 1e-4."""
    sigma = noise_multiplier(Budget(epsilon=2.1495, delta=1e-4), 0.9, 8)
    assert sigma == pytest.approx(4.2, rel=1e-3)


@pytest.mark.parametrize(
    ("budget", "q", "steps"),
    [
        (Budget(epsilon=3.0, delta=1e-5), 0.01, 2000),
        (Budget(epsilon=0.05, delta=1e-6), 0.5, 50),
        (Budget(epsilon=6.0, delta=1e-5), 0.5, 3),
    ],
)
def test_long_tight_and_loose_schedules(budget, q, steps):
    began = time.perf_counter()
    assert_smallest(noise_multiplier(budget, q, steps), budget, q, steps)
    assert time.perf_counter() - began < 15


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    budget=st.builds(Budget, epsilon=st.floats(0.3, 3), delta=st.floats(1e-6, 1e-3)),
    q=st.floats(0.05, 1),
    steps=st.integers(1, 60),
    earlier=st.none() | st.integers(1, 8),
)
def test_it_is_the_smallest_whatever_came_before(budget, q, steps, earlier):
    history = [] if earlier is None else [event(40.0 / budget.epsilon, 0.5, earlier)]
    assert_smallest(noise_multiplier(budget, q, steps, history), budget, q, steps, history)


def test_history_and_replacement_ask_for_more_noise():
    plain = noise_multiplier(BUDGET, 0.5, 8)
    later = noise_multiplier(BUDGET, 0.5, 8, [event(8.0, 0.5, 8)])
    replaced = noise_multiplier(BUDGET, 0.5, 8, (), Neighbouring.REPLACE_ONE)
    assert plain < later < replaced
    assert_smallest(replaced, BUDGET, 0.5, 8, (), Neighbouring.REPLACE_ONE)


@pytest.mark.parametrize("earlier", [[], [event(6.0, 0.5, 8), event(9.0, 0.3, 4)]])
def test_a_calibrated_run_is_admitted_to_its_last_round_and_no_further(earlier):
    rounds, local_steps, q = 5, 4, 0.5
    sigma = noise_multiplier(BUDGET, q, rounds * local_steps, earlier)
    admission = ScheduleFilter(budget=BUDGET)
    history, step = list(earlier), event(sigma, q, local_steps)
    spent = []
    for _ in range(rounds):
        spent.append(admission.admit(history, [step]))
        history.append(step)
    assert spent == sorted(spent)
    assert BUDGET.epsilon * 0.998 < spent[-1] <= BUDGET.epsilon
    with pytest.raises(BudgetExceededError, match="would become") as caught:
        admission.admit(history, [event(sigma, q, 1)])
    assert caught.value.epsilon > caught.value.allowed == BUDGET.epsilon


def test_a_margin_keeps_the_last_digits_of_another_machine_from_refusing():
    """A plan that costs next to nothing would fit in half a millionth of the budget; not taken."""
    history = [event(3.0, 0.5, 8)]
    spent = epsilon(history, BUDGET.delta)
    plan = event(1e4, 1e-3, 1)
    assert epsilon([*history, plan], BUDGET.delta) < spent * (1 + 5e-7)
    with pytest.raises(BudgetExceededError):
        noise_multiplier(Budget(epsilon=spent * (1 + 5e-7), delta=1e-4), 1e-3, 1, history)


def test_the_filter_admits_up_to_the_budget_to_the_last_digit():
    planned = [event(3.0, 0.5, 8)]
    spent = epsilon(planned, BUDGET.delta)
    assert ScheduleFilter(budget=Budget(epsilon=spent, delta=1e-4)).admit([], planned) == spent
    below = Budget(epsilon=math.nextafter(spent, 0), delta=1e-4)
    with pytest.raises(BudgetExceededError):
        ScheduleFilter(budget=below).admit([], planned)


def test_the_filter_refuses_what_protects_nothing_and_uses_its_relation():
    with pytest.raises(BudgetExceededError) as caught:
        ScheduleFilter(budget=BUDGET).admit([], [event(0.0, 0.5, 1)])
    assert caught.value.epsilon == math.inf
    planned = [event(3.0, 0.5, 8)]
    assert ScheduleFilter(budget=BUDGET).admit([], planned) < 2
    with pytest.raises(BudgetExceededError):
        ScheduleFilter(budget=BUDGET, neighbouring=Neighbouring.REPLACE_ONE).admit([], planned)


def test_a_history_that_used_the_budget_up_is_refused():
    spent = [event(2.0, 0.9, 8)]
    with pytest.raises(BudgetExceededError, match="plan fewer steps") as caught:
        noise_multiplier(BUDGET, 0.5, 8, spent)
    assert caught.value.epsilon == epsilon(spent, BUDGET.delta)
    with pytest.raises(BudgetExceededError):
        noise_multiplier(BUDGET, 0.5, 8, [event(0.0, 0.5, 1)])


def test_a_history_that_leaves_next_to_nothing_is_refused():
    sigma = noise_multiplier(BUDGET, 0.5, 8)
    left = epsilon([event(sigma, 0.5, 8)], BUDGET.delta) * (1 + 2e-6)
    with pytest.raises(BudgetExceededError, match="no noise multiplier up to 10000"):
        noise_multiplier(Budget(epsilon=left, delta=1e-4), 1.0, 5000, [event(sigma, 0.5, 8)])


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, None])
def test_values_out_of_range_are_refused_by_name(value):
    with pytest.raises(InvalidValueError, match=r"^sample_rate must be"):
        noise_multiplier(BUDGET, value, 8)
    with pytest.raises(InvalidValueError, match=r"^steps must be"):
        noise_multiplier(BUDGET, 0.5, value)


def test_a_delta_below_the_precision_is_refused():
    with pytest.raises(UnsupportedAnalysisError):
        noise_multiplier(Budget(epsilon=1.0, delta=1e-9), 0.5, 8)
