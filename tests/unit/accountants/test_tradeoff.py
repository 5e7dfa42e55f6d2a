"""What an attacker can reach at most: by hand, against closed forms, and never below the truth."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from accountants import InvalidValueError, Neighbouring, certified, tradeoff
from accountants.analyses import gaussian
from accountants.events import Gaussian, PoissonGaussian
from accountants.guarantees import DeltaBounds
from accountants.tradeoff import (
    EPSILONS,
    advantage,
    advantage_gaussian,
    curve,
    curve_of_profile,
    mu_of,
    true_positive_rate,
    true_positive_rate_gaussian,
)

some = settings(max_examples=60, deadline=None, derandomize=True)
rates = st.floats(0, 1)
epsilons = st.floats(0, 1000)
profiles = st.lists(st.tuples(st.floats(0, 20), rates), min_size=1, max_size=5)
mus = st.floats(0.05, 8)


def gaussian_profile(mu):
    return [(epsilon, math.exp(gaussian.log_delta(mu, epsilon)[1])) for epsilon in EPSILONS]


def test_the_examples_in_the_docstrings_are_right():
    result = doctest.testmod(tradeoff)
    assert result.attempted >= 6
    assert result.failed == 0


# One pair, or a profile of them


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "expected"),
    [
        (math.log(2), 0.0, 0.1, 0.2),  # 2 * 0.1
        (math.log(2), 0.1, 0.1, 0.3),  # 2 * 0.1 + 0.1
        (math.log(2), 0.0, 0.6, 0.8),  # 1 - (1 - 0.6) / 2
        (math.log(2), 0.1, 0.6, 0.85),  # 1 - (1 - 0.1 - 0.6) / 2
        (math.log(2), 0.0, 1 / 3, 2 / 3),  # where both are equal
        (0.0, 0.0, 0.3, 0.3),
        (0.0, 0.25, 0.3, 0.55),
        (0.0, 1.0, 0.0, 1.0),
        (5.0, 0.0, 0.0, 0.0),
        (5.0, 0.2, 0.0, 0.2),
        (5.0, 0.2, 1.0, 1.0),
        (1000.0, 0.2, 0.0, 0.2),
        (1000.0, 0.2, 1e-300, 1.0),
    ],
)
def test_true_positive_rate_by_hand(epsilon, delta, rate, expected):
    found = true_positive_rate([(epsilon, delta)], rate)
    assert expected <= found == pytest.approx(expected, rel=1e-10)


def test_every_pair_of_a_profile_counts():
    steep, flat = (3.0, 0.0), (0.0, 0.2)
    assert true_positive_rate([steep, flat], 0.001) == true_positive_rate([steep], 0.001)
    assert true_positive_rate([steep, flat], 0.5) == true_positive_rate([flat], 0.5)
    assert true_positive_rate([steep], 0.5) > true_positive_rate([flat], 0.5)


@some
@given(profile=profiles, low=rates, high=rates)
def test_true_positive_rate_is_a_rising_curve_above_guessing(profile, low, high):
    low, high = sorted((low, high))
    assert low <= true_positive_rate(profile, low) <= true_positive_rate(profile, high) <= 1
    assert true_positive_rate(profile, 1.0) == 1.0


@some
@given(epsilon=epsilons, delta=rates, rate=rates, more=st.floats(0, 3))
def test_true_positive_rate_grows_with_epsilon_and_delta(epsilon, delta, rate, more):
    found = true_positive_rate([(epsilon, delta)], rate)
    assert found <= true_positive_rate([(epsilon + more, delta)], rate)
    assert found <= true_positive_rate([(epsilon, min(1.0, delta + more))], rate)


@some
@given(epsilon=st.floats(0, 30), rate=st.floats(0, 1, allow_subnormal=False))
def test_randomised_response_is_never_above_the_bound_and_touches_it(epsilon, rate):
    """The bit is told truly with chance e^eps / (1 + e^eps); its best test is two lines."""
    lies = 1 / (1 + math.exp(epsilon))
    best = rate * math.exp(epsilon) if rate <= lies else 1 - (1 - rate) * math.exp(-epsilon)
    found = true_positive_rate([(epsilon, 0.0)], rate)
    assert found >= min(best, 1.0) * (1 - 1e-13)
    assert found == pytest.approx(min(best, 1.0), rel=1e-3, abs=1e-14)


@some
@given(mu=mus, rate=st.floats(1e-12, 1 - 1e-12))
def test_the_profile_of_a_gaussian_bounds_its_exact_curve_closely(mu, rate):
    found = true_positive_rate(gaussian_profile(mu), rate)
    exact = norm.cdf(norm.ppf(rate) + mu)
    assert exact * (1 - 1e-13) <= found <= exact * (1.05 if rate >= 1e-4 else 1.3)


@pytest.mark.parametrize("mu", np.geomspace(0.05, 8, 12))
def test_the_default_grid_has_no_gap(mu):
    """Every rate, not those that a search happens to try."""
    profile = gaussian_profile(mu)
    for rate in np.geomspace(1e-12, 0.9, 60):
        exact = norm.cdf(norm.ppf(rate) + mu)
        found = true_positive_rate(profile, rate)
        assert exact <= found <= exact * (1.05 if rate >= 1e-4 else 1.3)


# Advantage


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ([(0.0, 0.0)], 0.0),
        ([(0.0, 0.3)], 0.3),
        ([(math.log(3), 0.0)], 0.5),  # (3 - 1) / (3 + 1)
        ([(math.log(3), 0.1)], 0.55),  # (3 - 1 + 0.2) / (3 + 1)
        ([(math.log(3), 0.1), (0.0, 0.3)], 0.3),
        ([(1000.0, 0.0)], 1.0),
        ([(1000.0, 1.0)], 1.0),
    ],
)
def test_advantage_by_hand(profile, expected):
    assert expected <= advantage(profile) == pytest.approx(expected, rel=1e-10)


@some
@given(profile=profiles)
def test_advantage_is_the_largest_distance_of_the_curve_from_guessing(profile):
    grid = [*np.linspace(0, 1, 101), *((1 - d) / (1 + math.exp(e)) for e, d in profile)]
    largest = max(true_positive_rate(profile, rate) - rate for rate in grid)
    assert largest - 1e-10 <= advantage(profile) == pytest.approx(largest, abs=1e-9)


@some
@given(mu=st.floats(0, 60))
def test_advantage_of_a_gaussian_is_its_delta_at_epsilon_zero(mu):
    exact = math.exp(gaussian.log_delta(mu, 0.0)[0]) if mu > 0 else 0.0
    assert exact <= advantage_gaussian(mu) <= 1
    assert advantage_gaussian(mu) == pytest.approx(exact, abs=1e-10)


def test_advantage_of_a_gaussian_by_hand():
    assert advantage_gaussian(0.0) == 0.0
    assert advantage_gaussian(2.0) == pytest.approx(0.6826894921370859, rel=1e-10)
    assert advantage_gaussian(2.0) > 0.6826894921370859


# The Gaussian curve and mu


def test_true_positive_rate_of_a_gaussian_by_hand():
    """Phi(Phi^-1(0.5) + 1) and Phi(Phi^-1(0.01) + 2); nothing is learned from mu = 0."""
    assert true_positive_rate_gaussian(1.0, 0.5) == pytest.approx(0.8413447460685429, rel=1e-10)
    assert true_positive_rate_gaussian(1.0, 0.5) > 0.8413447460685429
    assert true_positive_rate_gaussian(2.0, 0.01) == pytest.approx(0.3720806, abs=1e-6)
    assert true_positive_rate_gaussian(0.0, 0.25) == pytest.approx(0.25, rel=1e-10)
    assert (true_positive_rate_gaussian(3.0, 0.0), true_positive_rate_gaussian(3.0, 1.0)) == (0, 1)


@some
@given(mu=st.floats(0, 60), rate=st.floats(1e-300, 1))
def test_true_positive_rate_of_a_gaussian_is_never_below_guessing(mu, rate):
    assert rate <= true_positive_rate_gaussian(mu, rate) <= 1


@pytest.mark.parametrize(("epsilon", "mu"), [(4.37718, 1.0), (16.67549, 3.0), (33.10373, 5.0)])
def test_mu_of_reaches_golden_values(epsilon, mu):
    assert mu_of(epsilon, 1e-5) == pytest.approx(mu, abs=1e-5)


@some
@given(epsilon=st.floats(0.01, 50), delta=st.floats(1e-12, 0.1))
def test_mu_of_has_that_epsilon_and_no_more(epsilon, delta):
    lower, upper = gaussian.epsilon(mu_of(epsilon, delta), delta)
    assert lower <= epsilon * (1 + 1e-10)
    assert upper == pytest.approx(epsilon, rel=1e-8)


# Curves of events


@pytest.fixture
def closed_form(monkeypatch):
    """The profile of Gaussian events alone, in place of the analysis of all events; keeps calls."""
    calls = []

    def delta(events, epsilon, neighbouring, *, group_size=1, relative_gap):
        calls.append((tuple(events), epsilon, neighbouring, group_size))
        factor = 2 if neighbouring is Neighbouring.REPLACE_ONE else 1
        scale = [e.steps * (factor * group_size / e.noise_multiplier) ** 2 for e in events]
        low, high = gaussian.log_delta(math.sqrt(sum(scale)), epsilon)
        return DeltaBounds(math.exp(low) / 2, math.exp(high), "closed form, for this test")

    monkeypatch.setattr(certified, "delta", delta, raising=False)
    return calls


RATES = [0.0, 1e-6, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize(
    ("neighbouring", "group_size", "mu"),
    [
        (Neighbouring.ADD_REMOVE, 1, 1.0),
        (Neighbouring.REPLACE_ONE, 1, 2.0),
        (Neighbouring.ADD_REMOVE, 3, 3.0),
    ],
)
def test_curve_of_gaussian_events_lies_just_above_the_exact_one(
    closed_form, neighbouring, group_size, mu
):
    events = (event for event in [Gaussian(noise_multiplier=2.0, steps=4)])
    found = curve(events, RATES, neighbouring, group_size=group_size)
    assert found.false_positive_rates == tuple(RATES)
    for rate, bound in zip(RATES[1:], found.true_positive_rates[1:], strict=True):
        exact = norm.cdf(norm.ppf(rate) + mu)
        assert exact <= bound <= exact * (1.02 if rate >= 1e-4 else 1.1)
    # At no false positive the bound is the delta of the largest epsilon of the grid.
    assert found.true_positive_rates[0] < 1e-50
    assert found.advantage == pytest.approx(advantage_gaussian(mu), rel=1e-9)


def test_curve_asks_for_every_epsilon_of_the_grid_that_could_lower_it(closed_form):
    """At epsilon 2 no delta could: exp(2) 0.1 is above what epsilon 0.7 allows."""
    events, grid = [Gaussian(noise_multiplier=2.0)], [0.5, 0.7, 2.0]
    found = curve(events, [0.1], Neighbouring.ZERO_OUT, group_size=2, epsilons=grid)
    expected = [(tuple(events), e, Neighbouring.ZERO_OUT, 2) for e in (0.5, 0.7)]
    assert closed_form == expected
    pairs = [(e, math.exp(gaussian.log_delta(1.0, e)[1])) for e in grid]
    assert found == curve_of_profile(pairs, [0.1])


@pytest.mark.parametrize("mu", [0.03, 0.3, 1.0, 3.0, 8.0])
def test_what_is_not_asked_for_would_have_changed_nothing(closed_form, mu):
    rates = [1e-3, 1e-2, 1e-1, 0.9]
    found = curve([Gaussian(noise_multiplier=1 / mu)], rates, Neighbouring.ADD_REMOVE)
    assert found == curve_of_profile(gaussian_profile(mu), rates)
    assert len(closed_form) <= len(EPSILONS)


# What (epsilon, delta) does not say


@pytest.mark.parametrize(("epsilon", "times"), [(0.1, 111.15), (1.0, 16.12), (2.0, 9.317)])
def test_the_privacy_loss_exceeds_epsilon_far_more_often_than_delta(epsilon, times):
    """Golden: of the Gaussian that is exactly (epsilon, 1e-5)-DP, P[loss > epsilon] / 1e-5.

    Its loss is N(mu^2 / 2, mu^2). So "at most epsilon, but for events of probability about delta"
    is false, and no text may say it.
    """
    mu = mu_of(epsilon, 1e-5)
    assert certified.epsilon(
        [Gaussian(noise_multiplier=1 / mu)], 1e-5, Neighbouring.ADD_REMOVE
    ).upper == pytest.approx(epsilon)
    assert norm.sf((epsilon - mu * mu / 2) / mu) / 1e-5 == pytest.approx(times, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.0])
def test_the_curve_of_a_release_at_its_delta_is_just_above_the_best_attack(epsilon):
    """N(mu, 1) against N(0, 1): the best test accuses above a threshold."""
    mu, rates = mu_of(epsilon, 1e-5), [1e-3, 1e-2, 1e-1]
    found = curve([Gaussian(noise_multiplier=1 / mu)], rates, Neighbouring.ADD_REMOVE)
    for rate, bound in zip(rates, found.true_positive_rates, strict=True):
        best = norm.sf(norm.isf(rate) - mu)
        assert best <= bound <= 1.05 * best
        assert bound <= 1.01 * true_positive_rate([(epsilon, 1e-5)], rate)
    best = norm.cdf(mu / 2) - norm.cdf(-mu / 2)
    assert best <= found.advantage <= 1.001 * best


def test_a_finer_grid_gives_a_closer_curve(closed_form):
    events = [Gaussian(noise_multiplier=1.0)]
    coarse = curve(events, [0.01], Neighbouring.ADD_REMOVE, epsilons=[0.0, 4.0])
    fine = curve(events, [0.01], Neighbouring.ADD_REMOVE)
    exact = norm.cdf(norm.ppf(0.01) + 1)
    assert exact < fine.true_positive_rates[0] < coarse.true_positive_rates[0]


def test_the_default_curve_of_dp_sgd_is_as_good_as_a_fine_one_with_close_bounds():
    """Reference: 600 epsilons with bounds on delta 1e-3 apart."""
    training = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
    rates = [1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5]
    fine = [0.0040705, 0.0104725, 0.0291465, 0.0729785, 0.194235, 0.334395, 0.454485, 0.658628]
    found = curve([training], rates, Neighbouring.ADD_REMOVE)
    for bound, close in zip(found.true_positive_rates, fine, strict=True):
        assert close * (1 - 2e-3) <= bound <= close * 1.03
    assert 0.161073 * (1 - 2e-3) <= found.advantage <= 0.161073 * 1.01


def test_one_event_in_place_of_several_is_refused():
    with pytest.raises(InvalidValueError, match="must be a list of events, got one event"):
        curve(Gaussian(noise_multiplier=1.0), [0.5], Neighbouring.ADD_REMOVE)


def test_curve_of_sampled_batches_is_bounded_by_both_sides_of_one_step():
    """One Poisson step: the attack that looks for the record reaches q Phi(...) + (1 - q) FPR."""
    step = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=1)
    found = curve([step], [0.001, 0.1], Neighbouring.ADD_REMOVE, epsilons=[0.0, 0.1, 0.2, 0.5, 1.0])
    for rate, bound in zip([0.001, 0.1], found.true_positive_rates, strict=True):
        reached = 0.1 * norm.cdf(norm.ppf(rate) + 1) + 0.9 * rate
        assert reached <= bound <= reached * 1.5
    # The bound on delta at epsilon 0 is rough for one step; it must hold all the same.
    exact = 0.1 * (norm.cdf(0.5) - norm.cdf(-0.5))
    assert exact <= found.advantage <= 2 * exact


def test_curve_of_a_profile_is_the_bound_at_every_rate():
    profile = [(0.0, 0.3), (1.0, 0.1), (3.0, 1e-5)]
    found = curve_of_profile(iter(profile), RATES)
    assert found.true_positive_rates == tuple(true_positive_rate(profile, r) for r in RATES)
    assert found.advantage == advantage(profile)


# Bad input


NOT_RATES = [-0.1, 1.1, math.nan, math.inf, True, "0.5", None]
NOT_EPSILONS = [-1.0, math.nan, math.inf, True, "1", None]


@pytest.mark.parametrize("value", NOT_RATES)
def test_bad_rates_are_refused(value):
    with pytest.raises(InvalidValueError, match="false_positive_rate must be"):
        true_positive_rate([(1.0, 0.0)], value)
    with pytest.raises(InvalidValueError, match="false_positive_rate must be"):
        true_positive_rate_gaussian(1.0, value)
    with pytest.raises(InvalidValueError, match="false_positive_rates must be"):
        curve_of_profile([(1.0, 0.0)], [0.5, value])


@pytest.mark.parametrize("value", NOT_RATES)
def test_a_bad_delta_in_a_profile_is_refused(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        true_positive_rate([(1.0, 0.0), (1.0, value)], 0.5)
    with pytest.raises(InvalidValueError, match="delta must be"):
        advantage([(1.0, value)])


@pytest.mark.parametrize("value", NOT_EPSILONS)
def test_a_bad_epsilon_in_a_profile_is_refused(value):
    with pytest.raises(InvalidValueError, match="epsilon must be a finite number, 0 or above"):
        true_positive_rate([(1.0, 0.0), (value, 0.0)], 0.5)
    with pytest.raises(InvalidValueError, match="epsilon must be a finite number, 0 or above"):
        advantage([(value, 0.0)])


@pytest.mark.parametrize("value", NOT_EPSILONS)
def test_a_bad_mu_is_refused(value):
    with pytest.raises(InvalidValueError, match="mu must be a finite number, 0 or above"):
        true_positive_rate_gaussian(value, 0.5)
    with pytest.raises(InvalidValueError, match="mu must be a finite number, 0 or above"):
        advantage_gaussian(value)


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)])
def test_mu_of_refuses_what_no_gaussian_has(epsilon, delta):
    with pytest.raises(InvalidValueError, match="must be"):
        mu_of(epsilon, delta)


def test_nothing_in_gives_no_number_out(closed_form):
    with pytest.raises(InvalidValueError, match="profile must hold at least one pair"):
        true_positive_rate([], 0.5)
    with pytest.raises(InvalidValueError, match="profile must hold at least one pair"):
        advantage([])
    with pytest.raises(InvalidValueError, match="false_positive_rates must hold at least one"):
        curve_of_profile([(1.0, 0.0)], [])
    with pytest.raises(InvalidValueError, match="profile must hold at least one pair"):
        curve([Gaussian(noise_multiplier=1.0)], [0.5], Neighbouring.ADD_REMOVE, epsilons=[])
