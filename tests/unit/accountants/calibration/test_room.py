"""What a history leaves of a budget, and what is said where that is nothing."""

import pickle

import pytest

from accountants import (
    Budget,
    BudgetExceededError,
    epsilon,
    noise_multiplier,
)
from tests.unit.accountants.calibration.plans import ADD, BUDGET, event


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


def test_a_used_up_budget_can_be_told_by_a_worker_process():
    error = BudgetExceededError("no room", epsilon=3.0, allowed=2.0)
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.epsilon, copied.allowed) == ("no room", 3.0, 2.0)
