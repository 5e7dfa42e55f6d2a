"""Sums of log-normal variables: closed forms, quadrature and simulation between the two laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from accountants.analyses.sums import law_of_sum

TAIL = 1e-20


def laws(count, spread, tail=TAIL):
    return tuple(law_of_sum(count, spread, tail, above=side) for side in (True, False))


def call(law, strike):
    """E[(S - k)+] on a law, what was cut off included."""
    return float(np.maximum(law.values - strike, 0) @ law.masses) + law.infinity * law.count


def put(law, strike):
    return float(np.maximum(strike - law.values, 0) @ law.masses)


def call_of_one(strike, spread):
    """E[(X - k)+], by Black & Scholes 1973; the mean of X less k where k is no more than 0."""
    above = np.maximum(strike, 1e-300)
    d = -np.log(above) / spread + spread / 2
    return np.where(strike > 0, ndtr(d) - above * ndtr(d - spread), 1 - strike)


def call_of_two(strike, spread):
    """The first term by the trapezoidal rule, the second in closed form."""
    u, step = np.linspace(-12, 12 + spread, 40_001, retstep=True)
    density = np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    first = np.exp(spread * u - spread * spread / 2)
    return float(np.sum(density * call_of_one(strike - first, spread)) * step)


STRIKES = np.array([0.05, 0.5, 1.0, 2.0, 3.5, 10.0, 60.0])


@pytest.mark.parametrize("spread", [0.2, 1.0, 2.5])
def test_one_term_lies_between_its_laws(spread):
    above, below = laws(1, spread)
    for strike in STRIKES:
        exact = float(call_of_one(strike, spread))
        assert call(below, strike) <= exact * (1 + 1e-12) <= call(above, strike) * (1 + 2e-12)
        assert call(above, strike) - call(below, strike) <= 2e-4 * min(strike, 1 + exact)


@pytest.mark.parametrize("spread", [0.2, 1.0, 2.5])
def test_two_terms_lie_between_their_laws(spread):
    above, below = laws(2, spread)
    for strike in STRIKES:
        exact = call_of_two(strike, spread)
        assert call(below, strike) <= exact * (1 + 1e-9) + 1e-15
        assert exact <= call(above, strike) * (1 + 1e-9) + 1e-15
        assert call(above, strike) == pytest.approx(call(below, strike), rel=1e-2, abs=1e-12)
        exact_put = exact - 2 + strike
        assert put(below, strike) <= exact_put + 1e-9
        assert exact_put <= put(above, strike) + 1e-9


@pytest.mark.parametrize(("count", "spread"), [(3, 1.0), (7, 0.5), (32, 1.0), (100, 0.3)])
def test_simulated_sums_lie_between_the_laws(count, spread):
    """Five standard errors to both sides; seeded."""
    draws = np.random.default_rng(5).normal(size=(200_000, count))
    sums = np.exp(spread * draws - spread**2 / 2).sum(axis=1)
    above, below = laws(count, spread)
    deviation = math.sqrt(count * math.expm1(spread**2))
    for strike in count + deviation * np.array([-1, -0.3, 0.0, 0.7, 2.0]):
        paid = np.maximum(sums - strike, 0)
        slack = 5 * paid.std() / math.sqrt(len(paid))
        assert call(below, strike) <= paid.mean() + slack
        assert call(above, strike) >= paid.mean() - slack


@settings(max_examples=12, deadline=None, derandomize=True)
@given(count=st.integers(1, 60), spread=st.floats(0.02, 4), share=st.floats(0.05, 20))
def test_the_law_above_is_above_in_convex_order(count, spread, share):
    above, below = laws(count, spread)
    strike = share * count
    assert call(below, strike) <= call(above, strike) * (1 + 1e-6)
    assert put(below, strike) <= put(above, strike) * (1 + 1e-6)
    for law in (above, below):
        assert np.all(np.diff(law.values) > 0)
        assert law.values[0] >= 0
        assert law.masses.sum() == pytest.approx(1, abs=1e-6)
        mean = law.values @ law.masses / count + law.infinity
        assert mean == pytest.approx(1, abs=1e-5)


def test_the_variance_is_met_from_both_sides():
    """Var(S) = t (exp(s^2) - 1)."""
    for count, spread in ((2, 1.0), (33, 0.7), (1000, 0.5)):
        exact = count * math.expm1(spread**2)
        above, below = (
            float((law.values - count) ** 2 @ law.masses) for law in laws(count, spread)
        )
        assert exact * (1 - 1e-3) <= below <= exact <= above <= exact * (1 + 1e-3)


def test_what_is_cut_off_is_counted():
    """The mean does not fall where one term is cut, nor where its sums are cut again."""
    one, sixteen = (law_of_sum(count, 1.0, 1e-4, above=True) for count in (1, 16))
    assert 0 < one.infinity < sixteen.infinity < 2e-4
    assert one.values[-1] < sixteen.values[-1] < 16 * one.values[-1]
    for law in (one, sixteen):
        assert law.values @ law.masses / law.count + law.infinity >= 1 - 1e-12
    wide = law_of_sum(16, 1.0, 1e-40, above=True)
    for strike in (10.0, 30.0, 200.0):
        assert call(sixteen, strike) >= call(wide, strike)
