"""Counts of errors: Clopper-Pearson bounds, and the epsilon that they show."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from accountants import InvalidValueError
from accountants.auditing import error_rates
from accountants.auditing.error_rates import clopper_pearson, error_rate_at_most
from accountants.auditing.gaussian_claims import clopper_pearson_gaussian
from tests.unit.accountants.auditing.attacks import NOT_COUNTS, NOT_PROBABILITIES

some = settings(max_examples=40, deadline=None, derandomize=True)
significances = st.sampled_from([0.001, 0.05, 0.2])
deltas = st.sampled_from([0.0, 1e-6, 1e-3])

# n of each kind, false positives, false negatives -> epsilon at delta 1e-5.
COUNTS = [
    (1000, 10, 500, 3.2419952494409845),
    (500, 0, 100, 4.64142327708503),
    (1000, 50, 50, 2.65974),
    (100_000, 100, 50_000, 6.01268),
]


def test_the_examples_in_the_docstrings_are_right():
    result = doctest.testmod(error_rates)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(("trials", "wrong_in", "wrong_out", "epsilon"), COUNTS)
def test_counts_reach_golden_values(trials, wrong_in, wrong_out, epsilon):
    counts = (wrong_in, trials, wrong_out, trials)
    tolerance = 1e-9 if len(str(epsilon)) > 10 else 1e-5
    assert clopper_pearson(*counts, delta=1e-5) == pytest.approx(epsilon, abs=tolerance)


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


def test_clopper_pearson_asks_the_attack_and_its_opposite():
    assert clopper_pearson(300, 1000, 0, 500, 1e-5) == clopper_pearson(0, 500, 300, 1000, 1e-5) > 4


def test_attacks_that_are_wrong_as_often_as_right_show_nothing():
    for counts in [(50, 100, 50, 100), (100, 100, 0, 100), (90, 100, 90, 100), (0, 1, 0, 1)]:
        assert clopper_pearson(*counts, delta=1e-5) == 0.0


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
    """Randomised response at epsilon 1."""
    random = np.random.default_rng(4)
    wrong = random.binomial(1000, 1 / (1 + math.e), size=(1000, 2))
    assert np.mean([clopper_pearson(a, 1000, b, 1000, 0.0) > 1.0 for a, b in wrong]) <= 0.05


@pytest.mark.parametrize("value", NOT_PROBABILITIES[1:])
def test_delta_is_refused_above_and_below(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        clopper_pearson(1, 10, 1, 10, value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES)
def test_error_rate_refuses_a_bad_significance(value):
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
