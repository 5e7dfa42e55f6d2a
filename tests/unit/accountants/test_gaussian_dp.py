"""The tight mu of a history: closed forms, other libraries, and never below what attacks prove."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from accountants import (
    Gaussian,
    InvalidValueError,
    Laplace,
    Neighbouring,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    UnsupportedAnalysisError,
    ZeroConcentrated,
    delta,
    mu_and_regret,
)
from accountants.tradeoff import curve, mu_of, true_positive_rate_gaussian

ADD = Neighbouring.ADD_REMOVE
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "gaussian_dp_values.json").read_text())


def poisson(noise_multiplier, sample_rate, steps):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


def test_plain_gaussian_releases_fit_exactly():
    """Four releases at sigma 5 and a tree of three nodes at 7 are one with this mu."""
    found = mu_and_regret([Gaussian(noise_multiplier=5.0, steps=4)], ADD)
    assert found.mu == pytest.approx(math.sqrt(4) / 5, rel=2e-9)
    assert found.mu >= math.sqrt(4) / 5
    assert found.regret == 0


def test_randomised_response_by_hand():
    """Its one corner has both error rates 1 / (1 + e), and G_mu meets the diagonal there.

    The regret, by bisection over a fine grid of the two straight sides, is 0.05412.
    """
    found = mu_and_regret([PureDP(epsilon=1.0, neighbouring=ADD)], ADD)
    exact = -2 * ndtri(1 / (1 + math.e))
    assert exact <= found.mu <= exact * (1 + 1e-6)
    assert found.regret == pytest.approx(0.05412, abs=2e-5)


def test_the_example_of_the_paper_s_library():
    """Golden: gdpnum 0.1.2 gives mu 1.56843 to 1.56857, regret 0.00102."""
    found = mu_and_regret([poisson(9.4, 0.328, 2000)], ADD)
    assert found.mu == pytest.approx(1.5685, rel=1e-4)
    assert found.regret == pytest.approx(0.00102, abs=2e-5)


def test_where_that_library_reports_too_little():
    """It gives 0.43936 and 0.61600, and certified lower bounds on delta need more.

    The attacks that prove it have error rates far above 1e-10. Where the library's curve is valid,
    at rates from 0.1 and from 1e-5 on, the numbers agree.
    """
    rare, frequent = poisson(1.0, 0.01, 1000), poisson(4.2, 0.9, 8)
    needed = mu_of(1.5, delta([rare], 1.5, ADD).lower)
    assert needed > 0.451
    at_four, at_ten = (mu_and_regret([rare], ADD, smallest_rate=rate) for rate in (1e-4, 1e-10))
    assert needed <= at_four.mu < at_ten.mu
    needed = mu_of(3.3, delta([frequent], 3.3, ADD).lower)
    assert mu_and_regret([frequent], ADD).mu >= needed > 0.6176
    assert mu_and_regret([rare], ADD, smallest_rate=0.1).mu == pytest.approx(0.41895, rel=1e-3)
    assert mu_and_regret([frequent], ADD, smallest_rate=1e-5).mu == pytest.approx(0.61469, rel=1e-3)


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{case['noise_multiplier']}-{case['steps']}"
)
def test_random_runs_agree_with_other_computations(case):
    """Golden: the profile of dp-accounting 0.6.0 on a fine grid, and gdpnum 0.1.2 where valid."""
    event = poisson(case["noise_multiplier"], case["sample_rate"], case["steps"])
    found = mu_and_regret([event], ADD, smallest_rate=case["smallest_rate"])
    assert found.mu == pytest.approx(case["from_profile"], rel=1.5e-3)
    assert found.mu >= case["from_profile"] * (1 - 1e-4)
    assert found.mu >= case["gdpnum"] * (1 - 1e-4)
    if case["gdpnum_valid"]:
        assert found.mu == pytest.approx(case["gdpnum"], rel=1e-3)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    noise=st.floats(0.6, 8),
    rate=st.floats(-3, 0).map(lambda power: 10.0**power),
    steps=st.integers(1, 400),
    epsilon=st.floats(0.01, 4),
)
def test_mu_is_never_below_what_a_lower_bound_proves(noise, rate, steps, epsilon):
    """A pair (epsilon, delta) that cannot be undercut needs its mu, whatever the attack's rates.

    Only attacks above the least rate count: those of a test of slope exp(epsilon) lie between the
    differences of the bounds to both sides.
    """
    events = [poisson(noise, rate, steps)]
    found = mu_and_regret(events, ADD)
    here, beyond = (delta(events, value, ADD) for value in (epsilon, 1.05 * epsilon))
    between = (here.lower - beyond.upper) / (math.exp(1.05 * epsilon) - math.exp(epsilon))
    if between > found.smallest_rate:
        needed = mu_of(1.05 * epsilon, beyond.lower)
        assert found.mu >= needed * (1 - 1e-9)


def test_no_attack_of_the_curve_does_better():
    events = [poisson(1.3, 0.05, 200), Laplace(noise_multiplier=9.0)]
    found = mu_and_regret(events, ADD)
    rates = [1e-9, 1e-6, 1e-3, 0.1, 0.4]
    best = curve(events, rates, ADD)
    for rate, allowed in zip(rates, best.true_positive_rates, strict=True):
        assert allowed <= true_positive_rate_gaussian(found.mu, rate) * 1.2
    assert found.mu < 1.06 * mu_and_regret(events[:1], ADD).mu


def test_more_noise_fewer_steps_and_larger_rates_of_error_need_a_smaller_mu():
    mus = [
        mu_and_regret([event], ADD, smallest_rate=rate).mu
        for event, rate in (
            (poisson(1.0, 0.05, 80), 1e-9),
            (poisson(1.1, 0.05, 80), 1e-9),
            (poisson(1.1, 0.05, 60), 1e-9),
            (poisson(1.1, 0.05, 60), 1e-4),
        )
    ]
    assert mus == sorted(mus, reverse=True)
    assert len(set(mus)) == 4


def test_relation_and_group_count():
    event = poisson(2.0, 0.1, 50)
    alone = mu_and_regret([event], ADD).mu
    assert mu_and_regret([event], ADD, group_size=2).mu > 1.9 * alone
    assert mu_and_regret([event], Neighbouring.REPLACE_ONE).mu > 1.3 * alone


def test_what_has_no_grid_is_bounded_through_its_deltas():
    """A count adds its epsilon, and zCDP has no grid at all."""
    plain = Gaussian(noise_multiplier=2.0)
    with_count = mu_and_regret([plain, NoisedCount(epsilon=0.1)], ADD)
    assert with_count.mu >= 0.5 * (1 + 1e-6)
    assert with_count.mu < 0.65
    zero = mu_and_regret([ZeroConcentrated(rho=0.125, neighbouring=ADD)], ADD)
    assert 0.5 < zero.mu < 1.0  # a Gaussian mechanism with this rho has mu 0.5


def test_nothing_and_everything():
    assert mu_and_regret([], ADD).mu == 0
    assert mu_and_regret([Gaussian(noise_multiplier=0.0)], ADD).mu == math.inf
    weak = mu_and_regret([poisson(0.06, 0.9, 40)], ADD)
    assert weak.mu == math.inf
    assert weak.regret == 0


@pytest.mark.parametrize("rate", [0, 1e-31, 0.2, np.nan, -1])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(InvalidValueError, match="smallest_rate"):
        mu_and_regret([poisson(1.0, 0.01, 10)], ADD, smallest_rate=rate)


def test_what_has_no_analysis_is_refused():
    with pytest.raises(UnsupportedAnalysisError):
        mu_and_regret([PureDP(epsilon=1.0, neighbouring=Neighbouring.ZERO_OUT)], ADD)
