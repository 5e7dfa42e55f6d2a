"""Renyi divergences: golden values, exact formulas, and what has none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses import gaussian, renyi
from accountants.errors import InvalidValueError
from accountants.events import Gaussian, PoissonGaussian, PureDP
from accountants.guarantees import Neighbouring

ADD_REMOVE, REPLACE_ONE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
ZERO_OUT = Neighbouring.ZERO_OUT


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


def value(event, order, neighbouring=ADD_REMOVE, group_size=1):
    return float(renyi.rdp([event], neighbouring, group_size=group_size, orders=[order])[0])


# Values of dp-accounting 0.6.0 on a denser grid of orders below 11, and for P13 of Opacus 1.6.0.
GOLDEN = [
    ([(1.0, 1.0, 1)], 1e-5, 4.72851),
    ([(5.0, 1.0, 100)], 1e-6, 11.68863),
    ([(100.0, 1.0, 100)], 1e-5, 0.37529),
    ([(0.5, 1.0, 10)], 1e-5, 48.80169),
    ([(300.0, 1.0, 1)], 1e-5, 0.00919),
    ([(2.0, 1.0, 3), (4.0, 1.0, 10), (8.0, 1.0, 100)], 1e-6, 9.72653),
    ([(4.0, 0.01, 10000)], 1e-5, 1.03549),
    ([(1.0, 0.032, 1000)], 1e-4, 6.34337),
    ([(0.5, 0.1, 1000)], 1e-5, 136.05370),
    ([(0.7, 0.05, 1000)], 1e-5, 26.42610),
    ([(1.0, 0.5, 100)], 1e-5, 42.86520),
    ([(1.2, 0.01, 1000), (1.0, 0.02, 500), (0.8, 0.005, 2000)], 1e-5, 4.09859),
]


@pytest.mark.parametrize(("phases", "delta", "golden"), GOLDEN)
def test_epsilon_has_the_golden_value(phases, delta, golden):
    events = [poisson(*phase) for phase in phases]
    found = renyi.epsilon(events, delta, ADD_REMOVE)
    assert golden * 0.99 <= found.epsilon <= golden * 1.003
    assert not found.at_edge
    assert renyi.epsilon(events[::-1], delta, ZERO_OUT) == found


def test_gaussian_by_hand():
    events = [Gaussian(noise_multiplier=2.0, steps=8), Gaussian(noise_multiplier=1.0)]
    found = renyi.rdp(events, ADD_REMOVE, orders=[2.0, 6.0])
    assert found.dtype == np.float64
    assert found.tolist() == [2.0 + 1.0, 6.0 + 3.0]
    assert value(events[1], 3.0, REPLACE_ONE, group_size=5) == 3 * 100 / 2


def test_the_grid_of_orders():
    assert list(renyi.ORDERS) == sorted(set(renyi.ORDERS))
    assert 80 <= len(renyi.ORDERS) <= 105
    assert (renyi.ORDERS[0], renyi.ORDERS[-1]) == (1.01, 10000.0)


@pytest.mark.parametrize("orders", [[], [1.0], [2.0, 2.0], [3.0, 2.0], [2.0, math.inf], [math.nan]])
def test_orders_must_be_increasing_and_above_one(orders):
    with pytest.raises(InvalidValueError, match="orders"):
        renyi.rdp([], ADD_REMOVE, orders=orders)
    with pytest.raises(InvalidValueError, match="orders"):
        renyi.epsilon_from_rdp(np.zeros(len(orders)), 1e-5, orders)


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, -1.0]), np.array([1, np.nan])])
def test_values_must_be_divergences(values):
    with pytest.raises(InvalidValueError, match="values"):
        renyi.epsilon_from_rdp(values, 1e-5, [2.0, 3.0])
    with pytest.raises(InvalidValueError, match="values"):
        renyi.delta_from_rdp(values, 1.0, [2.0, 3.0])


@pytest.mark.parametrize("delta", [-1e-9, 1.0, math.nan, math.inf])
def test_delta_must_be_a_probability(delta):
    with pytest.raises(InvalidValueError, match="delta"):
        renyi.epsilon([Gaussian(noise_multiplier=1.0)], delta, ADD_REMOVE)


def test_group_size_must_be_a_count():
    with pytest.raises(InvalidValueError, match="group_size"):
        renyi.rdp([], ADD_REMOVE, group_size=0)


def test_conversion_by_hand():
    """r + log(1 - 1/a) - log(a delta) / (a - 1), at the better of two orders."""
    first = 1.0 + math.log(1 / 2) - math.log(2e-5)
    second = 2.5 + math.log(4 / 5) - math.log(5e-5) / 4
    found, order = renyi.epsilon_from_rdp(np.array([1.0, 2.5]), 1e-5, [2.0, 5.0])
    assert found.shape == order.shape == ()
    assert second < first
    assert float(order) == 5.0
    assert second < float(found) < second * (1 + 1e-9)


def test_conversion_keeps_the_leading_axes():
    values = np.random.default_rng(0).uniform(0, 5, (3, 4, len(renyi.ORDERS)))
    values.sort(axis=-1)
    found, orders = renyi.epsilon_from_rdp(values, 1e-5)
    assert found.shape == orders.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        one, order = renyi.epsilon_from_rdp(values[i, j], 1e-5)
        assert (found[i, j], orders[i, j]) == (one, order)


def test_conversion_at_the_ends():
    zeros, ones = np.zeros(2), np.ones(2)
    assert renyi.epsilon_from_rdp(zeros, 1e-300, [2.0, 3.0])[0] == 0
    assert renyi.epsilon_from_rdp(zeros, 0.0, [2.0, 3.0])[0] == 0
    assert renyi.epsilon_from_rdp(ones, 0.0, [2.0, 3.0])[0] == np.inf
    assert renyi.epsilon_from_rdp(ones, 0.999, [2.0, 3.0])[0] == 0
    assert renyi.epsilon_from_rdp(ones * np.inf, 0.5, [2.0, 3.0])[0] == np.inf
    assert renyi.epsilon_from_rdp(np.array([1e-12, 2e-12]), 1e-5, [2.0, 3.0])[0] == 0
    assert renyi.epsilon([], 1e-5, ADD_REMOVE).epsilon == 0


def test_tiny_divergence_is_not_free():
    found = renyi.epsilon([Gaussian(noise_multiplier=1e200)], 0.0, ADD_REMOVE)
    assert found.epsilon == math.inf
    nothing = PureDP(epsilon=0.0, neighbouring=ADD_REMOVE)
    assert renyi.epsilon([nothing], 0.0, ADD_REMOVE).epsilon == 0


def test_the_edge_of_the_grid_is_said():
    def at(sigma):
        return renyi.epsilon([Gaussian(noise_multiplier=sigma)], 1e-5, ADD_REMOVE)

    assert at(1e-4).order == 1.01
    assert at(1e-4).at_edge
    assert at(1e4).order == 10000.0
    assert at(1e4).at_edge
    assert not at(1.0).at_edge
    assert not at(0.0).at_edge
    assert not at(1e9).at_edge


@given(
    sigma=st.floats(0.05, 500), delta=st.floats(1e-15, 0.3), relation=st.sampled_from(Neighbouring)
)
def test_epsilon_is_above_the_exact_one_of_a_gaussian(sigma, delta, relation):
    found = renyi.epsilon([Gaussian(noise_multiplier=sigma)], delta, relation).epsilon
    mu = (2 if relation is REPLACE_ONE else 1) / sigma
    assert found >= gaussian.epsilon(mu, delta)[0]


@given(scale=st.floats(1e-3, 30), delta=st.floats(1e-12, 0.3))
def test_delta_and_largest_divergence_undo_epsilon(scale, delta):
    values = scale * np.array(renyi.ORDERS)
    epsilon = float(renyi.epsilon_from_rdp(values, delta)[0])
    if epsilon > 0:
        assert renyi.delta_from_rdp(values, epsilon) == pytest.approx(delta, rel=1e-5)
        room = renyi.rdp_within(epsilon, delta)
        assert (room <= values * (1 + 1e-9)).all()
        positive = np.maximum(room, 0)
        found = np.array(
            [
                renyi.epsilon_from_rdp(positive[i : i + 1], delta, renyi.ORDERS[i : i + 1])[0]
                for i in range(len(room))
                if room[i] > 0
            ]
        )
        assert (found <= epsilon).all()


def test_delta_from_divergence_is_above_the_exact_one():
    for sigma, epsilon in [(1.0, 0.0), (1.0, 2.0), (0.5, 10.0), (30.0, 0.01)]:
        values = renyi.rdp([Gaussian(noise_multiplier=sigma)], ADD_REMOVE)
        exact = math.exp(gaussian.log_delta(1 / sigma, epsilon)[0])
        assert exact <= renyi.delta_from_rdp(values, epsilon) <= min(1, 6 * exact)
    assert renyi.delta_from_rdp(np.full(len(renyi.ORDERS), np.inf), 1.0) == 1
    assert renyi.delta_from_rdp(np.zeros(len(renyi.ORDERS)), 0.0) == 0


phases = st.builds(
    poisson, st.sampled_from([0.7, 1.0, 3.0]), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 99)
)


@settings(deadline=None, max_examples=40)
@given(first=st.lists(phases, max_size=3), second=st.lists(phases, max_size=3))
def test_divergences_add_up_in_any_order(first, second):
    together = renyi.rdp([*first, *second], ADD_REMOVE)
    assert (together == renyi.rdp([*second[::-1], *first[::-1]], ADD_REMOVE)).all()
    apart = renyi.rdp(first, ADD_REMOVE) + renyi.rdp(second, ADD_REMOVE)
    np.testing.assert_allclose(together, apart, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(sigma=st.floats(0.3, 20), q=st.floats(1e-4, 0.99), steps=st.integers(1, 1000))
def test_less_noise_a_larger_rate_and_more_steps_cost_more(sigma, q, steps):
    orders = [1.01, 1.5, 2.0, 2.5, 8.0, 33.0]

    def vector(*phase):
        return renyi.rdp([poisson(*phase)], ADD_REMOVE, orders=orders)

    base = vector(sigma, q, steps)
    rounding = 1e-10 * steps
    assert (np.diff(base) >= -rounding).all()
    assert (vector(sigma * 1.1, q, steps) <= base * (1 + 1e-9) + rounding).all()
    assert (vector(sigma, q * 0.9, steps) <= base * (1 + 1e-9) + rounding).all()
    assert (vector(sigma, q, steps + 1) > base).all()
