"""What a guarantee is: names that stay, budgets in range, and bounds in their order."""

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest

from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.guarantees import (
    Budget,
    DeltaBounds,
    EpsilonBounds,
    Neighbouring,
    Unit,
    neighbouring_of,
)


def test_enumerations_have_stable_values():
    assert [u.value for u in Unit] == ["record", "client"]
    assert [n.value for n in Neighbouring] == ["add_remove", "replace_one", "zero_out"]


def test_a_relation_is_read_by_name_and_an_unknown_one_refused():
    assert neighbouring_of("zero_out") is Neighbouring.ZERO_OUT
    with pytest.raises(InvalidValueError, match="^neighbouring must be one of"):
        neighbouring_of("swap")


BOUNDS = [EpsilonBounds, DeltaBounds]
NOT_NUMBERS = [math.nan, math.inf, -math.inf, None, "1", True, 1j, [1.0], -1e-9, -(10**400)]


def test_a_relation_is_itself():
    for relation in Neighbouring:
        assert neighbouring_of(relation) is neighbouring_of(relation.value) is relation
    for value in (None, 1, Unit.RECORD, "ADD_REMOVE"):
        with pytest.raises(InvalidValueError, match=r"one of \['add_remove', 'replace_one', 'zero"):
            neighbouring_of(value)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0, 0.0])
def test_a_budget_is_of_numbers_in_range(value):
    with pytest.raises(InvalidValueError, match="^epsilon must be a finite number above 0, got"):
        Budget(epsilon=value, delta=1e-5)
    with pytest.raises(InvalidValueError, match="^delta must be strictly between 0 and 1, got"):
        Budget(epsilon=1.0, delta=value)


def test_a_delta_of_one_is_no_budget_and_a_large_epsilon_is():
    with pytest.raises(InvalidValueError, match="^delta must be strictly between 0 and 1, got 1$"):
        Budget(epsilon=2.0, delta=1)
    assert Budget(epsilon=1e300, delta=1 - 2**-53).epsilon == 1e300


def test_a_budget_holds_plain_numbers_and_does_not_change():
    budget = Budget(epsilon=np.float32(0.5), delta=Fraction(1, 8))
    assert budget == Budget(epsilon=0.5, delta=0.125)
    assert [type(budget.epsilon), type(budget.delta)] == [float, float]
    with pytest.raises(FrozenInstanceError):
        budget.epsilon = 9.0


@pytest.mark.parametrize("kind", BOUNDS)
def test_the_claim_is_the_upper_bound(kind):
    bounds = kind(0.25, 0.5, "by hand")
    assert float(bounds) == bounds.upper == 0.5
    assert (bounds.lower, bounds.method) == (0.25, "by hand")
    assert float(kind(0.5, 0.5, "exact")) == 0.5


def test_an_epsilon_may_be_infinite():
    assert float(EpsilonBounds(0.0, math.inf, "nothing is known")) == math.inf


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize(
    ("lower", "upper"),
    [(0.5, 0.25), (-1e-9, 0.5), (math.nan, 0.5), (0.25, math.nan), (math.inf, 0.5)],
)
def test_bounds_out_of_order_give_no_number(kind, lower, upper):
    with pytest.raises(UnsupportedAnalysisError, match="must not exceed .*; the computation fail"):
        kind(lower, upper, "by hand")
