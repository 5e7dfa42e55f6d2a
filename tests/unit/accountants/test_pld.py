"""Epsilon by privacy loss distributions, against values from outside and by its properties."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from accountants import (
    ACCOUNTANT,
    InvalidValueError,
    Neighbouring,
    PoissonGaussian,
    UnsupportedAnalysisError,
    epsilon,
    pld,
    trajectory,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "accounting_values.json").read_text())

few = settings(max_examples=6, deadline=None, derandomize=True)
noise = st.floats(2, 20)
rates = st.floats(0.01, 1)
steps = st.integers(1, 40)
deltas = st.floats(1e-7, 1e-3)


def event(noise_multiplier, sample_rate=1.0, steps=1):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


def phases(case):
    return [event(*phase) for phase in case["phases"]]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_golden_values_are_reached_and_never_undercut(case):
    assert case["lower"] <= epsilon(phases(case), case["delta"]) <= case["upper"] + 1e-3


def test_gaussian_matches_its_closed_form():
    """Golden: Balle & Wang 2018, sigma = 1, delta = 1e-5 gives 4.377178."""
    assert 4.377178 <= epsilon([event(1.0)], 1e-5) <= 4.3772


@pytest.mark.parametrize("case", GOLDEN["replace_one"], ids=lambda case: case["source"])
def test_replacing_a_record_costs_more_than_adding_one(case):
    value = epsilon(phases(case), case["delta"], Neighbouring.REPLACE_ONE)
    assert value == pytest.approx(case["epsilon"], abs=1e-4)
    assert value > epsilon(phases(case), case["delta"]) * 1.1


@few
@given(sigma=noise, steps=steps, delta=deltas)
def test_without_sampling_it_bounds_the_closed_form_tightly(sigma, steps, delta):
    """delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu), mu = sqrt(T)/sigma."""
    mu = math.sqrt(steps) / sigma

    def exact_delta(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)

    found = epsilon([event(sigma, steps=steps)], delta)
    assert exact_delta(found) <= delta
    assert found == 0 or exact_delta(max(0.0, found - 1e-3)) > delta or found < 1e-3


@few
@given(sigma=noise, q=rates, steps=steps, delta=deltas, factor=st.floats(1.02, 2))
def test_more_noise_costs_less(sigma, q, steps, delta, factor):
    assert epsilon([event(sigma * factor, q, steps)], delta) <= epsilon(
        [event(sigma, q, steps)], delta
    )


@few
@given(sigma=noise, q=rates, steps=steps, delta=deltas, factor=st.floats(0.1, 0.98))
def test_rarer_sampling_costs_less(sigma, q, steps, delta, factor):
    assert epsilon([event(sigma, q * factor, steps)], delta) <= epsilon(
        [event(sigma, q, steps)], delta
    )


@few
@given(sigma=noise, q=rates, steps=steps, delta=deltas, more=st.integers(1, 20))
def test_more_steps_cost_more(sigma, q, steps, delta, more):
    before = epsilon([event(sigma, q, steps)], delta)
    assert before <= epsilon([event(sigma, q, steps + more)], delta)
    assert before <= epsilon([event(sigma, q, steps), event(30.0, 0.5, more)], delta) + 1e-9


@few
@given(sigma=noise, q=rates, steps=steps, delta=deltas, factor=st.floats(1.02, 100))
def test_a_larger_delta_costs_less(sigma, q, steps, delta, factor):
    assert epsilon([event(sigma, q, steps)], delta * factor) <= epsilon(
        [event(sigma, q, steps)], delta
    )


@few
@given(sigma=noise, q=rates, parts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_splitting_a_phase_does_not_matter(sigma, q, parts):
    split = [event(sigma, q, part) for part in parts]
    assert epsilon(split, 1e-5) == epsilon([event(sigma, q, sum(parts))], 1e-5)


def test_order_does_not_matter_and_answers_are_cached(monkeypatch):
    history = [event(3.0, 0.2, 5), event(2.0, 0.4, 7)]
    first = epsilon(history, 1e-5)
    monkeypatch.setattr(pld, "epsilon_on_grid", None)
    assert epsilon(iter(history[::-1]), 1e-5) == first


def test_nothing_released_costs_nothing_and_no_noise_protects_nothing():
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([event(0.0, 0.5, 1), event(5.0)], 1e-5) == math.inf
    assert epsilon([event(1e-3)], 1e-5) == math.inf
    assert epsilon([event(1e-200)], 1e-5) == math.inf


def test_the_walk_down_the_grid_does_not_undercut_the_closed_form():
    """A case that did, before the drift of the running sum was allowed for."""
    mu, delta = 10 / 1.2411826008128621, 6.558890682100328e-4
    found = epsilon([event(1.2411826008128621, 1.0, 100)], delta)
    assert norm.cdf(mu / 2 - found / mu) - math.exp(found) * norm.cdf(-mu / 2 - found / mu) <= delta
    assert epsilon([event(4.0, 0.5, 8)], 1e-4) == pytest.approx(
        pld._composed_epsilon((event(4.0, 0.5, 8),), 1e-4, Neighbouring.ADD_REMOVE, 1e-4),
        abs=1e-8,
    )


def test_a_coarser_grid_only_raises_epsilon():
    schedule = (event(2.0, 0.3, 20),)
    fine = epsilon(schedule, 1e-5)
    coarse = pld.epsilon_on_grid(schedule, 1e-5, Neighbouring.ADD_REMOVE, coarsening=10)
    assert fine <= coarse <= fine + 1e-3


def test_a_wide_loss_gets_a_grid_that_fits_and_stays_a_bound():
    """sigma = 0.2 over 10 steps without sampling: mu = sqrt(10)/0.2."""
    mu, found = math.sqrt(10) / 0.25, epsilon([event(0.25, 1.0, 10)], 1e-5)
    assert norm.cdf(mu / 2 - found / mu) - math.exp(found) * norm.cdf(-mu / 2 - found / mu) <= 1e-5
    assert found == pytest.approx(mu * mu / 2 + mu * 4.2, rel=0.02)


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan, math.inf, None, True])
def test_delta_must_be_a_probability(delta):
    with pytest.raises(InvalidValueError, match=r"^delta must be"):
        epsilon([event(1.0)], delta)


def test_delta_below_the_precision_of_the_fft_is_refused():
    with pytest.raises(UnsupportedAnalysisError, match="at least 1e-08"):
        epsilon([event(1.0)], 9.9e-9)
    with pytest.raises(UnsupportedAnalysisError, match="rounding"):
        epsilon([event(1000.0, 0.01, 2 * 10**6)], 1e-8)
    with pytest.raises(UnsupportedAnalysisError, match="rounding"):
        epsilon([event(1000.0, 0.01, 10**400)], 1e-5)


def test_the_allowance_for_rounding_covers_the_measured_error():
    """sigma = 100, q = 1 composed 10 000 times by FFT lost 3.7e-13 of delta."""
    taken = 1e-8 - pld._usable_delta((event(100.0, 0.5, 10_000),), 1e-8)
    assert 10 * 3.7e-13 <= taken <= 1e-10


@pytest.mark.parametrize("bad", [math.nan, -1.0])
def test_a_number_that_is_none_is_refused(monkeypatch, bad):
    monkeypatch.setattr(pld, "_composed_epsilon", lambda *_: bad)
    with pytest.raises(UnsupportedAnalysisError, match="must come out as a number"):
        epsilon([event(7.7)], 1e-5)


def test_a_failure_of_the_library_is_raised_and_not_remembered(monkeypatch):
    def fails(**_):
        raise ValueError("deltas are not between 0 and 1")

    with monkeypatch.context() as patched:
        patched.setattr(pld.privacy_loss_distribution, "from_gaussian_mechanism", fails)
        with pytest.raises(UnsupportedAnalysisError, match="deltas are not between"):
            epsilon([event(8.8)], 1e-5)
    assert 0 < epsilon([event(8.8)], 1e-5) < 1


def test_trajectory_is_epsilon_of_each_prefix():
    rounds = [event(4.0, 0.5, 8)] * 3
    found = trajectory([rounds[:i] for i in range(4)], 1e-4)
    assert found == [epsilon(rounds[:i], 1e-4) for i in range(4)]
    assert found[0] == 0 < found[1] < found[2] < found[3]


def test_the_accountant_names_itself():
    assert "dp-accounting 0." in ACCOUNTANT
    assert "1e-04" in ACCOUNTANT or "0.0001" in ACCOUNTANT
