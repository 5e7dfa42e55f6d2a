"""Lower bounds on epsilon: against values from outside, by hand, by simulation, by properties."""

import doctest
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from accountants import InvalidValueError
from accountants.analyses import gaussian
from accountants.auditing import (
    clopper_pearson,
    clopper_pearson_gaussian,
    error_rate_at_most,
    error_rates,
    gaussian_claims,
    one_run,
    one_run_ceiling,
    one_run_gaussian,
    one_run_p_value,
    one_shot,
    random_directions,
    single_run,
)

some = settings(max_examples=40, deadline=None, derandomize=True)
significances = st.sampled_from([0.001, 0.05, 0.2])
deltas = st.sampled_from([0.0, 1e-6, 1e-3])

# m, r, v, delta -> epsilon of Steinke et al., epsilon of Mahloujifar et al. (None: not computed).
# Two implementations from outside agree on the first to 1e-7, and give the second to 1e-6.
ONE_RUN = [
    (1000, 1000, 600, 0, 0.29746792364934765, None),
    (1000, 1000, 600, 1e-5, 0.29722695371877517, 0.5835403679239116),
    (1000, 100, 95, 1e-5, 2.165175799714052, 3.3233004900323655),
    (1000, 100, 100, 0, 3.4929654311522937, None),
    (1000, 100, 100, 1e-5, 3.4653763478110453, 5.5490279999429415),
    (5000, 1000, 900, 1e-5, 2.018259188202394, 3.0228505900209983),
    (5000, 1000, 900, 1e-6, 2.0209398589774272, 3.395591965865865),
    (200, 50, 45, 1e-5, 1.3919765072311192, 2.4463649640593372),
    (10000, 2000, 1800, 1e-5, 2.07017, 3.02590),
]
# n of each kind, false positives, false negatives -> epsilon, mu, epsilon of mu at delta 1e-5.
COUNTS = [
    (1000, 10, 500, 3.2419952494409845, 2.0109859395802485, 10.064961709805186),
    (500, 0, 100, 4.64142327708503, 3.1530804467322633, 17.78892587944432),
    (1000, 50, 50, 2.65974, 3.02206, 16.83446),
    (100_000, 100, 50_000, 6.01268, 3.02386, 16.84747),
]


def test_the_examples_in_the_docstrings_are_right():
    modules = (single_run, error_rates, gaussian_claims, random_directions)
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.attempted for result in results) >= 8
    assert all(result.failed == 0 for result in results)


# One run, (epsilon, delta)-DP


@pytest.mark.parametrize(("canaries", "guesses", "correct", "delta", "expected", "_"), ONE_RUN)
def test_one_run_reaches_golden_values(canaries, guesses, correct, delta, expected, _):
    tolerance = 1e-8 if len(str(expected)) > 10 else 1e-5
    assert one_run(canaries, guesses, correct, delta) == pytest.approx(expected, abs=tolerance)


def test_one_run_finds_nothing_in_coin_tosses():
    assert one_run(1000, 1000, 500, 1e-5) == 0.0
    assert one_run(1000, 0, 0, 1e-5) == 0.0
    assert one_run(1000, 10, 0, 0.0) == 0.0


def test_one_run_by_hand():
    """All 20 right without delta: q^20 = 0.05 at q = 0.860892, and log(q / (1 - q)) = 1.822716."""
    assert one_run(20, 20, 20, 0.0) == pytest.approx(1.822716, abs=1e-6)


def test_p_value_by_hand():
    """Two of two right at epsilon 0: 1/4 + 2 m delta max(P[X=1], (P[X=0] + P[X=1]) / 2)."""
    assert one_run_p_value(5, 2, 2, epsilon=0.0, delta=0.01) == pytest.approx(0.25 + 0.1 * 0.5)


