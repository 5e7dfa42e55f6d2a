"""The estimate from cosines: golden values, an integral, a simulated run, and what is no cosine."""

import doctest
import math

import numpy as np
import pytest
from scipy.stats import norm

from accountants import InvalidValueError
from accountants.auditing import random_directions
from accountants.auditing.random_directions import one_shot
from tests.unit.accountants.auditing.attacks import NOT_COUNTS, NOT_PROBABILITIES


def test_the_examples_in_the_docstrings_are_right():
    result = doctest.testmod(random_directions)
    assert result.attempted >= 1
    assert result.failed == 0


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(0.01, 4.37718), (0.03, 16.675494402828058), (0.05, 33.103732335922395)],
)
def test_one_shot_reaches_golden_values(mean, expected):
    """Spread 0.01 = 1 / sqrt(d): both Gaussians have equal variance, and both estimates agree."""
    found = one_shot([mean - 0.01, mean + 0.01], dimension=10_000, delta=1e-5)
    assert found.mean == pytest.approx(mean)
    assert found.standard_deviation == pytest.approx(0.01)
    assert found.epsilon_equal_variance == pytest.approx(expected, abs=1e-5)
    assert found.epsilon == pytest.approx(expected, abs=1e-5)


def test_one_shot_takes_a_negative_mean_like_a_positive_one():
    up, down = one_shot([0.01, 0.04], 10_000, 1e-5), one_shot([-0.01, -0.04], 10_000, 1e-5)
    assert (up.epsilon, up.epsilon_equal_variance) == (down.epsilon, down.epsilon_equal_variance)


@pytest.mark.parametrize("spread", [0.3, 0.8, 0.99999, 1.0, 1.00001, 1.2, 3.0])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-6])
def test_epsilon_between_two_gaussians_matches_an_integral(shift, spread, delta):
    """The fit has mean shift/100 and deviation spread/100, which are shift and spread in units."""
    values = np.array([shift - spread, shift + spread]) / 100
    found = one_shot(values, dimension=10_000, delta=delta).epsilon
    larger = max(divergence(shift, spread, found), divergence(-shift / spread, 1 / spread, found))
    if found > 0:
        assert larger == pytest.approx(delta, rel=1e-3)
    else:
        assert larger <= delta * (1 + 1e-6)


def test_epsilon_of_pure_spread_by_hand():
    """N(0, 4) against N(0, 1): {p > e^eps q} is |x| > k, k^2 = (eps + log 2) 8/3."""
    found = one_shot([-0.2, 0.2], dimension=100, delta=1e-5).epsilon
    k = math.sqrt((found + math.log(2)) * 8 / 3)
    assert 2 * norm.sf(k / 2) - math.exp(found) * 2 * norm.sf(k) == pytest.approx(1e-5, rel=1e-6)


def test_one_shot_keeps_its_digits_at_tiny_delta():
    """Nearly equal variances against the closed form, where a difference of chances has none."""
    values = [0.01 - 0.01 * (1 + 1e-12), 0.01 + 0.01 * (1 + 1e-12)]
    found = one_shot(values, dimension=10_000, delta=1e-250)
    assert found.epsilon == pytest.approx(found.epsilon_equal_variance, abs=1e-6)


def test_one_shot_estimates_the_gaussian_mechanism():
    """A sum of 200 random directions and noise of deviation 1: mu = 1, epsilon 4.38 at 1e-5."""
    random = np.random.default_rng(5)
    directions = random.standard_normal((200, 20_000))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = directions.sum(axis=0) + random.standard_normal(20_000)
    found = one_shot(directions @ total / np.linalg.norm(total), 20_000, 1e-5)
    assert found.mean * math.sqrt(20_000) == pytest.approx(1.0, abs=0.2)
    assert found.standard_deviation * math.sqrt(20_000) == pytest.approx(1.0, abs=0.15)
    assert found.epsilon_equal_variance == pytest.approx(4.37718, abs=1.0)
    assert found.epsilon == pytest.approx(4.37718, abs=1.5)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 1.01, -1.01, True, np.True_, "0.1", None, 1j]
)
def test_one_shot_refuses_what_is_no_cosine(value):
    with pytest.raises(InvalidValueError, match="cosines must be numbers in"):
        one_shot([0.1, value], 100, 1e-5)


@pytest.mark.parametrize("values", [[], [0.1]])
def test_one_shot_refuses_too_few_cosines(values):
    with pytest.raises(InvalidValueError, match=f"two values at least, got {len(values)}"):
        one_shot(values, 100, 1e-5)


@pytest.mark.parametrize("values", [[0.1] * 7, [0.0, 0.0], [0.1, 0.1 + 1e-16], [0.5, 0.5000001]])
def test_one_shot_refuses_cosines_without_a_spread(values):
    with pytest.raises(InvalidValueError, match="cosines must differ by more than rounding"):
        one_shot(values, 100, 1e-5)


@pytest.mark.parametrize("value", [*NOT_COUNTS, 0])
def test_one_shot_refuses_a_bad_dimension(value):
    with pytest.raises(InvalidValueError, match="dimension must be a whole number from 1 to"):
        one_shot([0.1, 0.2], value, 1e-5)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_delta_must_be_above_zero(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_shot([0.1, 0.2], 100, value)


def divergence(shift, spread, epsilon):
    """sup over S of P(S) - exp(epsilon) Q(S), P = N(shift, spread^2), Q = N(0, 1), on a grid."""
    reach = 12 * max(1.0, spread)
    edges = np.linspace(-reach, reach, 400_001) + shift * spread**2 / (1 + spread**2)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    difference = norm.pdf(middle, shift, spread) - np.exp(epsilon + norm.logpdf(middle))
    return np.maximum(difference, 0).sum() * width
