"""One run with many canaries: golden values, by hand, by simulation, by properties."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from accountants import InvalidValueError
from accountants.analyses import gaussian
from accountants.auditing import single_run
from accountants.auditing.gaussian_claims import one_run_gaussian
from accountants.auditing.single_run import one_run, one_run_ceiling, one_run_p_value
from tests.unit.accountants.auditing.attacks import NOT_COUNTS, NOT_PROBABILITIES, guess_extremes

some = settings(max_examples=40, deadline=None, derandomize=True)
significances = st.sampled_from([0.001, 0.05, 0.2])
deltas = st.sampled_from([0.0, 1e-6, 1e-3])

# m, r, v, delta -> epsilon of Steinke et al.
# Two implementations from outside agree on it to 1e-7.
ONE_RUN = [
    (1000, 1000, 600, 0, 0.29746792364934765),
    (1000, 1000, 600, 1e-5, 0.29722695371877517),
    (1000, 100, 95, 1e-5, 2.165175799714052),
    (1000, 100, 100, 0, 3.4929654311522937),
    (1000, 100, 100, 1e-5, 3.4653763478110453),
    (5000, 1000, 900, 1e-5, 2.018259188202394),
    (5000, 1000, 900, 1e-6, 2.0209398589774272),
    (200, 50, 45, 1e-5, 1.3919765072311192),
    (10000, 2000, 1800, 1e-5, 2.07017),
]


def test_the_examples_in_the_docstrings_are_right():
    result = doctest.testmod(single_run)
    assert result.attempted >= 3
    assert result.failed == 0


@pytest.mark.parametrize(("canaries", "guesses", "correct", "delta", "expected"), ONE_RUN)
def test_one_run_reaches_golden_values(canaries, guesses, correct, delta, expected):
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
def test_one_run_refuses_a_bad_significance(value):
    with pytest.raises(InvalidValueError, match="significance must be strictly between 0 and 1"):
        one_run(10, 5, 3, 1e-5, value)


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
def test_ceiling_refuses_a_bad_significance(value):
    with pytest.raises(InvalidValueError, match="significance must be"):
        one_run_ceiling(10, value)


@pytest.mark.parametrize("value", NOT_PROBABILITIES[1:])
def test_delta_is_refused_above_and_below(value):
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run(10, 5, 3, value)
    with pytest.raises(InvalidValueError, match="delta must be"):
        one_run_p_value(10, 5, 3, 1.0, value)