def test_p_value_averages_over_more_than_one_count():
    """Three of four at epsilon log 3: 1 - 67/256 + 2 m delta (P[X=2] = 54/256, the best of three).

    P[X=2..1] / 2 = 33/256 and P[X=2..0] / 3 = 67/768 are smaller. At epsilon 0 and four of four
    P[X=3] = 4/16 is passed by P[X=3..2] / 2 = 5/16.
    """
    value = one_run_p_value(5, 4, 3, epsilon=math.log(3), delta=0.001)
    assert value == pytest.approx(189 / 256 + 0.01 * 54 / 256)
    assert one_run_p_value(5, 4, 4, epsilon=0.0, delta=0.01) == pytest.approx(1 / 16 + 0.1 * 5 / 16)


@some
@given(data=st.data(), delta=deltas, epsilon=st.floats(0, 5))
def test_p_value_is_what_the_definition_says(data, delta, epsilon):
    guesses = data.draw(st.integers(1, 60))
    correct = data.draw(st.integers(1, guesses))
    chance = binom(guesses, 1 / (1 + math.exp(-epsilon)))
    alpha = max(
        sum(chance.pmf(correct - j) for j in range(1, i + 1)) / i for i in range(1, correct + 1)
    )
    expected = min(1.0, chance.sf(correct - 1) + 2 * 100 * delta * alpha)
    found = one_run_p_value(100, guesses, correct, epsilon, delta)
    assert found == pytest.approx(expected, rel=1e-8)


def test_p_value_is_rounded_up_also_for_many_guesses():
    """References: 60-digit arithmetic, by adding up the binomial chances one by one."""
    for counts, epsilon, delta, exact in [
        ((100_000, 100_000, 60_000), 0.39, 1e-5, 0.011506305281325029),
        ((100_000, 100_000, 99_000), 4.5, 1e-6, 0.0025498577391653487),
    ]:
        found = one_run_p_value(*counts, epsilon=epsilon, delta=delta)
        assert exact < found < exact * (1 + 1e-7)


