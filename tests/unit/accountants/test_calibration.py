"""Calibration never spends more than the budget, and a calibrated run is admitted to its end."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Budget,
    BudgetExceededError,
    Gaussian,
    InvalidValueError,
    Neighbouring,
    Plan,
    PoissonGaussian,
    PureDP,
    ScheduleFilter,
    batch_size_within,
    certified,
    epsilon,
    noise_multiplier,
    noise_multiplier_of,
    noise_multipliers,
    sample_rate_within,
    steps_within,
    what_if,
)

ADD, REPLACE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
BUDGET = Budget(epsilon=2.0, delta=1e-4)


def event(noise_multiplier, sample_rate, steps):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


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


def test_a_history_at_the_very_edge_of_the_budget_leaves_no_room():
    history = [event(3.0, 0.5, 8)]
    spent = epsilon(history, BUDGET.delta, ADD).upper
    with pytest.raises(BudgetExceededError, match="no further release"):
        noise_multiplier(
            Budget(epsilon=spent * (1 + 5e-7), delta=1e-4),
            1e-3,
            1,
            history,
            neighbouring=ADD,
        )


def test_a_history_that_used_the_budget_up_is_refused():
    spent = [event(2.0, 0.9, 8)]
    with pytest.raises(BudgetExceededError, match="plan fewer steps") as caught:
        noise_multiplier(BUDGET, 0.5, 8, spent, neighbouring=ADD)
    assert caught.value.epsilon == epsilon(spent, BUDGET.delta, ADD).upper
    with pytest.raises(BudgetExceededError):
        noise_multiplier(BUDGET, 0.5, 8, [event(0.0, 0.5, 1)], neighbouring=ADD)


def test_a_history_that_leaves_next_to_nothing_is_refused():
    sigma = noise_multiplier(BUDGET, 0.5, 8, neighbouring=ADD)
    left = epsilon([event(sigma, 0.5, 8)], BUDGET.delta, ADD).upper * (1 + 5e-3)
    with pytest.raises(BudgetExceededError, match="no noise multiplier up to 10000"):
        noise_multiplier(
            Budget(epsilon=left, delta=1e-4),
            1.0,
            10**6,
            [event(sigma, 0.5, 8)],
            neighbouring=ADD,
        )


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


def test_what_if_gives_every_combination():
    scenarios = what_if(
        1e-5,
        noise_multipliers=[1.0, 2.0],
        sample_rates=[0.01],
        steps=[10, 100],
        history=[],
        neighbouring=ADD,
    )
    assert [(s.noise_multiplier, s.steps) for s in scenarios] == [
        (1.0, 10),
        (1.0, 100),
        (2.0, 10),
        (2.0, 100),
    ]
    for scenario in scenarios:
        assert scenario.bounds == epsilon(
            [event(scenario.noise_multiplier, scenario.sample_rate, scenario.steps)],
            1e-5,
            ADD,
        )


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
    (scenario,) = what_if(
        1e-4,
        noise_multipliers=[person],
        sample_rates=[0.1],
        steps=[50],
        group_size=3,
        neighbouring=ADD,
    )
    assert scenario.bounds == epsilon([plan], 1e-4, ADD, group_size=3)


def test_the_quick_answer_agrees_with_the_bound():
    for sigma in (0.5, 1.0, 1.5, 2.0):
        plan = [event(sigma, 0.05, 100)]
        exact = epsilon(plan, 1e-5, ADD)
        for limit in (0.5, 1.0, 2.0, 4.0):
            assert certified.is_within(plan, 1e-5, limit, ADD) == (exact.upper <= limit)
        assert certified.is_within(plan, 1e-5, exact.upper, ADD)
        assert not certified.is_within(plan, 1e-5, exact.lower * (1 - 1e-6), ADD)


def test_a_used_up_budget_can_be_told_by_a_worker_process():
    error = BudgetExceededError("no room", epsilon=3.0, allowed=2.0)
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.epsilon, copied.allowed) == ("no room", 3.0, 2.0)
