"""Calibration never spends more than the budget, and a calibrated run is admitted to its end."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Budget,
    BudgetExceededError,
    Gaussian,
    InvalidValueError,
    Plan,
    PureDP,
    RandomAllocationGaussian,
    ScheduleFilter,
    epsilon,
    noise_multiplier,
    noise_multiplier_of,
    noise_multipliers,
)
from tests.unit.accountants.calibration.plans import ADD, BUDGET, REPLACE, event


def assert_smallest(sigma, budget, q, steps, history=(), neighbouring=ADD):
    def spent(noise):
        return epsilon([*history, event(noise, q, steps)], budget.delta, neighbouring).upper

    assert spent(sigma) <= budget.epsilon < spent(sigma * (1 - 1e-3))


@pytest.mark.parametrize("q", [0.4, 0.9, 1.0])
def test_it_finds_the_smallest_noise(q):
    sigma = noise_multiplier(BUDGET, q, 8, neighbouring=ADD)
    assert_smallest(sigma, BUDGET, q, 8)
    assert float(f"{sigma:.5g}") == sigma


def test_a_known_schedule():
    """Between the two sides of sigma 4.2, q 0.9, T 8: epsilon 2.1495 at delta 1e-4."""
    sigma = noise_multiplier(Budget(epsilon=2.1495, delta=1e-4), 0.9, 8, neighbouring=ADD)
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
    assert_smallest(noise_multiplier(budget, q, steps, neighbouring=ADD), budget, q, steps)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    budget=st.builds(Budget, epsilon=st.floats(0.3, 3), delta=st.floats(1e-6, 1e-3)),
    q=st.floats(0.05, 1),
    steps=st.integers(1, 60),
    earlier=st.none() | st.integers(1, 8),
)
def test_it_is_the_smallest_whatever_came_before(budget, q, steps, earlier):
    history = [] if earlier is None else [event(40.0 / budget.epsilon, 0.5, earlier)]
    assert_smallest(
        noise_multiplier(budget, q, steps, history, neighbouring=ADD),
        budget,
        q,
        steps,
        history,
    )


def test_history_and_replacement_ask_for_more_noise():
    plain = noise_multiplier(BUDGET, 0.5, 8, neighbouring=ADD)
    later = noise_multiplier(BUDGET, 0.5, 8, [event(8.0, 0.5, 8)], neighbouring=ADD)
    replaced = noise_multiplier(BUDGET, 0.5, 8, (), neighbouring=REPLACE)
    assert plain < later < replaced
    assert_smallest(replaced, BUDGET, 0.5, 8, (), REPLACE)


@pytest.mark.parametrize("earlier", [[], [event(6.0, 0.5, 8), event(9.0, 0.3, 4)]])
def test_a_calibrated_run_is_admitted_to_its_last_round_and_no_further(earlier):
    rounds, local_steps, q = 5, 4, 0.5
    sigma = noise_multiplier(BUDGET, q, rounds * local_steps, earlier, neighbouring=ADD)
    admission = ScheduleFilter(
        budget=BUDGET,
        schedule=[event(sigma, q, rounds * local_steps)],
        neighbouring=ADD,
    )
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


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, None])
def test_values_out_of_range_are_refused_by_name(value):
    with pytest.raises(InvalidValueError, match=r"^sample_rate must be"):
        noise_multiplier(BUDGET, value, 8, neighbouring=ADD)
    with pytest.raises(InvalidValueError, match=r"^steps must be"):
        noise_multiplier(BUDGET, 0.5, value, neighbouring=ADD)


@pytest.mark.parametrize("delta", [1e-9, 1e-20])
def test_small_deltas_are_calibrated_too(delta):
    budget = Budget(epsilon=1.0, delta=delta)
    assert_smallest(noise_multiplier(budget, 0.5, 8, neighbouring=ADD), budget, 0.5, 8)


def test_every_client_gets_its_own_noise_and_equal_plans_share_it():
    small = Plan(budget=BUDGET, sample_rate=0.5, steps=8)
    later = Plan(budget=BUDGET, sample_rate=0.5, steps=8, history=(event(8.0, 0.5, 8),))
    found = noise_multipliers({"a": small, "b": later, "c": small}, ADD)
    assert found == {
        "a": noise_multiplier(BUDGET, 0.5, 8, neighbouring=ADD),
        "b": noise_multiplier(BUDGET, 0.5, 8, later.history, neighbouring=ADD),
        "c": found["a"],
    }
    spent = Plan(budget=BUDGET, sample_rate=0.5, steps=8, history=(event(1.0, 0.9, 80),))
    with pytest.raises(BudgetExceededError, match="^client 'late'"):
        noise_multipliers({"a": small, "late": spent}, ADD)


class TestAnyPlan:
    """Its noise is the smallest with which all of it, together, fits."""

    def plan(self, sigma):
        return [event(sigma, 0.05, 30), Gaussian(noise_multiplier=4 * sigma, steps=2)]

    def test_of_several_mechanisms(self):
        history = [event(3.0, 0.1, 20)]
        sigma = noise_multiplier_of(self.plan, BUDGET, history, neighbouring=ADD)

        def spent(noise):
            return epsilon([*history, *self.plan(noise)], BUDGET.delta, ADD).upper

        assert spent(sigma) <= BUDGET.epsilon < spent(sigma * (1 - 1e-3))
        alone = noise_multiplier(BUDGET, 0.05, 30, history, neighbouring=ADD)
        assert sigma > 1.01 * alone

    def test_of_dp_sgd_it_is_the_same_to_the_digit(self):
        for rate, steps in ((0.2, 50), (0.01, 1000), (1.0, 3)):
            found = noise_multiplier_of(
                lambda sigma, q=rate, t=steps: [event(sigma, q, t)], BUDGET, neighbouring=ADD
            )
            assert found == noise_multiplier(BUDGET, rate, steps, neighbouring=ADD)

    def test_that_no_noise_makes_fit_is_refused(self):
        def plan(sigma):
            return [event(sigma, 0.05, 30), PureDP(epsilon=2.5, neighbouring=ADD)]

        with pytest.raises(BudgetExceededError, match="no noise multiplier up to 10000"):
            noise_multiplier_of(plan, BUDGET, neighbouring=ADD)


def test_epochs_of_random_allocation_are_calibrated_and_admitted():
    """Three epochs of eight batches need less noise than as many steps of Poisson sampling."""
    budget = Budget(epsilon=2.5, delta=1e-5)

    def plan(noise):
        return [RandomAllocationGaussian(noise_multiplier=noise, batches=8, steps=3)]

    sigma = noise_multiplier_of(plan, budget, neighbouring=ADD)
    assert epsilon(plan(sigma), budget.delta, ADD).upper <= budget.epsilon
    assert epsilon(plan(sigma * (1 - 2e-3)), budget.delta, ADD).upper > budget.epsilon
    assert sigma < noise_multiplier(budget, 1 / 8, 24, neighbouring=ADD)
    admission = ScheduleFilter(budget=budget, schedule=plan(sigma), neighbouring=ADD)
    (epoch,) = (replace(event, steps=1) for event in plan(sigma))
    first = admission.admit([], [epoch])
    assert first < admission.admit([epoch, epoch], [epoch]) <= budget.epsilon
    with pytest.raises(BudgetExceededError):
        admission.admit([epoch] * 3, [epoch])