@some
@given(data=st.data(), delta=deltas, significance=significances)
def test_one_run_returns_an_epsilon_that_is_refuted_next_to_one_that_is_not(
    data, delta, significance
):
    guesses = data.draw(st.integers(1, 300))
    correct = data.draw(st.integers(guesses // 2, guesses))
    found = one_run(400, guesses, correct, delta, significance)
    assert one_run_p_value(400, guesses, correct, found + 1e-7, delta) >= significance
    if found > 0:
        assert one_run_p_value(400, guesses, correct, found, delta) < significance


@some
@given(data=st.data(), delta=deltas, significance=significances)
def test_one_run_grows_with_right_guesses_and_stays_under_its_ceiling(data, delta, significance):
    guesses = data.draw(st.integers(1, 400))
    correct = data.draw(st.integers(0, guesses - 1))
    fewer = one_run(500, guesses, correct, delta, significance)
    more = one_run(500, guesses, correct + 1, delta, significance)
    assert 0 <= fewer <= more <= one_run_ceiling(guesses, significance)


@some
@given(correct=st.integers(30, 50), delta=deltas, significance=significances)
def test_one_run_falls_with_delta_canaries_and_confidence(correct, delta, significance):
    found = one_run(100, 50, correct, delta, significance)
    assert one_run(100, 50, correct, delta + 1e-3, significance) <= found + 1e-8
    assert one_run(1000, 50, correct, delta, significance) <= found + 1e-8
    assert one_run(100, 50, correct, delta, significance / 2) <= found + 1e-8


def test_delta_and_canaries_matter_when_delta_is_not_small():
    assert one_run(1000, 100, 95, 1e-3) < one_run(1000, 100, 95, 1e-5) - 0.05
    assert one_run(10_000, 100, 95, 1e-4) < one_run(1000, 100, 95, 1e-4) - 0.05


def test_one_run_ceiling_by_hand():
    """0.05^(1/1) and 0.05^(1/4) = 0.473 are below 1/2: nothing can be shown; 0.05^(1/5) = 0.549."""
    assert one_run_ceiling(0) == one_run_ceiling(1) == one_run_ceiling(4) == 0.0
    assert one_run_ceiling(5) == pytest.approx(math.log(0.05**0.2 / (1 - 0.05**0.2)))
    assert one_run_ceiling(100) == pytest.approx(3.49297, abs=1e-5)
    assert one_run(5, 5, 5, 0.0) == pytest.approx(one_run_ceiling(5), abs=1e-8)


def test_one_run_does_not_accuse_randomised_response_more_often_than_it_may():
    """Every bit is told truly with chance 1 / (1 + exp(-1)), which is exactly 1-DP."""
    random = np.random.default_rng(1)
    right = random.binomial(500, 1 / (1 + math.exp(-1)), size=2000)
    bounds = {v: one_run(500, 500, int(v), 0.0) for v in np.unique(right)}
    accused = np.mean([bounds[v] > 1.0 for v in right])
    assert 0.02 < accused <= 0.05
    assert max(bounds.values()) > 1.0 > np.median([bounds[v] for v in right]) > 0.7


def test_one_run_stays_below_the_epsilon_of_the_gaussian_mechanism():
    """Scores N(bit, 1), the 50 highest and lowest of 400 are guessed: 4.38 at delta 1e-5."""
    random = np.random.default_rng(2)
    _, epsilon = gaussian.epsilon(1.0, 1e-5)
    right = [guess_extremes(random, mu=1.0, canaries=400, each_side=50) for _ in range(300)]
    found = [one_run(400, 100, v, 1e-5) for v in right]
    assert 0.5 < np.median(found) < max(found) < epsilon


def test_one_run_is_fast_and_finite_for_many_canaries():
    assert one_run(100_000, 100_000, 60_000, 1e-6) == pytest.approx(0.394805, abs=1e-6)
    assert one_run(100_000, 100_000, 100_000, 0.0) == pytest.approx(
        one_run_ceiling(100_000), abs=1e-7
    )


# One run, mu-GDP


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "_", "expected"),
    [case for case in ONE_RUN if case[-1] is not None],
)
def test_one_run_gaussian_reaches_golden_values(canaries, guesses, correct, delta, _, expected):
    found = one_run_gaussian(canaries, guesses, correct, delta)
    assert found.epsilon == pytest.approx(expected, abs=1e-5)
    assert found.epsilon == pytest.approx(gaussian.epsilon(found.mu, delta)[0])


def test_one_run_gaussian_finds_nothing_in_coin_tosses():
    for counts in [(1000, 1000, 500), (1000, 0, 0), (1000, 10, 0)]:
        found = one_run_gaussian(*counts, delta=1e-5)
        assert (found.mu, found.epsilon) == (0.0, 0.0)
    assert one_run_gaussian(1000, 10, 10, delta=1e-5, significance=5e-324).mu == 0.0


def test_one_run_gaussian_by_hand():
    """One canary, guessed rightly: h = 0, so only the limit 1 is left, and r + h = 0.05 + h'.

    h' = Phi(Phi^-1(0.95) - mu) exceeds 1 - 0.95 at significance 0.95 up to mu = 2 Phi^-1(0.95).
    """
    found = one_run_gaussian(1, 1, 1, delta=1e-5, significance=0.95)
    assert found.mu == pytest.approx(2 * norm.ppf(0.95), abs=1e-6)
    assert found.mu < 2 * norm.ppf(0.95)


@some
@given(data=st.data(), significance=significances)
def test_one_run_gaussian_grows_with_right_guesses_and_rejects_what_it_returns(data, significance):
    guesses = data.draw(st.integers(1, 200))
    correct = data.draw(st.integers(0, guesses - 1))
    fewer = one_run_gaussian(300, guesses, correct, 1e-5, significance)
    more = one_run_gaussian(300, guesses, correct + 1, 1e-5, significance)
    assert 0 <= fewer.mu <= more.mu
    assert fewer.epsilon <= more.epsilon
    counts = (300, guesses, correct)
    assert fewer.mu == 0 or rejects_exactly(fewer.mu, *counts, significance)
    assert not rejects_exactly(fewer.mu + 1e-6, *counts, significance)


