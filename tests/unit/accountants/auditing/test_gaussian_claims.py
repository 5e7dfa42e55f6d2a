"""Claims of mu-GDP: golden values, by hand, by simulation, by properties."""

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from accountants import InvalidValueError
from accountants.analyses import gaussian
from accountants.auditing import gaussian_claims
from accountants.auditing.gaussian_claims import clopper_pearson_gaussian, one_run_gaussian
from tests.unit.accountants.auditing.attacks import NOT_PROBABILITIES, guess_extremes

some = settings(max_examples=40, deadline=None, derandomize=True)
significances = st.sampled_from([0.001, 0.05, 0.2])

# m, r, v, delta -> epsilon of Mahloujifar et al.
# An implementation from outside gives it to 1e-6.
ONE_RUN = [
    (1000, 1000, 600, 1e-5, 0.5835403679239116),
    (1000, 100, 95, 1e-5, 3.3233004900323655),
    (1000, 100, 100, 1e-5, 5.5490279999429415),
    (5000, 1000, 900, 1e-5, 3.0228505900209983),
    (5000, 1000, 900, 1e-6, 3.395591965865865),
    (200, 50, 45, 1e-5, 2.4463649640593372),
    (10000, 2000, 1800, 1e-5, 3.02590),
]
# n of each kind, false positives, false negatives -> mu, epsilon of mu at delta 1e-5.
COUNTS = [
    (1000, 10, 500, 2.0109859395802485, 10.064961709805186),
    (500, 0, 100, 3.1530804467322633, 17.78892587944432),
    (1000, 50, 50, 3.02206, 16.83446),
    (100_000, 100, 50_000, 3.02386, 16.84747),
]


def test_the_examples_in_the_docstrings_are_right():
    result = doctest.testmod(gaussian_claims)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(("canaries", "guesses", "correct", "delta", "expected"), ONE_RUN)
def test_one_run_gaussian_reaches_golden_values(canaries, guesses, correct, delta, expected):
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


@pytest.mark.parametrize(("trials", "wrong_in", "wrong_out", "mu", "of_mu"), COUNTS)
def test_counts_reach_golden_values(trials, wrong_in, wrong_out, mu, of_mu):
    tolerance = 1e-9 if len(str(mu)) > 10 else 1e-5
    found = clopper_pearson_gaussian(wrong_in, trials, wrong_out, trials, delta=1e-5)
    assert found.mu == pytest.approx(mu, abs=tolerance)
    assert found.epsilon == pytest.approx(of_mu, abs=tolerance)


def test_clopper_pearson_by_hand():
    """No error in 100 trials: both rates are at most p = 1 - 0.025^(1/100)."""
    rate = 1 - 0.025**0.01
    found = clopper_pearson_gaussian(0, 100, 0, 100, delta=0.01)
    assert found.mu == pytest.approx(-2 * norm.ppf(rate), abs=1e-9)


def test_attacks_that_are_wrong_as_often_as_right_show_nothing():
    for counts in [(50, 100, 50, 100), (100, 100, 0, 100), (90, 100, 90, 100), (0, 1, 0, 1)]:
        found = clopper_pearson_gaussian(*counts, delta=1e-5)
        assert (found.mu, found.epsilon) == (0.0, 0.0)


def test_clopper_pearson_does_not_accuse_the_gaussian_mechanism_more_often_than_it_may():
    """The Gaussian mechanism at mu = 1 with its best test."""
    random = np.random.default_rng(4)
    wrong = random.binomial(1000, norm.cdf(-0.5), size=(1000, 2))
    mus = [clopper_pearson_gaussian(a, 1000, b, 1000, 1e-5).mu for a, b in wrong]
    assert np.mean(np.array(mus) > 1.0) <= 0.05
    assert np.median(mus) > 0.8


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_delta_must_be_above_zero_for_a_gaussian(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run_gaussian(10, 5, 3, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        clopper_pearson_gaussian(1, 10, 1, 10, value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_one_run_gaussian_refuses_a_bad_significance(value):
    with pytest.raises(InvalidValueError, match="significance must be strictly between 0 and 1"):
        one_run_gaussian(10, 5, 3, 1e-5, value)


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