def test_one_run_gaussian_does_not_accuse_the_gaussian_mechanism_more_often_than_it_may():
    random = np.random.default_rng(3)
    right = [guess_extremes(random, mu=1.0, canaries=200, each_side=10) for _ in range(1000)]
    bounds = {v: one_run_gaussian(200, 20, v, 1e-5).mu for v in set(right)}
    assert np.mean([bounds[v] > 1.0 for v in right]) <= 0.05
    assert np.median([bounds[v] for v in right]) > 0.3


# Counts of errors


@pytest.mark.parametrize(("trials", "wrong_in", "wrong_out", "epsilon", "mu", "of_mu"), COUNTS)
def test_counts_reach_golden_values(trials, wrong_in, wrong_out, epsilon, mu, of_mu):
    counts = (wrong_in, trials, wrong_out, trials)
    tolerance = 1e-9 if len(str(epsilon)) > 10 else 1e-5
    assert clopper_pearson(*counts, delta=1e-5) == pytest.approx(epsilon, abs=tolerance)
    found = clopper_pearson_gaussian(*counts, delta=1e-5)
    assert found.mu == pytest.approx(mu, abs=tolerance)
    assert found.epsilon == pytest.approx(of_mu, abs=tolerance)


def test_error_rate_by_hand():
    """No error in n trials has the chance (1 - p)^n; n - 1 errors or fewer have 1 - p^n."""
    assert error_rate_at_most(0, 500, 0.025) == pytest.approx(1 - 0.025 ** (1 / 500), rel=1e-10)
    assert error_rate_at_most(9, 10, 0.05) == pytest.approx(0.95**0.1, rel=1e-10)
    assert error_rate_at_most(10, 10, 0.05) == 1.0
    assert error_rate_at_most(10, 1000, 0.025) == pytest.approx(0.01831324305511245, rel=1e-10)


@some
@given(data=st.data(), significance=significances)
def test_so_few_errors_are_unlikely_at_the_bound(data, significance):
    trials = data.draw(st.integers(1, 10_000))
    errors = data.draw(st.integers(0, trials - 1))
    bound = error_rate_at_most(errors, trials, significance)
    assert binom.cdf(errors, trials, bound) <= significance * (1 + 1e-9)
    assert binom.cdf(errors, trials, bound * (1 - 1e-6)) > significance * (1 - 1e-9)


def test_clopper_pearson_by_hand():
    """No error in 100 trials: both rates are at most p = 1 - 0.025^(1/100)."""
    rate = 1 - 0.025**0.01
    expected = math.log((1 - 0.01 - rate) / rate)
    assert clopper_pearson(0, 100, 0, 100, delta=0.01) == pytest.approx(expected, abs=1e-9)
    assert clopper_pearson(0, 100, 0, 100, delta=0.01) < expected
    found = clopper_pearson_gaussian(0, 100, 0, 100, delta=0.01)
    assert found.mu == pytest.approx(-2 * norm.ppf(rate), abs=1e-9)


def test_clopper_pearson_asks_the_attack_and_its_opposite():
    assert clopper_pearson(300, 1000, 0, 500, 1e-5) == clopper_pearson(0, 500, 300, 1000, 1e-5) > 4


def test_attacks_that_are_wrong_as_often_as_right_show_nothing():
    for counts in [(50, 100, 50, 100), (100, 100, 0, 100), (90, 100, 90, 100), (0, 1, 0, 1)]:
        assert clopper_pearson(*counts, delta=1e-5) == 0.0
        found = clopper_pearson_gaussian(*counts, delta=1e-5)
        assert (found.mu, found.epsilon) == (0.0, 0.0)


@some
@given(data=st.data(), delta=deltas)
def test_clopper_pearson_falls_with_errors_and_delta(data, delta):
    false_positives, false_negatives = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 99))
    found = clopper_pearson(false_positives, 200, false_negatives, 200, delta)
    assert found >= clopper_pearson(false_positives + 1, 200, false_negatives, 200, delta)
    assert found >= clopper_pearson(false_positives, 200, false_negatives + 1, 200, delta) >= 0
    assert found >= clopper_pearson(false_positives, 200, false_negatives, 200, delta + 1e-3)
    assert found >= clopper_pearson(false_positives, 200, false_negatives, 200, delta, 0.01)


def test_clopper_pearson_does_not_accuse_more_often_than_it_may():
    """Randomised response at epsilon 1, and the Gaussian mechanism at mu = 1 with its best test."""
    random = np.random.default_rng(4)
    wrong = random.binomial(1000, 1 / (1 + math.e), size=(1000, 2))
    assert np.mean([clopper_pearson(a, 1000, b, 1000, 0.0) > 1.0 for a, b in wrong]) <= 0.05
    wrong = random.binomial(1000, norm.cdf(-0.5), size=(1000, 2))
    mus = [clopper_pearson_gaussian(a, 1000, b, 1000, 1e-5).mu for a, b in wrong]
    assert np.mean(np.array(mus) > 1.0) <= 0.05
    assert np.median(mus) > 0.8


# One shot


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


# Bad input


NOT_COUNTS = [-1, 1.0, True, "3", None, math.nan]
NOT_PROBABILITIES = [0, 1, -0.1, 1.5, math.nan, math.inf, True, "0.05", None]


@pytest.mark.parametrize("audit", [one_run, one_run_gaussian])
@pytest.mark.parametrize("value", NOT_COUNTS)
@pytest.mark.parametrize("name", ["canaries", "guesses", "correct"])
def test_one_run_refuses_what_is_no_count(audit, name, value):
    arguments = {"canaries": 10, "guesses": 5, "correct": 3, name: value}
    with pytest.raises(InvalidValueError, match=f"{name} must be a whole number.*got {value!r}"):
        audit(**arguments, delta=1e-5)


@pytest.mark.parametrize("audit", [one_run, one_run_gaussian])
def test_one_run_refuses_counts_that_do_not_fit(audit):
    with pytest.raises(InvalidValueError, match="canaries must be a whole number from 1 to"):
        audit(0, 0, 0, 1e-5)
    with pytest.raises(
        InvalidValueError, match="guesses must be at most canaries, which is 10, got 11"
    ):
        audit(10, 11, 3, 1e-5)
    with pytest.raises(
        InvalidValueError, match="correct must be at most guesses, which is 5, got 6"
    ):
        audit(10, 5, 6, 1e-5)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
@pytest.mark.parametrize("audit", [one_run, one_run_gaussian])
def test_one_run_refuses_a_bad_significance(audit, value):
    with pytest.raises(InvalidValueError, match="significance must be strictly between 0 and 1"):
        audit(10, 5, 3, 1e-5, value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES[1:])
def test_delta_is_refused_above_and_below(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run(10, 5, 3, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run_p_value(10, 5, 3, 1.0, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        clopper_pearson(1, 10, 1, 10, value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_delta_must_be_above_zero_for_a_gaussian(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run_gaussian(10, 5, 3, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        clopper_pearson_gaussian(1, 10, 1, 10, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_shot([0.1, 0.2], 100, value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1"])
def test_p_value_refuses_a_bad_epsilon(value):
    with pytest.raises(InvalidValueError, match="epsilon must be a finite number, 0 or above"):
        one_run_p_value(10, 5, 3, value, 1e-5)


def test_p_value_refuses_counts_that_do_not_fit():
    with pytest.raises(InvalidValueError, match="correct must be at most guesses"):
        one_run_p_value(10, 5, 6, 1.0, 1e-5)


@pytest.mark.parametrize("value", NOT_COUNTS)
def test_ceiling_refuses_what_is_no_count(value):
    with pytest.raises(InvalidValueError, match="guesses must be a whole number"):
        one_run_ceiling(value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_ceiling_and_error_rate_refuse_a_bad_significance(value):
    with pytest.raises(InvalidValueError, match="significance must be"):
        one_run_ceiling(10, value)
    with pytest.raises(InvalidValueError, match="significance must be"):
        error_rate_at_most(1, 10, value)


@pytest.mark.parametrize("audit", [clopper_pearson, clopper_pearson_gaussian])
@pytest.mark.parametrize("value", [*NOT_COUNTS, 11])
@pytest.mark.parametrize("name", ["false_positives", "false_negatives"])
def test_counts_of_errors_are_refused(audit, name, value):
    counts = {"false_positives": 1, "false_negatives": 1, "negatives": 10, "positives": 10}
    with pytest.raises(InvalidValueError, match=f"{name} must be .*got {value!r}"):
        audit(**{**counts, name: value}, delta=1e-5)


@pytest.mark.parametrize("audit", [clopper_pearson, clopper_pearson_gaussian])
@pytest.mark.parametrize("value", [*NOT_COUNTS, 0])
@pytest.mark.parametrize("name", ["negatives", "positives"])
def test_counts_of_trials_are_refused(audit, name, value):
    counts = {"false_positives": 0, "false_negatives": 0, "negatives": 10, "positives": 10}
    with pytest.raises(InvalidValueError, match=f"{name} must be a whole number.*got {value!r}"):
        audit(**{**counts, name: value}, delta=1e-5)


@pytest.mark.parametrize("audit", [clopper_pearson, clopper_pearson_gaussian])
@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_counts_refuse_a_bad_significance(audit, value):
    with pytest.raises(InvalidValueError, match="significance must be strictly between 0 and 1"):
        audit(1, 10, 1, 10, 1e-5, value)


def test_error_rate_refuses_counts_that_do_not_fit():
    with pytest.raises(
        InvalidValueError, match="errors must be at most trials, which is 10, got 11"
    ):
        error_rate_at_most(11, 10, 0.05)
    with pytest.raises(InvalidValueError, match="trials must be a whole number from 1 to"):
        error_rate_at_most(0, 0, 0.05)


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


def guess_extremes(random, mu, canaries, each_side):
    """How many are right if the lowest scores are taken for "out" and the highest for "in"."""
    joined = random.integers(0, 2, canaries)
    order = np.argsort(random.standard_normal(canaries) + mu * joined)
    return int(each_side - joined[order[:each_side]].sum() + joined[order[-each_side:]].sum())


def rejects_exactly(mu, canaries, guesses, correct, significance):
    """The recursion of Mahloujifar et al. with exact sums, written down as in the paper."""
    right = [Fraction(significance) * correct / canaries]
    wrong = [Fraction(significance) * (guesses - correct) / canaries]
    for i in range(correct - 1, -1, -1):
        if right[-1] + wrong[-1] > Fraction(guesses, canaries):
            return True
        needed = Fraction(float(norm.cdf(norm.ppf(float(right[-1])) - mu)) if right[-1] else 0.0)
        wrong.append(max(wrong[-1], needed))
        right.append(right[-1] + Fraction(i, guesses - i) * (wrong[-1] - wrong[-2]))
        # Fractions grow without end; 200 bits are far more than the functions between have.
        right[-1] = Fraction(round(right[-1] * 2**200), 2**200)
    return right[-1] + wrong[-1] > Fraction(guesses, canaries)


def divergence(shift, spread, epsilon):
    """sup over S of P(S) - exp(epsilon) Q(S), P = N(shift, spread^2), Q = N(0, 1), on a grid."""
    reach = 12 * max(1.0, spread)
    edges = np.linspace(-reach, reach, 400_001) + shift * spread**2 / (1 + spread**2)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    difference = norm.pdf(middle, shift, spread) - np.exp(epsilon + norm.logpdf(middle))
    return np.maximum(difference, 0).sum() * width
